"""PyMIC lists: CSV files that name an image, and often its mask, in every row.

Source: https://github.com/HiLab-git/PyMIC, `pymic/io/nifty_dataset.py` and `examples`.
"""

import re
from pathlib import Path

from patchcl.core.errors import UserError
from patchcl.data.importers.csv_table import Row, by_column, dataset_of_rows, read_csv
from patchcl.data.importers.registry import NO_OPTIONS, Importer, ImportOptions
from patchcl.data.importers.writer import SourceDataset

LISTS = {"train": r".*train|(.*[_-])?lab", "unlabeled": r".*unlab", "validation": r".*val(id)?", "test": r".*test"}
"""Kind of list -> how its name ends: image_train.csv, image_train_r10_unlab.csv, image_valid.csv."""
NOT_CHANNELS = ("label", "image_weight", "pixel_weight")


def detect(folder: Path) -> bool:
    """Whether there are lists of scans to train and to validate on."""
    return {"train", "validation"} <= {kind for path in folder.glob("*.csv") for kind in _kinds(path)}


def convert(source: Path, options: ImportOptions = NO_OPTIONS) -> SourceDataset:
    """The data set whose lists lie in the folder `source`, which their paths start from.

    There is one list of a kind, told by the end of its name: train (or lab), unlab, valid and test. Columns are
    `image`, or one for every channel, and `label`. Training scans without a label are unlabeled, and in the list of
    unlabeled ones no label is looked at. Other CSV files are left aside.
    """
    lists = _lists(source)
    rows = [row for kind, path in lists.items() for row in _rows(path, kind)]
    channels = {", ".join(row.images) for row in rows}
    if len(channels) > 1:
        columns = " and ".join(sorted(channels))
        raise UserError(f"The lists in {source} differ in their columns: {columns}. Each must name the same channels.")
    return dataset_of_rows(source.resolve().name, rows, source, source, options)._replace(lists=tuple(lists.values()))


def _lists(source: Path) -> dict[str, Path]:
    """Kind -> list."""
    lists: dict[str, Path] = {}
    for path in sorted(source.glob("*.csv")):
        for kind in _kinds(path):
            if kind in lists:
                files = f"{lists[kind].name} and {path.name}"
                raise UserError(f"{source} has two {kind} lists, {files}. Leave one of them there.")
            lists[kind] = path
    missing = [kind for kind in ("train", "validation") if kind not in lists]
    if missing:
        raise UserError(
            f"{source} has no {' and no '.join(missing)} list. Expected files such as image_train.csv, "
            "image_unlab.csv, image_valid.csv and image_test.csv in the folder that their paths start from."
        )
    return {kind: lists[kind] for kind in LISTS if kind in lists}


def _kinds(path: Path) -> list[str]:
    """What kind of list the name tells; none or one."""
    return [kind for kind, ending in LISTS.items() if re.fullmatch(ending, path.stem.lower())]


def _rows(path: Path, kind: str) -> list[Row]:
    header, lines = read_csv(path)
    if not lines:
        raise UserError(f"{path} lists no scan. Fill it, or remove it.")
    rows = []
    for line, cells in lines:
        named = by_column(header, cells)
        images = {column: file for column, file in named.items() if column not in NOT_CHANNELS}
        if len(cells) > len(header) or not images or not all(images.values()) or "" in images:
            raise UserError(
                f"{path}, line {line}: found {', '.join(cells)} under {', '.join(header)}; expected a column image, or "
                "one for every channel, with a file in each row, and a column label."
            )
        mask, side = ("", "train") if kind == "unlabeled" else (named.get("label", ""), kind)
        rows.append(Row(f"{path}, line {line}", images, mask, side=side))
    return rows


DESCRIPTION = "lists of PyMIC: *train.csv, *valid.csv and often *unlab.csv, *test.csv"
IMPORTER = Importer("pymic", DESCRIPTION, detect, convert, options=("threshold",))
