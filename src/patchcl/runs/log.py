"""The log of a run: JSON lines and CSV for programs, TensorBoard or another logger for people.

JSON lines are ours: a resumed run cuts them at its step, where Fabric's CSVLogger deletes the file that it finds.
"""

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from patchcl.config import LoggerName
from patchcl.core.batch import StepResult
from patchcl.core.console import console
from patchcl.core.documents import DocumentError, parse_json
from patchcl.core.files import write_text
from patchcl.core.names import file_safe
from patchcl.runs.folder import RunFolder
from patchcl.runs.loggers import open_logger

Row = dict[str, float]

RENAMED = {"alarms": "warnings"}
"""Key that version 0.1 wrote -> what it is called now."""
REMEDIES = ("clipped gradients", "clipped gradients and half the learning rate")
"""What is tried after the first and after the second time that a run diverged."""
DAMAGED = "log.damaged-"
LAST_STEP = 2**53
"""More than any run has; numbers beyond it are no steps."""


class RunLog:
    """Sums losses on the device and brings them to the host once per interval, never within a step."""

    def __init__(self, run: RunFolder, first_step: int, loggers: Sequence[LoggerName] = ("tensorboard",)) -> None:
        """Continues the log after `first_step` steps; `loggers` get every row as well."""
        self.run = run
        self._loggers: list[Any] = []
        self._names = loggers
        self._open(first_step)

    def _open(self, first_step: int) -> None:
        self._loggers = [open_logger(name, self.run, first_step) for name in self._names]
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        aside = set_aside_if_damaged(self.run)
        if aside is not None:
            line = (
                f"{self.run.log_jsonl} cannot be read in full: it is kept as {aside.name} and begun anew with what can."
            )
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        self.rows = [row for row in read_rows(self.run) if row["step"] <= first_step]
        write_text(self.run.log_jsonl, _text(self.rows))
        self._lines = self.run.log_jsonl.open("a", encoding="utf-8")
        self._columns: list[str] = []
        if self.rows:
            self._write_csv()

    def add(self, result: StepResult) -> None:
        """Takes in one step."""
        terms = {"loss": result.loss.detach(), **result.terms}
        for name, value in terms.items():
            if name not in self._sums:
                self._sums[name], self._counts[name] = torch.zeros_like(value), 0
            self._counts[name] += 1
        torch._foreach_add_([self._sums[name] for name in terms], list(terms.values()))  # one kernel for all

    def flush(self, step: int, extra: Mapping[str, float]) -> Row:
        """Writes the means since the last flush, with `extra` beside them, as the row of `step`."""
        names = list(self._sums)
        values = torch.stack([self._sums[name].float() for name in names]).tolist() if names else []
        row = {name: value / self._counts[name] for name, value in zip(names, values, strict=True)}
        self._sums, self._counts = {}, {}
        return self.write(step, {**row, **extra})

    def write(self, step: int, values: Mapping[str, float]) -> Row:
        """Writes `values` as a row of `step`."""
        row: Row = {"step": step, **values}
        self.rows.append(row)
        self._lines.write(json.dumps(row) + "\n")
        self._lines.flush()
        self._append_to_csv(row)
        for logger in self._loggers:
            logger.log_metrics({file_safe(name): value for name, value in values.items()}, step)
        return row

    def rewind(self, step: int) -> None:
        """Forgets what came after `step`, for the run goes on from there."""
        self.close()
        self._open(step)

    def close(self) -> None:
        """Closes the files."""
        self._lines.close()
        for logger in self._loggers:
            logger.finalize("success")

    def _write_csv(self) -> None:
        """The whole log as one table, under the names of its columns."""
        self._columns = list(dict.fromkeys(name for row in self.rows for name in row))
        heading = {name: name for name in self._columns}
        write_text(self.run.log_csv, csv_lines(self._columns, [heading, *self.rows]))

    def _append_to_csv(self, row: Row) -> None:
        """One more line, or the whole anew where the row has a value that no row before it had."""
        if not row.keys() <= set(self._columns):
            self._write_csv()
            return
        with self.run.log_csv.open("a", encoding="utf-8") as table:
            table.write(csv_lines(self._columns, [row]))


def csv_lines(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> str:
    """Rows as lines of a CSV file; a cell is empty where a row has no such value."""
    lines = io.StringIO()
    csv.DictWriter(lines, columns).writerows(rows)
    return lines.getvalue()


def rescues_of(rows: Sequence[Row]) -> int:
    """How often training diverged and was rescued, by the log of a run."""
    return max((int(row.get("rescues", 0)) for row in rows), default=0)


def read_rows(run: RunFolder) -> list[Row]:
    """The rows of a run's log that can be read, keys of version 0.1 renamed."""
    rows = [_row(line) for line in _lines_of(run)]
    return [{RENAMED.get(name, name): value for name, value in row.items()} for row in rows if row is not None]


def set_aside_if_damaged(run: RunFolder) -> Path | None:
    """Rename a log with lines that are no rows, begin it anew with the rows that are, and give the file of the old one.

    A last line cut short by a crash is no damage.
    """
    *whole, last = _lines_of(run) or [b""]
    if all(_row(line) is not None for line in whole) and (_row(last) is not None or _cut_short(last)):
        return None
    taken = len(list(run.root.glob(f"{DAMAGED}*.jsonl")))
    aside = run.root / f"{DAMAGED}{taken + 1}.jsonl"
    rows = read_rows(run)
    run.log_jsonl.rename(aside)
    write_text(run.log_jsonl, _text(rows))
    return aside


def _text(rows: Sequence[Row]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _lines_of(run: RunFolder) -> list[bytes]:
    content = run.log_jsonl.read_bytes() if run.log_jsonl.is_file() else b""
    return [line for line in content.split(b"\n") if line.strip()]


def _row(line: bytes) -> Row | None:
    """The row that a line holds; None if it is none."""
    try:
        row = parse_json(line)
    except DocumentError:
        return None
    numbers = isinstance(row, dict) and all(type(value) in (int, float) for value in row.values())
    return row if numbers and type(row.get("step")) is int and 0 <= row["step"] < LAST_STEP else None


def _cut_short(line: bytes) -> bool:
    """Whether the line is the beginning of a row, as a crash leaves it; nothing at all counts as well."""
    return not line or re.fullmatch(rb'\{(?:"(?:s|st|ste|step|step"[^{}\[\]\0]*)?)?', line) is not None
