from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from patchcl.core.errors import UserError
from patchcl.data.scan import IGNORED, read_grid
from patchcl.evaluation.object_metrics import instances_beside

MASK = np.zeros((6, 5, 2), np.uint8)
MASK[1:3, 1:4], MASK[3:5, 1:4] = 1, 2


def save(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(values, np.diag([0.5, 0.5, 2.0, 1.0])), path)
    return path


@pytest.fixture
def mask_file(tmp_path):
    return save(tmp_path / "labelsTr" / "anna.nii.gz", MASK)


def test_ids_lie_beside_the_mask(tmp_path, mask_file):
    ids = MASK.astype(np.int16) * 300
    save(tmp_path / "instancesTr" / "anna.nii.gz", ids)
    found = instances_beside(mask_file, MASK, read_grid(mask_file))
    np.testing.assert_array_equal(found, ids)


def test_each_folder_of_masks_has_its_own(tmp_path, mask_file):
    save(tmp_path / "instancesTs" / "anna.nii.gz", MASK)
    assert instances_beside(mask_file, MASK, read_grid(mask_file)) is None
    moved = save(tmp_path / "labelsTs" / "anna.nii.gz", MASK)
    assert instances_beside(moved, MASK, read_grid(moved)) is not None


def test_masks_anywhere_else_have_no_ids(tmp_path):
    path = save(tmp_path / "masks" / "anna.nii.gz", MASK)
    assert instances_beside(path, MASK, read_grid(path)) is None


def test_a_missing_file_is_named(tmp_path, mask_file):
    save(tmp_path / "instancesTr" / "bert.nii.gz", MASK)
    with pytest.raises(UserError, match=r"instancesTr/anna\.nii\.gz is missing"):
        instances_beside(mask_file, MASK, read_grid(mask_file))


def test_ids_that_contradict_the_mask_are_refused(tmp_path, mask_file):
    ids = MASK.copy()
    ids[5, 4, 0] = ids[5, 4, 1] = 7
    ids[1, 1, 0] = 0
    save(tmp_path / "instancesTr" / "anna.nii.gz", ids)
    with pytest.raises(UserError, match="disagree at 3 voxels"):
        instances_beside(mask_file, MASK, read_grid(mask_file))
    known = np.where(ids == 7, IGNORED, MASK)
    known[1, 1, 0] = IGNORED
    assert instances_beside(mask_file, known, read_grid(mask_file)) is not None


@pytest.mark.parametrize("value", [-1.0, 0.5, np.nan])
def test_what_is_no_id_is_refused(tmp_path, mask_file, value):
    ids = MASK.astype(np.float32)
    ids[1, 1, 0] = value
    save(tmp_path / "instancesTr" / "anna.nii.gz", ids)
    with pytest.raises(UserError, match="whole numbers from 0 on"):
        instances_beside(mask_file, MASK, read_grid(mask_file))


def test_ids_on_another_grid_are_refused(tmp_path, mask_file):
    save(tmp_path / "instancesTr" / "anna.nii.gz", MASK[:, :, :1])
    with pytest.raises(UserError, match="size"):
        instances_beside(mask_file, MASK, read_grid(mask_file))
