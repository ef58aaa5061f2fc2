"""One process at a time writes into a run; whoever only reads may do so beside it."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from patchcl.core.console import errors
from patchcl.core.errors import UserError
from patchcl.core.lock import locked, locks_on

INSIDE = ".writer"
"""What is locked of a run whose lock cannot lie beside it."""


@contextmanager
def one_writer(root: Path, kind: str = "run", readers: str = "patchcl evaluate, predict and report") -> Iterator[None]:
    """Keep all others from writing into the run in `root`, which need not exist, as long as the block runs.

    Args:
        root: The folder.
        kind: What it is called, where it holds more than a run.
        readers: The commands that may be called meanwhile.

    Raises:
        UserError: Another process writes there, or nothing can be written.
    """
    target = lock_target(root)
    with ExitStack() as stack:
        try:
            ours = stack.enter_context(locked(target, on_lost=lambda: _leave(root)))
        except OSError as error:
            what = "write into" if root.is_dir() else "create"
            raise UserError(
                f"Cannot {what} the {kind} folder {root}: {error.strerror}. Choose another with -o."
            ) from error
        if not ours:
            holders = [str(lock) for lock in locks_on(target)[-1:]] or ["another process"]
            raise UserError(
                f"{root} is in the hands of {holders[0]}, and {'an' if kind[0] in 'aeio' else 'a'} {kind} has one "
                f"writer. Wait until that ends or stop it; {readers} need not wait."
            )
        yield


def lock_target(root: Path) -> Path:
    """What to lock of the run in `root`: its lock lies beside it, or within where nothing may be put beside it."""
    root = Path(os.path.realpath(root))
    return root / INSIDE if root.is_dir() and not os.access(root.parent, os.W_OK) else root


def _leave(root: Path) -> None:
    """Another has taken over, as nothing was heard of this process for so long: every further write would harm."""
    errors.print(f"{root} was taken over by another process, because this one was not heard of.", markup=False)
    os._exit(2)
