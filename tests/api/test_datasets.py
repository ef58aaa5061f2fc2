"""Verbs on data sets; their examples run with those of all verbs in test_runs.py."""

import pytest

import patchcl


def test_a_missing_folder_is_a_user_error(tmp_path):
    with pytest.raises(patchcl.UserError, match="nowhere"):
        patchcl.check(tmp_path / "nowhere")
    with pytest.raises(patchcl.UserError, match="nowhere"):
        patchcl.import_data(tmp_path / "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_settings_of_check_are_those_of_training(cardiac):
    found = patchcl.check(cardiac, labeled=1, settings={"plan.size": [32, 32]})
    assert len(found.split.labeled) == 1
    assert found.plan.size == (32, 32)
    with pytest.raises(patchcl.UserError, match=r"plan\.sise is not a setting"):
        patchcl.check(cardiac, settings={"plan.sise": [32, 32]})
