"""Masks of two patients, and predictions that are known to be right or wrong."""

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

Box = tuple[slice, ...]
Write = Callable[..., None]


@pytest.fixture
def boxes() -> dict[str, Box]:
    """Where the structures lie in the masks of `folders`, and where `left` is when it is moved by half its side."""
    return {
        "left": (slice(1, 5), slice(1, 5), slice(1, 5)),
        "moved": (slice(3, 7), slice(1, 5), slice(1, 5)),
        "right": (slice(8, 11), slice(2, 5), slice(0, 3)),
    }


@pytest.fixture
def write_case() -> Write:
    """Writes a mask that holds each value in its box."""

    def write(path: Path, boxes: dict[int, Box], spacing: tuple[float, ...] = (1.0, 1.0, 2.0)) -> None:
        mask = np.zeros((12, 10, 6), np.uint8)
        for value, box in boxes.items():
            mask[box] = value
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(mask, np.diag([*spacing, 1.0])), path)

    return write


@pytest.fixture
def folders(tmp_path: Path, boxes: dict[str, Box], write_case: Write) -> tuple[Path, Path]:
    """Two scans of anna, one perfect and one with `left` moved by half its side, and one of bert without `right`."""
    predictions, masks = tmp_path / "predictions", tmp_path / "masks"
    left, moved, right = boxes.values()
    for name in ("anna_frame01", "anna_frame02", "bert_frame01"):
        write_case(masks / f"{name}.nii.gz", {1: left, 2: right})
    write_case(predictions / "anna_frame01.nii.gz", {1: left, 2: right})
    write_case(predictions / "anna_frame02.nii.gz", {1: moved, 2: right})
    write_case(predictions / "bert_frame01.nii.gz", {1: left})
    return predictions, masks
