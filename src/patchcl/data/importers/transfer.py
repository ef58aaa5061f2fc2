"""Transfer of single files into the data set: the very same bytes wherever those will do."""

import gzip
import os
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from patchcl.core.errors import UserError
from patchcl.data.dataset import preview
from patchcl.data.formats import ending_of, format_of, nifti
from patchcl.data.formats import images as pictures
from patchcl.data.formats.base import require_grey
from patchcl.data.formats.detached import files_beside
from patchcl.data.geometry import grid_of, require_same_grid
from patchcl.data.scan import (
    read_grid,
    read_ids,
    read_image,
    read_mask,
    require_finite,
    write_ids,
    write_mask,
)

Spacing = tuple[float, ...] | None
"""Millimetres along each axis, where a file holds none; None where nobody said them."""
MOST_OBJECTS = 65535
"""The highest number that a picture can hold."""


def transfer_image(source: Path, channels: int, target: Path) -> None:
    """Put the image `source` at `target`, in the format that this name asks for.

    Raises:
        UserError: It cannot be read, holds NaN or infinite voxels, or has another number of channels.
    """
    count = len(read_image([source]).voxels)
    if count != channels:
        kinds = {1: "grey", 3: "in colour"}
        raise UserError(
            f"{source} is {kinds.get(count, count)}, but other images are {kinds.get(channels, channels)}. Convert it, "
            "or import both kinds into folders of their own."
        )
    if not _kept(source, target):
        _convert(source, target)


def transfer_mask(source: Path, image: Path, target: Path, threshold: float | None = None) -> set[int]:
    """Put the mask `source` of `image` at `target`, in the format that this name asks for; returns its values.

    With a `threshold` they are 1 from that grey on and 0 below.

    Raises:
        UserError: It cannot be read, lies on another grid, or holds anything but whole numbers from 0 to 255.
    """
    mask = read_grey_mask(source, image, threshold)
    if threshold is not None or _in_colours(source) or not _kept(source, target):
        write_mask(target, mask, image)
    return set(np.unique(mask).tolist())


def read_grey_mask(source: Path, image: Path, threshold: float | None = None) -> np.ndarray:
    """What the mask `source` holds on the grid of `image`, also where it was saved in colours though it is grey.

    With a `threshold`: 1 from that grey on and 0 below, whatever numbers the file holds, also with loss.

    Raises:
        UserError: It cannot be read, lies on another grid, or holds anything but whole numbers from 0 to 255.
    """
    if threshold is None and not _in_colours(source):
        return read_mask(source, 256, read_grid(image))
    require_same_grid(read_grid(source), read_grid(image), source, image.name)
    values = format_of(source).read_values(source)
    if threshold is None:
        return np.asarray(values[0])
    require_finite(values, source)
    require_grey(source, "" if (values == values[:1]).all() else "RGB")
    return np.asarray(values[0] >= threshold, np.uint8)


def write_object_mask(source: Path, image: Path, target: Path) -> set[int]:
    """Write where `source`, which numbers objects on the grid of `image`, has any; returns the values.

    Raises:
        UserError: It cannot be read, lies on another grid, or holds anything but whole numbers from 0 to 65535.
    """
    mask = np.asarray(_object_ids(source, image) > 0, np.uint8)
    write_mask(target, mask, image)
    return set(np.unique(mask).tolist())


def write_object_ids(source: Path, image: Path, target: Path) -> None:
    """Write which object every voxel belongs to; as `write_object_mask`."""
    write_ids(target, _object_ids(source, image), image)


def _object_ids(source: Path, image: Path) -> np.ndarray:
    ids: np.ndarray = read_ids(source, read_grid(image))
    if ids.max(initial=0) > MOST_OBJECTS:
        raise UserError(f"{source} numbers objects up to {ids.max()}; at most {MOST_OBJECTS} fit. Number them anew.")
    return ids


def write_array(target: Path, values: np.ndarray, spacing: Spacing, source: Path) -> None:
    """Write `values` (x, y) or (x, y, z) from `source`, which names no spacing, as NIfTI.

    Raises:
        UserError: `spacing` has not one positive number for each axis.
    """
    lengths = (1.0,) * values.ndim if spacing is None else spacing
    if len(lengths) != values.ndim or not all(0 < length < np.inf for length in lengths):
        given = ",".join(f"{length:g}" for length in lengths)
        raise UserError(
            f"--spacing {given} does not fit {source}, which has {values.ndim} axes; expected a positive number of mm "
            "for each, such as 0.625,0.625,2.5."
        )
    affine = np.diag([*lengths, *[1.0] * (4 - values.ndim)])
    nifti.write_on(target, values, grid_of(source, values.shape, affine))


def write_classes(target: Path, mask: np.ndarray, spacing: Spacing, source: Path) -> set[int]:
    """Write a `mask` from `source` as `write_array` does; returns its values.

    Raises:
        UserError: As for `write_array`; or it holds anything but whole numbers from 0 to 255.
    """
    values = np.unique(mask)
    if not np.isin(values, np.arange(256)).all():
        held = preview([f"{value:g}" for value in values.astype(float)])
        raise UserError(f"{source}: label holds {held}; expected whole numbers from 0 to 255. Correct the mask.")
    write_array(target, mask.astype(np.uint8), spacing, source)
    return set(values.astype(int).tolist())


def note_on_spacing(spacing: Spacing, axes: int) -> tuple[str, ...]:
    """What is to be said of volumes with so many `axes` whose spacing nobody said."""
    option = ",".join("XYZ"[:axes])
    return () if spacing else (f"The files name no spacing, so voxels are 1 mm wide. Say it by --spacing {option}.",)


def link_or_copy(source: Path, target: Path) -> None:
    """Have the very bytes of `source` at `target`: linked on the same disk, else copied."""
    try:
        os.link(source.resolve(), target)
    except OSError:  # another disk, or one that knows no links
        shutil.copyfile(source, target)


def _kept(source: Path, target: Path) -> bool:
    """Whether `source` could stay as it is: linked on the same disk, else copied; NIfTI is compressed where needed."""
    endings = ending_of(source.name), ending_of(target.name)
    if endings[0] == endings[1] and not files_beside(source):
        link_or_copy(source, target)
        return True
    if endings != (".nii", ".nii.gz"):
        return False
    with source.open("rb") as unpacked, gzip.GzipFile(target, "wb", mtime=0) as packed:
        shutil.copyfileobj(unpacked, packed)
    return True


def _convert(source: Path, target: Path) -> None:
    """Write the image `source` in the format of `target`: a scan as NIfTI, a picture as PNG."""
    values = format_of(source).read_values(source)
    if format_of(target) is nifti.FORMAT and len(values) == 1:
        nifti.write_on(target, values[0], read_grid(source))
    elif values.ndim != 3 or values.dtype not in (np.uint8, np.uint16):
        raise UserError(
            f"{source} cannot become {ending_of(target.name)} without loss: it holds an array {values.shape} of "
            f"{values.dtype}. Save all images in one format."
        )
    else:
        Image.fromarray(values[0] if len(values) == 1 else np.ascontiguousarray(values.transpose(1, 2, 0))).save(target)


def _in_colours(path: Path) -> bool:
    """Whether a mask is grey, but was saved in colours."""
    if format_of(path) is not pictures.FORMAT or not pictures.is_lossless_rgb(path):
        return False
    values = pictures.read_values(path)
    return len(values) == 3 and bool((values == values[:1]).all())
