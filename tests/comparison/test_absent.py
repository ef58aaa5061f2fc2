"""Structures that no labeled mask holds: told on the terminal before runs that cannot learn them are made."""

import io
import shutil

import nibabel
import numpy as np
import pytest
from rich.console import Console

from patchcl.comparison import comparison, folds
from patchcl.comparison.absent import warn_of_absent
from patchcl.comparison.comparison import compare_methods
from patchcl.comparison.folds import cross_validate
from patchcl.comparison.runner import Ending
from patchcl.comparison.spec import build_spec, job_of
from patchcl.config import load_settings
from patchcl.core.signals import StopRequest

LINE = "No labeled mask holds MYO, so that cannot be learned."


@pytest.fixture
def told(monkeypatch):
    """What is said where runs are asked to be made; none is."""
    for module in (comparison, folds):
        monkeypatch.setattr(module, "run_jobs", lambda *_: Ending({}, StopRequest()))
    return Console(file=io.StringIO(), width=200)


@pytest.fixture
def without_myo(cardiac, tmp_path):
    data = shutil.copytree(cardiac, tmp_path / "data")
    for path in (data / "labelsTr").iterdir():
        image = nibabel.load(path)
        mask = np.asarray(image.dataobj)
        nibabel.save(nibabel.Nifti1Image(np.where(mask == 2, 0, mask).astype(np.uint8), image.affine), path)
    return data


def test_folds_warn_when_they_begin(without_myo, tmp_path, told, tiny):
    cross_validate(without_myo, tmp_path / "folds", load_settings(None, tiny), 2, None, 1, told)
    assert told.file.getvalue().count(f"Warning: {LINE}") == 1


def test_a_comparison_warns_once_for_each_division(without_myo, tmp_path, told, tiny):
    spec = build_spec(without_myo, ["supervised", "patchcl"], [1, 2], [0], None, tiny)
    compare_methods(spec, tmp_path / "out", 1, told)
    said = told.file.getvalue()
    assert [f"Warning: With labeled patients {count}, seed 0: {LINE}" in said for count in (1, 2)] == [True, True]
    assert said.count(LINE) == 2


def test_nothing_is_said_where_nothing_lacks_and_a_mask_that_cannot_be_read_is_for_its_run(
    make_spec, cardiac, tmp_path, told
):
    spec = make_spec(("supervised",), (1, 2), (0, 1))
    jobs = [job_of(spec, run, tmp_path, 1) for run in spec.runs]
    warn_of_absent(spec.data, jobs, told)
    broken = shutil.copytree(cardiac, tmp_path / "broken")
    for path in (broken / "labelsTr").iterdir():
        path.write_bytes(b"no mask")
    warn_of_absent(broken, jobs, told)
    assert told.file.getvalue() == ""
