"""Scans that lie in files: their names, the masks that belong to them, their channels and the ending they share."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from patchcl.core.errors import UserError
from patchcl.data.dataset import preview
from patchcl.data.formats import ending_of, format_of, without_ending
from patchcl.data.formats import images as pictures
from patchcl.data.formats.detached import files_beside
from patchcl.data.formats.dicom import series as dicom
from patchcl.data.importers.transfer import transfer_image, transfer_mask, write_object_ids, write_object_mask
from patchcl.data.importers.writer import SourceDataset, SourceScan, Subset

CONVERTED = (".mhd", ".nhdr", ".dcm", "")
"""Endings of images that do not stay as they are: headers do not hold their voxels, and DICOM may be a folder."""
COLOURS = ("R", "G", "B")
SUFFIX = r"[ ._-]?(masks?|seg|segmentation|labels?|gt|ground[_-]?truth|anno|annotation)"
"""What a mask may be called beyond the name of its image."""


class ScanFiles(NamedTuple):
    """The files of one scan."""

    name: str
    images: Sequence[Path]  # one per channel, or one with all colours
    mask: Path | None = None
    side: Subset = "train"
    threshold: float | None = None  # the grey from which on the mask shows the structure
    objects: bool = False  # whether the mask numbers objects

    def as_scan(self, channels: int) -> SourceScan:
        """The scan, whose images hold so many `channels` together."""
        images = tuple(partial(transfer_image, image, channels // len(self.images)) for image in self.images)
        files = (*self.images, *(() if self.mask is None else (self.mask,)))
        if self.mask is None:
            return SourceScan(self.name, self.side, images, None, files=files)
        if self.objects:
            place = self.mask, self.images[0]
            inside, ids = partial(write_object_mask, *place), partial(write_object_ids, *place)
            return SourceScan(self.name, self.side, images, inside, ids, files)
        mask = partial(transfer_mask, self.mask, self.images[0], threshold=self.threshold)
        mapped = (self.mask,) if self.threshold is None else ()
        return SourceScan(self.name, self.side, images, mask, files=files, mask_files=mapped)


def dataset_of(name: str, files: Sequence[ScanFiles], columns: Sequence[str] = ("image",)) -> SourceDataset:
    """The data set of all these scans, of which the first tells the channels; `columns` are their names unless colours.

    Raises:
        UserError: The first image cannot be read, or the images have not one kind.
    """
    channels = channel_names(files[0].images, modalities(name, files, columns))
    ending = common_ending([image for scan in files for image in scan.images])
    return SourceDataset(name, channels, tuple(scan.as_scan(len(channels)) for scan in files), ending)


def modalities(name: str, files: Sequence[ScanFiles], columns: Sequence[str]) -> tuple[str, ...]:
    """The `columns` of the data set `name`, those of DICOM images under the modality that these say, such as CT.

    Raises:
        UserError: Some images of a column are CT, others are not: Hounsfield units do not go with others.
    """
    named = []
    for place, column in enumerate(columns):
        images = [scan.images[place] for scan in files]
        kinds = {dicom.modality_of(image): image for image in images if format_of(image) is dicom.FORMAT}
        if len(kinds) > 1 and "CT" in kinds:
            listed = ", ".join(f"{kind or 'no modality'} in {image}" for kind, image in sorted(kinds.items()))
            raise UserError(f"{name} holds images of several kinds: {listed}. Import them one by one.")
        whole = all(format_of(image) is dicom.FORMAT for image in images)
        named.append("/".join(sorted(filter(None, kinds))) or column if whole else column)
    return tuple(
        f"{kind} {column}" if named.count(kind) > 1 else kind for kind, column in zip(named, columns, strict=True)
    )


def files_by_name(
    files: Iterable[Path], name: Callable[[Path], str] = lambda path: without_ending(path.name)
) -> dict[str, Path]:
    """Name without ending -> file.

    Raises:
        UserError: Two files differ in their endings alone.
    """
    named: dict[str, Path] = {}
    for path in files:
        other = named.setdefault(name(path), path)
        if other is not path:
            raise UserError(f"{path.parent} holds both {other.name} and {path.name}. Keep one of them, or rename one.")
    return named


def pair_masks(images: Mapping[str, Path], masks: Mapping[str, Path], folder: Path) -> dict[str, Path]:
    """Name of an image -> its mask in `folder`, which has this name, or this name and a word such as `_mask`.

    Where no mask has such a name, all are paired by what is left without the words that their names share.

    Raises:
        UserError: A mask has no image, or an image two masks.
    """
    paired: dict[str, Path] = {}
    alone = []
    numbers = image_numbers(list(images), list(masks))
    for name, path in masks.items():
        image = numbers.get(name) or bare_name(name, images)
        if image not in images:
            alone.append(path.name)
        elif paired.setdefault(image, path) is not path:
            raise UserError(
                f"{folder} holds two masks of {images[image].name}: {paired[image].name} and {path.name}. Keep one; "
                "structures in files of their own must be joined first."
            )
    if alone:
        raise UserError(
            f"{folder} holds masks without an image: {preview(alone)}. Images are called {preview(list(images))}; "
            "expected the same names for masks, or with _mask, _seg or _label after them. Rename or remove them."
        )
    return paired


def bare_name(mask: str, images: Collection[str]) -> str:
    """The name of a mask, without a word such as `_mask` unless one of the `images` is called like this."""
    return mask if mask in images else re.sub(SUFFIX + "$", "", mask, flags=re.IGNORECASE)


def image_numbers(images: Sequence[str], masks: Sequence[str]) -> dict[str, str]:
    """Mask -> image of the same number, such as 21_manual1 -> 21_training; empty unless no mask has an image's name.

    Empty also unless every mask has such an image of its own.
    """
    if any(bare_name(mask, images) in images for mask in masks):
        return {}
    own = {key: name for name, key in _keys(images).items()}
    keys = _keys(masks)
    unique = len(own) == len(images) and len(set(keys.values())) == len(masks) and () not in own
    return {mask: own[key] for mask, key in keys.items()} if unique and set(keys.values()) <= set(own) else {}


def _keys(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """What tells `names` apart: their words and numbers, without what all share at the end, and words at the start."""
    parts = {name: re.findall(r"[0-9]+|[^\W\d_]+", name.lower()) for name in names}
    heads = list(takewhile(lambda part: len(set(part)) == 1 and part[0].isalpha(), zip(*parts.values(), strict=False)))
    turned = zip(*(reversed(part) for part in parts.values()), strict=False)
    tails = list(takewhile(lambda part: len(set(part)) == 1, turned))
    return {
        name: tuple(word.lstrip("0") or word for word in part[len(heads) : len(part) - len(tails)])
        for name, part in parts.items()
    }


def scan_names(files: Sequence[str]) -> dict[str, str]:
    """File -> name of the scan: that of the file, or of its whole path where two files would share theirs."""
    names = {file: without_ending(Path(file).name) for file in files}
    counts = Counter(names.values())
    whole = {file: "_".join(re.findall(r"[^/\\]*\w[^/\\]*", without_ending(file))) for file in files}
    return {file: name if counts[name] == 1 else whole[file] for file, name in names.items()}


def channel_names(images: Sequence[Path], columns: Sequence[str] = ("image",)) -> tuple[str, ...]:
    """What the channels of a scan in the files `images`, one for each column, are called.

    Raises:
        UserError: The only file cannot be read, or is neither grey nor in colour.
    """
    count = 1 if len(images) > 1 else len(format_of(images[0]).read_values(images[0]))
    if count not in (1, len(COLOURS)):
        raise UserError(f"{images[0]} has {count} channels; expected a grey image, or one in red, green and blue.")
    return tuple(columns) if count == 1 else COLOURS


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
    if len(endings) == 1 and not endings & set(CONVERTED) and not any(map(files_beside, images)):
        return endings.pop()
    return ".png" if True in kinds else ".nii.gz"


def first_lines(lines: Sequence[str], most: int, kind: str = "") -> str:
    """The first lines of a message, at `most` so many, and how many of that kind there are besides."""
    more = [f"  and {len(lines) - most} {kind}more"] if len(lines) > most else []
    return "\n".join([*lines[:most], *more])
