"""Folders of cases as KiTS19 has them."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from patchcl.core.errors import UserError
from patchcl.data.dataset import read_dataset
from patchcl.data.importers.kits19 import case_folders, convert
from patchcl.data.importers.writer import write_raw_folder

AFFINE = np.array([[0, 0, -0.8, 0], [0, -0.8, 0, 0], [-3.0, 0, 0, 0], [0, 0, 0, 1]])


@pytest.fixture
def kidneys(tmp_path: Path) -> Path:
    """Three cases, the last without a mask, in the folder data; no mask holds a tumour."""
    for number in (0, 7, 210):
        case = tmp_path / "kits19" / "data" / f"case_{number:05d}"
        case.mkdir(parents=True)
        ones = np.full((4, 6, 5), number % 2, np.uint8)
        nib.save(nib.Nifti1Image(ones.astype(np.float64) * -900, AFFINE), case / "imaging.nii.gz")
        if number < 210:
            nib.save(nib.Nifti1Image(ones, AFFINE), case / "segmentation.nii.gz")
    (tmp_path / "kits19" / "data" / "kits.json").write_text("[]")
    return tmp_path / "kits19"


def test_cases_keep_their_bytes_and_those_without_a_mask_are_unlabeled(kidneys: Path, tmp_path: Path) -> None:
    result = write_raw_folder(convert(kidneys), tmp_path / "out")
    assert (result.scans, result.masks, result.split) == (3, 2, None)
    dataset = read_dataset(tmp_path / "out")
    assert (dataset.channels, dataset.classes) == (("CT",), ("background", "kidney", "tumour"))
    folders = {case.name: (case.patient, case.folder) for case in dataset.cases}
    assert folders == {name: (name, "imagesTr") for name in ("case_00000", "case_00007")} | {
        "case_00210": ("case_00210", "imagesUn")
    }
    for case in dataset.cases:
        source = kidneys / "data" / case.name
        assert case.images[0].read_bytes() == (source / "imaging.nii.gz").read_bytes()
        assert case.mask is None or case.mask.read_bytes() == (source / "segmentation.nii.gz").read_bytes()


def test_the_folder_of_the_cases_will_do_as_well(kidneys: Path) -> None:
    assert [path.name for path in case_folders(kidneys / "data")] == ["case_00000", "case_00007", "case_00210"]
    assert convert(kidneys / "data").scans[0].name == "case_00000"


def test_what_is_missing_is_named(kidneys: Path, tmp_path: Path) -> None:
    (kidneys / "data" / "case_00007" / "imaging.nii.gz").unlink()
    with pytest.raises(UserError, match=r"data has cases without imaging\.nii\.gz: case_00007\. They are downloaded"):
        convert(kidneys)
    with pytest.raises(UserError, match=r"holds no cases\. Expected folders such as case_00000"):
        convert(tmp_path)
