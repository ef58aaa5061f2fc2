"""Verbs that make runs; their examples run with those of all verbs in test_runs.py."""

import pytest

import patchcl


def test_an_unknown_setting_of_a_variant_is_named_before_anything_starts(cardiac, tmp_path):
    (tmp_path / "variants.yaml").write_text("short: {method: supervised, training.stepps: 2}")
    with pytest.raises(patchcl.UserError, match=r"short: .*\n.*stepps is not a setting"):
        patchcl.compare(cardiac, tmp_path / "out", variants=tmp_path / "variants.yaml", seeds=[0])
    assert not (tmp_path / "out").exists()


def test_a_folder_of_folds_is_not_resumed_as_a_run(trained, tmp_path):
    (tmp_path / "settings.yaml").write_bytes((trained / "settings.yaml").read_bytes())
    (tmp_path / "folds.json").write_text('{"runs": ["fold_0"]}')
    with pytest.raises(patchcl.UserError, match=r"holds folds\. Go on with the command that began them"):
        patchcl.resume(tmp_path)
