"""Transforms from a scan to network inputs, and of probabilities back onto the scan's own grid."""

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from patchcl.core.errors import UserError
from patchcl.data.geometry import Grid
from patchcl.data.preprocessing.orientation import oriented, oriented_grid, restored
from patchcl.data.preprocessing.plan import Normalise, Plan
from patchcl.data.scan import Scan


class _Geometry(NamedTuple):
    """Steps between a scan and the network: full -> scaled -> padded lengths of the network axes."""

    full: tuple[int, ...]
    scaled: tuple[int, ...]
    before: tuple[int, ...]  # padding in front of each axis
    padded: tuple[int, ...]


def to_network_grid(scan: Scan, plan: Plan) -> np.ndarray:
    """What the network sees of `scan`: (N, C, *S) float32, S = `plan.size`, or larger on some axes for `crop`.

    Raises:
        UserError: The scan has other channels or fewer axes than the plan, or colours beyond its full colour.
    """
    grid = oriented_grid(scan.grid, plan.orientation)
    geometry = _geometry(grid, plan)
    voxels = oriented(_normalised_channels(scan.voxels, plan), scan.grid, plan.orientation)
    slices = np.moveaxis(_to_slices(voxels, grid, plan), 0, 1)
    scaled = {"linear": _scaled_linear, "nearest": _scaled_nearest}[plan.input_interpolation]
    return np.ascontiguousarray(_padded(scaled(slices, geometry.scaled), geometry))  # torch takes no mirrored view


def mask_to_network_grid(mask: np.ndarray, grid: Grid, plan: Plan) -> np.ndarray:
    """The classes `mask` (*shape) where the network sees them: (N, *S) uint8, by nearest neighbour."""
    seen = oriented_grid(grid, plan.orientation)
    geometry = _geometry(seen, plan)
    slices = _to_slices(oriented(mask[None], grid, plan.orientation), seen, plan)[0]
    return _padded(_scaled_nearest(slices[:, None], geometry.scaled)[:, 0], geometry)


def to_scan_grid(probs: np.ndarray, grid: Grid, plan: Plan) -> np.ndarray:
    """Class probabilities `probs` (N, K, *S) back on the grid of the scan: (K, *shape) float32.

    With `plan.output_interpolation` nearest they become those of the winning class alone, 0 or 1.
    """
    oriented_as = oriented_grid(grid, plan.orientation)
    geometry = _geometry(oriented_as, plan)
    inner = tuple(slice(start, start + length) for start, length in zip(geometry.before, geometry.scaled, strict=True))
    seen = probs[(slice(None), slice(None), *inner)]
    if plan.output_interpolation == "nearest":
        winner = _scaled_nearest(seen.argmax(axis=1)[:, None].astype(np.uint8), geometry.full)
        scaled = (winner == np.arange(probs.shape[1]).reshape(1, -1, *[1] * plan.dimensions)).astype(np.float32)
    else:
        scaled = _scaled_linear(seen, geometry.full)
    whole = _from_slices(np.moveaxis(scaled, 1, 0), oriented_as, plan)
    return np.ascontiguousarray(restored(whole, grid, plan.orientation))


def prepared_bytes(grid: Grid, plan: Plan) -> int:
    """How large the image and the mask of a scan are once they are prepared."""
    seen = oriented_grid(grid, plan.orientation)
    slices = seen.shape[plan.slice_axis] if len(seen.shape) > plan.dimensions else 1
    return slices * math.prod(_geometry(seen, plan).padded) * (4 * len(plan.channels) + 1)


def _geometry(grid: Grid, plan: Plan) -> _Geometry:
    axes = _network_axes(grid, plan)
    full = tuple(grid.shape[axis] for axis in axes)
    if plan.fit == "resize" or plan.spacing_mm is None:
        return _Geometry(full, plan.size, (0,) * len(axes), plan.size)
    lengths_mm = [grid.shape[axis] * grid.spacing_mm[axis] for axis in axes]
    scaled = tuple(max(1, round(mm / target)) for mm, target in zip(lengths_mm, plan.spacing_mm, strict=True))
    padded = tuple(max(length, minimum) for length, minimum in zip(scaled, plan.size, strict=True))
    before = tuple((outer - length) // 2 for outer, length in zip(padded, scaled, strict=True))
    return _Geometry(full, scaled, before, padded)


def _network_axes(grid: Grid, plan: Plan) -> tuple[int, ...]:
    if plan.dimensions > len(grid.shape):
        raise UserError(f"A scan of size {grid.shape} is a slice, but the plan is for volumes. Give it volumes only.")
    sliced = plan.dimensions == 2 and len(grid.shape) == 3
    return tuple(axis for axis in range(len(grid.shape)) if not (sliced and axis == plan.slice_axis))


def _to_slices(voxels: np.ndarray, grid: Grid, plan: Plan) -> np.ndarray:
    """(C, *shape) -> (C, N, *network axes)."""
    if plan.dimensions == len(grid.shape):
        return voxels[:, None]
    return np.moveaxis(voxels, 1 + plan.slice_axis, 1)


def _from_slices(slices: np.ndarray, grid: Grid, plan: Plan) -> np.ndarray:
    """(K, N, *network axes) -> (K, *shape)."""
    if plan.dimensions == len(grid.shape):
        return np.ascontiguousarray(slices[:, 0])
    return np.ascontiguousarray(np.moveaxis(slices, 1, 1 + plan.slice_axis))


def _normalised_channels(voxels: np.ndarray, plan: Plan) -> np.ndarray:
    """The channels (C, *shape) of a scan, or of a row block, each as `plan` says."""
    if len(voxels) != len(plan.channels):
        raise UserError(f"A scan of {len(voxels)} channels cannot be prepared for {', '.join(plan.channels)}.")
    normalised = np.empty(voxels.shape, np.float32)
    for place, how in enumerate(plan.normalise_channels):
        normalised[place] = _normalised(voxels[place], how, plan.window, plan.background == "ignored")
    return normalised


def _normalised(
    channel: np.ndarray, how: Normalise, window: tuple[float, float], no_background: bool = False
) -> np.ndarray:
    """One channel of a whole scan, in [0, 1], or with mean 0 and deviation 1 for `z_score`."""
    if how == "z_score":
        return np.asarray((channel - channel.mean()) / max(float(channel.std()), 1e-8))
    if how in ("ct", "rgb"):
        low, high = window
        if how == "rgb" and channel.max() > high:
            raise UserError(
                f"A colour has the value {channel.max():g}, but full colour is {high:g} by the plan. "
                "Convert the picture, or set plan.window for all."
            )
    elif how == "percentile":
        low, high = _percentiles(channel, no_background)
    else:
        low, high = channel.min(), channel.max()
    width = max(np.float32(high) - np.float32(low), np.float32(1e-8))
    return np.asarray(np.clip((channel - np.float32(low)) / width, 0, 1))


def _percentiles(channel: np.ndarray, no_background: bool) -> tuple[float, float]:
    """The 0.5 and 99.5 percentile; with `no_background` the latter of what is no background.

    A background is the lowest value where it fills more than half: air that was set to 0, all but the hot spots of PET.
    """
    low, high = np.percentile(channel, [0.5, 99.5])
    seen = channel[channel > channel.min()] if no_background else channel
    if 0 < 2 * seen.size < channel.size:
        high = np.percentile(seen, 99.5)
    return float(low), float(high)


def _scaled_linear(batch: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """(N, C, *S) -> (N, C, *size), linearly; what shrinks is smoothed first, so nothing aliases."""
    if batch.shape[2:] == size:
        return batch.astype(np.float32, copy=False)
    if len(size) == 3:  # torch smooths along two axes at most: first the last two, then the one before them
        images, channels, length = batch.shape[:3]
        planes = _scaled_linear(batch.reshape(images, channels * length, *batch.shape[3:]), size[1:])
        lines = planes.reshape(images, channels, length, size[1] * size[2])
        return _scaled_linear(lines, (size[0], size[1] * size[2])).reshape(images, channels, *size)
    if size[-1] == 1 < size[0] and len(size) == 2:  # torch gets smoothed pictures of a single column wrong
        return _scaled_linear(batch.swapaxes(2, 3), size[::-1]).swapaxes(2, 3)
    tensor = torch.from_numpy(np.ascontiguousarray(batch, dtype=np.float32))
    scaled = F.interpolate(tensor, size, mode="bilinear", align_corners=False, antialias=True)
    return np.asarray(scaled.numpy())


def _scaled_nearest(batch: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """(N, C, *S) -> (N, C, *size), each voxel from the one at its centre."""
    scaled = F.interpolate(torch.from_numpy(np.ascontiguousarray(batch)), size, mode="nearest-exact")
    return np.asarray(scaled.numpy())


def _padded(batch: np.ndarray, geometry: _Geometry) -> np.ndarray:
    """Zeros around the last axes, in equal parts; `batch` itself where none are needed."""
    if geometry.padded == geometry.scaled:
        return batch
    widths = [
        (before, outer - before - length)
        for before, outer, length in zip(geometry.before, geometry.padded, geometry.scaled, strict=True)
    ]
    return np.pad(batch, [(0, 0)] * (batch.ndim - len(widths)) + widths)
