"""Voxels and the grid they lie on: the only file that reads and writes medical images.

Axes stay in the order of the file (x, y, z for NIfTI) and are never flipped or reoriented, so whatever is written on
a grid lies exactly where the scan did.
"""

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from patchcl.errors import UserError
from patchcl.run_folder import write_whole

GRID_TOLERANCE = 0.1
"""Largest distance, in voxels, by which corners of two grids may differ that still count as the same."""


class Grid(NamedTuple):
    """Where voxels lie in the patient."""

    shape: tuple[int, ...]  # voxels along each axis of the file, two or three of them
    affine: np.ndarray  # (4, 4) float64, voxel index -> world position in mm
    spacing_mm: tuple[float, ...]  # one per axis of the file


class Scan(NamedTuple):
    """An image and its grid."""

    voxels: np.ndarray  # (C, *shape) float32, axes in file order
    grid: Grid


def read_grid(path: Path) -> Grid:
    """The grid of the file at `path`, from its header alone.

    Raises:
        UserError: The file is missing, is no NIfTI image, or is neither a slice nor a volume.
    """
    return _grid_of(_open(path), path)


def read_image(paths: Sequence[Path]) -> Scan:
    """One image from its files, one per channel.

    Raises:
        UserError: A file cannot be read, holds NaN or infinite voxels, or lies on another grid than the first.
    """
    grid = read_grid(paths[0])
    return Scan(np.stack([_read_channel(path, paths[0], grid) for path in paths]), grid)


def read_mask(path: Path, classes: int, grid: Grid | None = None) -> np.ndarray:
    """The class of every voxel, (*shape) uint8 in [0, `classes`).

    Raises:
        UserError: The file cannot be read, holds a value that is no class, or does not lie on `grid`.
    """
    image = _open(path)
    if grid is not None:
        demand_same_grid(_grid_of(image, path), grid, path, "its image")
    values = _values(image, path)
    with np.errstate(invalid="ignore"):
        wrong = ~((values >= 0) & (values < classes) & (values == np.floor(values)))
    if wrong.any():
        raise UserError(_unknown_values(path, np.unique(values[wrong]), classes))
    return values.astype(np.uint8)


def demand_same_grid(found: Grid, expected: Grid, path: Path, other: str) -> None:
    """Refuse the grid `found` in the file `path` unless it is the one `expected` from `other`.

    Raises:
        UserError: Sizes differ, or a corner lies more than `GRID_TOLERANCE` away.
    """
    if found.shape != expected.shape:
        raise UserError(
            f"{path} has size {_times(found.shape)}, but {other} has {_times(expected.shape)}. "
            "Both must lie on one grid: export them together, or resample one to the other."
        )
    distance = _corner_distance_mm(found, expected)
    if distance > GRID_TOLERANCE * min(expected.spacing_mm):
        raise UserError(
            f"{path} lies up to {distance:.3g} mm away from {other}: their affines (origin, spacing or direction) "
            "differ. Both must lie on one grid: export them together, or resample one to the other."
        )


def write_mask(path: Path, mask: np.ndarray, like: Path) -> None:
    """Write the classes `mask` (*shape) as uint8 on the very grid of the file `like`.

    The header of `like` is kept: affine, qform, sform and their codes bit for bit, and the units.

    Raises:
        UserError: `like` cannot be read.
    """
    _write_like(path, mask.astype(np.uint8), like)


def write_map(path: Path, values: np.ndarray, like: Path) -> None:
    """Write real numbers (*shape), a probability or an uncertainty, as float32 on the very grid of the file `like`.

    Raises:
        UserError: `like` cannot be read.
    """
    _write_like(path, values.astype(np.float32), like)


@contextmanager
def _blaming(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong while reading `path` into one message that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist. Check the name, or restore the file.") from error
    except (ImageFileError, HeaderDataError, EOFError, zlib.error, OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read as a NIfTI image ({error}). It may be incomplete: copy or export it again."
        ) from error


def _open(path: Path) -> Any:  # noqa: ANN401 - nibabel has no types
    with _blaming(path):
        return nib.load(path)


def _values(image: Any, path: Path) -> np.ndarray:  # noqa: ANN401 - nibabel has no types
    """The numbers of a file, shaped like its grid."""
    with _blaming(path):
        return np.asarray(image.dataobj).reshape(_grid_of(image, path).shape)


def _grid_of(image: Any, path: Path) -> Grid:  # noqa: ANN401 - nibabel has no types
    shape = tuple(int(length) for length in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in (2, 3) or 0 in shape:
        raise UserError(
            f"{path} has shape {shape}; a slice (2 axes) or a volume (3 axes) was expected. "
            "Save every time point or channel as a file of its own."
        )
    affine = np.asarray(image.affine, dtype=np.float64)
    spacing = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))[: len(shape)]
    if not np.isfinite(affine).all() or (spacing <= 0).any():
        raise UserError(f"{path} has no valid spacing: {spacing.tolist()} mm. Export it again with its geometry.")
    return Grid(shape, affine, tuple(spacing.tolist()))


def _read_channel(path: Path, first: Path, grid: Grid) -> np.ndarray:
    """The voxels (*shape) float32 of one file, which must lie on the grid of the `first` channel."""
    image = _open(path)
    demand_same_grid(_grid_of(image, path), grid, path, first.name)
    with np.errstate(over="ignore"):
        voxels = _values(image, path).astype(np.float32)
    bad = int(voxels.size - np.isfinite(voxels).sum())
    if bad:
        raise UserError(
            f"{path} holds {bad} voxels that are NaN or infinite, and no network can learn from those. "
            "Replace them, for example by the value of air, or remove the scan."
        )
    return voxels


def _corner_distance_mm(first: Grid, second: Grid) -> float:
    """How far apart the same corner voxel of two grids of one shape can be."""
    shape = (*first.shape, 1)[:3]
    corners = np.array([[*np.multiply(corner, np.array(shape) - 1), 1] for corner in np.ndindex(2, 2, 2)])
    offsets = corners @ (first.affine - second.affine).T
    return float(np.linalg.norm(offsets[:, :3], axis=1).max())


def _unknown_values(path: Path, values: np.ndarray, classes: int) -> str:
    shown = ", ".join(f"{value:g}" for value in values[:5]) + (", ..." if len(values) > 5 else "")
    return (
        f"{path} holds the value{'s' if len(values) > 1 else ''} {shown}, but a mask may only hold whole numbers from "
        f"0 to {classes - 1}, one per class in dataset.json. Correct the mask, or add the class to dataset.json."
    )


def _write_like(path: Path, values: np.ndarray, like: Path) -> None:
    reference = _open(like)
    if values.shape != _grid_of(reference, like).shape:
        raise ValueError(f"values of shape {values.shape} do not fit {like} of shape {reference.shape}")
    header = reference.header.copy()
    header.set_data_dtype(values.dtype)
    header["cal_min"] = header["cal_max"] = 0  # the display window of the scan means nothing for a mask
    image = type(reference)(values.reshape(reference.shape), None, header)
    write_whole(path, lambda unfinished: nib.save(image, unfinished))


def _times(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))
