"""Transfer of single files into the data set: the very same bytes wherever those will do."""

import gzip
import os
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from patchcl.core.errors import UserError
from patchcl.data.formats import ending_of, format_of, nifti
from patchcl.data.formats import images as pictures
from patchcl.data.geometry import require_same_grid
from patchcl.data.scan import read_grid, read_image, read_mask, write_mask


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


def transfer_mask(source: Path, image: Path, target: Path) -> set[int]:
    """Put the mask `source` of `image` at `target`, in the format that this name asks for; returns its values.

    Raises:
        UserError: It cannot be read, lies on another grid, or holds anything but whole numbers from 0 to 255.
    """
    grey = _grey_in_colours(source)
    if grey is not None:
        require_same_grid(read_grid(source), read_grid(image), source, image.name)
    mask = read_mask(source, 256, read_grid(image)) if grey is None else grey
    if grey is not None or not _kept(source, target):
        write_mask(target, mask, image)
    return set(np.unique(mask).tolist())


def link_or_copy(source: Path, target: Path) -> None:
    """Have the very bytes of `source` at `target`: linked on the same disk, else copied."""
    try:
        os.link(source.resolve(), target)
    except OSError:  # another disk, or one that knows no links
        shutil.copyfile(source, target)


def _kept(source: Path, target: Path) -> bool:
    """Whether `source` could stay as it is: linked on the same disk, else copied; NIfTI is compressed where needed."""
    endings = ending_of(source.name), ending_of(target.name)
    if endings[0] == endings[1]:
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


def _grey_in_colours(path: Path) -> np.ndarray | None:
    """The values (*shape) of a mask that was saved in colours though it is grey; None if that is not the case."""
    if format_of(path) is not pictures.FORMAT or not pictures.is_lossless_rgb(path):
        return None
    values = pictures.read_values(path)
    return values[0] if len(values) == 3 and (values == values[:1]).all() else None
