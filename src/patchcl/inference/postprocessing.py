"""What is done to a predicted mask on the grid of its scan, as validation chose it when training ended.

Voxels of a structure that touch at a corner are connected, across the slices of a volume as well. Holes are regions of
background whose voxels share a face, within a slice where the network sees slices. Of components of one size the one
that comes first, in the order of the array, stays.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field, ValidationError
from scipy import ndimage

from patchcl.core.errors import UserError
from patchcl.core.settings import FrozenSettings
from patchcl.data.geometry import Grid
from patchcl.data.preprocessing.orientation import file_axis
from patchcl.data.preprocessing.plan import Plan
from patchcl.runs.folder import RunFolder

CONNECTIVITY = (
    "Voxels that touch at a corner belong to one component, across slices too; a hole is background, connected by "
    "faces, that touches one structure alone and not the edge of the scan, within a slice where the network sees "
    "slices."
)
NO_CLASS = 256
"""Above the value of every class in a mask."""


class Postprocessing(FrozenSettings):
    """The steps, in the order in which they are taken; by default none."""

    largest_together: bool = False
    """Keep the largest component of all structures taken as one."""
    largest_of: tuple[str, ...] = ()
    """Keep the largest component of each of these structures."""
    smallest_object_mm: float = Field(default=0.0, ge=0)
    """Remove components of less than so many mm² of a picture, mm³ of a volume; pixels where there is no spacing."""
    filled: tuple[str, ...] = ()
    """Fill the holes of each of these structures."""

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return self != NO_POSTPROCESSING


NO_POSTPROCESSING = Postprocessing()


class PostprocessingChoice(FrozenSettings):
    """The file postprocessing.json of a run: what was chosen, and the figures that decided."""

    postprocessing: Postprocessing
    connectivity: str = CONNECTIVITY
    validation: dict[str, Any]


def read_postprocessing(run: RunFolder, plan: Plan) -> Postprocessing:
    """What validation chose for a run: nothing for runs of version 0.1, and for those without validation patients.

    Raises:
        UserError: The file is damaged, or names structures that the run does not know.
    """
    if not run.postprocessing.is_file():
        return NO_POSTPROCESSING
    try:
        content = run.postprocessing.read_text(encoding="utf-8")
        chosen = PostprocessingChoice.model_validate_json(content).postprocessing
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise UserError(
            f"{run.postprocessing} cannot be read. Restore it, or go without with --no-postprocessing."
        ) from error
    unknown = sorted({*chosen.largest_of, *chosen.filled} - set(plan.classes[1:]))
    if unknown:
        raise UserError(
            f"{run.postprocessing} names {', '.join(unknown)}, but the structures of the run are "
            f"{', '.join(plan.classes[1:])}. Restore it, or go without with --no-postprocessing."
        )
    return chosen


def postprocess(mask: np.ndarray, grid: Grid, plan: Plan, steps: Postprocessing) -> np.ndarray:
    """The mask (*shape) of a scan after `steps`; `mask` itself is left as it is."""
    if not steps:
        return mask
    result = mask.copy()
    if steps.largest_together:
        result[_outside_largest(result > 0)] = 0
    for value in _values(steps.largest_of, plan.classes):
        result[_outside_largest(result == value)] = 0
    if steps.smallest_object_mm:
        _remove_small(result, steps.smallest_object_mm / float(np.prod(grid.spacing_mm)), len(plan.classes))
    if steps.filled:
        _fill_holes(result, _values(steps.filled, plan.classes), _hole_axes(grid, plan))
    return result


def describe(steps: Postprocessing) -> str:
    """The steps in words."""
    parts = ["largest component of all structures together"] * steps.largest_together
    parts += [f"largest component of {', '.join(steps.largest_of)}"] if steps.largest_of else []
    parts += [f"no component below {steps.smallest_object_mm:g} mm² or mm³"] if steps.smallest_object_mm else []
    parts += [f"holes filled in {', '.join(steps.filled)}"] if steps.filled else []
    return "; ".join(parts) or "none"


def components(member: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The number of each voxel's component (*shape), 0 outside of `member`, and the voxels of every number."""
    labels, count = ndimage.label(member, ndimage.generate_binary_structure(member.ndim, member.ndim))
    return labels, np.bincount(labels.ravel(), minlength=count + 1)


def _outside_largest(member: np.ndarray) -> np.ndarray:
    """Where `member` holds another component than the largest."""
    labels, sizes = components(member)
    return member & (labels != 1 + sizes[1:].argmax()) if len(sizes) > 2 else np.zeros_like(member)


def _remove_small(mask: np.ndarray, voxels: float, classes: int) -> None:
    """Turns the components of every structure with fewer than so many voxels into background."""
    for value in range(1, classes):
        labels, sizes = components(mask == value)
        small = sizes < voxels
        small[0] = False
        mask[small[labels]] = 0


def _fill_holes(mask: np.ndarray, values: Sequence[int], axes: Sequence[int]) -> None:
    """Gives every hole within the slices or the volume that `axes` span to the structure around it, if it is wanted."""
    faces = ndimage.generate_binary_structure(mask.ndim, 1)
    for axis in set(range(mask.ndim)) - set(axes):
        faces = np.moveaxis(faces, axis, 0) & np.array([False, True, False]).reshape(-1, *[1] * (mask.ndim - 1))
        faces = np.moveaxis(faces, 0, axis)
    labels, count = ndimage.label(mask == 0, faces)
    around = _structure_around(labels, count, mask, axes)
    filled = np.where(np.isin(around, values), around, 0).astype(mask.dtype)[labels]
    np.copyto(mask, filled, where=filled > 0)


def _structure_around(labels: np.ndarray, count: int, mask: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """Of each numbered region the structure that alone touches it; 0 where others or the edge of the scan do so."""
    least, most = np.full(count + 1, NO_CLASS), np.zeros(count + 1, int)
    for axis in axes:
        regions, structures = np.moveaxis(labels, axis, 0), np.moveaxis(mask, axis, 0)
        for region, beside in ((regions[:-1], structures[1:]), (regions[1:], structures[:-1])):
            touching = (region > 0) & (beside > 0)
            np.minimum.at(least, region[touching], beside[touching])
            np.maximum.at(most, region[touching], beside[touching])
        most[regions[[0, -1]]] = NO_CLASS
    return np.where((least == most) & (most < NO_CLASS), most, 0)


def _hole_axes(grid: Grid, plan: Plan) -> tuple[int, ...]:
    """The axes of the scan within which holes are looked for: those of what the network sees."""
    sliced = plan.dimensions == 2 and len(grid.shape) == 3
    along = file_axis(plan.slice_axis, grid, plan.orientation)
    return tuple(axis for axis in range(len(grid.shape)) if not (sliced and axis == along))


def _values(structures: Sequence[str], classes: Sequence[str]) -> list[int]:
    return [classes.index(structure) for structure in structures]
