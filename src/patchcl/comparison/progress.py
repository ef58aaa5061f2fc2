"""What a person sees while many cells run: a line for every event, and bars on a terminal."""

from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from patchcl.comparison.worker import Job
from patchcl.runs.folder import RunFolder
from patchcl.runs.log import read_rows


class Board:
    """A bar for all cells and one for each that runs, and lines above them."""

    def __init__(self, console: Console, cells: int) -> None:
        self.console, self.cells, self.done = console, cells, 0
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self.all = self.bar.add_task("cells", total=cells)
        self.tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def say(self, text: str) -> None:
        """One line."""
        self.console.print(text, highlight=False, soft_wrap=True, markup=False)

    def begin(self, place: str, job: Job) -> None:
        """A worker starts on a cell."""
        self.tasks[place] = self.bar.add_task(f"  {place}", total=job.settings.training.steps)
        self.say(f"{place} {'goes on' if job.root.exists() else 'starts'}")

    def move(self, place: str, job: Job) -> None:
        """A worker is still at it."""
        if self.console.is_terminal:
            rows = read_rows(RunFolder(job.root))
            self.bar.update(self.tasks[place], completed=rows[-1]["step"] if rows else 0)

    def leave(self, place: str) -> None:
        """No worker of ours is at it any more."""
        self.bar.remove_task(self.tasks.pop(place))

    def finish(self, place: str, text: str) -> None:
        """Nothing is left to do for a cell."""
        self.done += 1
        self.bar.update(self.all, completed=self.done)
        self.say(f"[{self.done}/{self.cells}] {place} {text}")
