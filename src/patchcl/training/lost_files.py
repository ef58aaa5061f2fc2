"""Files that a run needs and that are damaged, or vanish while it goes on: one line, or one message."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from patchcl.core.errors import UserError


def tell_damaged(files: Sequence[Path], console: Console) -> None:
    """Say in one line that prepared `files` were damaged; nothing if there are none."""
    if files:
        more = f" and {len(files) - 1} more" if len(files) > 1 else ""
        line = f"Prepared files were damaged and have been prepared anew: {sorted(files)[0]}{more}."
        console.print(line, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def lost_files_as_message(root: Path) -> Iterator[None]:
    """Turn a file that can no longer be read or written, because a disk is full or gone, into a message.

    Raises:
        UserError: Names the file, and how to go on with the run in `root`.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, ConnectionError | ChildProcessError):
            raise
        named = error.filename2 or error.filename or root
        raise UserError(
            f"{named} cannot be written or read any more: {error.strerror or error}. Make room, or bring its folder "
            f"back, and go on from the last checkpoint with: patchcl resume {root}"
        ) from error
