"""Grids: size, spacing and affine of voxels, and whether two files agree on them."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from patchcl.core.errors import UserError

GRID_TOLERANCE = 0.1
"""Largest distance, in voxels, by which corners of two grids may differ that still count as the same."""


class Grid(NamedTuple):
    """Grid: where voxels lie in the patient."""

    shape: tuple[int, ...]  # voxels along each axis of the file, two or three of them
    affine: np.ndarray  # (4, 4) float64, voxel index -> world position in mm; to the right, the front and the top (RAS)
    spacing_mm: tuple[float, ...]  # one per axis of the file
    forms_apart_mm: float = 0.0  # how far the file's own two forms of the affine, qform and sform, lie apart
    placed: bool = True  # whether the file says how it lies in the patient


def grid_of(path: Path, shape: tuple[int, ...], affine: np.ndarray) -> Grid:
    """The grid of the file `path`; its spacing is the length of the affine's columns.

    Raises:
        UserError: It is neither a slice nor a volume, or has no extent.
    """
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise UserError(
            f"{path} has shape {shape}; a slice (2 axes) or a volume (3 axes) was expected. "
            "Save every time point or channel as a file of its own."
        )
    with np.errstate(over="ignore", invalid="ignore"):
        spacing = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))[: len(shape)]
    if not (np.isfinite(affine).all() and np.isfinite(spacing).all() and (spacing > 0).all()):
        raise UserError(f"{path} has no valid spacing: {spacing.tolist()} mm. Export it again with its geometry.")
    return Grid(shape, affine, tuple(spacing.tolist()))


def require_same_grid(found: Grid, expected: Grid, path: Path, other: str) -> None:
    """Refuse the grid `found` in the file `path` unless it is the one `expected` from `other`.

    Raises:
        UserError: Sizes differ, or a corner lies more than `GRID_TOLERANCE` away.
    """
    if found.shape != expected.shape:
        raise UserError(
            f"{path} has size {_times(found.shape)}, but {other} has {_times(expected.shape)}. "
            "Both must lie on one grid: export them together, or resample one to the other."
        )
    distance = corner_distance_mm(found, expected)
    if distance > GRID_TOLERANCE * min(expected.spacing_mm):
        raise UserError(
            f"{path} lies up to {distance:.3g} mm away from {other}: their affines (origin, spacing or direction) "
            f"differ. {_forms(found, path.name)}{_forms(expected, other)}"
            "Both must lie on one grid: export them together, or resample one to the other."
        )


def corner_distance_mm(first: Grid, second: Grid) -> float:
    """How far apart the same corner voxel of two grids of one shape can be."""
    shape = (*first.shape, 1)[:3]
    corners = np.array([[*np.multiply(corner, np.array(shape) - 1), 1] for corner in np.ndindex(2, 2, 2)])
    offsets = corners @ (first.affine - second.affine).T
    return float(np.linalg.norm(offsets[:, :3], axis=1).max())


def _forms(grid: Grid, name: str) -> str:
    """What is to be said where programs may read two affines from one file."""
    if grid.forms_apart_mm <= GRID_TOLERANCE * min(grid.spacing_mm):
        return ""
    return (
        f"The qform and the sform of {name} differ by up to {grid.forms_apart_mm:.3g} mm, and programs choose "
        "differently (patchcl takes the sform). "
    )


def _times(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))
