"""What a PACS exports: a folder for each scan, with the DICOM files of one series or of many, and perhaps a mask.

The folder is the patient. Masks are DICOM-SEG, and belong to the series that they say they were drawn on.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from textwrap import indent
from typing import Any, NamedTuple

import numpy as np

from patchcl.core.errors import UserError
from patchcl.data.dataset import IGNORE_LABEL, preview
from patchcl.data.formats import DICOM
from patchcl.data.formats.base import library
from patchcl.data.formats.dicom import segmentation as dicom_seg
from patchcl.data.formats.dicom import series as dicom
from patchcl.data.formats.dicom.frames import read_header, says_segmentation
from patchcl.data.formats.dicom.pixels import values_of
from patchcl.data.geometry import Grid
from patchcl.data.importers.transfer import COLOURS, link_or_copy
from patchcl.data.importers.writer import FoundDataset, FoundScan
from patchcl.data.scan import read_mask, require_finite

SHOWN = 5
"""So many folders or segments are described in a message."""
DEEPEST = 3
"""How far below a data set its layout is looked for: patient, study and series."""


class Chosen(NamedTuple):
    """What becomes a scan, of one folder."""

    folder: Path
    files: tuple[Path, ...]  # of the image
    grid: Grid
    channels: tuple[str, ...]
    mask: Path | None
    labels: dict[int, str]  # of the segments in the mask, by their numbers


def read(source: Path, series: str = "", structures: Sequence[str] | None = None) -> FoundDataset:
    """The scans in the folders of `source`, each with its files in it or in folders of any depth below.

    Args:
        source: The folder that holds a folder for each scan.
        series: A regular expression that finds something in the description of the series to take, or its UID.
        structures: The classes, in their order; otherwise they are the labels in the masks, by their numbers.

    Raises:
        UserError: A folder has not exactly one such series, or several masks of it; or masks disagree on the classes.
    """
    library("pydicom", source, "DICOM", "dicom")
    dicom.finds(series, "")  # what is no regular expression is refused before any file is opened
    chosen = _chosen_in(source, _folders(source), series)
    if all(one.mask is None for one in chosen):
        raise UserError(
            f"{source} has no scan with a mask to learn from: no DICOM-SEG belongs to the series. Convert masks of "
            "other kinds, such as RTSTRUCT, and put them into the folders of their scans."
        )
    named = _require_names(structures) if structures is not None else _labels(source, chosen)
    names = _scan_names([one.folder for one in chosen])
    scans = [
        FoundScan(
            name,
            "train",
            (partial(_place_series, one),),
            None if one.mask is None else partial(_place_mask, one.mask, ("background", *named), one.grid),
        )
        for name, one in zip(names, chosen, strict=True)
    ]
    values = {name: value for value, name in enumerate(named, start=1)}
    return FoundDataset(source.resolve().name, _channels(source, chosen), tuple(scans), DICOM, values)


def is_export(folder: Path) -> bool:
    """Whether `folder` holds folders with files called .dcm, in them or not far below."""
    levels = ("/".join(["*"] * depth) + "/*.[dD][cC][mM]" for depth in range(1, DEEPEST + 1))
    return not (folder / "imagesTr").is_dir() and any(next(folder.glob(level), None) for level in levels)


def _folders(source: Path) -> list[Path]:
    folders = sorted(path for path in source.iterdir() if path.is_dir() and not path.name.startswith("."))
    if dicom.is_series_folder(source) or not folders:
        found = "DICOM files themselves" if dicom.is_series_folder(source) else "no folders"
        raise UserError(f"{source} holds {found}; expected a folder for each scan. Put its files there.")
    return folders


def _chosen_in(source: Path, folders: Sequence[Path], series: str) -> list[Chosen]:
    """What each folder has to give.

    Raises:
        UserError: Tells what is wrong with the first few folders.
    """
    chosen, problems = [], []
    for folder in folders:
        try:
            chosen.append(_choose(folder, series))
        except UserError as error:
            problems.append(indent(str(error), "  "))
    if not problems:
        return chosen
    more = [f"  and {len(problems) - SHOWN} folders more"] if len(problems) > SHOWN else []
    lines = "\n".join([*problems[:SHOWN], *more])
    raise UserError(
        f"{source}: {len(problems)} of {len(folders)} folders cannot be imported.\n{lines}\n"
        "Each folder is a scan: one image series, and one mask of it at the most. Choose the series by a part of its "
        "description, or by its UID: --series PATTERN. What does not belong to the scans must lie elsewhere."
    )


def _choose(folder: Path, series: str) -> Chosen:
    contents = dicom.contents_of(folder, below=True)
    fitting = dicom.fitting_series(contents.series, series)
    if len(fitting) != 1:
        raise UserError(dicom.listing(folder, contents.series, series))
    (image,) = fitting
    grid = dicom.stack_of(image.files, folder).grid
    masks = _masks_of(image, grid, contents)
    if len(masks) > 1:
        raise UserError(f"{folder} holds {len(masks)} masks of the series {image.description!r}:\n{_described(masks)}")
    mask, labels = next(iter(masks.items()), (None, {}))
    colour = image.channels == len(COLOURS)
    return Chosen(folder, tuple(image.files), grid, COLOURS if colour else (image.modality or "image",), mask, labels)


def _masks_of(image: dicom.Series, grid: Grid, contents: dicom.Contents) -> dict[Path, dict[int, str]]:
    """The masks of the series `image`, with the labels of their segments.

    Raises:
        UserError: A mask belongs to no series.
    """
    there = {series.uid for series in contents.series}
    return {
        path: dicom_seg.labels_of(path, header)
        for path, header in contents.others.items()
        if says_segmentation(path, header) and dicom_seg.is_mask_of(path, header, image, grid, there)
    }


def _described(masks: Mapping[Path, dict[int, str]]) -> str:
    """A line for each mask, with its segments."""
    return "\n".join(
        f"  {path}: " + preview([f"{number} {label!r}" for number, label in labels.items()])
        for path, labels in masks.items()
    )


def _labels(source: Path, chosen: Sequence[Chosen]) -> list[str]:
    """The labels of the segments in all masks, in the order of their numbers.

    Raises:
        UserError: A number has two labels, or a label has two numbers or is missing.
    """
    found: dict[tuple[int, str], str] = {}  # number and label -> how a message shows them
    names: dict[int, str] = {}
    for one in chosen:
        for number, label in one.labels.items():
            if dicom_seg.plain(label) != "background":
                found.setdefault((number, dicom_seg.plain(label)), f"  {number} {label!r} in {one.mask}")
                names.setdefault(number, label)
    unclear = [
        line
        for (number, label), line in sorted(found.items())
        if not label or any((number == other) != (label == another) for other, another in found)
    ]
    if unclear:
        more = [f"  and {len(unclear) - SHOWN} more"] if len(unclear) > SHOWN else []
        lines = "\n".join([*unclear[:SHOWN], *more])
        raise UserError(
            f"{source}: masks disagree on what their segments are:\n{lines}\nName the classes in their order: "
            "--structures A,B. Segments with these labels become these classes; in masks that have none of the labels, "
            "segment 1 is the first class, 2 the second."
        )
    return _require_names([names[number] for number in sorted(names)])


def _require_names(names: Sequence[str]) -> list[str]:
    """Refuse what is no name of a class in DICOM-SEG.

    Raises:
        UserError: There are values among them, or the one for what nobody annotated.
    """
    if any(re.fullmatch(r".+=[0-9]+", name) for name in names):
        raise UserError(
            f"--structures {','.join(names)}: DICOM-SEG tells classes by name, and its files stay as they are. Give "
            "the names alone, in their order: A,B."
        )
    if IGNORE_LABEL in names:
        raise UserError(
            f"A segment is called {IGNORE_LABEL}, which marks voxels that nobody annotated, and DICOM-SEG is not read "
            "so. Import the scans and masks as NIfTI, or name the segment otherwise."
        )
    return list(names)


def _scan_names(folders: Sequence[Path]) -> list[str]:
    """What the scans in `folders` are called: like these, without what a file's name should not have.

    Raises:
        UserError: Two folders would have one name.
    """
    names = [re.sub(r"[^\w.-]+", "_", folder.name).strip("_.") or "scan" for folder in folders]
    twice = {name for name, count in Counter(names).items() if count > 1}
    if twice:
        same = [str(folder) for folder, name in zip(folders, names, strict=True) if name in twice]
        raise UserError(f"The folders {preview(same)} would give scans of one name. Rename one of them.")
    return names


def _channels(source: Path, chosen: Sequence[Chosen]) -> tuple[str, ...]:
    """What the channels of all scans are called: the modality, or colours.

    Raises:
        UserError: Some scans are in colour, or in Hounsfield units, and others are not.
    """
    kinds = {one.channels: one.folder for one in chosen}
    if len(kinds) > 1 and kinds.keys() & {COLOURS, ("CT",)}:
        found = ", ".join(f"{'/'.join(kind)} in {folder.name}" for kind, folder in kinds.items())
        raise UserError(
            f"{source} holds images of several kinds: {found}. One network learns from one kind: choose by --series "
            "PATTERN, or import them one by one."
        )
    return COLOURS if COLOURS in kinds else ("/".join(sorted(modality for (modality,) in kinds)),)


def _place_series(one: Chosen, target: Path) -> None:
    """Put the files of the image into the folder `target`, once they were read.

    Raises:
        UserError: A file cannot be read, or holds NaN or infinite voxels.
    """
    headers: dict[Path, Any] = {file: read_header(file) for file in one.files}
    require_finite(values_of(dicom.stack_of(headers, one.folder)), one.folder)
    target.mkdir()
    for file, name in zip(one.files, _file_names(one.files), strict=True):
        link_or_copy(file, target / name)


def _place_mask(mask: Path, classes: Sequence[str], grid: Grid, target: Path) -> set[int]:
    """Put the DICOM-SEG `mask` at `target`, once it was read; returns the classes in it.

    Raises:
        UserError: It cannot be read, does not lie on `grid`, or has a segment that is no class.
    """
    values = read_mask(mask, classes, grid)
    link_or_copy(mask, target)
    return set(np.unique(values).tolist())


def _file_names(files: Sequence[Path]) -> list[str]:
    """Their own names, ending in .dcm; numbered where files from several folders share one."""
    names = [file.name if file.suffix.lower() == DICOM else f"{file.name}{DICOM}" for file in files]
    if len({name.lower() for name in names}) == len(names):
        return names
    return [f"{number:05d}_{name}" for number, name in enumerate(names)]
