"""Progress of a comparison: a line for every event, and bars on a terminal."""

from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from patchcl.comparison.worker import Job
from patchcl.runs.folder import RunFolder
from patchcl.runs.log import read_rows


class CompareProgress:
    """A progress bar for all runs and one for each that is being worked on, and lines above them."""

    def __init__(self, console: Console, runs: int) -> None:
        self.console, self.runs, self.done = console, runs, 0
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self.all = self.bar.add_task("runs", total=runs)
        self.tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def say(self, text: str) -> None:
        """Print one line."""
        self.console.print(text, highlight=False, soft_wrap=True, markup=False)

    def begin(self, run_id: str, job: Job) -> None:
        """Say that a worker starts on a run, and show its bar."""
        self.tasks[run_id] = self.bar.add_task(f"  {run_id}", total=job.settings.training.steps)
        self.say(f"{run_id} {'goes on' if job.root.exists() else 'starts'}")

    def update(self, run_id: str, job: Job) -> None:
        """Move the bar of a run to the step that its log has come to."""
        if self.console.is_terminal:
            rows = read_rows(RunFolder(job.root))
            self.bar.update(self.tasks[run_id], completed=rows[-1]["step"] if rows else 0)

    def remove(self, run_id: str) -> None:
        """Remove the bar of a run that no worker of ours is at any more."""
        self.bar.remove_task(self.tasks.pop(run_id))

    def finish(self, run_id: str, text: str) -> None:
        """Say how a run ended, for which nothing is left to do."""
        self.done += 1
        self.bar.update(self.all, completed=self.done)
        self.say(f"[{self.done}/{self.runs}] {run_id} {text}")
