"""What a run writes about itself while it goes: JSON lines and CSV for programs, TensorBoard for people."""

import csv
import io
import json
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from patchcl.core.batch import StepResult
from patchcl.core.files import write_text
from patchcl.runs.folder import RunFolder

Row = dict[str, float]

RENAMED = {"alarms": "warnings"}
"""Key that version 0.1 wrote -> what it is called now."""


class RunLog:
    """Sums losses on the device and brings them to the host once per interval, never within a step."""

    def __init__(self, run: RunFolder, first_step: int) -> None:
        self.run = run
        self._open(first_step)

    def _open(self, first_step: int) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self.rows = [row for row in read_rows(self.run) if row["step"] <= first_step]
        write_text(self.run.log_jsonl, "".join(json.dumps(row) + "\n" for row in self.rows))
        self._lines = self.run.log_jsonl.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(self.run.tensorboard), purge_step=first_step + 1)

    def add(self, result: StepResult) -> None:
        """Takes in one step."""
        for name, value in {"loss": result.loss.detach(), **result.terms}.items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value
            self._counts[name] = self._counts.get(name, 0) + 1

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
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        return row

    def rewind(self, step: int) -> None:
        """Forgets what came after `step`, for the run goes on from there."""
        self.close()
        self._open(step)

    def close(self) -> None:
        """Closes the files, and writes the CSV."""
        self.write_csv()
        self._lines.close()
        self._board.close()

    def write_csv(self) -> None:
        """The whole log as one table; a cell is empty where a row has no such value."""
        table = io.StringIO()
        columns = dict.fromkeys(name for row in self.rows for name in row)
        writer = csv.DictWriter(table, list(columns))
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.run.log_csv, table.getvalue())


def rescues_of(rows: Sequence[Row]) -> int:
    """How often training diverged and was rescued, by the log of a run."""
    return max((int(row.get("rescues", 0)) for row in rows), default=0)


def read_rows(run: RunFolder) -> list[Row]:
    """The rows of a run's log, keys of version 0.1 renamed; a last line cut short by a crash is left out."""
    if not run.log_jsonl.is_file():
        return []
    rows: list[Row] = []
    for line in run.log_jsonl.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break
        rows.append({RENAMED.get(name, name): value for name, value in row.items()})
    return rows
