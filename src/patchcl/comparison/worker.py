"""The process of one run of a comparison: trains one run or goes on with it, scores it, notes what it cost.

Whoever starts the process writes one line, a `Job` in JSON, to its input and keeps the input open. When that is closed,
because the starter wants the run to stop or is gone itself, the run saves what it has and ends.
"""

import os
import shutil
import signal
import sys
import threading
from _thread import interrupt_main
from pathlib import Path
from types import FrameType

import torch
from rich.console import Console

from patchcl.comparison.cell import BUSY, REPLACED, error_file
from patchcl.comparison.conclusion import conclude
from patchcl.config import Settings, read_settings
from patchcl.core.console import console
from patchcl.core.devices import best_device
from patchcl.core.documents import parse_json
from patchcl.core.errors import UserError
from patchcl.core.files import write_json, write_text
from patchcl.core.loading import loading
from patchcl.core.lock import locked
from patchcl.core.settings import FrozenSettings
from patchcl.data.splits import load_split
from patchcl.evaluation.evaluate import evaluate_trained
from patchcl.evaluation.scores import OPTIONS, Evaluation, SplitSide, options_of, read_evaluation, stem_of
from patchcl.inference.trained_run import Checkpoint, open_run
from patchcl.runs.checkpoint import read_newest
from patchcl.runs.folder import RunFolder
from patchcl.runs.provenance import hardware, read_provenance

CHECKPOINTS: tuple[Checkpoint, ...] = ("best", "last")
"""Both are scored, the headline last: a run that has it is finished."""


class Job(FrozenSettings):
    """A run to be made, as a worker is told of it."""

    root: Path  # of the run
    settings: Settings
    on: SplitSide
    voxels: bool
    fast: bool = False  # one pass, no average over symmetries
    postprocessing: bool = True
    at_once: int  # runs that share the machine
    command: tuple[str, ...] = ()  # what the user typed

    @property
    def options(self) -> str:
        """How it is to be scored, see `options_of`."""
        return options_of(self.fast, self.postprocessing, self.voxels)


class Session(FrozenSettings):
    """Time and memory of a run from one start to the next stop. A session that was killed leaves none."""

    hardware: str
    threads: int
    at_once: int
    steps: int
    seconds: float
    peak_mib: float | None  # of the process on a CPU, of what torch allocated on a card; None where nothing tells


def main() -> None:
    """Work on the run that the input names; what goes wrong is kept beside its folder."""
    job = Job.model_validate_json(sys.stdin.readline())
    sys.argv = list(job.command) or sys.argv  # for the provenance of the run
    signal.signal(signal.SIGTERM, _leave)
    with locked(job.root, on_lost=lambda: os._exit(REPLACED)) as ours:
        if not ours:
            sys.exit(BUSY)
        threading.Thread(target=_stop_at_end_of_input, daemon=True).start()  # not before there is a lock to release
        try:
            work(job, console)
        except Exception as error:
            said = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            write_text(error_file(job.root), said)
            raise


def work(job: Job, console: Console) -> None:
    """Do what is missing of a run: steps, then scores; of a cross-validation the scores.

    Raises:
        UserError: Something about the data or the settings must be corrected first.
        SystemExit: Somebody asked to stop; all is saved.
    """
    run = RunFolder(job.root)
    if run.folds.is_file():  # all of them are trained, each as a job of its own
        device = best_device(job.settings.training.device)
        conclude(run, device, CHECKPOINTS, job.voxels, job.fast, job.postprocessing)
        return
    _train(job, run, console)
    steps = job.settings.training.steps
    if not finished(job.root, job.on, steps, job.options):
        for checkpoint in CHECKPOINTS:
            _score(job, job.on, checkpoint)
    if not validated(job.root, steps, job.options):
        _score(job, "validation", "last")


def complete(job: Job) -> bool:
    """Whether nothing is left to do for a run."""
    steps = job.settings.training.steps
    return finished(job.root, job.on, steps, job.options) and validated(job.root, steps, job.options)


def finished(root: Path, on: SplitSide, steps: int, options: str) -> bool:
    """Whether the run in `root` has been trained to its end and scored on that side, with these `options_of` scores."""
    return _kept(root, on, "best", options) is not None and scored(root, on, steps, options)


def validated(root: Path, steps: int, options: str) -> bool:
    """Whether a run that is trained to its end was scored on validation patients, if they chose anything in it.

    These scores choose between methods, so that test patients never do.
    """
    return scored(root, "validation", steps, options) or not RunFolder(root).postprocessing.is_file()


def scores_of(root: Path, on: SplitSide, checkpoint: str, options: str = "") -> Evaluation:
    """The scores of a finished run."""
    return read_evaluation(scores_file(root, on, checkpoint, options))


def scores_file(root: Path, on: SplitSide, checkpoint: str, options: str = "") -> Path:
    """The file in which `evaluate_run` keeps the scores; runs of before have all options under one name."""
    own, plain = (RunFolder(root).evaluation / f"{stem_of(on, checkpoint, given)}.json" for given in (options, ""))
    return own if own.is_file() else plain


def sessions_of(root: Path) -> list[Session]:
    """The sessions of the run in `root` so far."""
    try:
        content = parse_json(_sessions_file(root).read_bytes())
        return [Session.model_validate(session) for session in content]
    except (OSError, ValueError, TypeError):  # none yet, or damaged: what it cost is all that is lost
        return []


def peak_mib(device: torch.device) -> float | None:
    """The most memory that this process has held at a time: on a card what torch allocated, else its resident set."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    status = Path("/proc/self/status")
    if status.exists():  # on Linux, ru_maxrss starts at what the starter of the process had
        peaks = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return round(int(peaks[0].split()[1]) / 2**10, 1)
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 2**10
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, 1)


def scored(root: Path, on: SplitSide, steps: int, options: str) -> bool:
    """Whether the last checkpoint was scored on that side with these `options_of` scores, at the end of training."""
    last = _kept(root, on, "last", options)
    return last is not None and last.provenance.get("step") == steps


def _kept(root: Path, on: SplitSide, checkpoint: str, options: str) -> Evaluation | None:
    """The scores of a run; None if there are none, or they are damaged or of other options: then they are made anew."""
    try:
        kept = scores_of(root, on, checkpoint, options)
    except UserError:
        return None
    return kept if kept.provenance.get(OPTIONS, options) == options else None  # scores of before do not say theirs


def _train(job: Job, run: RunFolder, console: Console) -> None:
    with loading():
        from patchcl.training.experiment import resume, start  # a second that who only reads results is spared

    begun = run.provenance.is_file()
    if not begun:  # the last file of a start; what was cut short before it is worth nothing
        shutil.rmtree(run.root, ignore_errors=True)
    data, before, spent = _data(job.settings), _steps_done(run), _seconds(run)
    moved = data if begun and read_settings(run.settings).data != data.resolve() else None
    whole = before == job.settings.training.steps
    if whole and not moved and (run.postprocessing.is_file() or not load_split(run.split).validation):
        return
    outcome = resume(run.root, console, data=moved) if begun else start(data, run.root, job.settings, console)
    device = best_device(job.settings.training.device)
    session = Session(
        hardware=hardware(device),
        threads=torch.get_num_threads(),
        at_once=job.at_once,
        steps=outcome.steps_done - before,
        seconds=_seconds(run) - spent,
        peak_mib=peak_mib(device),
    )
    write_json(_sessions_file(run.root), [known.model_dump(mode="json") for known in (*sessions_of(run.root), session)])
    if outcome.stop:
        raise SystemExit(outcome.stop.exit_code)


def _score(job: Job, on: SplitSide, checkpoint: Checkpoint) -> None:
    device = best_device(job.settings.training.device)
    trained = open_run(RunFolder(job.root), checkpoint, "teacher", device, job.fast, job.postprocessing)
    evaluate_trained(trained, on, voxels=job.voxels)


def _data(settings: Settings) -> Path:
    if settings.data is None:
        raise UserError("The settings of this run do not say where the data are.")
    return settings.data


def _sessions_file(root: Path) -> Path:
    return root / "sessions.json"


def _steps_done(run: RunFolder) -> int:
    return int(read_newest(run, min_step=0)[0]["step"]) if run.last.is_file() else 0


def _seconds(run: RunFolder) -> float:
    return read_provenance(run.provenance).get("seconds") or 0.0


def _leave(number: int, _: FrameType | None) -> None:
    """Outside the training loop, which saves first, a request to stop ends the process where it is."""
    signal.signal(number, signal.SIG_IGN)
    raise SystemExit(128 + number)


def _stop_at_end_of_input() -> None:
    sys.stdin.read()
    interrupt_main(signal.SIGTERM)
