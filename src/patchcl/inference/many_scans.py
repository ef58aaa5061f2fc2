"""Many scans over processes of this machine or the workers of a cluster; the same call goes on with what is not done.

What has a record that fits is passed over at once. Of the rest a unit is a chunk of scans; a worker opens the network
once. What is done of a unit is recorded scan by scan, so a worker that is killed costs the scans that it had in hand.
Masks come into place whole, and the record after them.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from patchcl.core.console import console, errors
from patchcl.core.errors import UserError
from patchcl.core.executor import UnitExecutor, as_they_end, workers
from patchcl.core.parallel import ProgressCallback, in_parallel
from patchcl.core.signals import StopRequest, stop_on_signals
from patchcl.core.unit_process import stop_asked
from patchcl.inference.case_summary import CaseSummary
from patchcl.inference.familiarity import Familiarity
from patchcl.inference.output_files import check_out
from patchcl.inference.predict import Files, predict_cases
from patchcl.inference.record import done_before, maker, recorded, write_record
from patchcl.inference.scan_folder import PredictionSummary, Scans, segment_folder
from patchcl.inference.trained_run import RunArguments, TrainedRun, familiarity_of, open_folder

CHUNK = 16
"""Scans of a unit, at most."""
UNITS = 4
"""So many units are made for each place at the least, where there are enough scans."""


class StoppedError(UserError):
    """Somebody asked to stop; what is done is kept."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # that of the signal


class Many(NamedTuple):
    """Where to work on many scans."""

    jobs: int  # processes of this machine
    cluster: str | None  # or the workers of this scheduler
    on_progress: ProgressCallback | None = None


class Chunk(NamedTuple):
    """Scans that a worker segments one after the other, and what it has to know for that."""

    run: Path
    chosen: tuple[tuple[str, Any], ...]  # see `RunArguments`
    made_by: str
    scans: tuple[tuple[str, tuple[Path, ...]], ...]
    out: Path
    files: Files


def predict_many(
    run: Path, chosen: RunArguments, source: Path, out: Path, files: Files, series: str | None, where: Many
) -> PredictionSummary:
    """Segment a folder of scans, see `predict_files`, on many processes; scans that are done are not done again.

    Raises:
        StoppedError: Somebody asked to stop.
        UserError: There is no scan, no run, no such cluster, or `out` must not be written to.
    """
    trained = open_folder(run, **chosen)
    made_by = maker(trained, familiarity_of(trained), files)
    check_out(out, source)
    plain = Chunk(run.absolute(), tuple(sorted(chosen.items())), made_by, (), out.absolute(), files)
    with stop_on_signals() as stop:

        def segment(scans: Scans) -> PredictionSummary:
            with workers(where.jobs, where.cluster, out, console.print) as executor:
                return _segmented(plain, scans, executor, stop, where.on_progress)

        summary = segment_folder(source, out, series, segment, out if series else None)
    if stop:
        told = f"Stopped. {len(summary.done)} scans are done; the same command goes on with the others."
        raise StoppedError(told, stop.exit_code)
    return summary


def segment_chunk(chunk: Chunk) -> PredictionSummary:
    """Segment the scans of a chunk that are not done, in a worker.

    Raises:
        CancelledError: The worker was asked to stop.
        UserError: The run cannot be opened there, or is not the one that was meant.
    """
    trained, familiarity, made_by = _opened(chunk.run, chunk.chosen, chunk.files)
    if made_by != chunk.made_by:
        raise UserError(f"{chunk.run} changed meanwhile, or a worker sees another one there. Call the command again.")
    paths = dict(chunk.scans)
    before = _done(chunk)
    left = {name: files for name, files in chunk.scans if name not in before}

    def keep(case: CaseSummary, written: Sequence[Path]) -> None:
        write_record(chunk.out, chunk.made_by, paths[case.case], case, written)
        if stop_asked():
            raise CancelledError

    summary = predict_cases(
        trained.network,
        trained.plan,
        left,
        chunk.out,
        chunk.files,
        trained.device,
        inference=trained.inference,
        familiarity=familiarity,
        on_done=keep,
    )
    return _summary([*before.values(), *summary.cases], summary.failed)


@lru_cache(maxsize=1)
def _opened(run: Path, chosen: tuple[tuple[str, Any], ...], files: Files) -> tuple[TrainedRun, Familiarity | None, str]:
    """The network of a run, what its training saw, and the hash of all that, opened once in a worker."""
    errors.quiet = True  # the command itself has said what there is to say
    trained = open_folder(run, **dict(chosen))
    familiarity = familiarity_of(trained)
    return trained, familiarity, maker(trained, familiarity, files)


def _done(chunk: Chunk) -> dict[str, CaseSummary]:
    found = {name: done_before(chunk.out, chunk.made_by, name, paths) for name, paths in chunk.scans}
    return {name: case for name, case in found.items() if case is not None}


def _segmented(
    plain: Chunk, scans: Scans, executor: UnitExecutor, stop: StopRequest, on_progress: ProgressCallback | None
) -> PredictionSummary:
    """What is done, all other scans in chunks, and what could not be done in its chunk once more by itself."""
    there = recorded(plain.out)
    if 0 < len(there) < len(scans):
        executor.submit(segment_chunk, plain)  # of no scan: a worker opens the network while we look at what is done
    done = _finished(plain, [scan for scan in scans.items() if scan[0] in there], stop)
    failed: dict[str, str] = {}
    if done and on_progress is not None:
        on_progress(len(done), len(scans))
    size = max(1, min(CHUNK, (len(scans) - len(done)) // (UNITS * executor.slots())))
    for length in (size, 1):
        left = [scan for scan in scans.items() if scan[0] not in done and scan[0] not in failed]
        chunks = _chunks(plain, left, length)
        for chunk, future in as_they_end(executor, segment_chunk, chunks, stop, ahead=executor.slots()):
            summary = _outcome(chunk, future, last=length == 1)
            done.update({case.case: case for case in summary.cases})
            failed.update(summary.failed)
            if on_progress is not None:
                on_progress(len(done) + len(failed), len(scans))
    return _summary([done[name] for name in scans if name in done], list(failed.items()))


def _finished(
    plain: Chunk, recorded_scans: Sequence[tuple[str, tuple[Path, ...]]], stop: StopRequest
) -> dict[str, CaseSummary]:
    """What is known of the scans that are done; on threads, as a folder that machines share answers late."""
    found = in_parallel(list(_chunks(plain, recorded_scans, CHUNK)), lambda chunk: {} if stop else _done(chunk))
    return {name: case for cases in found for name, case in cases.items()}


def _chunks(plain: Chunk, scans: Sequence[tuple[str, tuple[Path, ...]]], length: int) -> Iterator[Chunk]:
    for start in range(0, len(scans), length):
        yield plain._replace(scans=tuple(scans[start : start + length]))


def _outcome(chunk: Chunk, future: "Future[PredictionSummary]", last: bool) -> PredictionSummary:
    """What became of a chunk; of one whose worker was lost again and again, what is done, and on the `last` try all."""
    try:
        return future.result()
    except CancelledError:
        return _summary(list(_done(chunk).values()), ())
    except Exception as error:  # of a worker that ended, which is no reason to give up the other scans
        done = _done(chunk)
        told = [(name, f"{name} cannot be segmented: {error}") for name, _ in chunk.scans if name not in done]
        return _summary(list(done.values()), told if last else ())


def _summary(cases: Sequence[CaseSummary], failed: Sequence[tuple[str, str]]) -> PredictionSummary:
    return PredictionSummary(tuple(case.case for case in cases), tuple(failed), tuple(cases))
