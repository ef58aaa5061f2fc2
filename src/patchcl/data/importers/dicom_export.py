"""DICOM export of a PACS: a folder for each scan, with the files of one series or of many, and perhaps a mask.

The folder is the patient. Masks are DICOM-SEG or RTSTRUCT, and belong to the series that they were drawn on; or they
are pictures, one for each slice.
"""

import re
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from textwrap import indent
from typing import Any, NamedTuple

from patchcl.core.errors import UserError
from patchcl.data.dataset import preview
from patchcl.data.formats import DICOM
from patchcl.data.formats.base import is_litter, library
from patchcl.data.formats.dicom import series as dicom
from patchcl.data.formats.dicom.frames import read_header
from patchcl.data.formats.dicom.pixels import values_of
from patchcl.data.formats.dicom.stack import Stack
from patchcl.data.importers import dicom_masks, dicom_pictures
from patchcl.data.importers.image_mask_folders import IMAGES, MASKS, folders_called
from patchcl.data.importers.registry import NO_OPTIONS, Importer, ImportOptions
from patchcl.data.importers.scan_files import COLOURS, first_lines
from patchcl.data.importers.transfer import link_or_copy
from patchcl.data.importers.writer import SourceDataset, SourceScan
from patchcl.data.scan import require_finite

SHOWN = 5
"""So many folders are described in a message."""
UNNAMED = ("structure_1",)
"""The classes where no scan has a mask and nobody names any."""
WITHOUT_MASKS = (
    "No scan has a mask (DICOM-SEG, RTSTRUCT or pictures), so all are unlabeled, in imagesUn. Training needs masks "
    "of some. Put them into the folders of their scans and import again; or draw them here: move the folder NAME_0000 "
    "to imagesTr, save its mask as labelsTr/NAME.nii.gz or, as DICOM-SEG, NAME.dcm, and name the classes in labels of "
    "dataset.json."
)
DEEPEST = 3
"""How far below a data set its layout is looked for: patient, study and series."""


class _Series(NamedTuple):
    """The image series of one folder that becomes a scan, and its mask."""

    folder: Path
    files: tuple[Path, ...]
    channels: tuple[str, ...]
    mask: dicom_masks.SeriesMask | None
    drawn: dicom_pictures.PictureMask | None  # the mask where it is pictures

    def scan(self, name: str, structures: Sequence[str], in_order: bool) -> SourceScan:
        """The scan, with the classes background and `structures`."""
        classes = ("background", *structures)
        masked = self.mask is not None or self.drawn is not None
        mask = partial(_transfer_mask, self, classes, in_order) if masked else None
        files = (*self.files, *([] if self.mask is None else [self.mask.path]))
        files += () if self.drawn is None else tuple(self.drawn.slices.values())
        return SourceScan(name, "train", (partial(_transfer_series, self),), mask, files=files)


def detect(folder: Path) -> bool:
    """Whether `folder` holds folders with files called .dcm, in them or not far below."""
    levels = ("/".join(["*"] * depth) + "/*.[dD][cC][mM]" for depth in range(1, DEEPEST + 1))
    return not (folder / "imagesTr").is_dir() and any(next(folder.glob(level), None) for level in levels)


def convert(source: Path, options: ImportOptions = NO_OPTIONS) -> SourceDataset:
    """The scans in the folders of `source`, or of its folder of images, each with its files there or below.

    A folder must hold exactly one series that fits `options.series`, and one mask of it at the most. The classes are
    `options.structures`, or else the labels in the masks, by their numbers, on which masks must agree; contours
    (RTSTRUCT) have names alone. All scans may be without a mask.
    """
    library("pydicom", source, "DICOM", "dicom")
    dicom.finds(options.series or "", "")  # what is no regular expression is refused before any file is opened
    all_series = _all_series(source, options.series or "")
    masks = [series.mask for series in all_series if series.mask is not None]
    drawn = [series.drawn for series in all_series if series.drawn is not None]
    if drawn:
        return _with_pictures(source, all_series, drawn)
    named = UNNAMED if options.structures is None and not masks else options.structures
    structures = dicom_masks.class_names(source, masks) if named is None else dicom_masks.require_names(named)
    names = _scan_names([series.folder for series in all_series])
    scans = tuple(
        series.scan(name, structures, named is not None) for name, series in zip(names, all_series, strict=True)
    )
    values = {name: value for value, name in enumerate(structures, start=1)}
    notes = dicom_masks.left_aside(masks, structures) if masks else [WITHOUT_MASKS]
    return SourceDataset(
        *(source.resolve().name, _channels(source, all_series), scans, DICOM, values), notes=tuple(notes), maskless=True
    )


def _with_pictures(
    source: Path, all_series: Sequence[_Series], drawn: Sequence[dicom_pictures.PictureMask]
) -> SourceDataset:
    """The scans where masks are pictures, whose values are named as those of other pictures."""
    others = [series.mask.path for series in all_series if series.mask is not None]
    if others:
        raise UserError(
            f"{source} holds masks as pictures, as in {drawn[0].folder}, and as DICOM, as in {others[0]}. "
            "Those tell classes by values, these by names. Import them one by one, or move one kind elsewhere."
        )
    names = _scan_names([series.folder for series in all_series])
    scans = tuple(series.scan(name, (), in_order=False) for name, series in zip(names, all_series, strict=True))
    return SourceDataset(source.resolve().name, _channels(source, all_series), scans, DICOM, notes=(drawn[0].note,))


def _all_series(source: Path, pattern: str) -> list[_Series]:
    """The series of each folder; what is wrong with the first few folders is told in one message."""
    folders = _folders(source)
    if dicom.is_series_folder(source) or not folders:
        content = "DICOM files themselves" if dicom.is_series_folder(source) else "no folders"
        raise UserError(f"{source} holds {content}; expected a folder for each scan. Put its files there.")
    all_series, problems = [], []
    for folder in folders:
        try:
            all_series.append(_series(folder, pattern, folders[folder]))
        except UserError as error:
            problems.append(indent(str(error), "  "))
    if problems:
        raise UserError(
            f"{source}: {len(problems)} of {len(folders)} folders cannot be imported.\n"
            f"{first_lines(problems, SHOWN, 'folders ')}\n"
            "Each folder is a scan: one image series, and one mask of it at the most. Choose the series by a part of "
            "its description, or by its UID: --series PATTERN. What does not belong to the scans must lie elsewhere."
        )
    return all_series


def _folders(source: Path) -> dict[Path, Path | None]:
    """The folder of each scan -> that of its mask, where images/CASE lies beside masks/CASE."""
    images, masks = folders_called(source, IMAGES), folders_called(source, MASKS)
    if len(images) != 1 or len(masks) != 1:
        return dict.fromkeys(_folders_in(source))
    folders: dict[Path, Path | None] = {folder: masks[0] / folder.name for folder in _folders_in(images[0])}
    alone = [folder.name for folder in _folders_in(masks[0]) if folder not in folders.values()]
    if alone:
        raise UserError(
            f"{masks[0]} has folders without one of that name in {images[0]}: {preview(alone)}. Rename them."
        )
    return folders


def _folders_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not is_litter(path.name))


def _series(folder: Path, pattern: str, masks_beside: Path | None) -> _Series:
    contents = dicom.contents_of(folder, below=True)
    fitting = dicom.fitting_series(contents.series, pattern)
    if len(fitting) != 1:
        raise UserError(dicom.listing(folder, contents.series, pattern))
    (image,) = fitting
    grid = dicom.stack_of(image.files, folder).grid
    masks = dicom_masks.masks_of(image, grid, contents)
    if len(masks) > 1:
        lines = "\n".join(mask.line for mask in masks)
        raise UserError(f"{folder} holds {len(masks)} masks of the series {image.description!r}:\n{lines}")
    channels = COLOURS if image.channels == len(COLOURS) else (image.modality or "image",)
    drawn = None if masks else dicom_pictures.pictures_of(folder, image, masks_beside)
    return _Series(folder, tuple(image.files), channels, masks[0] if masks else None, drawn)


def _scan_names(folders: Sequence[Path]) -> list[str]:
    """What the scans in `folders` are called: like these, without what a file's name should not have."""
    names = [re.sub(r"[^\w.-]+", "_", folder.name).strip("_.") or "scan" for folder in folders]
    counts = Counter(names)
    same = [str(folder) for folder, name in zip(folders, names, strict=True) if counts[name] > 1]
    if same:
        raise UserError(f"The folders {preview(same)} would give scans of one name. Rename one of them.")
    return names


def _channels(source: Path, all_series: Sequence[_Series]) -> tuple[str, ...]:
    """What the channels of all scans are called: the modality, or colours; Hounsfield units do not go with others."""
    kinds = {series.channels: series.folder for series in all_series}
    if len(kinds) > 1 and kinds.keys() & {COLOURS, ("CT",)}:
        listed = ", ".join(f"{'/'.join(kind)} in {folder.name}" for kind, folder in kinds.items())
        raise UserError(
            f"{source} holds images of several kinds: {listed}. One network learns from one kind: choose by --series "
            "PATTERN, or import them one by one."
        )
    return COLOURS if COLOURS in kinds else ("/".join(sorted(modality for (modality,) in kinds)),)


def _transfer_series(series: _Series, target: Path) -> None:
    """Put the files of the image into the folder `target`, once they were read and hold finite voxels."""
    require_finite(values_of(_stack(series)), series.folder)
    target.mkdir()
    names = [file.name if file.suffix.lower() == DICOM else f"{file.name}{DICOM}" for file in series.files]
    if len({name.lower() for name in names}) < len(names):  # files of one name come from several folders
        names = [f"{number:05d}_{name}" for number, name in enumerate(names)]
    for file, name in zip(series.files, names, strict=True):
        link_or_copy(file, target / name)


def _transfer_mask(series: _Series, classes: Sequence[str], in_order: bool, target: Path) -> set[int]:
    """Put the mask of `series` at `target`, once it was read; returns the classes in it."""
    if series.drawn is not None:
        return dicom_pictures.transfer_pictures(series.drawn, _stack(series), target)
    assert series.mask is not None  # there is no such call without
    return dicom_masks.transfer_mask(series.mask, _stack(series), classes, in_order, target)


def _stack(series: _Series) -> Stack:
    headers: dict[Path, Any] = {file: read_header(file) for file in series.files}
    return dicom.stack_of(headers, series.folder)


DESCRIPTION = "what a PACS exports: a folder of DICOM files for each scan; or images/CASE/*.dcm beside masks/CASE/*.png"
IMPORTER = Importer("dicom", DESCRIPTION, detect, convert, options=("series",), certainty=0)
