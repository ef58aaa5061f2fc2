"""Headers of NIfTI that nibabel alone would refuse or misplace, read as ITK reads them."""

import gzip
from pathlib import Path
from typing import Any, BinaryIO, cast

import nibabel as nib
import numpy as np

LONGEST = 1 + 1e-5
"""Of a quaternion, squared: more than float32 loses in rounding is no rounding."""
GZIP = b"\x1f\x8b"
"""What packed files begin with."""


class _Lenient:
    """What both versions of the format share; mixed into nibabel's headers, which have `get_...` and the fields."""

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
    size = file.read(4)  # of the header, which tells the version
    file.seek(0)
    kind = _Image2 if 540 in (int.from_bytes(size, "little"), int.from_bytes(size, "big")) else _Image1
    return kind.from_stream(file)
