"""Verbs that make runs; their examples run with those of all verbs in test_runs.py."""

import shutil

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


def test_a_comparison_is_not_resumed_as_a_run(tmp_path):
    (tmp_path / "compare.json").touch()
    with pytest.raises(patchcl.UserError, match=r"comparison\. Go on with the command .*: patchcl compare"):
        patchcl.resume(tmp_path)


def test_a_run_that_is_there_goes_on_by_the_same_call_and_by_no_other(cardiac, trained, tmp_path, tiny, make_dataset):
    run = shutil.copytree(trained, tmp_path / "runs" / "run")
    config = tmp_path / "tiny.yaml"
    config.write_text("plan: {size: [32, 32], fit: resize}\nnetwork: {features: [8, 16]}\n")
    same = {"config": config, "settings": tiny[4:], "steps": 6, "device": "cpu", "resume_if_there": True}
    assert patchcl.train(cardiac, run, **same).steps_done == 6
    moved = shutil.copytree(cardiac, tmp_path / "moved")
    assert patchcl.train(moved, run, scratch=str(tmp_path / "own"), **same).steps_done == 6
    assert patchcl.load_run(run).settings.data == moved.resolve()
    assert patchcl.load_run(run).settings.training.scratch == str(tmp_path / "own")
    with pytest.raises(patchcl.UserError, match=r"method\.name was patchcl, now supervised\n"):
        patchcl.train(cardiac, run, method="supervised", **same)
    with pytest.raises(patchcl.UserError, match="is another data set: it holds none of the"):
        patchcl.train(make_dataset({"a": True, "b": True}), run, **same)
    (run / "folds.json").write_text('{"runs": ["fold_0"]}')
    with pytest.raises(patchcl.UserError, match=r"holds folds"):
        patchcl.train(cardiac, run, **same)
