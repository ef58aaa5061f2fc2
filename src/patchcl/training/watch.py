"""Signs of life: how the processes of a run notice that one of them is gone, and what then becomes of the others."""

import os
import subprocess  # nosec B404  # for a type: what it watches
import time
from collections.abc import Callable, Sequence
from threading import Event, Thread

from torch.distributed.distributed_c10d import Store

from patchcl.core.console import errors
from patchcl.core.errors import UserError
from patchcl.training.place import Place

BEAT_SECONDS = 2.0
SILENT_SECONDS = 40.0
"""A process that shows no sign of life for so long is given up, and with it all the others."""
GRACE_SECONDS = 8.0
"""What the others have to end by themselves once one is gone, before they are ended."""


class LostProcessError(UserError):
    """A process of the run is gone, and the others cannot go on without it."""

    exit_code = 1


def end(processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    """Ends processes that have nothing to save."""
    for process in processes:
        process.kill()
        process.wait()


class Watch(Thread):
    """Signs of life: every process gives them and looks out for those of the others; without one, all end."""

    def __init__(
        self,
        store: Store,
        place: Place,
        local: Sequence["subprocess.Popen[bytes]"],
        leave: Callable[[int], object] = os._exit,
    ) -> None:
        """`local` are the processes that this one started; `leave` ends this one."""
        super().__init__(daemon=True, name="watch")
        self.store, self.place, self.local, self.leave = store, place, local, leave
        self._beats = [0] * place.size
        self._heard = [time.monotonic()] * place.size
        self._ended = Event()
        self.gone = ""

    def run(self) -> None:
        """Until the end, or until another process is gone and this one has not ended in time."""
        while not self._ended.wait(BEAT_SECONDS):
            self.gone = self._look()
            if self.gone:
                if not self._ended.wait(GRACE_SECONDS):
                    errors.print(self._message(), markup=False, highlight=False, soft_wrap=True)
                    end(self.local)
                    self.leave(LostProcessError.exit_code)
                return

    def end(self) -> str:
        """No more signs; says which process is gone, or nothing."""
        self._ended.set()
        return self.gone

    def explained(self) -> str:
        """Why the run cannot go on, once it is known which process is gone, or nobody can tell."""
        limit = time.monotonic() + 2 * BEAT_SECONDS
        while not self.gone and time.monotonic() < limit:
            time.sleep(0.1)
        return self._message()

    def _message(self) -> str:
        return (
            f"Process {self.place.rank} of {self.place.size} cannot go on: {self.gone or 'another one has ended'}. "
            "What is kept is the last checkpoint; go on from there with: patchcl resume RUN"
        )

    def _look(self) -> str:
        for rank, process in enumerate(self.local, start=1):
            code = process.poll()
            if code is not None:
                how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
                return f"process {rank} {how}"
        try:
            self.store.add(f"alive/{self.place.rank}", 1)
            beats = [self.store.add(f"alive/{rank}", 0) for rank in range(self.place.size)]
        except RuntimeError:
            return "process 0, where all meet, has ended or cannot be reached"
        return self._silent(beats, time.monotonic())

    def _silent(self, beats: Sequence[int], now: float) -> str:
        """Which process has not been heard of for too long; one that has not come yet is none."""
        for rank, beat in enumerate(beats):
            if beat != self._beats[rank]:
                self._beats[rank], self._heard[rank] = beat, now
            if beat and now - self._heard[rank] > SILENT_SECONDS:
                return f"process {rank} shows no sign of life"
        return ""
