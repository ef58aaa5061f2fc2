"""Progress display of a run: a bar with the time left, and a line for every validation and warning."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from patchcl.runs.log import Row


class TrainingProgress:
    """A bar on a terminal; where there is none, the lines alone, with pace and time left in them."""

    def __init__(self, console: Console, title: str, steps: int, first_step: int = 0) -> None:
        self.console, self.title, self.steps = console, title, steps
        self.bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task(title, total=steps, completed=first_step)

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def advance(self, step: int) -> None:
        """`step` steps are done."""
        self.bar.update(self.task, completed=step)

    def report(self, row: Row, seconds_per_step: float, new_warnings: Sequence[str] = ()) -> None:
        """A validation is done; these are its figures, and this is what has begun to go wrong."""
        left = (self.steps - row["step"]) * seconds_per_step / 60
        dice = f"  validation Dice {row['validation_dice']:.3f}" if "validation_dice" in row else ""
        self._say(
            f"{self.title}  step {row['step']:.0f}/{self.steps}{dice}"
            f"  ({seconds_per_step:.2f} s/step, {left:.0f} min left)"
        )
        for warning in new_warnings:
            self._say(f"{self.title}  step {row['step']:.0f}/{self.steps}  warning: {warning}")

    def notice(self, line: str) -> None:
        """Something happened to the run that who watches it must know."""
        self._say(f"{self.title}  {line}")

    def _say(self, line: str) -> None:
        self.console.print(line, highlight=False, soft_wrap=True, markup=False)
