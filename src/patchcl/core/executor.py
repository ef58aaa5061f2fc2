"""Units of work on many processes, as `concurrent.futures` has it: those of this machine, or those of a cluster.

A unit is a call of a function that can be imported, with arguments that can be pickled. It is idempotent: what it has
done already it finds beside its output and does not do again. What goes wrong with a unit it returns; an exception
means that it could not be worked on where it was, as when its process was killed, and it is tried again `RETRIES`
times, elsewhere if there is another place.
"""

import os
import queue
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from patchcl.core.errors import UserError
from patchcl.core.signals import StopRequest
from patchcl.core.threads import usable_cores
from patchcl.core.unit_process import UnitProcess

RETRIES = 3
POLL_SECONDS = 0.5
"""Between two looks at whether somebody asked to stop."""

Unit = TypeVar("Unit")
Found = TypeVar("Found")


class UnitExecutor(Executor):
    """An executor that says how many units it works on at a time, and can ask these to stop."""

    @abstractmethod
    def slots(self) -> int:
        """How many units are worked on at a time, at least one."""

    @abstractmethod
    def stop(self) -> None:
        """Begin no unit any more, and ask those that run to save what they have and to end; can be called again."""


@dataclass
class Tally:
    """How far the units have come."""

    total: int
    done: int = 0  # failed ones included
    failed: int = 0
    running: int = 0
    begun: float = field(default_factory=time.monotonic)

    @property
    def seconds_left(self) -> float | None:
        """What the rest will take at the pace so far; None before one is done."""
        seconds = time.monotonic() - self.begun
        return seconds / self.done * (self.total - self.done) if self.done else None

    def __str__(self) -> str:
        counts = f"{self.done} of {self.total} done, {self.running} running, {self.failed} failed"
        return counts + ("" if self.seconds_left is None else f", {duration(self.seconds_left)} left")


@contextmanager
def workers(count: int, cluster: str | None, folder: Path, say: Callable[[str], object]) -> Iterator[UnitExecutor]:
    """An executor on `count` processes of this machine, or on the workers of a cluster; at the end its units stop.

    Args:
        count: Processes; on a cluster its workers say how many they are.
        cluster: The address of a Dask scheduler, or the file in which it has written that; None for this machine.
        folder: What all workers must see, and can read and write.
        say: Told where the work can be watched.

    Raises:
        UserError: Dask is not installed, nobody answers, or a worker is of another version or does not see `folder`.
    """
    if cluster is None:
        executor: UnitExecutor = LocalExecutor(count)
    else:
        from patchcl.core.cluster import ClusterExecutor

        executor = ClusterExecutor(cluster, folder, say)
    try:
        yield executor
    finally:
        executor.stop()
        executor.shutdown(wait=False, cancel_futures=True)


def as_they_end(
    executor: UnitExecutor,
    work: Callable[[Unit], Found],
    units: Iterable[Unit],
    stop: StopRequest,
    ahead: int = 0,
    on_begin: Callable[[Unit], object] | None = None,
    on_wait: Callable[[], object] | None = None,
) -> Iterator[tuple[Unit, Future[Found]]]:
    """Every unit that has ended, with its future, in the order of ending; memory does not grow with their number.

    After a request to stop no unit begins, and those that run are asked to end; these are given as well.

    Args:
        executor: Where to work.
        work: What to do with a unit.
        units: Taken from as places become free.
        stop: True as soon as somebody asks to stop.
        ahead: Units that are handed out before a place is free, so that a place need not wait for short ones.
        on_begin: Told of a unit that is handed out.
        on_wait: Called about twice a second.

    Raises:
        UserError: A worker cannot do the work, or the cluster is gone.
    """
    waiting, handed_out = iter(units), dict[Future[Found], Unit]()
    while True:
        stopping = bool(stop)
        if stopping:
            executor.stop()  # each time: a worker may have come since
        room = 0 if stopping else executor.slots() + ahead - len(handed_out)
        for unit in islice(waiting, max(0, room)):
            if on_begin is not None:
                on_begin(unit)
            handed_out[executor.submit(work, unit)] = unit
        if not handed_out:
            return
        ended, _ = wait(handed_out, POLL_SECONDS, FIRST_COMPLETED)
        for future in ended:
            if not stopping:
                _require_a_place(future)
            yield handed_out.pop(future), future
        if on_wait is not None:
            on_wait()


class LocalExecutor(UnitExecutor):
    """Processes of this machine, each with its part of the cores, and one card where there are several.

    A process that is killed costs the unit that it worked on, which begins again in a new one.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.processes = [UnitProcess(environment(slot, count)) for slot in range(count)]
        self.free: queue.LifoQueue[UnitProcess] = queue.LifoQueue()
        for process in reversed(self.processes):
            self.free.put(process)
        self.threads = ThreadPoolExecutor(count, "unit")
        self.stopping = threading.Event()

    def submit(self, fn: Callable[..., Found], /, *args: Any, **kwargs: Any) -> Future[Found]:  # noqa: ANN401
        """Have a process call `fn`, which it imports by its name."""
        return self.threads.submit(self._call, partial(fn, *args, **kwargs))

    def slots(self) -> int:
        """The number of processes."""
        return self.count

    def stop(self) -> None:
        """Begin no unit any more, and ask those that run to end."""
        self.stopping.set()
        for process in self.processes:
            process.ask_to_stop()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes: after what they work on, or at once."""
        if not wait:
            self.stopping.set()
            for process in self.processes:
                process.kill()
        self.threads.shutdown(wait=True, cancel_futures=cancel_futures)
        for process in self.processes:
            process.end()

    def _call(self, call: Callable[[], Found]) -> Found:
        process = self.free.get()
        try:
            for attempt in range(RETRIES + 1):
                if self.stopping.is_set():
                    break
                try:
                    found: Found = process.call(call)
                    return found
                except UserError:
                    raise
                except Exception:
                    if attempt == RETRIES:
                        raise
        finally:
            self.free.put(process)
        raise CancelledError


def _require_a_place(future: Future[Any]) -> None:
    """Raise what is wrong with where a unit was worked on, rather than with the unit."""
    if future.cancelled():
        raise UserError(
            "The cluster is gone: its scheduler does not answer. What was finished is kept: go on with the "
            "same command once there is one again."
        )
    error = future.exception()
    if isinstance(error, UserError):
        raise error


def environment(slot: int, count: int) -> dict[str, str]:
    """Our environment, with the share of the cores of one of `count` processes unless the user set it, and its card."""
    given = dict(os.environ)
    if count > 1:
        given.setdefault("OMP_NUM_THREADS", str(max(1, int(usable_cores()) // count)))
    listed = given.get("CUDA_VISIBLE_DEVICES")
    cards = listed.split(",") if listed else [str(card) for card in range(_cards())]
    if len(cards) > 1:
        given["CUDA_VISIBLE_DEVICES"] = cards[slot % len(cards)]
    return given


def _cards() -> int:
    import torch

    return torch.cuda.device_count()


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, whichever is short."""
    minutes, hours = seconds / 60, seconds / 3600
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if hours < 2 else f"{hours:.1f} h"
