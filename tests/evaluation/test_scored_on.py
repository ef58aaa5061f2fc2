"""Scores know the scans and masks that they rest on, and whether the run is still the one that was trained."""

import os
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from patchcl.data.dataset import read_dataset
from patchcl.data.splits import cases_of, load_split
from patchcl.evaluation.scored_on import scored_on
from patchcl.runs.folder import RunFolder


@pytest.fixture
def data(cardiac, tmp_path) -> Path:
    return shutil.copytree(cardiac, tmp_path / "data")


@pytest.fixture
def run(trained, tmp_path) -> RunFolder:
    return RunFolder(shutil.copytree(trained, tmp_path / "run"))


def facts(run: RunFolder, data: Path, side: str = "validation") -> dict:
    split = load_split(run.split)
    cases = cases_of(read_dataset(data), getattr(split, side), masked=True)
    return scored_on([run], cases)


def flip(path: Path) -> None:
    image, stat = nibabel.load(path), path.stat()
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj)[::-1].copy(), image.affine, image.header), path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_the_same_scans_have_the_same_hash_wherever_they_lie(run, data, cardiac):
    assert facts(run, data) == facts(run, cardiac)
    assert facts(run, data).keys() == {"data_hash"}
    assert facts(run, data) != facts(run, data, "test")


@pytest.mark.parametrize("side", ["validation", "test"])
def test_a_replaced_mask_is_another_hash_and_told_where_training_knew_it(side, run, data):
    before = facts(run, data, side)
    patient, folder = getattr(load_split(run.split), side)[0], {"validation": "labelsTr", "test": "labelsTs"}[side]
    mask = next((data / folder).glob(f"{patient}_*"))
    flip(mask)
    after = facts(run, data, side)
    assert after["data_hash"] != before["data_hash"]
    told = {"validation": f"labelsTr/{mask.name} was replaced", "test": None}[side]
    assert after.get("changed_since_training") == told


def test_of_several_runs_those_are_named_that_knew_it_otherwise(run, data, tmp_path):
    other = RunFolder(shutil.copytree(run.root, tmp_path / "other"))
    other.settings.write_text(other.settings.read_text().replace("steps: 6\n", "steps: 7\n"))
    mask = next((data / "labelsTr").glob(f"{load_split(run.split).validation[0]}_*"))
    flip(mask)
    cases = cases_of(read_dataset(data), load_split(run.split).validation, masked=True)
    told = scored_on([run, other], cases)["changed_since_training"]
    assert told == f"run, other: labelsTr/{mask.name} was replaced; other: training.steps was 6, now 7"


def test_edited_settings_are_told(run, data):
    run.settings.write_text(run.settings.read_text().replace("steps: 6\n", "steps: 7\n"))
    assert facts(run, data)["changed_since_training"] == "training.steps was 6, now 7"


def test_a_run_of_version_0_1_says_nothing_and_damaged_hashes_are_told(run, data):
    run.contents.write_text("{")
    assert facts(run, data)["changed_since_training"] == "contents.json cannot be read"
    run.contents.unlink()
    assert "changed_since_training" not in facts(run, data)
