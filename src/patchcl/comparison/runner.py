"""Runs cells, several at once, each in a process of its own, and loses none to the failure of another.

Other machines may work in the same folder: a cell that one of them holds is left to it, and looked at again later.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import torch
from rich.console import Console

from patchcl.comparison.progress import Board
from patchcl.comparison.worker import BUSY, REPLACED, Job, error_file, finished, scores_of
from patchcl.core.files import write_text
from patchcl.core.lock import claims_on
from patchcl.evaluation.scores import summarise
from patchcl.training.signals import StopRequest, stop_on_signals

POLL_SECONDS = 0.5
LOOK_SECONDS = 10.0
"""Between two looks at cells that others hold."""
WORKER = (sys.executable, "-P", "-m", "patchcl.comparison.worker")


class Ending(NamedTuple):
    """How the work ended."""

    failed: dict[str, str]  # by the place of a cell the reason
    stop: StopRequest  # true if somebody asked to stop before the end


class Worker(NamedTuple):
    """A process that works on a cell."""

    process: subprocess.Popen[str]
    slot: int
    started: float


def run_cells(jobs: Mapping[str, Job], at_once: int, console: Console) -> Ending:
    """Bring every cell to its end, up to `at_once` side by side; a failed one does not hold up the others.

    A request to stop lets every worker save what it has. Cells that are finished are not touched.

    Args:
        jobs: What to do, by the place of the cell; begun from the first.
        at_once: Workers that share this machine: each gets its part of the cores, and of the cards where there are
            several.
        console: Told of every start, end and failure.
    """
    with stop_on_signals() as stop, Board(console, len(jobs)) as board, Crew(jobs, at_once, board) as crew:
        while crew.unfinished and not stop:
            crew.tend()
            time.sleep(POLL_SECONDS)
        if stop:
            board.say("Stopping: whatever runs saves its state first. Ctrl-C again gives that up.")
            crew.dismiss()
    return Ending(crew.failed, stop)


class Crew:
    """The workers on this machine, and the cells that wait for one."""

    def __init__(self, jobs: Mapping[str, Job], at_once: int, board: Board) -> None:
        self.jobs, self.board = jobs, board
        self.waiting = list(jobs)
        self.idle = list(range(at_once))
        self.at_once = at_once
        self.workers: dict[str, Worker] = {}
        self.failed: dict[str, str] = {}
        self.look_again = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self.workers.values():
            worker.process.kill()

    @property
    def unfinished(self) -> bool:
        """Whether there is anything left to do or to wait for."""
        return bool(self.waiting or self.workers)

    def tend(self) -> None:
        """See who has ended, and give the idle something to do."""
        for place, worker in list(self.workers.items()):
            if worker.process.poll() is None:
                self.board.move(place, self.jobs[place])
            else:
                self._settle(place, worker)
        while self.idle:
            free = self._next()
            if free is None:
                break
            self._begin(free)

    def dismiss(self) -> None:
        """Ask all workers to stop, and wait until they have saved."""
        self.waiting.clear()
        for worker in self.workers.values():
            _close(worker.process)
        for place, worker in list(self.workers.items()):
            worker.process.wait()
            self._settle(place, worker, asked=True)

    def _next(self) -> str | None:
        """The first waiting cell that nobody works on; finished ones are dropped on the way."""
        if time.monotonic() < self.look_again:
            return None
        for place in list(self.waiting):
            job = self.jobs[place]
            if _finished(job):
                self.waiting.remove(place)
                self.board.finish(place, f"was finished elsewhere: {_dice(job)}")
            elif not any(claim.alive for claim in claims_on(job.root)):
                return place
        if self.waiting:
            if not self.look_again:
                self.board.say(f"Others are working on {', '.join(self.waiting)}; waiting for them.")
            self.look_again = time.monotonic() + LOOK_SECONDS
        return None

    def _begin(self, place: str) -> None:
        job, slot = self.jobs[place], self.idle.pop(0)
        self.waiting.remove(place)
        for claim in claims_on(job.root):
            silence = f"silent for {claim.silent_seconds / 60:.0f} min"
            self.board.say(f"{place}: taking over from {claim}, {silence}")
        self.board.begin(place, job)
        self.workers[place] = Worker(_started(job, slot), slot, time.monotonic())

    def _settle(self, place: str, worker: Worker, asked: bool = False) -> None:
        """A worker has ended: well, or at the wish of somebody, or not."""
        job, code = self.jobs[place], worker.process.returncode
        _close(worker.process)
        del self.workers[place]
        self.idle.append(worker.slot)
        self.board.leave(place)
        if code == 0:
            self.board.finish(place, f"{_dice(job)}, {time.monotonic() - worker.started:.0f} s")
        elif code in (BUSY, REPLACED) and not asked:
            self.waiting.append(place)
        elif not asked:
            self.failed[place] = _reason(job, code)
            self.board.finish(place, f"failed: {self.failed[place]}")


def _started(job: Job, slot: int) -> subprocess.Popen[str]:
    """A worker on `job`, whose words go to a file beside the run; out of reach of a Ctrl-C, which we pass on."""
    job.root.parent.mkdir(parents=True, exist_ok=True)
    error_file(job.root).unlink(missing_ok=True)
    with log_file(job.root).open("a", encoding="utf-8") as log:
        process = subprocess.Popen(
            WORKER,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            text=True,
            env=_environment(slot, job.at_once),
            start_new_session=True,
        )
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it is gone already, and its exit code will say so
        process.stdin.write(job.model_dump_json() + "\n")
        process.stdin.flush()
    return process


def log_file(root: Path) -> Path:
    """Where a worker's words go."""
    return root.with_name(f"{root.name}.log")


def _environment(slot: int, at_once: int) -> dict[str, str]:
    """Ours, with the worker's share of the cores unless the user has spoken, and one card of several."""
    environment = dict(os.environ)
    if at_once > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, _cores() // at_once)))
    listed = environment.get("CUDA_VISIBLE_DEVICES")
    cards = listed.split(",") if listed else [str(card) for card in range(torch.cuda.device_count())]
    if len(cards) > 1:
        environment["CUDA_VISIBLE_DEVICES"] = cards[slot % len(cards)]
    return environment


def _cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _close(process: subprocess.Popen[str]) -> None:
    """The end of its input asks a worker to stop."""
    if process.stdin is not None:
        with suppress(BrokenPipeError):
            process.stdin.close()


def _finished(job: Job) -> bool:
    return finished(job.root, job.on, job.settings.training.steps)


def _dice(job: Job) -> str:
    return f"Dice {100 * summarise(scores_of(job.root, job.on, 'last'), 'dice').mean:.1f} % on {job.on}"


def _reason(job: Job, code: int) -> str:
    """Why a worker failed, kept beside the run: by itself if it could, else here."""
    path = error_file(job.root)
    if not path.is_file():
        ended = f"exit code {code}" if code > 0 else f"signal {signal.Signals(-code).name}"
        killed = ", perhaps for want of memory" if code == -9 else ""
        write_text(path, f"its process ended with {ended}{killed}; see {log_file(job.root).name}")
    return path.read_text(encoding="utf-8")
