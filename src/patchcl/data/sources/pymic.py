"""Lists of PyMIC: CSV files that name an image, and often its mask, in every row.

Source: https://github.com/HiLab-git/PyMIC, `pymic/io/nifty_dataset.py` and `examples`.
"""

import csv
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from patchcl.data.dataset import some
from patchcl.data.scan import demand_same_grid, read_grid, read_image
from patchcl.data.sources.raw_folder import FoundDataset, FoundScan, Side, copy_nifti
from patchcl.errors import UserError

LISTS = {
    "train": r".*train|(.*[_-])?lab",
    "unlabeled": r".*unlab",
    "validation": r".*val(id)?",
    "test": r".*test",
}
"""Kind of list -> how its name ends: image_train.csv, image_train_r10_unlab.csv, image_valid.csv."""
SIDES: dict[str, Side] = {"train": "train", "unlabeled": "train", "validation": "validation", "test": "test"}
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
    names = _names([next(iter(row.images.values())) for _, row in rows])
    scans = [_scan(row, SIDES[kind], source, names) for kind, row in rows]
    return FoundDataset(source.resolve().name, channels.pop(), tuple(scans))


def _lists(source: Path) -> dict[str, Path]:
    """Kind -> list."""
    found: dict[str, Path] = {}
    for path in sorted(source.glob("*.csv")):
        for kind in [kind for kind, ending in LISTS.items() if re.fullmatch(ending, path.stem.lower())]:
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
        if not file.endswith((".nii.gz", ".nii")):
            raise UserError(f"{place}: {file} is no NIfTI file. Convert it to .nii.gz first.")
        if not (source / file).is_file():
            raise UserError(f"{place}: {source / file} does not exist. Paths start from {source}; correct the list.")
    return row


def _names(files: Sequence[str]) -> dict[str, str]:
    """File -> name of the scan: that of the file, or of its whole path where two files would share theirs."""
    counts = Counter(Path(file).name for file in set(files))
    return {
        file: _stem(
            Path(file).name if counts[Path(file).name] == 1 else "_".join(re.findall(r"[^/\\]*\w[^/\\]*", file))
        )
        for file in files
    }


def _stem(name: str) -> str:
    return name.removesuffix(".gz").removesuffix(".nii")


def _scan(row: _Row, side: Side, source: Path, names: Mapping[str, str]) -> FoundScan:
    files = list(row.images.values())
    images = tuple(partial(_copy_image, source / file) for file in files)
    mask = partial(_copy_mask, source / row.mask, source / files[0]) if row.mask else None
    return FoundScan(names[files[0]], side, images, mask)


def _copy_image(source: Path, target: Path) -> None:
    read_image([source])
    copy_nifti(source, target)


def _copy_mask(source: Path, image: Path, target: Path) -> set[int]:
    demand_same_grid(read_grid(source), read_grid(image), source, image.name)
    values = np.unique(read_image([source]).voxels)
    if not np.isin(values, np.arange(256)).all():
        shown = some([f"{value:g}" for value in values])
        raise UserError(f"{source} holds {shown}; a mask holds whole numbers from 0 to 255. Correct it.")
    copy_nifti(source, target)
    return set(values.astype(int).tolist())
