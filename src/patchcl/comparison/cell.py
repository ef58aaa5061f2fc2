"""A run as a unit of work: a process of its own, so that its memory and its part of a card end with it.

This module loads neither torch nor anything else that is heavy: who starts the process only waits for it.
"""

import os
import signal
import subprocess  # nosec B404  # for our own workers, without a shell
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from patchcl.core.files import write_text
from patchcl.core.loading import program
from patchcl.core.lock import locks_on
from patchcl.core.memory import without_dasks_wish
from patchcl.core.threads import for_new_process
from patchcl.core.unit_process import LostWorkerError, how_it_ended, stop_asked

WORKER = (sys.executable, *program("patchcl.comparison.worker"))
POLL_SECONDS = 0.1
BUSY, REPLACED = 75, 76
"""Exit codes: another process has the run, from the start or since this one fell silent."""
CUT_SHORT = (BUSY, REPLACED, 128 + signal.SIGTERM)


class Cell(NamedTuple):
    """A run to be made."""

    run_id: str
    root: str
    job: str  # in JSON, as the worker reads it
    command: tuple[str, ...] = WORKER


class CellEnding(NamedTuple):
    """How a cell ended that was not cut short."""

    failure: str | None
    stopped: bool  # as somebody asked; all is saved
    seconds: float


def run_cell(cell: Cell) -> CellEnding:
    """Work on a run until it is finished, has failed or is asked to stop; where it was left, it goes on.

    A run that another process still holds, as one whose starter was killed and that is about to save, is waited for.

    Raises:
        LostWorkerError: Its process was killed or taken off: it is to be tried again.
    """
    root, began = Path(cell.root), time.monotonic()
    while held(root):
        if stop_asked():
            return CellEnding(None, True, 0.0)
        time.sleep(POLL_SECONDS * 10)
    error_file(root).unlink(missing_ok=True)
    process, asked = _started(cell, root), False
    with process:
        while process.poll() is None:
            if stop_asked() and not asked:
                asked = True
                _close(process)
            time.sleep(POLL_SECONDS)
        _close(process)
    if process.returncode == 0 or asked:
        return CellEnding(None, process.returncode != 0, time.monotonic() - began)
    reason = _reason(root, process.returncode)
    if process.returncode < 0 or process.returncode in CUT_SHORT:
        raise LostWorkerError(reason)
    return CellEnding(reason, False, time.monotonic() - began)


def held(root: Path) -> bool:
    """Whether a process works on the run, or has been silent for too short a time to tell that it is gone."""
    return any(lock.alive for lock in locks_on(root))


def error_file(root: Path) -> Path:
    """The file that says why a run failed; there is none if it did not."""
    return root.with_name(f"{root.name}.error")


def log_file(root: Path) -> Path:
    """The file that holds a worker's output."""
    return root.with_name(f"{root.name}.log")


def _started(cell: Cell, root: Path) -> "subprocess.Popen[str]":
    """A new process on the run, its output in a file beside it. A Ctrl-C does not reach it: we pass it on."""
    root.parent.mkdir(parents=True, exist_ok=True)
    with log_file(root).open("a", encoding="utf-8") as log:
        pipe, now = subprocess.PIPE, for_new_process(without_dasks_wish(os.environ))
        process = subprocess.Popen(  # nosec B603  # this very Python; the job goes over a pipe, not the command line
            cell.command, stdin=pipe, stdout=log, stderr=log, text=True, start_new_session=True, env=now
        )
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it is gone already, and its exit code will say so
        process.stdin.write(cell.job + "\n")
        process.stdin.flush()
    return process


def _close(process: "subprocess.Popen[str]") -> None:
    """Ask a worker to stop, by the end of its input."""
    if process.stdin is not None:
        with suppress(BrokenPipeError):
            process.stdin.close()


def _reason(root: Path, code: int) -> str:
    """Why a worker failed, kept beside the run: by itself if it could, else here."""
    if not error_file(root).is_file():
        write_text(error_file(root), f"its process ended with {how_it_ended(code)}; see {log_file(root).name}")
    return error_file(root).read_text(encoding="utf-8")
