"""Console and progress bars, on a terminal or in a notebook."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import Progress
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
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
