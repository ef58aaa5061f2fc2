"""CSV table of scans, wherever their files lie."""

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from patchcl.core.errors import UserError
from patchcl.data.formats import ENDINGS, is_scan
from patchcl.data.importers.registry import NO_OPTIONS, Importer, ImportOptions
from patchcl.data.importers.scan_files import ScanFiles, dataset_of, first_lines, scan_names
from patchcl.data.importers.writer import SUBSETS, SourceDataset, Subset, patient_of

SHOWN = 20
COLUMNS = "Columns are image (or image_0, image_1, ... for channels), mask, and perhaps case, patient and side."


class Row(NamedTuple):
    """One scan that a CSV file lists."""

    line: str  # where it stands, as a message tells it
    images: dict[str, str]  # column -> file
    mask: str = ""  # empty for an unlabeled scan
    case: str = ""
    patient: str = ""
    side: str = ""
    extra: bool = False  # there are more cells than columns


def detect(source: Path) -> bool:
    """Whether `source` is, or holds as its only one, a CSV file with columns for images and masks."""
    tables = _tables(source)
    if len(tables) != 1 or tables[0].suffix.lower() != ".csv":
        return False
    try:
        header, _ = read_csv(tables[0])
    except UserError:
        return False
    columns = [column.lower() for column in header]
    return "mask" in columns and bool(_image_columns(columns))


def convert(source: Path, options: ImportOptions = NO_OPTIONS) -> SourceDataset:
    """The scans that the CSV file `source` lists, or the only CSV file in the folder `source`.

    Columns are `image`, or `image_0`, `image_1`, ... for the channels, and `mask`, empty for an unlabeled scan. There
    may be `case` (the name of the scan), `patient`, and `side` (train, validation or test); other columns are left
    aside. Paths start from the folder of the table. Where its name does not tell whose a scan is, it is called
    PATIENT_NAME if that does, else PATIENT_scan1, PATIENT_scan2, ...
    """
    tables = _tables(source)
    if len(tables) != 1:
        raise UserError(f"{source} holds {len(tables)} CSV files. Name the file with the table itself. {COLUMNS}")
    dataset = dataset_of_rows(tables[0].stem, _rows(tables[0]), tables[0], tables[0].parent, options)
    return dataset._replace(lists=(tables[0],))


def dataset_of_rows(
    name: str, rows: Sequence[Row], source: Path, folder: Path, options: ImportOptions = NO_OPTIONS
) -> SourceDataset:
    """The data set of all `rows`, whose paths start from `folder`; `options` say what masks hold.

    Raises:
        UserError: Lists every row of `source` that is wrong, with its line.
    """
    names = _names(rows)
    problems = [f"  {row.line}: {problem}" for row in rows for problem in _problems(row, folder)]
    problems += [] if problems else _contradictions(rows, names)
    if problems:
        raise UserError(f"{source} lists scans that cannot be imported. Correct it:\n{first_lines(problems, SHOWN)}")
    scans = []
    for scan, row in zip(names, rows, strict=True):
        mask = folder / row.mask if row.mask else None
        images, side = [folder / file for file in row.images.values()], _side(row) or "train"
        scans.append(ScanFiles(scan, images, mask, side, options.threshold, bool(options.objects)))
    return dataset_of(name, scans, tuple(rows[0].images))


def read_csv(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The names of the columns, and the cells of every row that is not blank with its line, without spaces around them.

    Raises:
        UserError: It cannot be read.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            file.seek(0)
            reader = csv.reader(file, delimiter=max(",;\t", key=first.count), skipinitialspace=True)
            lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if cells]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as CSV: {error}. Save it again as text with commas.") from error
    return (lines[0][1], lines[1:]) if lines else ([], [])


def by_column(header: Sequence[str], cells: Sequence[str]) -> dict[str, str]:
    """Column -> cell of one row; cells that are missing at its end are empty."""
    return dict(zip(header, [*cells, *[""] * len(header)], strict=False))


def _tables(source: Path) -> list[Path]:
    return [source] if source.is_file() else sorted(source.glob("*.csv"))


def _rows(table: Path) -> list[Row]:
    """The rows that name something."""
    names, lines = read_csv(table)
    header, lines = [name.lower() for name in names], [(line, cells) for line, cells in lines if any(cells)]
    columns = _image_columns(header)
    if not columns or len(set(header)) < len(header) or not lines:
        raise UserError(
            f"{table} has {len(lines)} rows and the columns {', '.join(header)}; expected a row for every scan and "
            f"every column once. {COLUMNS}"
        )
    rows = []
    for line, cells in lines:
        named = by_column(header, cells)
        known = {column: named.get(column, "") for column in ("mask", "case", "patient", "side")}
        images = {column: named[column] for column in columns}
        rows.append(Row(f"line {line}", images, **known, extra=len(cells) > len(header)))
    return rows


def _image_columns(header: Sequence[str]) -> list[str]:
    """The columns of the channels in their order; none if one is missing."""
    numbered = [column for column in header if re.fullmatch(r"image_[0-9]+", column)]
    expected = [f"image_{index}" for index in range(len(numbered))] or ["image"]
    return expected if ("image" in header) != bool(numbered) and set(expected) <= set(header) else []


def _problems(row: Row, folder: Path) -> Iterator[str]:
    """What is wrong with one row by itself."""
    if row.extra:
        yield "there are more cells than columns"
    for file in (*row.images.values(), *([row.mask] if row.mask else [])):
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


def _side(row: Row) -> Subset | None:
    return next((side for side in SUBSETS if side == (row.side.lower() or "train")), None)


def _names(rows: Sequence[Row]) -> list[str]:
    """The name of every scan, from which its patient can be read."""
    files = [next(iter(row.images.values())) for row in rows]
    by_file = scan_names(files)
    counts: Counter[str] = Counter()
    names = []
    for row, file in zip(rows, files, strict=True):
        counts[row.patient] += 1
        case = row.case or by_file[file]
        choices = (case, f"{row.patient}_{case}", f"{row.patient}_scan{counts[row.patient]}")
        fitting = (name for name in choices if not row.patient or patient_of(name) == row.patient)
        names.append(next(fitting, choices[-1]))
    return names


def _contradictions(rows: Sequence[Row], names: Sequence[str]) -> list[str]:
    """Scans that are there twice, and patients who cannot be read from any name."""
    first: dict[str, str] = {}
    twice = [
        f"  {row.line}: {name} is in {first[name]} already"
        for row, name in zip(rows, names, strict=True)
        if first.setdefault(name, row.line) != row.line
    ]
    return twice + [
        f"  {row.line}: patient {row.patient} would be taken for {patient_of(name)}; call patients otherwise"
        for row, name in zip(rows, names, strict=True)
        if row.patient and patient_of(name) != row.patient
    ]


DESCRIPTION = "a CSV file with columns image and mask, or a folder with one"
IMPORTER = Importer("table", DESCRIPTION, detect, convert, options=("threshold", "objects"), takes_file=True)
