"""What is known of a segmented scan beside its mask: volumes, confidence, and how unlike training the scan is."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.markup import escape

from patchcl.core.files import write_rows
from patchcl.core.names import no_formula
from patchcl.data.geometry import Grid
from patchcl.data.regions import Regions

TABLE = "predictions.csv"
"""The file beside the masks."""
CASE, CONFIDENCE, FLAGS = "case", "mean confidence", "unlike training"


class CaseSummary(NamedTuple):
    """One segmented scan."""

    case: str
    sizes: Mapping[str, float]  # by column: a structure and its unit, ml of volumes and mm2 of slices
    confidence: float  # in [0, 1], see `confidence_of`
    unlike: Mapping[str, str]  # see `familiarity.unlike`

    @property
    def warning(self) -> str:
        """One line on how unlike training the scan is; nothing if it is not."""
        told = "; ".join(self.unlike.values())
        return f"{self.case} is unlike what the network was trained on: {told}. Look at its mask." if told else ""


class Confidences(NamedTuple):
    """Sums from which a mean confidence comes, of parts of a scan."""

    structures: float = 0.0
    structure_voxels: int = 0
    everything: float = 0.0
    voxels: int = 0

    def with_part(self, probs: np.ndarray) -> "Confidences":
        """These sums with those of probabilities (K, ...)."""
        highest, inside = probs.max(axis=0), probs.argmax(axis=0) > 0
        return Confidences(
            self.structures + float(highest[inside].sum(dtype=np.float64)),
            self.structure_voxels + int(np.count_nonzero(inside)),
            self.everything + float(highest.sum(dtype=np.float64)),
            self.voxels + highest.size,
        )

    @property
    def mean(self) -> float:
        """The mean probability of the class that was chosen where that is a structure; over all if that is nowhere."""
        if self.structure_voxels:
            return self.structures / self.structure_voxels
        return self.everything / max(self.voxels, 1)


def sizes_of(mask: np.ndarray, grid: Grid, classes: Sequence[str], regions: Regions) -> dict[str, float]:
    """The volume of each class, or of each region if there are any, in ml, or its area in mm2 on a slice."""
    unit, scale = ("ml", 1000.0) if len(grid.shape) == 3 else ("mm2", 1.0)
    counts = np.bincount(mask.ravel(), minlength=len(classes))
    joined = regions or {name: (value,) for value, name in enumerate(classes) if value}
    voxel = math.prod(grid.spacing_mm) / scale
    return {f"{name} {unit}": float(counts[list(values)].sum() * voxel) for name, values in joined.items()}


def write_table(path: Path, cases: Sequence[CaseSummary]) -> None:
    """Write a CSV with a row for each of `cases`; rows of other scans that it holds already stay.

    So a folder to which scans are segmented one by one gets one table.
    """
    columns = [CASE, *dict.fromkeys(column for case in cases for column in case.sizes), CONFIDENCE, FLAGS]
    rows = {row[CASE]: row for row in _rows_of(path, columns)} | {row[CASE]: row for row in map(_row, cases)}
    write_rows(path, dict(zip(columns, columns, strict=True)), [rows[name] for name in sorted(rows)])


def render(cases: Sequence[CaseSummary], out: Path, console: Console) -> None:
    """Print what is unlike training, a line for each scan, and where the table of all of them is."""
    unlike = [case.warning for case in cases if case.unlike]
    for line in unlike:
        console.print(f"[yellow]Warning:[/yellow] {escape(line)}", highlight=False, soft_wrap=True)
    if cases:
        told = f"{len(unlike)} of them unlike what it was trained on. " if unlike else ""
        line = f"{told}Volumes, mean confidence and warnings: {out / TABLE}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _row(case: CaseSummary) -> dict[str, str]:
    sizes = {column: f"{size:.6g}" for column, size in case.sizes.items()}
    return {CASE: no_formula(case.case), **sizes, CONFIDENCE: f"{case.confidence:.4f}", FLAGS: ", ".join(case.unlike)}


def _rows_of(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a table with these very columns; none of any other file."""
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    except (OSError, ValueError, csv.Error):
        return []
    return rows if all(list(row) == list(columns) for row in rows) else []
