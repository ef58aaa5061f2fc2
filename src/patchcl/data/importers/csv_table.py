"""A table of scans in CSV, wherever their files lie."""

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from patchcl.core.errors import UserError
from patchcl.data.formats import ENDINGS, is_scan
from patchcl.data.importers.transfer import channel_names, common_ending, found_scan, scan_names
from patchcl.data.importers.writer import SUBSETS, FoundDataset, Subset, patient_of

SHOWN = 20
COLUMNS = "Columns are image (or image_0, image_1, ... for channels), mask, and perhaps case, patient and side."


class _Row(NamedTuple):
    """One scan of the table."""

    line: int
    columns: tuple[str, ...]  # that name images
    images: tuple[str, ...]  # what they hold
    mask: str = ""
    case: str = ""
    patient: str = ""
    side: str = ""
    extra: bool = False  # there are more cells than columns


def read(source: Path) -> FoundDataset:
    """The scans that the CSV file `source` lists, or the only CSV file in the folder `source`.

    Columns are `image`, or `image_0`, `image_1`, ... for the channels, and `mask`, empty for an unlabeled scan. There
    may be `case` (the name of the scan), `patient`, and `side` (train, validation or test); other columns are left
    aside. Paths start from the folder of the table. Where its name does not tell whose a scan is, it is called
    PATIENT_NAME if that does, else PATIENT_scan1, PATIENT_scan2, ...

    Raises:
        UserError: Lists every row that is wrong, with its line.
    """
    table = table_in(source)
    rows = _rows(table)
    names = _names(rows)
    problems = [f"line {row.line}: {problem}" for row in rows for problem in _problems(row, table.parent)]
    problems += [] if problems else _repeated(rows, names)
    if problems:
        shown = [f"  {problem}" for problem in problems[:SHOWN]]
        more = [f"  and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        raise UserError("\n".join([f"{table} lists scans that cannot be imported. Correct it:", *shown, *more]))
    images = [[table.parent / file for file in row.images] for row in rows]
    channels = channel_names(images[0], rows[0].columns)
    masks = [table.parent / row.mask if row.mask else None for row in rows]
    scans = [
        found_scan(name, _side(row) or "train", files, mask, len(channels))
        for name, row, files, mask in zip(names, rows, images, masks, strict=True)
    ]
    return FoundDataset(table.stem, channels, tuple(scans), common_ending([file for files in images for file in files]))


def table_in(source: Path) -> Path:
    """The file `source`, or the only CSV file in the folder `source`.

    Raises:
        UserError: There is none, or there are several.
    """
    found = [source] if source.is_file() else sorted(source.glob("*.csv"))
    if len(found) != 1:
        raise UserError(f"{source} holds {len(found)} CSV files. Name the file with the table itself. {COLUMNS}")
    return found[0]


def is_table(path: Path) -> bool:
    """Whether the CSV file `path` has columns for images and masks."""
    try:
        header, _ = _content(path)
    except UserError:
        return False
    return "mask" in header and bool(_image_columns(header))


def _rows(table: Path) -> list[_Row]:
    """The rows, which name something; cells without spaces around them."""
    header, lines = _content(table)
    images = _image_columns(header)
    if not images or len(set(header)) < len(header) or not lines:
        raise UserError(
            f"{table} has {len(lines)} rows and the columns {', '.join(header)}; expected a row for every scan and "
            f"every column once. {COLUMNS}"
        )
    rows = []
    for line, cells in lines:
        named = dict(zip(header, [*cells, *[""] * len(header)], strict=False))
        known = {column: named.get(column, "") for column in ("mask", "case", "patient", "side")}
        files = tuple(named[column] for column in images)
        rows.append(_Row(line, tuple(images), files, **known, extra=len(cells) > len(header)))
    return rows


def _content(table: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The names of the columns in lower case, and the cells of every row with its line."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            file.seek(0)
            reader = csv.reader(file, delimiter=max(",;\t", key=first.count), skipinitialspace=True)
            lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{table} cannot be read as CSV: {error}. Save it again as text with commas.") from error
    header = [cell.lower() for cell in lines[0][1]] if lines else []
    return header, [(line, cells) for line, cells in lines[1:] if any(cells)]


def _image_columns(header: Sequence[str]) -> list[str]:
    """The columns of the channels in their order; none if one is missing."""
    numbered = [column for column in header if re.fullmatch(r"image_[0-9]+", column)]
    expected = [f"image_{index}" for index in range(len(numbered))] or ["image"]
    return expected if ("image" in header) != bool(numbered) and set(expected) <= set(header) else []


def _problems(row: _Row, folder: Path) -> Iterator[str]:
    """What is wrong with one row by itself."""
    if row.extra:
        yield "there are more cells than columns"
    for file in (*row.images, *([row.mask] if row.mask else [])):
        if not file:
            yield "an image is missing"
        elif not (folder / file).exists():
            yield f"{folder / file} does not exist; paths start from {folder}"
        elif not is_scan(folder / file):
            yield f"{file} is of no known format; expected a name that ends in {', '.join(ENDINGS)}"
    if _side(row) is None:
        yield f"side is {row.side!r}; expected {', '.join(SUBSETS)}, or nothing, which means train"
    for name in (row.case, row.patient):
        if re.search(r"[/\\]|^[.]", name):
            yield f"{name!r} cannot be part of a file's name"


def _side(row: _Row) -> Subset | None:
    return next((side for side in SUBSETS if side == (row.side.lower() or "train")), None)


def _names(rows: Sequence[_Row]) -> list[str]:
    """The name of every scan, from which its patient can be read."""
    by_file = scan_names([row.images[0] for row in rows])
    counts: Counter[str] = Counter()
    names = []
    for row in rows:
        counts[row.patient] += 1
        case = row.case or by_file[row.images[0]]
        choices = (case, f"{row.patient}_{case}", f"{row.patient}_scan{counts[row.patient]}")
        names.append(
            next((name for name in choices if not row.patient or patient_of(name) == row.patient), choices[-1])
        )
    return names


def _repeated(rows: Sequence[_Row], names: Sequence[str]) -> list[str]:
    """Scans that are there twice, and patients who cannot be read from any name."""
    first: dict[str, int] = {}
    twice = [
        f"line {row.line}: {name} is in line {first[name]} already"
        for row, name in zip(rows, names, strict=True)
        if first.setdefault(name, row.line) != row.line
    ]
    return twice + [
        f"line {row.line}: patient {row.patient} would be taken for {patient_of(name)}; call patients otherwise"
        for row, name in zip(rows, names, strict=True)
        if row.patient and patient_of(name) != row.patient
    ]
