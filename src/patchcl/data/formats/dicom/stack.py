"""The image that frames make: slices by their position along the normal of their plane, whatever files are called.

The distance between slices is that between their positions. `highdicom.spatial.get_volume_positions` tells regular
slices from others, but not what is wrong with the others, and calls a stack regular that leans by up to 2.5 degrees.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from patchcl.core.errors import UserError
from patchcl.data.formats.dicom.frames import Frame
from patchcl.data.geometry import GRID_TOLERANCE, Grid, grid_of

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""DICOM counts to the left and the back, grids to the right and the front."""
SAME_MM = 1e-3
"""Frames that lie closer than this are at one position."""
SAME_DIRECTION = 1e-3
"""Largest difference between the components of two directions that still count as one."""
TILT_DEGREES = 0.1
"""A stack that leans less than this is upright; positions are rounded in many files."""


class Stack(NamedTuple):
    """Frames that make one image, the lowest along the normal of the slices first."""

    frames: tuple[Frame, ...]
    grid: Grid  # (columns, rows, slices); (columns, rows) for a projection


def stacked(frames: Sequence[Frame], where: Path) -> Stack:
    """The image that `frames` make; `where` is the series, for messages.

    A single frame without a position, such as an X-ray, is a picture of two axes.

    Raises:
        UserError: Slices are missing, repeated, uneven, tilted, or of several sizes or directions.
    """
    if len(frames) == 1 and (frames[0].position is None or frames[0].directions is None):
        flat = LPS_TO_RAS @ np.diag([*frames[0].spacing_mm, 1.0, 1.0])
        return Stack(tuple(frames), grid_of(frames[0].path, frames[0].size, flat))
    require_one_plane(frames, where)
    ordered = sorted(frames, key=depth)
    depths = np.array([depth(frame) for frame in ordered])
    _require_single(ordered, depths, where)
    grid = grid_between(ordered[0], ordered[-1], len(ordered), where)
    if len(ordered) > 1:
        _require_even(ordered, depths, where)
        _require_upright(ordered, where)
    return Stack(tuple(ordered), grid)


def depth(frame: Frame) -> float:
    """How far along the normal of its plane a frame lies, mm."""
    _, position, normal = _plane(frame)
    return float(position @ normal)


def grid_between(first: Frame, last: Frame, count: int, where: Path) -> Grid:
    """The grid of `count` slices from the frame `first` to the frame `last`."""
    directions, position, normal = _plane(first)
    step = (_plane(last)[1] - position) / (count - 1) if count > 1 else normal * first.depth_mm
    affine = np.eye(4)
    affine[:3] = np.column_stack([*directions * np.array([first.spacing_mm]).T, step, position])
    return grid_of(where, (*first.size, count), LPS_TO_RAS @ affine)


def require_one_plane(frames: Sequence[Frame], where: Path) -> None:
    """Refuse frames that do not say where they lie, or differ in size, direction or spacing.

    Raises:
        UserError: Names a frame of each kind.
    """
    first = frames[0]
    for frame in frames:
        if frame.position is None or frame.directions is None:
            raise UserError(
                f"{where}: {frame.name} has no ImagePositionPatient or no ImageOrientationPatient, so its place among "
                f"{len(frames)} slices is unknown. Export the series again with its geometry, or put every picture "
                "into a folder of its own."
            )
        directions = np.array([first.directions, frame.directions])
        if frame.size != first.size:
            what, values = "size", [f"{one.size[0]} × {one.size[1]}" for one in (first, frame)]
        elif np.ptp(directions, axis=0).max() > SAME_DIRECTION:
            what, values = "direction", [str(np.round(one, 3).tolist()) for one in directions]
        elif not np.allclose(frame.spacing_mm, first.spacing_mm, rtol=SAME_DIRECTION):
            what, values = "pixel spacing", [str(one.spacing_mm) for one in (first, frame)]
        else:
            continue
        raise UserError(
            f"{where} holds slices of more than one {what}: {first.name} has {values[0]}, {frame.name} has "
            f"{values[1]}. One image has one. Move those that do not belong to it, such as a localiser, to a folder of "
            "their own."
        )


def _plane(frame: Frame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Directions (2, 3), position (3,) and normal (3,) of a frame that has them."""
    directions = np.array(frame.directions)
    return directions, np.array(frame.position), np.cross(*directions)


def _require_single(ordered: Sequence[Frame], depths: np.ndarray, where: Path) -> None:
    """Refuse two frames at one position."""
    same = np.diff(depths) < SAME_MM
    if not same.any():
        return
    twin = int(same.argmax())
    low, high = ordered[twin : twin + 2]
    if (low.instance, low.place) == (high.instance, high.place):
        raise UserError(f"{where}: {low.name} and {high.name} are copies of one image. Remove one of them.")
    repeats = np.bincount(np.cumsum([0, *~same]))  # frames at each position
    if (repeats == repeats[0]).all():
        raise UserError(
            f"{where} holds {repeats[0]} images at each of {len(repeats)} positions (time points, echoes or "
            "b-values?), and one was expected. Move the images of one of them to a folder of their own."
        )
    more = f" ({same.sum() - 1} more do so too)" if same.sum() > 1 else ""
    raise UserError(
        f"{where}: {low.name} and {high.name} lie at the same position{more}, and one slice was expected there. "
        "Move what does not belong to the image to a folder of its own."
    )


def _require_even(ordered: Sequence[Frame], depths: np.ndarray, where: Path) -> None:
    """Refuse slices that are missing or lie at uneven distances."""
    gaps = np.diff(depths)
    if np.abs(depths - np.linspace(depths[0], depths[-1], len(depths))).max() <= GRID_TOLERANCE * gaps.mean():
        return
    usual, widest = float(np.median(gaps)), int(gaps.argmax())
    missing = sum(int(np.rint(gap / usual)) - 1 for gap in gaps if gap > 1.5 * usual)
    place = f"{gaps[widest]:.4g} mm from {ordered[widest].name} to {ordered[widest + 1].name}"
    if missing and np.allclose(gaps / usual, np.rint(gaps / usual), atol=2 * GRID_TOLERANCE):
        raise UserError(
            f"{where}: {missing} slice{'s are' if missing > 1 else ' is'} missing: it is {place}, and {usual:.4g} mm "
            "elsewhere. Copy or export the series again, with all its files."
        )
    raise UserError(
        f"{where} has slices at uneven distances: {gaps.min():.4g} mm at the least, and {place}. "
        "patchcl needs even ones: resample the series, or keep the part that is even."
    )


def _require_upright(ordered: Sequence[Frame], where: Path) -> None:
    """Refuse a stack whose slices move sideways from one to the next, as under a tilted gantry."""
    _, origin, normal = _plane(ordered[0])
    positions = np.array([frame.position for frame in ordered]) - origin
    sideways = positions - np.outer(positions @ normal, normal)
    limit = GRID_TOLERANCE * min(ordered[0].spacing_mm)
    lean = float(np.linalg.norm(sideways[-1]))
    angle = float(np.degrees(np.arctan2(lean, positions[-1] @ normal)))
    if angle > TILT_DEGREES and lean > limit:
        raise UserError(
            f"{where} is tilted: its slices lean by {angle:.2f}° (a tilted gantry), so its voxels are no boxes. "
            "Resample it to an upright grid first, for example with dcm2niix."
        )
    stray = np.linalg.norm(sideways - np.outer(np.linspace(0, 1, len(ordered)), sideways[-1]), axis=1)
    if stray.max() > limit:
        raise UserError(
            f"{where}: {ordered[int(stray.argmax())].name} lies {stray.max():.3g} mm beside the line of the other "
            "slices. Resample the series to an upright grid, or keep the part that is straight."
        )
