"""Progress of a comparison: a line for every event, and bars on a terminal."""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from patchcl.comparison.cell import Cell, CellEnding
from patchcl.comparison.worker import Job
from patchcl.core.executor import Tally, duration
from patchcl.core.signals import StopRequest
from patchcl.runs.folder import RunFolder
from patchcl.runs.log import read_rows


class CompareProgress:
    """A progress bar for all runs and one for each that is being worked on, and lines above them."""

    def __init__(self, console: Console, jobs: Mapping[str, Job]) -> None:
        self.console, self.jobs, self.tally, self.stopping = console, jobs, Tally(len(jobs)), False
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self.all = self.bar.add_task("runs", total=len(jobs))
        self.tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def say(self, text: str) -> None:
        """Print one line."""
        self.console.print(text, highlight=False, soft_wrap=True, markup=False)

    def begin(self, cell: Cell) -> None:
        """Say that a run begins, and show its bar."""
        steps = self.jobs[cell.run_id].settings.training.steps
        self.tasks[cell.run_id] = self.bar.add_task(f"  {cell.run_id}", total=steps)
        self.tally.running += 1
        self.say(f"{cell.run_id} {'goes on' if Path(cell.root).exists() else 'starts'}")

    def update(self, stop: StopRequest) -> None:
        """Move the bar of every run to the step that its log has come to; say once that all are to stop."""
        if stop and not self.stopping:
            self.say("Stopping: whatever runs saves its state first. Ctrl-C again gives that up.")
        self.stopping = bool(stop)
        if self.console.is_terminal:
            for run_id, task in self.tasks.items():
                rows = read_rows(RunFolder(self.jobs[run_id].root))
                self.bar.update(task, completed=rows[-1]["step"] if rows else 0)
            self.bar.update(self.all, description=f"runs: {self.tally}")

    def end(self, cell: Cell, ending: CellEnding, scored: str) -> None:
        """Say how a run ended, unless it was stopped and will go on another time."""
        self.bar.remove_task(self.tasks.pop(cell.run_id))
        self.tally.running -= 1
        if ending.stopped:
            return
        self.tally.done += 1
        self.tally.failed += ending.failure is not None
        self.bar.update(self.all, completed=self.tally.done)
        text = f"{scored}, {ending.seconds:.0f} s" if ending.failure is None else f"failed: {ending.failure}"
        self.say(f"[{self.tally.done}/{self.tally.total}] {cell.run_id} {text}{self._left()}")

    def _left(self) -> str:
        """How long the rest will take, where no bar says so."""
        seconds = self.tally.seconds_left
        return f"; {duration(seconds)} left" if seconds and not self.console.is_terminal else ""
