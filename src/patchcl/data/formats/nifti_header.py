"""Headers of NIfTI that nibabel alone would refuse or misplace, read as ITK reads them."""

import gzip
import logging
from pathlib import Path
from typing import Any, BinaryIO, cast

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

LONGEST = 1 + 1e-5
"""Of a quaternion, squared: more than float32 loses in rounding is no rounding."""
GZIP = b"\x1f\x8b"
"""What packed files begin with."""
REPAIRS = logging.getLogger(__name__)
"""Told what nibabel sets right in a header; ITK does the same without a word, and nibabel's lines name no file."""
REPAIRS.addHandler(logging.NullHandler())
REPAIRS.propagate = False


class _Lenient:
    """What both versions of the format share; mixed into nibabel's headers, which have `get_...` and the fields."""

    def check_fix(self: Any, logger: logging.Logger = REPAIRS, error_level: int | None = None) -> None:
        """Refuse what is beyond repair, and repair the rest.

        Readers differ on lengths of voxels below zero where the qform counts: some mirror the image, others do not.
        """
        if self["qform_code"] > 0 and not self._has_sform() and (self["pixdim"][1:4] < 0).any():
            raise HeaderDataError("pixdim is negative, by which readers mean different places")
        cast("Any", super()).check_fix(logger, error_level)

    def _has_sform(self: Any) -> bool:
        return self["sform_code"] > 0 and any(self[f"srow_{axis}"].any() for axis in "xyz")

    def get_qform_quaternion(self: Any) -> Any:  # noqa: ANN401 - nibabel has no types
        """The quaternion (4,); that of a half turn where the stored three are a trifle too long."""
        rest = np.array([self[f"quatern_{letter}"] for letter in "bcd"], dtype=np.float64)
        if 1 < rest @ rest <= LONGEST:
            return np.array([0, *rest / np.linalg.norm(rest)])
        return cast("Any", super()).get_qform_quaternion()

    def get_best_affine(self: Any) -> Any:  # noqa: ANN401 - nibabel has no types
        """The affine (4, 4) by the sform, or by the qform where there is one and the sform is all zeros."""
        zeros = not any(self[f"srow_{axis}"].any() for axis in "xyz")
        return self.get_qform() if zeros and self["qform_code"] else cast("Any", super()).get_best_affine()


class _Header1(_Lenient, nib.Nifti1Header):  # type: ignore[misc]
    pass


class _Header2(_Lenient, nib.Nifti2Header):  # type: ignore[misc]
    pass


class _Image1(nib.Nifti1Image):  # type: ignore[misc]
    header_class = _Header1


class _Image2(nib.Nifti2Image):  # type: ignore[misc]
    header_class = _Header2


def is_packed(path: Path) -> bool:
    """Whether the file at `path` is packed with gzip, by what it holds and not by its name."""
    with path.open("rb") as file:
        return file.read(2) == GZIP


def unpacked(path: Path) -> BinaryIO:
    """The file at `path`, open for reading, as it is or was before it was packed."""
    return cast("BinaryIO", gzip.open(path)) if is_packed(path) else path.open("rb")


def image_in(file: BinaryIO) -> Any:  # noqa: ANN401 - nibabel has no types
    """The image of nibabel's in an open `file`, NIfTI-1 or -2, its voxels still there."""
    return _kind_of(file).from_stream(file)


def stored_lengths(path: Path) -> np.ndarray:
    """The lengths of voxels (3,) in the header at `path` as they are stored, also where they are below zero."""
    with unpacked(path) as file:
        return np.array(_kind_of(file).header_class.from_fileobj(file, check=False)["pixdim"][1:4])


def _kind_of(file: BinaryIO) -> Any:  # noqa: ANN401 - nibabel has no types
    size = file.read(4)  # of the header, which tells the version
    file.seek(0)
    return _Image2 if 540 in (int.from_bytes(size, "little"), int.from_bytes(size, "big")) else _Image1
