"""Console and progress bars, on a terminal or in a notebook."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import Progress, TaskID
from rich.segment import Segment

from patchcl.core.names import printable
from patchcl.core.parallel import ProgressCallback


class SafeConsole(Console):
    """A console on which no text steers the terminal, and none fails because the encoding lacks a character."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The pieces of what is to be shown; only those of rich itself move the cursor or clear anything."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=self._shown(segment.text))

    def _shown(self, text: str) -> str:
        encoding = getattr(self.file, "encoding", None) or "utf-8"
        return printable(text).encode(encoding, "replace").decode(encoding, "replace")


console = SafeConsole()
errors = SafeConsole(stderr=True)


def replace_what_cannot_be_shown() -> None:
    """Let the streams of this process write `?` for a character that their encoding lacks, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")


@contextmanager
def progress_bar(title: str) -> Iterator[ProgressCallback]:
    """Progress bar while the block runs, moved by what it yields; nothing where the output is no terminal."""
    with progress_bars(title) as (on_progress,):
        yield on_progress


@contextmanager
def progress_bars(*titles: str) -> Iterator[list[ProgressCallback]]:
    """As `progress_bar`, one for each phase of what the block does; all but the first appear when they are moved."""
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bars:
        tasks = [bars.add_task(title, total=None, visible=title == titles[0]) for title in titles]
        yield [partial(_move, bars, task) for task in tasks]


def part_of(on_progress: ProgressCallback | None, before: int, total: int, weight: int = 1) -> ProgressCallback | None:
    """What a part of something larger tells its progress, so that it becomes that of the whole.

    Args:
        on_progress: Told the progress of the whole.
        before: How much of that is done when the part begins.
        total: How much the whole is.
        weight: How much of the whole is each item of the part.
    """
    if on_progress is None:
        return None
    told = on_progress
    return lambda done, _: told(before + weight * done, total)


def _move(bars: Progress, task: TaskID, done: int, total: int) -> None:
    bars.update(task, completed=done, total=total, visible=True)
