"""A data set of which nobody annotated more than a slice per scan, from training to its scores."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from rich.console import Console

from patchcl.config import load_settings
from patchcl.data.dataset import read_dataset
from patchcl.data.loading.image_store import ImageStore
from patchcl.data.preprocessing.cache import prepare
from patchcl.data.preprocessing.plan import load_plan
from patchcl.data.splits import load_split
from patchcl.evaluation.evaluate import evaluate_folders, evaluate_run
from patchcl.runs.folder import RunFolder
from patchcl.training.experiment import start

IGNORE_VALUE = 4
QUIET = Console(quiet=True)


@pytest.fixture
def sparse(cardiac: Path, tmp_path: Path) -> Path:
    """The generated hearts without their unlabeled scans; two thirds of the middle slice of each mask are annotated."""
    root = shutil.copytree(cardiac, tmp_path / "sparse")
    shutil.rmtree(root / "imagesUn", ignore_errors=True)
    description = json.loads((root / "dataset.json").read_text())
    description["labels"]["ignore"] = IGNORE_VALUE
    (root / "dataset.json").write_text(json.dumps(description))
    for image in (root / "imagesTr").iterdir():
        if not (root / "labelsTr" / image.name.replace("_0000", "")).exists():
            image.unlink()
    for folder in ("labelsTr", "labelsTs"):
        for path in (root / folder).iterdir():
            change(path, lambda mask: np.where(annotated(mask), mask, IGNORE_VALUE))
    return root


def change(path: Path, make) -> None:
    image = nib.load(path)
    changed = make(np.asarray(image.dataobj)).astype(np.uint8)
    nib.save(nib.Nifti1Image(changed, image.affine, image.header), path)


def annotated(mask: np.ndarray) -> np.ndarray:
    known = np.zeros(mask.shape, bool)
    known[: 2 * mask.shape[0] // 3, :, mask.shape[2] // 2] = True
    return known


def test_a_slice_per_scan_is_enough_to_learn_from_and_to_score(sparse, tmp_path, tiny):
    contrast = "method.contrast={memory_min_size: 2, memory_length: 64, patches_per_class: 4}"
    settings = load_settings(None, [*tiny, contrast, "training.steps=4", "method.warm_up_fraction=0.25"])
    root = tmp_path / "run"
    start(sparse, root, settings, QUIET)
    run = RunFolder.open(root)
    plan, split = load_plan(run.plan), load_split(run.split)
    assert plan.ignore == IGNORE_VALUE
    assert len(plan.classes) == IGNORE_VALUE

    dataset = read_dataset(sparse)
    cases = [case for case in dataset.cases if case.patient in split.labeled]
    slices = sum(nib.load(case.images[0]).shape[2] for case in cases)
    known = prepare(cases, plan, tmp_path / "prepared")
    stores = [ImageStore(known, plan, torch.device("cpu"), 2**30, unlabeled=which) for which in (False, True)]
    assert [len(store) for store in stores] == [len(cases), slices]

    evaluation = evaluate_run(run)
    assert len(evaluation.patients) == 3
    predictions = run.predictions / "test_last"
    for path in predictions.iterdir():
        change(path, lambda mask: np.where(annotated(mask), mask, 1))
    assert evaluate_folders(predictions, sparse / "labelsTs").scores == evaluation.scores
    for path in predictions.iterdir():
        change(path, lambda mask: np.where(annotated(mask), 3 - mask, mask))
    assert evaluate_folders(predictions, sparse / "labelsTs").scores != evaluation.scores
