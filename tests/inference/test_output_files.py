"""Predictions have a folder of their own, and the format of their scan or the one that was asked for."""

from pathlib import Path

import pytest

from patchcl.core.errors import UserError
from patchcl.inference.output_files import check_out, endings


@pytest.mark.parametrize(
    ("scan", "output", "expected"),
    [
        ("a_0000.nii.gz", "same", (".nii.gz", ".nii.gz")),
        ("a_0000.mha", "same", (".mha", ".mha")),
        ("a_0000.mha", "nifti", (".nii.gz", ".nii.gz")),
        ("a_0000.jpg", "same", (".png", ".tif")),
    ],
)
def test_masks_have_the_format_of_their_scan_unless_told_otherwise(scan, output, expected):
    assert endings(Path(scan), output) == expected


def test_dicom_seg_is_for_series_alone():
    with pytest.raises(UserError, match="is no DICOM series"):
        endings(Path("a_0000.nii.gz"), "dicom-seg")


def test_a_new_folder_is_made_and_those_of_scans_and_masks_are_refused(tmp_path):
    scans = tmp_path / "scans"
    scans.mkdir()
    check_out(tmp_path / "out" / "masks", scans)
    assert (tmp_path / "out" / "masks").is_dir()
    with pytest.raises(UserError, match="never written over"):
        check_out(scans, scans)
    (tmp_path / "dataset.json").touch()
    with pytest.raises(UserError, match="never written over"):
        check_out(tmp_path / "labelsTs", scans)
