"""Files of a foreign data set take their place in ours: the very same bytes wherever those will do."""

import gzip
import os
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from patchcl.core.errors import UserError
from patchcl.data.formats import ending_of, format_of, nifti, without_ending
from patchcl.data.formats import images as pictures
from patchcl.data.formats.base import reading
from patchcl.data.geometry import require_same_grid
from patchcl.data.importers.writer import FoundScan, Subset
from patchcl.data.scan import read_grid, read_image, read_mask, write_mask

CONVERTED = (".mhd", ".nhdr", ".dcm", "")
"""Endings of images that do not stay as they are: headers do not hold their voxels, and DICOM may be a folder."""
COLOURS = ("R", "G", "B")
LOSSLESS = ("PNG", "BMP", "TIFF")
"""Formats of pictures whose grey values can be told from colours, because saving keeps them."""


def common_ending(images: Sequence[Path]) -> str:
    """What all images of the imported data set end in.

    It is the ending that they share, if they can stay as they are; else `.png` for pictures and `.nii.gz` for scans.

    Raises:
        UserError: Pictures and scans are mixed, or a file is of no known format.
    """
    kinds = {format_of(image) is pictures.FORMAT: image for image in images}
    if len(kinds) > 1:
        raise UserError(
            f"{kinds[True]} is a picture, but {kinds[False]} is a scan. Import them into folders of their own."
        )
    endings = {ending_of(image.name) for image in images}
    if len(endings) == 1 and not endings & set(CONVERTED):
        return endings.pop()
    return ".png" if True in kinds else ".nii.gz"


def channel_names(images: Sequence[Path], columns: Sequence[str] = ("image",)) -> tuple[str, ...]:
    """What the channels of a scan in the files `images`, one for each column, are called.

    Raises:
        UserError: The only file cannot be read, or is neither grey nor in colour.
    """
    count = 1 if len(images) > 1 else len(format_of(images[0]).read_values(images[0]))
    if count not in (1, len(COLOURS)):
        raise UserError(f"{images[0]} has {count} channels; expected a grey image, or one in red, green and blue.")
    return tuple(columns) if count == 1 else COLOURS


def scan_names(files: Sequence[str]) -> dict[str, str]:
    """File -> name of the scan: that of the file, or of its whole path where two files would share theirs."""
    names = {file: without_ending(Path(file).name) for file in files}
    counts = Counter(names.values())
    whole = {file: "_".join(re.findall(r"[^/\\]*\w[^/\\]*", without_ending(file))) for file in files}
    return {file: name if counts[name] == 1 else whole[file] for file, name in names.items()}


def found_scan(name: str, side: Subset, images: Sequence[Path], mask: Path | None, channels: int) -> FoundScan:
    """A scan that lies in files; `images` hold so many `channels` together."""
    place = None if mask is None else partial(place_mask, mask, images[0])
    return FoundScan(name, side, tuple(partial(place_image, image, channels // len(images)) for image in images), place)


def place_image(source: Path, channels: int, target: Path) -> None:
    """Put the image `source` at `target`, in the format that this name asks for.

    Raises:
        UserError: It cannot be read, holds NaN or infinite voxels, or has another number of channels.
    """
    found = len(read_image([source]).voxels)
    if found != channels:
        kinds = {1: "grey", 3: "in colour"}
        raise UserError(
            f"{source} is {kinds.get(found, found)}, but other images are {kinds.get(channels, channels)}. Convert it, "
            "or import both kinds into folders of their own."
        )
    if not _kept(source, target):
        _converted(source, target)


def place_mask(source: Path, image: Path, target: Path) -> set[int]:
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
    if ending_of(source.name) == ending_of(target.name):
        link_or_copy(source, target)
        return True
    if (ending_of(source.name), ending_of(target.name)) != (".nii", ".nii.gz"):
        return False
    with source.open("rb") as plain, gzip.GzipFile(target, "wb", mtime=0) as packed:
        shutil.copyfileobj(plain, packed)
    return True


def _converted(source: Path, target: Path) -> None:
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
    if format_of(path) is not pictures.FORMAT:
        return None
    with reading(path, pictures.KIND), Image.open(path) as picture:
        if picture.format not in LOSSLESS or picture.mode not in ("RGB", "RGBA"):
            return None
    values = pictures.read_values(path)
    return values[0] if len(values) == 3 and (values == values[:1]).all() else None
