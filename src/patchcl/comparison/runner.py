"""The runs of a comparison as units of work, several at once; the failure of one does not harm another."""

from collections.abc import Mapping
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from patchcl.comparison.cell import WORKER, Cell, CellEnding, error_file, held, run_cell
from patchcl.comparison.progress import CompareProgress
from patchcl.comparison.worker import Job, scores_of
from patchcl.core.executor import as_they_end, workers
from patchcl.core.files import write_text
from patchcl.core.signals import StopRequest, stop_on_signals
from patchcl.evaluation.scores import summarise


class Ending(NamedTuple):
    """The outcome of all jobs together."""

    failed: dict[str, str]  # the reason by run id
    stop: StopRequest  # true if somebody asked to stop before the end
    unseen: tuple[str, ...] = ()  # runs that went on when their worker was lost; after a stop nobody waits for them


def run_jobs(
    jobs: Mapping[str, Job], folder: Path, at_once: int, console: Console, cluster: str | None = None
) -> Ending:
    """Work on every job to its end, several side by side; a failed one does not hold up the others.

    A request to stop lets every run save what it has.

    Args:
        jobs: What to do, by run id; begun from the first.
        folder: In which all runs lie.
        at_once: Runs that share this machine: each gets its part of the cores, and of the cards where there are
            several. The workers of a cluster say themselves how many they take.
        console: Told of every start, end and failure.
        cluster: See `patchcl.core.executor.workers`.

    Raises:
        UserError: The cluster cannot be worked with.
    """
    failed: dict[str, str] = {}
    cells = (Cell(run_id, str(job.root), job.model_dump_json(), WORKER) for run_id, job in jobs.items())
    with stop_on_signals() as stop, CompareProgress(console, jobs) as progress:
        if not jobs:
            return Ending(failed, stop)
        with workers(at_once, cluster, folder, progress.say) as executor:
            for cell, future in as_they_end(
                executor, run_cell, cells, stop, on_begin=progress.begin, on_wait=lambda: progress.update(stop)
            ):
                ending = _ending(cell, future)
                if ending.failure is not None:
                    failed[cell.run_id] = ending.failure
                progress.end(cell, ending, "" if ending.stopped or ending.failure else _dice(jobs[cell.run_id]))
    return Ending(failed, stop, tuple(run_id for run_id, job in jobs.items() if stop and held(job.root)))


def _ending(cell: Cell, future: "Future[CellEnding]") -> CellEnding:
    """How a cell ended; what kept it from ending, however often it was tried, is kept beside the run."""
    try:
        return future.result()
    except CancelledError:
        return CellEnding(None, True, 0.0)
    except Exception as error:
        path = error_file(Path(cell.root))
        if not path.is_file():
            write_text(path, f"{type(error).__name__}: {error}")
        return CellEnding(path.read_text(encoding="utf-8"), False, 0.0)


def _dice(job: Job) -> str:
    return f"Dice {100 * summarise(scores_of(job.root, job.on, 'last', job.options), 'dice').mean:.1f} % on {job.on}"
