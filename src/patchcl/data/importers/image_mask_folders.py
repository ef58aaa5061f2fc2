"""Image and mask folders: a folder of images beside a folder of masks, which belong together by their names."""

from collections.abc import Sequence
from pathlib import Path

from patchcl.core.errors import UserError
from patchcl.data.dataset import preview
from patchcl.data.formats import ENDINGS, is_scan
from patchcl.data.formats.base import is_litter
from patchcl.data.importers.registry import NO_OPTIONS, Importer, ImportOptions
from patchcl.data.importers.scan_files import ScanFiles, dataset_of, files_by_name, pair_masks
from patchcl.data.importers.writer import SourceDataset

IMAGES = ("images", "image", "imgs", "img")
MASKS = ("masks", "mask", "labels", "label")
"""What the two folders may be called, in any case."""


def detect(folder: Path) -> bool:
    """Whether there is a folder of images and one of masks, by their names."""
    return all(len(folders_called(folder, names)) == 1 for names in (IMAGES, MASKS))


def convert(source: Path, options: ImportOptions = NO_OPTIONS) -> SourceDataset:
    """The images and masks in two folders below `source`, by default those with the usual names.

    The mask of an image has its name, or its name and a word such as `_mask`; images without one are unlabeled. Each
    image is a patient of its own, unless its name says otherwise.
    """
    image_folder = _folder(source, options.images, IMAGES, "images")
    mask_folder = _folder(source, options.masks, MASKS, "masks")
    images, mask_files = files_by_name(_scans_in(image_folder)), files_by_name(_scans_in(mask_folder))
    if not images:
        raise UserError(f"{image_folder} holds no image. Expected files that end in {', '.join(ENDINGS)}.")
    masks = pair_masks(images, mask_files, mask_folder)
    scans = [ScanFiles(name, [path], masks.get(name), threshold=options.threshold) for name, path in images.items()]
    return dataset_of(source.resolve().name, scans)


def _folder(source: Path, name: str | None, usual: Sequence[str], kind: str) -> Path:
    """The folder `name`, or else the only one that has a `usual` name."""
    if name is not None and not (source / name).is_dir():
        raise UserError(f"{source / name} is no folder. Name the one with {kind} by --{kind} DIR.")
    folders = folders_called(source, usual) if name is None else [source / name]
    if len(folders) != 1:
        names = preview([path.name for path in folders]) or "none"
        raise UserError(
            f"{source} must hold one folder of {kind}, called {' or '.join(usual)}; found {names}. Name it by "
            f"--{kind} DIR."
        )
    return folders[0]


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
IMPORTER = Importer("plain", DESCRIPTION, detect, convert, options=("images", "masks", "threshold"), certainty=1)
