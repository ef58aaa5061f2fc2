"""The numbers of a comparison of many methods: what the cells of a folder say, method by method and over seeds."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from patchcl.comparison.spec import Cell, Question, cell_root
from patchcl.comparison.worker import CHECKPOINTS, Session, error_file, finished, scores_of, sessions_of
from patchcl.data.splits import load_split
from patchcl.evaluation.paired import Comparison, compare_seeds
from patchcl.evaluation.scores import MEAN, METRICS, Evaluation, Metric, Spread, summarise
from patchcl.runs.folder import RunFolder
from patchcl.runs.log import read_rows

BASELINE = "supervised"
"""The method whose runs the others are paired with, seed by seed."""
FEWEST_SEEDS = 3
"""Below this the deviation over seeds says little."""


class Figure(NamedTuple):
    """What a column of the table shows."""

    metric: Metric
    structure: str = MEAN
    checkpoint: str = "last"


DICE = Figure("dice")
"""The headline."""


class CellResult(NamedTuple):
    """What a cell has come to."""

    cell: Cell
    scores: dict[str, Evaluation]  # by checkpoint; none of an empty cell
    means: dict[Figure, float]  # over patients
    why: str  # a cell is empty; "" for one that is not
    sessions: list[Session]
    steps: int
    provenance: dict[str, Any]
    labeled_patients: int | None

    @property
    def minutes(self) -> float:
        """What its training took: the pace of the sessions that were measured, times all steps. NaN if none was."""
        steps = sum(session.steps for session in self.sessions)
        return sum(session.seconds for session in self.sessions) / steps * self.steps / 60 if steps else math.nan

    @property
    def peak_gib(self) -> float:
        """The most memory that it held at a time; NaN if nothing tells."""
        peaks = [session.peak_mib for session in self.sessions if session.peak_mib is not None]
        return max(peaks) / 2**10 if peaks else math.nan


class Row(NamedTuple):
    """A method with so many labeled patients: its finished cells, and what it adds to the baseline."""

    method: str
    results: tuple[CellResult, ...]  # one per seed
    against: Comparison | None  # the baseline; None for itself and where no seed has both
    pairs: int  # seeds that have both

    def spread(self, figure: Figure = DICE) -> Spread:
        """Mean and standard deviation over seeds of the mean over patients; NaN where there is too little for it."""
        return over_seeds([result.means[figure] for result in self.results])

    @property
    def minutes(self) -> Spread:
        """Of training, over seeds."""
        return over_seeds([result.minutes for result in self.results])

    @property
    def peak_gib(self) -> Spread:
        """Memory, over seeds."""
        return over_seeds([result.peak_gib for result in self.results])

    def patient_dice(self) -> dict[str, float]:
        """Every patient's Dice, averaged over the seeds that scored it."""
        scores = [result.scores["last"].by_patient("dice") for result in self.results]
        patients = dict.fromkeys(patient for each in scores for patient in each)
        return {name: float(np.mean([each[name] for each in scores if name in each])) for name in patients}


class Level(NamedTuple):
    """All methods with the same number of labeled patients."""

    labeled: int | None  # as asked
    labeled_patients: int | None  # None as long as no run has begun
    rows: tuple[Row, ...]
    empty: tuple[CellResult, ...]

    @property
    def evaluations(self) -> list[Evaluation]:
        """The scores of the last checkpoints."""
        return [result.scores["last"] for row in self.rows for result in row.results]

    @property
    def patients(self) -> int:
        """How many were scored, all seeds together."""
        return len({patient for each in self.evaluations for patient in each.patients})

    @property
    def seeds(self) -> int:
        """The most seeds that a method has results of."""
        return max((len(row.results) for row in self.rows), default=0)

    @property
    def structures(self) -> tuple[str, ...]:
        """What was segmented; nothing as long as nothing was scored."""
        return self.evaluations[0].structures if self.evaluations else ()

    @property
    def unit(self) -> str:
        """Of distances."""
        return self.evaluations[0].unit if self.evaluations else "mm"

    @property
    def complete(self) -> list[Row]:
        """The methods with most seeds, best Dice first: only among them is one called the best."""
        rows = [row for row in self.rows if row.results and len(row.results) == self.seeds]
        return sorted(rows, key=lambda row: -row.spread().mean)

    def best(self, figure: Figure) -> float | None:
        """The best of a column; None where all are alike."""
        means = [row.spread(figure).mean for row in self.complete]
        if not means or min(means) == max(means):
            return None
        return max(means) if figure.metric in ("dice", "jaccard") else min(means)


def read_levels(question: Question, out: Path) -> list[Level]:
    """Everything that the cells in `out` say, few labeled patients first."""
    results = {cell: read_cell(question, cell, out) for cell in question.cells}
    return [_level(question, results, labeled) for labeled in question.labeled]


def read_cell(question: Question, cell: Cell, out: Path) -> CellResult:
    """What the cell has come to, also where that is nothing yet."""
    root = cell_root(out, cell)
    run = RunFolder(root)
    steps = question.settings_of(cell.method).training.steps
    scores: dict[str, Evaluation] = {}
    if finished(root, question.on, steps):
        named = {"name": cell.method}
        scores = {each: scores_of(root, question.on, each).model_copy(update=named) for each in CHECKPOINTS}
    return CellResult(
        cell=cell,
        scores=scores,
        means={figure: summarise(scores[figure.checkpoint], *figure[:2]).mean for figure in figures_of(scores)},
        why="" if scores else _why(run, steps),
        sessions=sessions_of(root),
        steps=steps,
        provenance=json.loads(run.provenance.read_text("utf-8")) if run.provenance.is_file() else {},
        labeled_patients=len(load_split(run.split).labeled) if run.split.is_file() else None,
    )


def figures_of(scores: Mapping[str, Evaluation]) -> list[Figure]:
    """Every figure that the scores of a cell hold."""
    return [
        Figure(metric, structure, checkpoint)
        for checkpoint, evaluation in scores.items()
        for structure in (*evaluation.structures, MEAN)
        for metric in METRICS
    ]


def over_seeds(values: Sequence[float]) -> Spread:
    """Mean and standard deviation; NaN where no, or not more than one, value is there."""
    mean = float(np.mean(values)) if values else math.nan
    return Spread(mean, float(np.std(values, ddof=1)) if len(values) > 1 else math.nan)


def remarks(levels: Sequence[Level]) -> Iterator[str]:
    """What a reader must know beside the figures, because it could explain some of them."""
    results = [result for level in levels for row in level.rows for result in row.results]
    commits = sorted({str(result.provenance.get("commit")) for result in results})
    if len(commits) > 1:
        yield f"The cells were made by several commits: {', '.join(commits)}."
    machines = {
        (session.hardware, session.threads, session.at_once) for result in results for session in result.sessions
    }
    if len(machines) > 1:
        listed = [f"{name} ({threads} threads, {count} at once)" for name, threads, count in sorted(machines)]
        yield f"Times and memory were not all measured under the same conditions: {'; '.join(listed)}."
    if any(each.provenance.get("on") == "validation" for level in levels for each in level.evaluations):
        yield "Scored on validation patients, who chose the best checkpoints: their figures flatter."
    if results and max(level.seeds for level in levels) < FEWEST_SEEDS:
        yield f"Fewer than {FEWEST_SEEDS} seeds are a first look: another seed may turn the order round."
    for level in levels:
        yield from _unevenness(level)


def labeled_words(level: Level) -> str:
    """How many labeled patients, in words."""
    count = level.labeled_patients or level.labeled
    return "all labeled patients" if count is None else f"{count} labeled patient" + "s" * (count != 1)


def _unevenness(level: Level) -> Iterator[str]:
    """Where methods do not rest on the same seeds."""
    few = [f"{row.method} ({len(row.results)})" for row in level.rows if len(row.results) < level.seeds]
    if few:
        yield (
            f"With {labeled_words(level)}, these have fewer than the {level.seeds} seeds of others, and are never "
            f"called the best: {', '.join(few)}."
        )
    lone = [row.method for row in level.rows if row.against and row.pairs < len(row.results)]
    if lone:
        yield f"With {labeled_words(level)}, not every seed of {', '.join(lone)} has a {BASELINE} run to pair with."


def _level(question: Question, results: dict[Cell, CellResult], labeled: int | None) -> Level:
    ours = [result for cell, result in results.items() if cell.labeled == labeled]
    done = {(each.cell.method, each.cell.seed): each for each in ours if each.scores}
    counts = [each.labeled_patients for each in ours if each.labeled_patients is not None]
    rows = [_row(method, question.seeds, done) for method in question.methods]
    return Level(labeled, max(counts, default=None), tuple(rows), tuple(each for each in ours if not each.scores))


def _row(method: str, seeds: Sequence[int], done: dict[tuple[str, int], CellResult]) -> Row:
    results = [done[method, seed] for seed in seeds if (method, seed) in done]
    pairs = [
        (done[BASELINE, each.cell.seed].scores["last"], each.scores["last"])
        for each in results
        if method != BASELINE and (BASELINE, each.cell.seed) in done
    ]
    against = compare_seeds(*zip(*pairs, strict=True)) if pairs else None
    return Row(method, tuple(results), against, len(pairs))


def _why(run: RunFolder, steps: int) -> str:
    failure = error_file(run.root)
    if failure.is_file():
        return f"failed: {failure.read_text('utf-8')}"
    if not run.provenance.is_file():
        return "not run yet"
    rows = read_rows(run)
    done = int(rows[-1]["step"]) if rows else 0
    return f"at step {done} of {steps}" if done < steps else "trained, but not scored yet"
