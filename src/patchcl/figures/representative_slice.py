"""The representative slice of a scan: where the reference shows most of the structures, cut to these."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from patchcl.core.errors import UserError
from patchcl.data.dataset import Case
from patchcl.data.formats import format_of, images
from patchcl.data.preprocessing.orientation import file_axis
from patchcl.data.preprocessing.plan import Plan
from patchcl.data.scan import IGNORED, read_image, read_mask

MARGIN = 0.6
"""Width of what is shown around the structures, relative to their extent."""
LEAST = 16.0
"""Voxels from the middle to an edge, at least."""


class RepresentativeSlice(NamedTuple):
    """A slice of a scan, cut to its structures, and every mask on it."""

    slice_index: int  # in the scan
    image: np.ndarray  # (X, Y), or (X, Y, 3) of a picture in colour
    masks: list[np.ndarray]  # (X, Y) each, the reference first
    aspect: float  # height of a voxel over its width


def representative_slice(case: Case, predictions: Sequence[Path], plan: Plan) -> RepresentativeSlice:
    """The slice of `case` with most of the structures, with its reference and with `predictions`.

    Where the network sees volumes, slices are taken along the coarsest axis of the scan, the last of equals.

    Raises:
        UserError: The scan has no mask, or a file cannot be read.
    """
    if case.mask is None:
        raise UserError(f"{case.name} has no mask to compare with.")
    scan = read_image(case.images)
    volumes = [read_mask(path, plan.classes, scan.grid, plan.ignore) for path in (case.mask, *predictions)]
    volumes[0][volumes[0] == IGNORED] = 0  # what nobody annotated is shown as background
    spacing = scan.grid.spacing_mm
    sliced = file_axis(plan.slice_axis, scan.grid, plan.orientation)
    axis = sliced if plan.dimensions == 2 else max(range(len(spacing)), key=lambda at: (spacing[at], at))
    flat = len(scan.grid.shape) == 2
    others = tuple(other for other in range(len(scan.grid.shape)) if flat or other != axis)
    slice_index = 0 if flat else int((volumes[0] > 0).sum(axis=others).argmax())
    colours = plan.normalise_channels == ("rgb",) * 3
    channels = [*(scan.voxels if colours else scan.voxels[:1]), *volumes]
    slices = [volume if flat else np.take(volume, slice_index, axis) for volume in channels]
    if format_of(case.images[0]) is images.FORMAT:
        slices = [plane.T for plane in slices]  # from rows and columns to X and Y, so that it is shown upright
    channels, masks = slices[: -len(volumes)], slices[-len(volumes) :]
    box = _box(masks)
    width, height = (spacing[other] for other in others)
    image = np.stack([channel[box] for channel in channels], axis=-1) if colours else channels[0][box]
    return RepresentativeSlice(slice_index, image, [mask[box] for mask in masks], height / width)


def _box(masks: Sequence[np.ndarray]) -> tuple[slice, slice]:
    """A square around all structures, with a margin, as far as the image reaches."""
    inside = np.argwhere(np.any([mask > 0 for mask in masks], axis=0))
    if not len(inside):
        return slice(None), slice(None)
    middle = (inside.min(axis=0) + inside.max(axis=0)) / 2
    half = max(LEAST, (0.5 + MARGIN) * float((np.ptp(inside, axis=0) + 1).max()))
    x, y = (slice(max(0, round(centre - half)), round(centre + half) + 1) for centre in middle.tolist())
    return x, y
