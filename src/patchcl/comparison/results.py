"""Results of a comparison: scores, time and memory of its runs, by label budget and method, over seeds."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from patchcl.comparison.spec import CompareRun, CompareSpec, run_root
from patchcl.comparison.worker import CHECKPOINTS, Session, error_file, finished, scores_of, sessions_of
from patchcl.data.splits import load_split
from patchcl.evaluation.paired import NOTHING_LEARNED, SMALLEST_EFFECT, Comparison, compare_seeds, judged_together
from patchcl.evaluation.scores import FRACTION_METRICS, MEAN, METRICS, Evaluation, MeanStd, Metric, summarise
from patchcl.evaluation.tables import pluralize
from patchcl.runs.folder import RunFolder
from patchcl.runs.log import read_rows
from patchcl.runs.provenance import read_provenance

BASELINE = "supervised"
"""The method whose runs the others are paired with, seed by seed."""
FEWEST_SEEDS = 3
"""Below this the deviation over seeds says little."""


class Figure(NamedTuple):
    """A column of the table: a metric of a structure, or of their mean, at a checkpoint."""

    metric: Metric
    structure: str = MEAN
    checkpoint: str = "last"


DICE = Figure("dice")
"""The headline."""


class RunResult(NamedTuple):
    """Scores and cost of one run of the comparison."""

    run: CompareRun
    scores: dict[str, Evaluation]  # by checkpoint; none of a run that is not finished
    means: dict[Figure, float]  # over patients
    missing_because: str  # why there are no scores; "" where there are
    sessions: list[Session]
    steps: int
    provenance: dict[str, Any]
    labeled_patients: int | None

    @property
    def minutes(self) -> float:
        """Training time: the pace of the sessions that were measured, times all steps. NaN if none was."""
        steps = sum(session.steps for session in self.sessions)
        return sum(session.seconds for session in self.sessions) / steps * self.steps / 60 if steps else math.nan

    @property
    def peak_gib(self) -> float:
        """Peak memory of all sessions; NaN if nothing tells."""
        peaks = [session.peak_mib for session in self.sessions if session.peak_mib is not None]
        return max(peaks) / 2**10 if peaks else math.nan


class Row(NamedTuple):
    """A row of the table: the finished runs of a method under one label budget, and what it adds to the baseline."""

    method: str
    results: tuple[RunResult, ...]  # one per seed
    against: Comparison | None  # the baseline; None for itself and where no seed has both
    pairs: int  # seeds that have both

    def mean_std(self, figure: Figure = DICE) -> MeanStd:
        """Mean and standard deviation over seeds of the mean over patients; NaN where there is too little for it."""
        return over_seeds([result.means[figure] for result in self.results])

    @property
    def minutes(self) -> MeanStd:
        """Training time over seeds."""
        return over_seeds([result.minutes for result in self.results])

    @property
    def peak_gib(self) -> MeanStd:
        """Peak memory over seeds."""
        return over_seeds([result.peak_gib for result in self.results])

    def patient_dice(self) -> dict[str, float]:
        """Every patient's Dice, averaged over the seeds that scored it."""
        scores = [result.scores["last"].by_patient("dice") for result in self.results]
        patients = dict.fromkeys(patient for dice in scores for patient in dice)
        return {name: float(np.mean([dice[name] for dice in scores if name in dice])) for name in patients}


class LabelBudget(NamedTuple):
    """A number of labeled patients, and the results of all methods with so many."""

    labeled: int | None  # as asked
    labeled_patients: int | None  # None as long as no run has begun
    rows: tuple[Row, ...]
    missing: tuple[RunResult, ...]  # runs without scores
    smallest: float = SMALLEST_EFFECT  # difference in Dice that counts

    @property
    def evaluations(self) -> list[Evaluation]:
        """The scores of the last checkpoints."""
        return [result.scores["last"] for row in self.rows for result in row.results]

    @property
    def patients(self) -> int:
        """The number of patients that were scored, all seeds together."""
        return len({patient for evaluation in self.evaluations for patient in evaluation.patients})

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
        """The unit of distances."""
        return self.evaluations[0].unit if self.evaluations else "mm"

    @property
    def complete(self) -> list[Row]:
        """The methods with most seeds, best Dice first: only among them is one called the best."""
        rows = [row for row in self.rows if row.results and len(row.results) == self.seeds]
        return sorted(rows, key=lambda row: -row.mean_std().mean)

    @property
    def learned(self) -> bool:
        """Whether any method found anything."""
        return any(row.mean_std().mean >= NOTHING_LEARNED for row in self.complete)

    def best(self, figure: Figure) -> float | None:
        """The best of a column; None where all are alike."""
        means = [row.mean_std(figure).mean for row in self.complete]
        if not means or min(means) == max(means):
            return None
        return max(means) if figure.metric in FRACTION_METRICS else min(means)


def read_budgets(spec: CompareSpec, out: Path) -> list[LabelBudget]:
    """The results of all runs in `out`, few labeled patients first."""
    results = [read_run(spec, compare_run, out) for compare_run in spec.runs]
    return [_budget(spec, results, labeled) for labeled in spec.labeled]


def read_run(spec: CompareSpec, compare_run: CompareRun, out: Path) -> RunResult:
    """The result of one run, also where there is none yet."""
    root = run_root(out, compare_run)
    run = RunFolder(root)
    steps = spec.settings_of(compare_run.method).training.steps
    scores: dict[str, Evaluation] = {}
    if finished(root, spec.on, steps):
        named = {"name": compare_run.method}
        scores = {
            checkpoint: scores_of(root, spec.on, checkpoint).model_copy(update=named) for checkpoint in CHECKPOINTS
        }
    return RunResult(
        run=compare_run,
        scores=scores,
        means={figure: summarise(scores[figure.checkpoint], *figure[:2]).mean for figure in figures_of(scores)},
        missing_because="" if scores else _missing_because(run, steps),
        sessions=sessions_of(root),
        steps=steps,
        provenance=read_provenance(run.provenance),
        labeled_patients=len(load_split(run.split).labeled) if run.split.is_file() else None,
    )


def figures_of(scores: Mapping[str, Evaluation]) -> list[Figure]:
    """Every figure that the scores of a run hold."""
    return [
        Figure(metric, structure, checkpoint)
        for checkpoint, evaluation in scores.items()
        for structure in (*evaluation.structures, MEAN)
        for metric in METRICS
    ]


def over_seeds(values: Sequence[float]) -> MeanStd:
    """Mean and standard deviation; NaN where no, or not more than one, value is there."""
    mean = float(np.mean(values)) if values else math.nan
    return MeanStd(mean, float(np.std(values, ddof=1)) if len(values) > 1 else math.nan)


def remarks(budgets: Sequence[LabelBudget]) -> Iterator[str]:
    """Caveats that a reader must know beside the figures, because they could explain some of them."""
    results = [result for budget in budgets for row in budget.rows for result in row.results]
    commits = sorted({str(result.provenance.get("commit")) for result in results})
    if len(commits) > 1:
        yield f"The runs were made by several commits: {', '.join(commits)}."
    machines = {
        (session.hardware, session.threads, session.at_once) for result in results for session in result.sessions
    }
    if len(machines) > 1:
        listed = [f"{name} ({threads} threads, {count} at once)" for name, threads, count in sorted(machines)]
        yield f"Times and memory were not all measured under the same conditions: {'; '.join(listed)}."
    if any(scores.provenance.get("on") == "validation" for budget in budgets for scores in budget.evaluations):
        yield "Scored on validation patients, who chose the best checkpoints: their figures flatter."
    if results and max(budget.seeds for budget in budgets) < FEWEST_SEEDS:
        yield f"Fewer than {FEWEST_SEEDS} seeds are a first look: another seed may turn the order round."
    for budget in budgets:
        yield from _unevenness(budget)


def describe_budget(budget: LabelBudget) -> str:
    """The number of labeled patients in words."""
    count = budget.labeled_patients or budget.labeled
    return "all labeled patients" if count is None else pluralize(count, "labeled patient")


def _unevenness(budget: LabelBudget) -> Iterator[str]:
    """Where methods do not rest on the same seeds."""
    few = [f"{row.method} ({len(row.results)})" for row in budget.rows if len(row.results) < budget.seeds]
    if few:
        yield (
            f"With {describe_budget(budget)}, these have fewer than the {budget.seeds} seeds of others, and are never "
            f"called the best: {', '.join(few)}."
        )
    lone = [row.method for row in budget.rows if row.against and row.pairs < len(row.results)]
    if lone:
        yield f"With {describe_budget(budget)}, not every seed of {', '.join(lone)} has a {BASELINE} run to pair with."


def _budget(spec: CompareSpec, results: Sequence[RunResult], labeled: int | None) -> LabelBudget:
    ours = [result for result in results if result.run.labeled == labeled]
    done = {(result.run.method, result.run.seed): result for result in ours if result.scores}
    counts = [result.labeled_patients for result in ours if result.labeled_patients is not None]
    rows = _judged([_row(method, spec, done) for method in spec.methods])
    missing = tuple(result for result in ours if not result.scores)
    return LabelBudget(labeled, max(counts, default=None), rows, missing, spec.min_effect)


def _judged(rows: Sequence[Row]) -> tuple[Row, ...]:
    """The rows, with verdicts that hold for all methods together."""
    judged = iter(judged_together([row.against for row in rows if row.against]))
    return tuple(row._replace(against=next(judged)) if row.against else row for row in rows)


def _row(method: str, spec: CompareSpec, done: dict[tuple[str, int], RunResult]) -> Row:
    results = [done[method, seed] for seed in spec.seeds if (method, seed) in done]
    pairs = [
        (done[BASELINE, result.run.seed].scores["last"], result.scores["last"])
        for result in results
        if method != BASELINE and (BASELINE, result.run.seed) in done
    ]
    baseline, ours = zip(*pairs, strict=True) if pairs else ((), ())
    against = compare_seeds(baseline, ours, spec.min_effect) if pairs else None
    return Row(method, tuple(results), against, len(pairs))


def _missing_because(run: RunFolder, steps: int) -> str:
    failure = error_file(run.root)
    if failure.is_file():
        return f"failed: {failure.read_text('utf-8')}"
    if not run.provenance.is_file():
        return "not run yet"
    rows = read_rows(run)
    done = int(rows[-1]["step"]) if rows else 0
    return f"at step {done} of {steps}" if done < steps else "trained, but not scored yet"
