"""NIfTI, the format of medical volumes that keeps its axes and its affine as they are."""

import gzip
import math
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from patchcl.core.errors import UserError
from patchcl.core.files import atomic_write
from patchcl.data.formats.base import DEFLATE_RATIO, Format, reading, require_content
from patchcl.data.geometry import Grid, grid_of

KIND = "a NIfTI image"
GZIP = b"\x1f\x8b"
"""What a packed file begins with."""
MM = {"meter": 1e3, "micron": 1e-3}
"""Millimetres in the units of length that a header can name."""


def read_grid(path: Path) -> Grid:
    """The grid of the file at `path`, from its header alone.

    Raises:
        UserError: The file is missing, is no NIfTI image, or is neither a slice nor a volume.
    """
    return _grid_of(_open(path), path)


def read_values(path: Path) -> np.ndarray:
    """The voxels (1, *shape) after scaling, in the order of the file.

    Raises:
        UserError: The file cannot be read or has a wrong checksum, or holds colours or complex numbers.
    """
    image = _open(path)
    grid = _grid_of(image, path)
    with reading(path, KIND):
        values = _unpacked(path, type(image)) if _packed(path) else np.asarray(image.dataobj)
        values = values.reshape(grid.shape)
    if values.dtype.names or np.iscomplexobj(values):
        raise UserError(
            f"{path} holds several numbers per voxel ({values.dtype}); expected one real number. "
            "Save every component, such as the magnitude, as a file of its own."
        )
    return values[None]


def write_like(path: Path, values: np.ndarray, like: Path) -> None:
    """Write `values` (*shape) on the grid of the file `like`, whose header is kept.

    Affine, qform, sform and their codes stay bit for bit, and the units.

    Raises:
        UserError: `like` cannot be read.
    """
    reference = _open(like)
    if values.shape != _grid_of(reference, like).shape:
        raise ValueError(f"values of shape {values.shape} do not fit {like} of shape {reference.shape}")
    header = reference.header.copy()
    header.set_data_dtype(values.dtype)
    header["cal_min"] = header["cal_max"] = 0  # the display window of the scan means nothing for a mask
    image = type(reference)(values.reshape(reference.shape), None, header)
    atomic_write(path, lambda unfinished: nib.save(image, unfinished))


def write_on(path: Path, values: np.ndarray, grid: Grid) -> None:
    """Write `values` (*shape) on `grid`, whose affine becomes the sform in float32, as the format has it.

    Spacing and qform say the same, for readers that look at these.
    """
    image = nib.Nifti1Image(values, grid.affine)
    image.set_qform(grid.affine, code="scanner")
    image.set_sform(grid.affine, code="scanner")
    image.header.set_xyzt_units("mm")
    atomic_write(path, lambda unfinished: nib.save(image, unfinished))


def _open(path: Path) -> Any:  # noqa: ANN401 - nibabel has no types
    """The file at `path`, its voxels still on disk."""
    with reading(path, KIND):
        image = nib.load(path) if path.suffix.lower() != ".gz" or _packed(path) else _not_packed(path)
        claimed = math.prod(image.shape) * image.get_data_dtype().itemsize
        require_content(path, claimed, DEFLATE_RATIO if _packed(path) else 1)
        return image


def _packed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == GZIP


def _not_packed(path: Path) -> Any:  # noqa: ANN401 - nibabel has no types
    """The file at `path`, which is not packed, whatever its name says."""
    content = path.read_bytes()
    second = (540).to_bytes(4, sys.byteorder) in (content[:4], content[3::-1])
    return (nib.Nifti2Image if second else nib.Nifti1Image).from_bytes(content)


def _unpacked(path: Path, kind: Any) -> np.ndarray:  # noqa: ANN401 - a class of nibabel's
    """The voxels of a packed file, read to its end, where the checksum stands; nibabel stops at the last voxel."""
    with gzip.open(path) as file:
        values = np.asarray(kind.from_stream(file).dataobj)
        while file.read(1 << 20):
            pass
        return values


def _grid_of(image: Any, path: Path) -> Grid:  # noqa: ANN401 - nibabel has no types
    shape = tuple(int(length) for length in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    affine = np.asarray(image.affine, dtype=np.float64)
    unit = image.header.get_xyzt_units()[0] if hasattr(image.header, "get_xyzt_units") else "mm"
    affine[:3] *= MM.get(unit, 1)  # where the file does not say, it is taken for mm
    return grid_of(path, shape, affine)


FORMAT = Format("NIfTI", (".nii.gz", ".nii"), read_grid, read_values, write_like, masks_as={".nii": ".nii.gz"})
