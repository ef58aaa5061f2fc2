"""NIfTI, the format of medical volumes that keeps its axes and its affine as they are."""

import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

from patchcl.core.errors import UserError
from patchcl.core.files import atomic_write
from patchcl.data.formats.base import DEFLATE_RATIO, Format, reading, require_content
from patchcl.data.formats.nifti_header import image_in, is_packed, stored_lengths, unpacked
from patchcl.data.geometry import GRID_TOLERANCE, Grid, corner_distance_mm, grid_of

KIND = "a NIfTI image"
ROUNDING = 1e-3
"""How far numbers in masks may lie from whole ones: a slope in the header turns 1 into 0.9999999."""
MM = {1: 1000.0, 3: 0.001}
"""Millimetres in the units of length that the format has beside them, metres and microns, by their codes."""


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
        values = _voxels(path).reshape(grid.shape)
    if values.dtype.names or np.iscomplexobj(values):
        raise UserError(
            f"{path} holds several numbers per voxel ({values.dtype}); expected one real number. "
            "Save every component, such as the magnitude, as a file of its own."
        )
    return values[None]


def read_classes(path: Path) -> np.ndarray:
    """The voxels (*shape) of a mask after scaling, which has to leave whole numbers whole.

    Raises:
        UserError: As for `read_values`; or a slope in the header makes fractions of whole numbers.
    """
    values = np.asarray(read_values(path)[0])
    slope = _open(path).dataobj.slope
    if values.dtype.kind != "f" or slope == 1 or not np.isfinite(values).all():
        return values
    apart = values[np.abs(values - np.rint(values)) > ROUNDING]
    if apart.size:
        raise UserError(
            f"{path} holds {apart[0]:g}, because its header multiplies what is stored by {slope:g} (scl_slope), but a "
            "mask may only hold whole numbers. Save it with a slope of 1; if it holds probabilities, threshold them."
        )
    return values


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
    image.header["pixdim"][1:4] = stored_lengths(like)
    atomic_write(path, lambda unfinished: nib.save(image, unfinished))


def write_on(path: Path, values: np.ndarray, grid: Grid) -> None:
    """Write `values` (*shape) on `grid`, whose affine becomes the sform in float32, as the format has it.

    Spacings and qform say the same. A sheared affine has no qform that could: its code is then 0, and the sform counts.
    """
    header = nib.Nifti1Header()
    header.set_data_dtype(values.dtype)
    header.set_data_shape(values.shape)
    header.set_sform(grid.affine, code="scanner")
    header.set_qform(grid.affine, code="scanner", strip_shears=True)
    corners = grid_of(path, values.shape, header.get_qform()), grid_of(path, values.shape, header.get_sform())
    if corner_distance_mm(*corners) > GRID_TOLERANCE * min(grid.spacing_mm):
        header["qform_code"] = 0
    header.set_xyzt_units("mm")
    image = nib.Nifti1Image(values, None, header)
    atomic_write(path, lambda unfinished: nib.save(image, unfinished))


def affine_mm(image: Any) -> np.ndarray:  # noqa: ANN401 - nibabel has no types
    """The affine (4, 4) float64 of an `image` of nibabel's to positions in mm, whatever its unit of length."""
    return _in_mm(image.affine, image)


def _in_mm(affine: np.ndarray, image: Any) -> np.ndarray:  # noqa: ANN401 - nibabel has no types
    return np.diag([*[MM.get(int(image.header["xyzt_units"]) & 7, 1.0)] * 3, 1.0]) @ np.asarray(affine, np.float64)


def _open(path: Path) -> Any:  # noqa: ANN401 - nibabel has no types
    """The header of the file at `path`, in an image of nibabel's without voxels."""
    with reading(path, KIND):
        with unpacked(path) as file:
            image = image_in(file)
        claimed = math.prod(image.shape) * image.get_data_dtype().itemsize
        require_content(path, claimed, DEFLATE_RATIO if is_packed(path) else 1)
        return image


def _voxels(path: Path) -> np.ndarray:
    """The voxels of a file, which is read to its end, where the checksum of a packed one stands."""
    with unpacked(path) as file:
        values = np.asarray(image_in(file).dataobj)
        while file.read(1 << 20):
            pass
        return values


def _grid_of(image: Any, path: Path) -> Grid:  # noqa: ANN401 - nibabel has no types
    shape = tuple(int(length) for length in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    grid = grid_of(path, shape, affine_mm(image))
    placed = bool(image.header["qform_code"] or image.header["sform_code"])
    return grid._replace(forms_apart_mm=_forms_apart_mm(image, path, grid), placed=placed)


def _forms_apart_mm(image: Any, path: Path, grid: Grid) -> float:  # noqa: ANN401 - nibabel has no types
    """How far a qform that is set lies from the affine of the file; 0 where there is none that could be read."""
    try:
        qform, code = image.header.get_qform(coded=True)
        return corner_distance_mm(grid_of(path, grid.shape, _in_mm(qform, image)), grid) if code else 0.0
    except (UserError, ValueError, HeaderDataError):
        return 0.0  # the sform counts, whatever stands beside it


FORMAT = Format(
    "NIfTI",
    (".nii.gz", ".nii"),
    read_grid,
    read_values,
    write_like,
    read_classes=read_classes,
    masks_as={".nii": ".nii.gz"},
)
