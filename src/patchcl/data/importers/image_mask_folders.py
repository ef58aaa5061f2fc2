"""A folder of images beside a folder of masks, which belong together by their names."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from patchcl.core.errors import UserError
from patchcl.data.dataset import preview
from patchcl.data.formats import ENDINGS, is_scan, without_ending
from patchcl.data.importers.transfer import channel_names, common_ending, found_scan
from patchcl.data.importers.writer import FoundDataset

IMAGES = ("images", "image", "imgs", "img")
MASKS = ("masks", "mask", "labels", "label")
"""What the two folders may be called, in any case."""
SUFFIX = r"[ ._-]?(masks?|seg|segmentation|labels?|gt|ground[_-]?truth|anno|annotation)"
"""What a mask may be called beyond the name of its image."""


def read(source: Path, images: str | None = None, masks: str | None = None) -> FoundDataset:
    """The images and masks in two folders below `source`, by default those with the usual names.

    The mask of an image has its name, or its name and a word such as `_mask`; images without one are unlabeled. Each
    image is a patient of its own, unless its name says otherwise.

    Raises:
        UserError: A folder is missing or there are two, a file is of no known format, or a mask has no image.
    """
    image_folder, mask_folder = _folder(source, images, IMAGES, "images"), _folder(source, masks, MASKS, "masks")
    files, mask_files = _by_name(image_folder), _by_name(mask_folder)
    if not files:
        raise UserError(f"{image_folder} holds no image. Expected files that end in {', '.join(ENDINGS)}.")
    mask_of = _matched(files, mask_files, mask_folder)
    channels = channel_names(list(files.values())[:1])
    scans = [found_scan(name, "train", [path], mask_of.get(name), len(channels)) for name, path in files.items()]
    return FoundDataset(source.resolve().name, channels, tuple(scans), common_ending(list(files.values())))


def has_folders(source: Path) -> bool:
    """Whether `source` holds a folder of images and one of masks, by their names."""
    return all(len(_called(source, names)) == 1 for names in (IMAGES, MASKS))


def _folder(source: Path, named: str | None, names: Sequence[str], kind: str) -> Path:
    """The folder that is `named`, or else the only one that has one of the usual `names`."""
    if named is not None and not (source / named).is_dir():
        raise UserError(f"{source / named} is no folder. Name the one with {kind} by --{kind} DIR.")
    found = _called(source, names) if named is None else [source / named]
    if len(found) != 1:
        shown = preview([path.name for path in found]) or "none"
        raise UserError(
            f"{source} must hold one folder of {kind}, called {' or '.join(names)}; found {shown}. Name it by "
            f"--{kind} DIR."
        )
    return found[0]


def _called(source: Path, names: Sequence[str]) -> list[Path]:
    return sorted(path for path in source.iterdir() if path.is_dir() and path.name.lower() in names)


def _by_name(folder: Path) -> dict[str, Path]:
    """Name without ending -> file; hidden files are nobody's data.

    Raises:
        UserError: Something is no scan, or two files differ in their endings alone.
    """
    files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    strange = [path.name for path in files if not is_scan(path)]
    if strange:
        raise UserError(
            f"{folder} holds {preview(strange)}; expected folders with a DICOM series, or files that end in "
            f"{', '.join(ENDINGS)}. Take the others away, or list the scans in a table: patchcl import TABLE.csv "
            "-o NEW_FOLDER --layout table"
        )
    named: dict[str, Path] = {}
    for path in files:
        other = named.setdefault(without_ending(path.name), path)
        if other is not path:
            raise UserError(f"{folder} holds both {other.name} and {path.name}. Keep one of them, or rename one.")
    return named


def _matched(images: Mapping[str, Path], masks: Mapping[str, Path], folder: Path) -> dict[str, Path]:
    """Name of the image -> its mask."""
    matched: dict[str, Path] = {}
    alone = []
    for name, path in masks.items():
        image = name if name in images else re.sub(SUFFIX + "$", "", name, flags=re.IGNORECASE)
        if image not in images:
            alone.append(path.name)
        elif matched.setdefault(image, path) is not path:
            raise UserError(
                f"{folder} holds two masks of {images[image].name}: {matched[image].name} and {path.name}. Keep one; "
                "structures in files of their own must be joined first."
            )
    if alone:
        raise UserError(
            f"{folder} holds masks without an image: {preview(alone)}. Images are called {preview(list(images))}; "
            "expected the same names for masks, or with _mask, _seg or _label after them. Rename or remove them."
        )
    return matched
