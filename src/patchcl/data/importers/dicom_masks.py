"""The masks in a DICOM export: which series each was drawn on, what its structures are called, and how it is kept.

DICOM-SEG stays as it is; contours (RTSTRUCT) become DICOM-SEG on the grid of their series.
"""

import re
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import NamedTuple

import numpy as np

from patchcl.core.errors import UserError
from patchcl.data.dataset import IGNORE_LABEL, MOST_CLASSES, preview
from patchcl.data.formats.dicom import contours
from patchcl.data.formats.dicom import segmentation as dicom_seg
from patchcl.data.formats.dicom.frames import Dataset, says_segmentation
from patchcl.data.formats.dicom.series import Contents, Series
from patchcl.data.formats.dicom.stack import Stack
from patchcl.data.formats.dicom.writing import write_on
from patchcl.data.geometry import Grid
from patchcl.data.importers.scan_files import first_lines
from patchcl.data.importers.transfer import link_or_copy
from patchcl.data.scan import read_mask

SHOWN = 5
"""So many segments are described in a message."""


class SeriesMask(NamedTuple):
    """The mask of a series, as it lies there."""

    path: Path
    labels: dict[int, str]  # of its segments by their numbers; of contours the numbers mean nothing
    contours: bool = False
    without_inside: tuple[str, ...] = ()  # structures of points and open lines alone

    @property
    def line(self) -> str:
        """How a message shows it."""
        return f"  {self.path}: {preview([f'{number} {label!r}' for number, label in self.labels.items()])}"


def masks_of(image: Series, grid: Grid, contents: Contents) -> list[SeriesMask]:
    """The masks of the series `image`, which has `grid`, among the `contents` of its folder.

    Raises:
        UserError: A mask belongs to no series there.
    """
    there = {series.uid for series in contents.series}
    return [mask for path, header in contents.others.items() for mask in _masks_in(path, header, image, grid, there)]


def _masks_in(path: Path, header: Dataset, image: Series, grid: Grid, there: Set[str]) -> Iterator[SeriesMask]:
    """The file at `path`, if it is a mask of `image`."""
    if says_segmentation(path, header):
        if dicom_seg.is_mask_of(path, header, image, grid, there):
            yield SeriesMask(path, dicom_seg.labels_of(path, header))
    elif contours.says_structure_set(path, header):
        found = contours.read_structure_set(path)
        if found.drawn and contours.is_mask_of(found, image, grid, there):
            yield SeriesMask(path, dict(enumerate(found.drawn, start=1)), True, tuple(found.without_inside))


def class_names(source: Path, masks: Sequence[SeriesMask]) -> list[str]:
    """What the structures in all masks are called: the labels of segments by their numbers, then names of contours.

    Raises:
        UserError: Segments of one number have several labels, or one label has several numbers.
    """
    segments: dict[tuple[int, str], str] = {}  # number and label -> how a message shows them
    names: dict[int, str] = {}
    for mask in (mask for mask in masks if not mask.contours):
        for number, label in mask.labels.items():
            if dicom_seg.plain(label) != "background":
                segments.setdefault((number, dicom_seg.plain(label)), f"  {number} {label!r} in {mask.path}")
                names.setdefault(number, label)
    unclear = [
        line
        for (number, label), line in sorted(segments.items())
        if not label or any((number == other) != (label == another) for other, another in segments)
    ]
    if unclear:
        raise UserError(
            f"{source}: masks disagree on what their segments are:\n{first_lines(unclear, SHOWN)}\nName the classes in "
            "their order: --structures A,B. Segments with these labels become these classes; in masks that have none "
            "of the labels, segment 1 is the first class, 2 the second."
        )
    drawn = [label for mask in masks if mask.contours for label in mask.labels.values()]
    first: dict[str, str] = {}
    for label in (*(names[number] for number in sorted(names)), *drawn):
        first.setdefault(dicom_seg.plain(label), label)
    return require_names([label for name, label in first.items() if name not in ("", "background")])


def require_names(names: Sequence[str]) -> list[str]:
    """Refuse what is no name of a class in DICOM-SEG: values, and the one for what nobody annotated; and too many.

    Raises:
        UserError: It is.
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
    if len(names) >= MOST_CLASSES:
        raise UserError(
            f"The masks name {len(names)} structures ({preview(names)}), and at most {MOST_CLASSES - 1} fit. Name "
            "those to learn: --structures A,B."
        )
    return list(names)


def left_aside(masks: Sequence[SeriesMask], classes: Sequence[str]) -> list[str]:
    """A line for contours of each file that are no class, and for each class that some structure sets lack."""
    known = {dicom_seg.plain(name) for name in classes}
    drawn = {mask.path: {dicom_seg.plain(label) for label in mask.labels.values()} for mask in masks if mask.contours}
    lines = []
    for mask in (mask for mask in masks if mask.contours):
        others = [label for label in mask.labels.values() if dicom_seg.plain(label) not in known]
        lines += [f"{mask.path}: left aside are {preview(others)}, which are no classes."] if others else []
        points = preview(mask.without_inside)
        lines += [f"{mask.path}: left aside are {points}, which have no closed contour."] if points else []
    for name in classes:
        without = [str(path) for path, names in drawn.items() if dicom_seg.plain(name) not in names]
        if without:
            lines.append(f"{name} is not drawn in {preview(without)}, which counts as not there.")
    return lines


def transfer_mask(mask: SeriesMask, stack: Stack, classes: Sequence[str], in_order: bool, target: Path) -> set[int]:
    """Put the mask of the series `stack` at `target`, as DICOM-SEG; returns the classes in it.

    Where contours overlap, the later of the `classes` counts if they are `in_order`.

    Raises:
        UserError: It cannot be read, or does not lie on the grid of the series.
    """
    if mask.contours:
        values = contours.painted(contours.read_structure_set(mask.path), stack.grid, classes, in_order)
        write_on(target, values, stack, mask.path, classes, by_hand=True)
    else:
        values = read_mask(mask.path, classes, stack.grid)
        link_or_copy(mask.path, target)
    return set(np.unique(values).tolist())
