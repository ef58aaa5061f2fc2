"""Console and progress bars, on a terminal or in a notebook."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress

from patchcl.core.parallel import ProgressCallback

console = Console()
errors = Console(stderr=True)


@contextmanager
def progress_bar(title: str) -> Iterator[ProgressCallback]:
    """Progress bar while the block runs, moved by what it yields; nothing where the output is no terminal."""
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
