"""The patients of all folds choose the post-processing, and are scored as they would be by each run alone."""

import json
import shutil

import pytest

from patchcl.comparison.conclusion import conclude
from patchcl.core.devices import CPU
from patchcl.evaluation.evaluate import evaluate_run
from patchcl.evaluation.scores import read_evaluation
from patchcl.runs.folder import RunFolder


@pytest.fixture(scope="module")
def ensemble(trained, tmp_path_factory):
    """A cross-validation that was left with one fold."""
    folder = RunFolder(tmp_path_factory.mktemp("ensemble") / "all")
    shutil.copytree(trained, folder.root / "fold_0")
    for name in (folder.settings.name, folder.plan.name, folder.split.name):
        shutil.copy(trained / name, folder.root / name)
    folder.folds.write_text(json.dumps({"runs": ["fold_0"]}), encoding="utf-8")
    return folder


def test_both_checkpoints_are_scored_as_asked_and_the_last_is_given(ensemble):
    found = conclude(ensemble, CPU, ("best", "last"), voxels=True)
    alone = evaluate_run(RunFolder(ensemble.root / "fold_0"), on="validation", voxels=True)
    assert found.by_patient("dice") == alone.by_patient("dice")
    assert (found.unit, found.provenance["checkpoint"], found.provenance["step"]) == ("voxels", "last", 6)
    best = read_evaluation(ensemble.evaluation / "validation_best_voxels.json")
    assert (best.unit, best.provenance["checkpoint"]) == ("voxels", "best")
    chosen = json.loads(ensemble.postprocessing.read_text(encoding="utf-8"))
    assert chosen["validation"]["patients"] == len(found.patients) == 1


def test_one_pass_and_masks_as_they_come_are_scored_where_asked(ensemble):
    found = conclude(ensemble, CPU, fast=True, postprocessing=False)
    assert (found.provenance["symmetries"], found.provenance["postprocessing"]) == (1, "none")
    assert not found.columns
