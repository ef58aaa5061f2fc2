"""Folds: each patient is scored by the run that has not seen it, and the ensemble is the mean of all runs."""

import json
import os
import shutil
import sys

import nibabel
import numpy as np
import pytest
import torch
from rich.console import Console

from patchcl.comparison import folds as folds
from patchcl.comparison.folds import cross_validate
from patchcl.comparison.runner import Ending
from patchcl.comparison.worker import work
from patchcl.config import load_settings, read_settings
from patchcl.core.errors import UserError
from patchcl.core.signals import StopRequest
from patchcl.data.splits import load_split
from patchcl.evaluation.evaluate import evaluate_trained
from patchcl.evaluation.scores import read_evaluation
from patchcl.inference.postprocessing import PostprocessingChoice
from patchcl.inference.trained_run import open_folder, read_folds
from patchcl.reports.facts import facts_table, read_facts
from patchcl.runs.folder import RunFolder
from patchcl.runs.provenance import MOVES, read_provenance

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def train(cardiac, tmp_path_factory):
    """Cross-validates as the command does, but for the processes of its workers; gives the runs that were trained."""
    root = tmp_path_factory.mktemp("folds") / "all"
    begun = []

    def run_here(jobs, folder, at_once, console, cluster):
        for name, job in jobs.items():
            begun.append(name)
            assert list(job.command) == sys.argv  # as what made it
            work(job, console)
        return Ending({}, StopRequest())

    def run(*more, only=None, count=2, root=root, data=cardiac):
        begun.clear()
        small = ["plan.size=[32, 32]", "plan.fit=resize", "network.features=[8, 16]", "method=supervised"]
        small += ["training.steps=2", "training.labeled_per_batch=2", "training.device=cpu", *more]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(folds, "run_jobs", run_here)
            cross_validate(data, root, load_settings(None, small), count, only, 1, QUIET)
        return tuple(begun)

    run.root = root
    return run


def steps_shown(root):
    """What a report says of how far folds have come."""
    return dict(facts_table(read_facts([RunFolder(root)])))["steps"]


def test_a_fold_alone_is_trained_and_the_last_makes_the_ensemble(train):
    assert train(only=1) == ("fold_1",)
    assert not RunFolder(train.root).postprocessing.exists()
    with pytest.raises(UserError, match=r"fold_0 of 2 folds are not trained yet"):
        open_folder(train.root, device="cpu")
    assert steps_shown(train.root) == ["1 of 2 folds trained, of 2 steps each"]
    assert train() == ("fold_0",)
    assert steps_shown(train.root) == ["2 of 2"]
    assert train() == ()


def test_folds_go_on_where_their_folder_was_moved_to(train, tmp_path):
    """Prepared images lie in the folder by default, and move with it."""
    assert train(only=0, root=tmp_path / "before") == ("fold_0",)
    moved = (tmp_path / "before").rename(tmp_path / "after")
    assert train(root=moved) == ("fold_1",)
    assert RunFolder(moved).postprocessing.is_file()
    assert not (tmp_path / "before").exists()


def test_folds_go_on_where_their_data_were_moved_to(train, cardiac, tmp_path):
    """The folds that are left are trained there, and all of them scored."""
    root, before = tmp_path / "all", shutil.copytree(cardiac, tmp_path / "before")
    assert train(only=0, root=root, data=before) == ("fold_0",)
    after = before.rename(tmp_path / "after")
    assert train(root=root, data=after) == ("fold_1",)
    for run in (root, root / "fold_0", root / "fold_1"):
        assert read_settings(RunFolder(run).settings).data == after
    assert "which were in" in read_provenance(RunFolder(root / "fold_0").provenance)[MOVES][0]
    assert len(read_evaluation(root / "evaluation" / "validation_last.json").patients) == 4
    another = shutil.copytree(after, tmp_path / "another")
    sorted((another / "labelsTr").iterdir())[0].unlink()
    with pytest.raises(UserError, match=r"are not those that .* was begun with"):
        train(root=root, data=another)
    assert read_settings(RunFolder(root).settings).data == after


def test_every_patient_is_scored_by_the_run_that_has_not_seen_it(train):
    train()
    scored = read_evaluation(train.root / "evaluation" / "validation_last.json")
    by_fold = {}
    for fold in ("fold_0", "fold_1"):
        split = load_split(train.root / fold / "split.json")
        own = read_evaluation(train.root / fold / "evaluation" / "validation_last.json")
        assert set(own.patients) == {*split.validation}
        assert not {*split.validation} & {*split.labeled}
        by_fold |= own.by_patient("dice")
    assert len(by_fold) == 4
    chosen = PostprocessingChoice.model_validate_json(RunFolder(train.root).postprocessing.read_text())
    assert chosen.validation["patients"] == 4
    if not chosen.postprocessing:
        assert scored.by_patient("dice") == pytest.approx(by_fold)
    assert set(scored.patients) == set(by_fold)


def test_the_ensemble_predicts_with_the_mean_of_its_runs(train, cardiac):
    train()
    scan = next(iter(sorted((cardiac / "imagesTs").glob("*_0000.nii.gz"))))
    together = open_folder(train.root, device="cpu").predict(scan).probabilities
    apart = [open_folder(train.root / fold, device="cpu").predict(scan).probabilities for fold in ("fold_0", "fold_1")]
    assert not np.allclose(*apart, atol=1e-4)
    torch.testing.assert_close(torch.from_numpy(together), torch.from_numpy(np.mean(apart, axis=0)), atol=1e-5, rtol=0)


def test_other_settings_and_another_number_of_folds_are_refused(train, tmp_path):
    train()
    with pytest.raises(UserError, match=r"were begun with other training\.seed"):
        train("training.seed=5")
    with pytest.raises(UserError, match="has 2 folds, not 3"):
        train(count=3)
    with pytest.raises(UserError, match="counted from 0 to 1"):
        train(only=2)


def test_a_place_to_train_is_no_other_setting(train):
    train()
    assert train("training.scratch=/somewhere", "training.memory_gib=3") == ()


def test_masks_that_change_between_the_calls_are_named_and_refused(train, cardiac):
    """Under the size and the time of before; and of folds that kept no hashes, one is told so once."""
    train()
    mask = sorted((cardiac / "labelsTr").iterdir())[0]
    content, stat = mask.read_bytes(), mask.stat()
    image = nibabel.load(mask)
    try:
        nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj)[::-1].copy(), image.affine, image.header), mask)
        os.utime(mask, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        with pytest.raises(UserError, match=rf"begun with:\n  labelsTr/{mask.name} was replaced\nFolds of both"):
            train(only=0)
        scored = evaluate_trained(open_folder(train.root, device="cpu"), "validation").provenance
        assert scored["changed_since_training"] == f"fold_0, fold_1: labelsTr/{mask.name} was replaced"
    finally:
        mask.write_bytes(content)
    assert train() == ()


def test_folds_that_kept_no_hashes_do_from_now_on(train):
    train()
    listed = RunFolder(train.root).folds
    kept = json.loads(listed.read_text())
    listed.write_text(json.dumps({"runs": kept["runs"]}))
    train()
    assert json.loads(listed.read_text()) == kept


def test_a_rescue_of_one_fold_marks_the_ensemble(train):
    train()
    log = RunFolder(train.root / "fold_1").log_jsonl
    before = log.read_text()
    try:
        log.write_text(before + json.dumps({"step": 2, "rescues": 2}) + "\n")
        scored = evaluate_trained(open_folder(train.root, device="cpu"), "validation").provenance
        ((_, shown),) = [row for row in facts_table(read_facts([RunFolder(train.root)])) if row[0] == "rescues"]
    finally:
        log.write_text(before)
    assert scored["trained_rescues"] == 2
    assert shown == ["2 (training diverged)"]


def test_a_folder_with_something_else_is_left_alone(cardiac, tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match="holds something else than folds"):
        cross_validate(cardiac, tmp_path, load_settings(), 2, None, 1, QUIET)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_start_that_was_killed_is_made_anew(cardiac, tmp_path, tiny, monkeypatch):
    for name in (".unfinished-1-2-plan.yaml", "settings.yaml"):
        (tmp_path / name).touch()
    monkeypatch.setattr(folds, "run_jobs", lambda *_: Ending({}, StopRequest()))
    cross_validate(cardiac, tmp_path, load_settings(None, tiny), 2, None, 1, QUIET)
    assert read_folds(RunFolder(tmp_path)) == ("fold_0", "fold_1")
