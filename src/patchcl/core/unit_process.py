"""A process of this machine that works on one unit after another, and what a unit can know about its place.

A call goes to it over its input, pickled, and what it returns or raises comes back over its output. The end of its
input is a request to stop: what it is told so, or if whoever started it is gone.
"""

import os
import pickle  # nosec B403  # between a process and the one that it started, over a pipe that no other has
import queue
import signal
import subprocess  # nosec B404  # for our own processes, without a shell
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from patchcl.core.loading import loading
from patchcl.core.threads import for_new_process

COMMAND = (sys.executable, "-P", "-c", "from patchcl.core.unit_process import serve; serve()")
STOP = threading.Event()
"""In a process that works on units: whether it was asked to stop."""
_PLACE = threading.local()

Call = Callable[[], Any]


class LostWorkerError(Exception):
    """The process that worked on a unit has ended before the unit did."""


def stop_asked() -> bool:
    """Whether the unit in this thread is to save what it has and to end; it looks every second or so."""
    asked: Callable[[], bool] = getattr(_PLACE, "asked", STOP.is_set)
    return asked()


@contextmanager
def asking(asked: Callable[[], bool]) -> Iterator[None]:
    """Inside, `asked` says whether the unit in this thread is to stop."""
    _PLACE.asked = asked
    try:
        yield
    finally:
        del _PLACE.asked


class UnitProcess:
    """A process that is started when there is something to do, and again when it was killed."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = {**environment, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self.process: subprocess.Popen[bytes] | None = None
        self.stopping = False
        self.lock = threading.Lock()

    def call(self, call: Call) -> Any:  # noqa: ANN401 - whatever the call returns
        """What the call returns or raises there.

        Raises:
            LostWorkerError: The process was killed, or asked to stop before it could begin.
        """
        message = pickle.dumps(call)
        process = self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            pickle.dump(message, process.stdin)
            process.stdin.flush()
            reply = pickle.load(process.stdout)  # nosec B301  # of the process that we started
        except (EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
            raise LostWorkerError(f"its process ended with {how_it_ended(self.end())}") from error
        returned, found = pickle.loads(reply)  # nosec B301
        if returned:
            return found
        raise found

    def ask_to_stop(self) -> None:
        """Let the unit at hand come to its end, and the process after it."""
        with self.lock:
            self.stopping = True
            if self.process is not None and self.process.stdin is not None:
                with suppress(OSError):
                    self.process.stdin.close()

    def kill(self) -> None:
        """End the process wherever it is, which the thread that waits for it will notice."""
        with self.lock:
            if self.process is not None:
                self.process.kill()

    def end(self) -> int:
        """End the process, if there is one, and leave nothing of it behind; gives its exit code."""
        self.kill()
        if self.process is None:
            return 0
        code, pipes, self.process = self.process.wait(), (self.process.stdin, self.process.stdout), None
        for pipe in pipes:
            with suppress(OSError):
                assert pipe is not None
                pipe.close()
        return code

    def _started(self) -> "subprocess.Popen[bytes]":
        with self.lock:
            if self.stopping:
                raise LostWorkerError("somebody asked to stop")
            if self.process is None:
                now, pipe = for_new_process(self.environment), subprocess.PIPE
                self.process = subprocess.Popen(  # nosec B603  # this very Python
                    COMMAND, stdin=pipe, stdout=pipe, env=now, start_new_session=True
                )
            return self.process


def how_it_ended(code: int) -> str:
    """The exit code of a process in words."""
    killed = ", perhaps for want of memory" if code == -9 else ""
    return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}{killed}"


def serve() -> None:
    """Work on the calls that come over the input, until that ends."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a unit prints must not come between replies
    calls: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(calls,), daemon=True).start()
    with suppress(BrokenPipeError):
        while (message := calls.get()) is not None:
            pickle.dump(_reply(message), replies)
            replies.flush()


def _read(calls: "queue.SimpleQueue[bytes | None]") -> None:
    with suppress(EOFError):
        while True:
            calls.put(pickle.load(sys.stdin.buffer))  # nosec B301  # of the process that started this one
    STOP.set()
    calls.put(None)


def _reply(message: bytes) -> bytes:
    """What a call returns, or raises, with the lines that led there as a note."""
    try:
        with loading():
            call = pickle.loads(message)  # nosec B301
        return pickle.dumps((True, call()))
    except Exception as error:
        error.add_note(traceback.format_exc())
        return pickle.dumps((False, error))
