"""Worker processes for the runs of a comparison, several at once; the failure of one does not harm another.

Other machines may work in the same folder: a run that one of them holds is left to it, and looked at again later.
"""

import os
import signal
import subprocess  # nosec B404  # for our own workers, without a shell
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import torch
from rich.console import Console

from patchcl.comparison.progress import CompareProgress
from patchcl.comparison.worker import BUSY, REPLACED, Job, complete, error_file, scores_of
from patchcl.core.files import write_text
from patchcl.core.lock import locks_on
from patchcl.core.signals import StopRequest, stop_on_signals
from patchcl.evaluation.scores import summarise

POLL_SECONDS = 0.5
LOOK_SECONDS = 10.0
"""Between two looks at runs that others hold."""
WORKER = (sys.executable, "-P", "-m", "patchcl.comparison.worker")


class Ending(NamedTuple):
    """The outcome of all jobs together."""

    failed: dict[str, str]  # the reason by run id
    stop: StopRequest  # true if somebody asked to stop before the end


class Worker(NamedTuple):
    """A process that works on a run."""

    process: subprocess.Popen[str]
    slot: int
    started: float


def run_jobs(jobs: Mapping[str, Job], at_once: int, console: Console) -> Ending:
    """Work on every job to its end, up to `at_once` side by side; a failed one does not hold up the others.

    A request to stop lets every worker save what it has. Runs that are finished are not touched.

    Args:
        jobs: What to do, by run id; begun from the first.
        at_once: Workers that share this machine: each gets its part of the cores, and of the cards where there are
            several.
        console: Told of every start, end and failure.
    """
    with (
        stop_on_signals() as stop,
        CompareProgress(console, len(jobs)) as progress,
        Workers(jobs, at_once, progress) as workers,
    ):
        while workers.unfinished and not stop:
            workers.update()
            time.sleep(POLL_SECONDS)
        if stop:
            progress.say("Stopping: whatever runs saves its state first. Ctrl-C again gives that up.")
            workers.stop()
    return Ending(workers.failed, stop)


class Workers:
    """The workers on this machine, and the runs that wait for one."""

    def __init__(self, jobs: Mapping[str, Job], at_once: int, progress: CompareProgress) -> None:
        self.jobs, self.progress = jobs, progress
        self.waiting = list(jobs)
        self.free_slots = list(range(at_once))
        self.at_once = at_once
        self.running: dict[str, Worker] = {}
        self.failed: dict[str, str] = {}
        self.look_again = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self.running.values():
            worker.process.kill()

    @property
    def unfinished(self) -> bool:
        """Whether there is anything left to do or to wait for."""
        return bool(self.waiting or self.running)

    def update(self) -> None:
        """Notice the workers that have ended, and start new ones where a slot is free."""
        for run_id, worker in list(self.running.items()):
            if worker.process.poll() is None:
                self.progress.update(run_id, self.jobs[run_id])
            else:
                self._settle(run_id, worker)
        while self.free_slots:
            next_id = self._next()
            if next_id is None:
                break
            self._begin(next_id)

    def stop(self) -> None:
        """Ask all workers to stop, and wait until they have saved."""
        self.waiting.clear()
        for worker in self.running.values():
            _close(worker.process)
        for run_id, worker in list(self.running.items()):
            worker.process.wait()
            self._settle(run_id, worker, asked=True)

    def _next(self) -> str | None:
        """The first waiting run that nobody works on; finished ones are dropped on the way."""
        if time.monotonic() < self.look_again:
            return None
        for run_id in list(self.waiting):
            job = self.jobs[run_id]
            if complete(job):
                self.waiting.remove(run_id)
                self.progress.finish(run_id, f"was finished elsewhere: {_dice(job)}")
            elif not any(lock.alive for lock in locks_on(job.root)):
                return run_id
        if self.waiting:
            if not self.look_again:
                self.progress.say(f"Others are working on {', '.join(self.waiting)}; waiting for them.")
            self.look_again = time.monotonic() + LOOK_SECONDS
        return None

    def _begin(self, run_id: str) -> None:
        job, slot = self.jobs[run_id], self.free_slots.pop(0)
        self.waiting.remove(run_id)
        for lock in locks_on(job.root):
            silence = f"silent for {lock.silent_seconds / 60:.0f} min"
            self.progress.say(f"{run_id}: taking over from {lock}, {silence}")
        self.progress.begin(run_id, job)
        self.running[run_id] = Worker(_started(job, slot), slot, time.monotonic())

    def _settle(self, run_id: str, worker: Worker, asked: bool = False) -> None:
        """Note how a worker has ended: well, because somebody asked for it, or by a failure."""
        job, code = self.jobs[run_id], worker.process.returncode
        _close(worker.process)
        del self.running[run_id]
        self.free_slots.append(worker.slot)
        self.progress.remove(run_id)
        if code == 0:
            self.progress.finish(run_id, f"{_dice(job)}, {time.monotonic() - worker.started:.0f} s")
        elif code in (BUSY, REPLACED) and not asked:
            self.waiting.append(run_id)
        elif not asked:
            self.failed[run_id] = _reason(job, code)
            self.progress.finish(run_id, f"failed: {self.failed[run_id]}")


def _started(job: Job, slot: int) -> subprocess.Popen[str]:
    """A new worker process on `job`, its output in a file beside the run. A Ctrl-C does not reach it: we pass it on."""
    job.root.parent.mkdir(parents=True, exist_ok=True)
    error_file(job.root).unlink(missing_ok=True)
    with log_file(job.root).open("a", encoding="utf-8") as log:
        process = subprocess.Popen(  # nosec B603  # this very Python; the job goes over a pipe, not the command line
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
    """The file that holds a worker's output."""
    return root.with_name(f"{root.name}.log")


def _environment(slot: int, at_once: int) -> dict[str, str]:
    """Our environment, with the worker's share of the cores unless the user set it, and one card of several."""
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
    """Ask a worker to stop, by the end of its input."""
    if process.stdin is not None:
        with suppress(BrokenPipeError):
            process.stdin.close()


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
