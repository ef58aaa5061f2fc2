"""Whole or not at all, and nothing written over."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from patchcl.data.dataset import read_dataset
from patchcl.data.sources.raw_folder import FoundDataset, FoundScan, Side, write_raw_folder
from patchcl.errors import UserError


def write_file(value: int, target: Path) -> set[int]:
    nib.save(nib.Nifti1Image(np.full((4, 4, 3), value, dtype=np.uint8), np.eye(4)), target)
    return {0, value}


def write_image(target: Path) -> None:
    write_file(7, target)


def scan(name: str, side: Side, value: int | None = 1) -> FoundScan:
    mask = None if value is None else partial(write_file, value)
    return FoundScan(name, side, (write_image,), mask)


def found(*scans: FoundScan) -> FoundDataset:
    return FoundDataset("Tiny", ("MRI",), (*scans, scan("a", "train"), scan("v", "validation")))


def write(tmp_path: Path, *scans: FoundScan, structures: Sequence[str] | None = None) -> Path:
    return write_raw_folder(found(*scans), tmp_path / "out", structures)


def test_every_scan_goes_to_its_folder_and_is_reported(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    scans = (scan("u", "train", None), scan("t", "test"), scan("s", "test", None))
    (tmp_path / "out").mkdir()
    write_raw_folder(found(*scans), tmp_path / "out", report=lambda *done: told.append(done))
    assert told == [(count, 5) for count in range(1, 6)]
    files = sorted(str(path.relative_to(tmp_path / "out")) for path in tmp_path.rglob("*.*"))
    assert files == [
        "dataset.json", "imagesTr/a_0000.nii.gz", "imagesTr/v_0000.nii.gz", "imagesTs/s_0000.nii.gz",
        "imagesTs/t_0000.nii.gz", "imagesUn/u_0000.nii.gz", "labelsTr/a.nii.gz", "labelsTr/v.nii.gz",
        "labelsTs/t.nii.gz", "split.json",
    ]  # fmt: skip
    assert read_dataset(tmp_path / "out").classes == ("background", "structure_1")


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").touch()
    with pytest.raises(UserError, match="out is not empty, and nothing is ever written over"):
        write(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="not empty"):
        write_raw_folder(found(), tmp_path / "file")
    with pytest.raises(UserError, match=r"file/out cannot be written: .* choose another folder"):
        write_raw_folder(found(), tmp_path / "file" / "out")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "out", "precious"]


@pytest.mark.parametrize("error", [UserError("broken"), OSError("disk full"), KeyboardInterrupt()])
def test_what_is_interrupted_leaves_nothing_behind(tmp_path: Path, error: BaseException) -> None:
    def stop(target: Path) -> None:
        target.write_bytes(b"half")
        raise error

    expected = UserError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected):
        write(tmp_path, FoundScan("b", "train", (stop,), None))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("value", "structures", "message"),
    [
        (3, None, r"hold the values 0, 1, 3; expected whole numbers from 0"),
        (3, ("A", "B"), "--structures names A, B, but the masks hold values up to 3"),
        (2, ("A", "A"), "--structures names A, A"),
        (2, ("background", "A"), "--structures names background, A"),
    ],
)
def test_values_that_no_structure_has(
    tmp_path: Path, value: int, structures: Sequence[str] | None, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        write(tmp_path, scan("b", "train", value), structures=structures)
    assert not list(tmp_path.iterdir())


def test_structures_may_be_absent_from_the_masks_if_they_are_named(tmp_path: Path) -> None:
    write(tmp_path, scan("b", "train", 3), structures=("A", "B", "C", "D"))
    assert read_dataset(tmp_path / "out").classes == ("background", "A", "B", "C", "D")


def test_masks_of_background_alone_teach_nothing(tmp_path: Path) -> None:
    scans = (scan("a", "train", 0), scan("v", "validation", 0))
    with pytest.raises(UserError, match="hold the values 0; expected"):
        write_raw_folder(FoundDataset("Tiny", ("MRI",), scans), tmp_path / "out", ("A",))
