"""Verbs on data sets; their examples run with those of all verbs in test_runs.py."""

import pytest

import patchcl


def test_a_missing_folder_is_a_user_error(tmp_path):
    with pytest.raises(patchcl.UserError, match="nowhere"):
        patchcl.check(tmp_path / "nowhere")
    with pytest.raises(patchcl.UserError, match="nowhere"):
        patchcl.import_data(tmp_path / "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_whoever_asked_for_mirrors_is_not_warned_of_sides(make_dataset):
    root = make_dataset({f"p{number}": True for number in range(3)}, ("u",))
    text = (root / "dataset.json").read_text()
    (root / "dataset.json").write_text(text.replace('"A"', '"left"').replace('"B"', '"right"'))
    assert any("differ by their side" in line for line in patchcl.check(root).warnings)
    assert not any("side" in line for line in patchcl.check(root, settings={"augment.flip": True}).warnings)


def test_settings_of_check_are_those_of_training(cardiac):
    found = patchcl.check(cardiac, labeled=1, settings={"plan.size": [32, 32]})
    assert len(found.split.labeled) == 1
    assert found.plan.size == (32, 32)
    with pytest.raises(patchcl.UserError, match=r"plan\.sise is not a setting"):
        patchcl.check(cardiac, settings={"plan.sise": [32, 32]})
