"""Image and mask folders: a folder of images beside a folder of masks, which belong together by their names."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from patchcl.core.errors import UserError
from patchcl.data.dataset import preview
from patchcl.data.formats import ENDINGS, is_scan, without_ending
from patchcl.data.formats.base import is_litter
from patchcl.data.importers.registry import NO_OPTIONS, Importer, ImportOptions
from patchcl.data.importers.scan_files import ScanFiles, bare_name, dataset_of, files_by_name, image_numbers, pair_masks
from patchcl.data.importers.writer import SourceDataset

IMAGES = ("images", "image", "imgs", "img")
MASKS = ("masks", "mask", "labels", "label")
"""What the two folders may be called, in any case."""
TELLING = re.compile(r"mask|label|seg|manual|truth|anno|(^|[^a-z])gt([^a-z]|$)", re.IGNORECASE)
"""What the names of other folders of masks hold."""


def detect(folder: Path) -> bool:
    """Whether there is a folder of images, and one of masks or several, by their names."""
    images = folders_called(folder, IMAGES)
    return len(images) == 1 and not all(map(_holds_folders_alone, _mask_folders(folder, images[0])))


def convert(source: Path, options: ImportOptions = NO_OPTIONS) -> SourceDataset:
    """The images and masks in two folders below `source`, by default those with the usual names.

    The mask of an image has its name, or its name and a word such as `_mask`, or its number; images without one are
    unlabeled. Each image is a patient of its own, unless its name says otherwise.
    """
    image_folder = _folder(source, options.images, folders_called(source, IMAGES), "images")
    mask_folder = _folder(source, options.masks, _mask_folders(source, image_folder), "masks")
    images, mask_files = files_by_name(_scans_in(image_folder)), files_by_name(_scans_in(mask_folder))
    if not images:
        raise UserError(f"{image_folder} holds no image. Expected files that end in {', '.join(ENDINGS)}.")
    masks = pair_masks(images, mask_files, mask_folder)
    kind = options.threshold, bool(options.objects)
    scans = [ScanFiles(name, [path], masks.get(name), "train", *kind) for name, path in images.items()]
    notes = _notes(mask_folder, image_numbers(list(images), list(mask_files)))
    return dataset_of(source.resolve().name, scans)._replace(notes=notes)


def _notes(masks: Path, numbers: Mapping[str, str]) -> tuple[str, ...]:
    """What is not plain from names alone: which folder is that of the masks, and which mask is whose."""
    folder = () if masks.name.lower() in MASKS else (f"Masks were taken from {masks.name}.",)
    pair = next(iter(numbers.items()), None)
    return folder + ((f"Masks belong to images by their numbers, such as {pair[0]} to {pair[1]}.",) if pair else ())


def _folder(source: Path, name: str | None, found: Sequence[Path], kind: str) -> Path:
    """The folder `name`, or else the only one that was `found`."""
    if name is not None and not (source / name).is_dir():
        raise UserError(f"{source / name} is no folder. Name the one with {kind} by --{kind} DIR.")
    folders = found if name is None else [source / name]
    if len(folders) != 1:
        names = preview([path.name for path in folders]) or "none"
        usual = IMAGES if kind == "images" else MASKS
        raise UserError(
            f"{source} must hold one folder of {kind}, called {' or '.join(usual)}; found {names}. Name it by "
            f"--{kind} DIR."
        )
    return folders[0]


def _mask_folders(source: Path, images: Path) -> list[Path]:
    """The folders in `source` that may be the one of masks.

    They have a usual name, or one with a word that tells of masks, and names in them belong to some in `images`.
    """
    usual = folders_called(source, MASKS)
    others = (path for path in source.iterdir() if path.is_dir() and not is_litter(path.name) and path not in usual)
    telling = (path for path in others if path != images and TELLING.search(path.name))
    stems = _names_in(images)
    return sorted([*usual, *(path for path in telling if _belong(_names_in(path), stems))])


def _holds_folders_alone(folder: Path) -> bool:
    """Whether there are folders in `folder`, as of slices, and no mask."""
    entries = [path for path in folder.iterdir() if not is_litter(path.name)]
    return bool(entries) and all(path.is_dir() and not is_scan(path) for path in entries)


def _belong(masks: Sequence[str], images: Sequence[str]) -> bool:
    return any(bare_name(mask, images) in images for mask in masks) or bool(image_numbers(images, masks))


def _names_in(folder: Path) -> list[str]:
    return [without_ending(path.name) for path in folder.iterdir() if is_scan(path)]


def folders_called(source: Path, names: Sequence[str]) -> list[Path]:
    """The folders in `source` that have one of the `names`, in any case."""
    return sorted(path for path in source.iterdir() if path.is_dir() and path.name.lower() in names)


def _scans_in(folder: Path) -> list[Path]:
    """All files but those that are nobody's data."""
    files = sorted(path for path in folder.iterdir() if not is_litter(path.name))
    strange = [path.name for path in files if not is_scan(path)]
    if strange:
        raise UserError(
            f"{folder} holds {preview(strange)}; expected folders with a DICOM series, or files that end in "
            f"{', '.join(ENDINGS)}. Take the others away, or list the scans in a table: patchcl import TABLE.csv "
            "-o NEW_FOLDER --layout table"
        )
    return files


DESCRIPTION = "a folder images beside a folder masks; others are named by --images DIR --masks DIR"
OPTIONS = ("images", "masks", "threshold", "objects")
IMPORTER = Importer("plain", DESCRIPTION, detect, convert, OPTIONS, certainty=1)
