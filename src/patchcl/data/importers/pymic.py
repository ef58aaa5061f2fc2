"""Lists of PyMIC: CSV files that name an image, and often its mask, in every row.

Source: https://github.com/HiLab-git/PyMIC, `pymic/io/nifty_dataset.py` and `examples`.
"""

import csv
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from patchcl.core.errors import UserError
from patchcl.data.formats import ENDINGS, ending_of
from patchcl.data.importers.transfer import channel_names, common_ending, found_scan, scan_names
from patchcl.data.importers.writer import FoundDataset, Subset

LISTS = {
    "train": r".*train|(.*[_-])?lab",
    "unlabeled": r".*unlab",
    "validation": r".*val(id)?",
    "test": r".*test",
}
"""Kind of list -> how its name ends: image_train.csv, image_train_r10_unlab.csv, image_valid.csv."""
SUBSETS: dict[str, Subset] = {"train": "train", "unlabeled": "train", "validation": "validation", "test": "test"}
NOT_CHANNELS = ("label", "image_weight", "pixel_weight")


class _Row(NamedTuple):
    """One scan of a list, in files whose paths start from the folder of the data set."""

    images: dict[str, str]  # channel -> file
    mask: str  # empty if there is none


def read(source: Path) -> FoundDataset:
    """The data set whose lists lie in the folder `source`, which their paths start from.

    There is one list of a kind, told by the end of its name: train (or lab), unlab, valid and test. Columns are
    `image`, or one for every channel, and `label`. Training scans without a label are unlabeled, and in the list of
    unlabeled ones no label is looked at. Other CSV files are left aside.

    Raises:
        UserError: A list is missing or there are two, a column or a file is missing, or lists differ in channels.
    """
    rows = [(kind, row) for kind, path in _lists(source).items() for row in _rows(path, source, kind != "unlabeled")]
    channels = {tuple(row.images) for _, row in rows}
    if len(channels) > 1:
        shown = " and ".join(sorted(", ".join(names) for names in channels))
        raise UserError(f"The lists in {source} differ in their columns: {shown}. Each must name the same channels.")
    names = scan_names([next(iter(row.images.values())) for _, row in rows])
    images = [[source / file for file in row.images.values()] for _, row in rows]
    masks = [source / row.mask if row.mask else None for _, row in rows]
    named = channel_names(images[0], channels.pop())
    scans = [
        found_scan(names[next(iter(row.images.values()))], SUBSETS[kind], files, mask, len(named))
        for (kind, row), files, mask in zip(rows, images, masks, strict=True)
    ]
    ending = common_ending([file for files in images for file in files])
    return FoundDataset(source.resolve().name, named, tuple(scans), ending)


def has_lists(source: Path) -> bool:
    """Whether there are lists of scans to train and to validate on."""
    return {"train", "validation"} <= {kind for path in source.glob("*.csv") for kind in _kinds(path)}


def _lists(source: Path) -> dict[str, Path]:
    """Kind -> list."""
    found: dict[str, Path] = {}
    for path in sorted(source.glob("*.csv")):
        for kind in _kinds(path):
            if kind in found:
                raise UserError(
                    f"{source} has two {kind} lists, {found[kind].name} and {path.name}. Leave one of them there."
                )
            found[kind] = path
    missing = [kind for kind in ("train", "validation") if kind not in found]
    if missing:
        raise UserError(
            f"{source} has no {' and no '.join(missing)} list. Expected files such as image_train.csv, "
            "image_unlab.csv, image_valid.csv and image_test.csv in the folder that their paths start from."
        )
    return {kind: found[kind] for kind in LISTS if kind in found}


def _kinds(path: Path) -> list[str]:
    """What kind of list the name tells; none or one."""
    return [kind for kind, ending in LISTS.items() if re.fullmatch(ending, path.stem.lower())]


def _rows(path: Path, source: Path, labeled: bool) -> list[_Row]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = list(csv.DictReader(file, skipinitialspace=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as CSV: {error}. Save it again as text with commas.") from error
    if not table:
        raise UserError(f"{path} lists no scan. Fill it, or remove it.")
    return [_row(line, f"{path}, line {number}", source, labeled) for number, line in enumerate(table, start=2)]


def _row(line: Mapping[str | None, object], place: str, source: Path, labeled: bool) -> _Row:
    cells = {str(column): str(cell or "").strip() for column, cell in line.items()}
    images = {column: cell for column, cell in cells.items() if column not in NOT_CHANNELS}
    if None in line or not images or not all(images.values()) or "" in images:
        raise UserError(
            f"{place}: found {', '.join(cells.values())} under {', '.join(cells)}; expected a column image, or one for "
            "every channel, with a file in each row, and a column label."
        )
    row = _Row(images, cells.get("label", "") if labeled else "")
    for file in (*images.values(), *([row.mask] if row.mask else [])):
        if not ending_of(file):
            raise UserError(f"{place}: {file} is of no known format; expected one of {', '.join(ENDINGS)}. Convert it.")
        if not (source / file).is_file():
            raise UserError(f"{place}: {source / file} does not exist. Paths start from {source}; correct the list.")
    return row
