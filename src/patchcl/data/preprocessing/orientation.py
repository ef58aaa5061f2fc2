"""Orientation: scans whose axes run otherwise in the patient are brought to one order, and masks back to their own.

An order is three letters, what the axes of a volume run towards: RAS is to the right, the front and the top, as NIfTI
has it, LPS that of most DICOM. It is known where a file says how it lies, and its axes lie nearly along those of the
patient. Of oblique scans, as of the heart along its own axes, letters say nothing, and nothing is reordered.

Source: nnU-Net has the like in its reader NibabelIOWithReorient, which also reorders oblique scans.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from patchcl.data.geometry import Grid

CANONICAL = "RAS"
LETTERS = ("RL", "AP", "SI")
"""Towards what each axis of the patient runs: forwards, and backwards."""
ALONG = 0.8
"""Least cosine between an axis of a volume and one of the patient."""
OBLIQUE = 37
"""The same in degrees."""
THICK = 1.5
"""The axis of slices is the one whose spacing is this many times the next."""


class _Order(NamedTuple):
    """How the axes of a file become those of an orientation."""

    axes: tuple[int, ...]  # of the file, for each axis of the orientation
    flipped: tuple[int, ...]  # axes of the orientation that run the other way

    def oriented(self, volumes: np.ndarray) -> np.ndarray:
        """`volumes` (C, *shape) of the file with the axes of the orientation."""
        moved = volumes.transpose(0, *(axis + 1 for axis in self.axes))
        return np.asarray(np.flip(moved, tuple(axis + 1 for axis in self.flipped)))

    def restored(self, volumes: np.ndarray) -> np.ndarray:
        """What `oriented` gave with the axes of the file."""
        turned = np.asarray(np.flip(volumes, tuple(axis + 1 for axis in self.flipped)))
        return turned.transpose(0, *(int(axis) + 1 for axis in np.argsort(self.axes)))


def orientation_of(grid: Grid) -> str | None:
    """The letters of the axes of a volume; None of a slice, or where they are not known or oblique."""
    if len(grid.shape) != 3 or not grid.placed:
        return None
    cosines = grid.affine[:3, :3] / np.sqrt((grid.affine[:3, :3] ** 2).sum(axis=0))
    nearest = np.abs(cosines).argmax(axis=0).tolist()
    if np.abs(cosines).max(axis=0).min() < ALONG or len(set(nearest)) < len(nearest):
        return None
    return "".join(LETTERS[axis][int(cosines[axis, column] < 0)] for column, axis in enumerate(nearest))


def common_orientation(grids: Sequence[Grid]) -> str | None:
    """The orientation that all volumes are to have: their own where they agree, else the canonical one.

    None where that of a scan is not known, where spacings are all 1 mm as if the geometry had been lost, or where
    slices would no longer lie along one axis.
    """
    found = [orientation_of(grid) for grid in grids]
    known = [name for name in found if name is not None]
    if not known or len(known) < len(found) or all(set(grid.spacing_mm) == {1.0} for grid in grids):
        return None
    if len(set(known)) == 1:
        return known[0]
    return CANONICAL if len(_slice_axes(grids)) <= 1 else None


def oriented_grid(grid: Grid, orientation: str | None) -> Grid:
    """`grid` with its axes in the order of `orientation`."""
    order = _order(grid, orientation)
    if order is None:
        return grid
    affine = grid.affine.copy()
    affine[:3, :3] = grid.affine[:3, list(order.axes)]
    for axis in order.flipped:
        affine[:3, 3] += (grid.shape[order.axes[axis]] - 1) * affine[:3, axis]
        affine[:3, axis] *= -1
    shape, spacing = tuple(grid.shape[axis] for axis in order.axes), tuple(grid.spacing_mm[axis] for axis in order.axes)
    return grid._replace(shape=shape, affine=affine, spacing_mm=spacing)


def oriented(volumes: np.ndarray, grid: Grid, orientation: str | None) -> np.ndarray:
    """`volumes` (C, *grid.shape) with the axes of `orientation`, not copied."""
    order = _order(grid, orientation)
    return volumes if order is None else order.oriented(volumes)


def restored(volumes: np.ndarray, grid: Grid, orientation: str | None) -> np.ndarray:
    """`volumes` (C, *shape) with the axes of `orientation` back on `grid`: (C, *grid.shape)."""
    order = _order(grid, orientation)
    return volumes if order is None else order.restored(volumes)


def file_axis(axis: int, grid: Grid, orientation: str | None) -> int:
    """The axis of `grid` that becomes `axis` of `orientation`."""
    order = _order(grid, orientation)
    return axis if order is None else order.axes[axis]


def different_orientations(grids: Sequence[Grid]) -> list[str]:
    """The orientations of volumes, as far as they are known, if there are several."""
    names = {name for grid in grids if (name := orientation_of(grid)) is not None}
    return sorted(names) if len(names) > 1 else []


def _order(grid: Grid, orientation: str | None) -> _Order | None:
    """None where nothing is to be done, or nobody knows what."""
    found = orientation_of(grid)
    if orientation is None or found is None or found == orientation:
        return None
    pairs = [next(index for index, pair in enumerate(LETTERS) if letter in pair) for letter in found]
    wanted = [next(index for index, pair in enumerate(LETTERS) if letter in pair) for letter in orientation]
    axes = tuple(pairs.index(pair) for pair in wanted)
    return _Order(axes, tuple(at for at, axis in enumerate(axes) if found[axis] != orientation[at]))


def _slice_axes(grids: Sequence[Grid]) -> Collection[int]:
    """The axes of the canonical orientation along which scans are coarse."""
    axes = set()
    for grid in grids:
        spacing = oriented_grid(grid, CANONICAL).spacing_mm
        if max(spacing) >= THICK * sorted(spacing)[1]:
            axes.add(int(np.argmax(spacing)))
    return axes
