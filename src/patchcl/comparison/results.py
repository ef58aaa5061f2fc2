"""Results of a comparison: scores, time and memory of its runs, by label budget and method, over seeds."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from patchcl.comparison.cell import error_file
from patchcl.comparison.spec import BASELINE, CompareRun, CompareSpec, run_root
from patchcl.comparison.worker import CHECKPOINTS, Session, finished, scored, scores_of, sessions_of
from patchcl.data.splits import load_split
from patchcl.evaluation.inference_columns import ONE_PASS_COLUMN, POSTPROCESSED_COLUMN, SYMMETRIES_COLUMN
from patchcl.evaluation.paired import NOTHING_LEARNED, SMALLEST_EFFECT, Comparison, compare_seeds, judged_together
from patchcl.evaluation.scores import (
    FRACTION_METRICS,
    MEAN,
    RESCUES,
    Evaluation,
    MeanStd,
    Metric,
    Rows,
    SplitSide,
    summary_rows,
)
from patchcl.evaluation.tables import pluralize
from patchcl.inference.trained_run import read_folds
from patchcl.runs.folder import RunFolder
from patchcl.runs.log import read_rows
from patchcl.runs.provenance import read_provenance

COLUMNS = {ONE_PASS_COLUMN: "one_pass", SYMMETRIES_COLUMN: "symmetries", POSTPROCESSED_COLUMN: "postprocessed"}
"""What may be done beyond one pass of the network, from less to more, and how files name it."""
COLUMN_METRICS: tuple[Metric, Metric] = ("dice", "hd95_mm")
"""The metrics that are shown by what was done."""


class Figure(NamedTuple):
    """A column of the table: a metric of a structure, or of their mean, at a checkpoint."""

    metric: Metric
    structure: str = MEAN
    checkpoint: str = "last"
    column: str = ""  # one of `COLUMNS`; "" is all that the runs do, which counts


DICE = Figure("dice")
"""The headline."""


class RunResult(NamedTuple):
    """Scores and cost of one run of the comparison."""

    run: CompareRun
    scores: dict[str, Evaluation]  # by checkpoint; none of a run that is not finished
    means: dict[Figure, float]  # over patients
    missing_because: str  # why there are no scores; "" where there are
    sessions: list[Session]
    steps: int  # of all folds together
    provenance: dict[str, Any]
    labeled_patients: int | None
    validation: Evaluation | None = None  # its last checkpoint on validation patients, which chooses between methods
    validation_patients: int | None = None

    @property
    def rescues(self) -> int:
        """How often training diverged and was rescued."""
        return max((int(scores.provenance.get(RESCUES) or 0) for scores in self.scores.values()), default=0)

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
        return over_seeds([result.means.get(figure, math.nan) for result in self.results])

    @property
    def name(self) -> str:
        """The method, with a star if a run of it was rescued."""
        return self.method + " *" * any(result.rescues for result in self.results)

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
    baseline: str = BASELINE  # whose runs the others are paired with
    folds: int | None = None  # of each run, see `CompareSpec.folds`

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
    def columns(self) -> tuple[str, ...]:
        """What was done beyond one pass by some run, from one pass on; nothing where that was all."""
        done = {column for evaluation in self.evaluations for column in evaluation.columns}
        return tuple(column for column in COLUMNS if column in done)

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
        measured = [row.mean_std(figure).mean for row in self.complete]
        means = [mean for mean in measured if not math.isnan(mean)]
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
    trained = [root / name for name in read_folds(run)] if run.folds.is_file() else [root]
    steps = spec.settings_of(compare_run.method).training.steps
    there = finished(root, spec.on, steps, spec.options)
    scores = _named_scores(spec, compare_run, root, spec.on, CHECKPOINTS) if there else {}
    judged = scored(root, "validation", steps, spec.options)
    split = load_split(run.split) if run.split.is_file() else None
    return RunResult(
        run=compare_run,
        scores=scores,
        means=means_of(scores),
        missing_because="" if scores else _missing_because(run, steps),
        sessions=[session for each in trained for session in sessions_of(each)],
        steps=steps * len(trained),
        provenance=read_provenance(run.provenance),
        labeled_patients=len(split.labeled) if split else None,
        validation=_named_scores(spec, compare_run, root, "validation", ["last"])["last"] if judged else None,
        validation_patients=len(split.validation) if split and not spec.folds else None,
    )


def _named_scores(
    spec: CompareSpec, compare_run: CompareRun, root: Path, on: SplitSide, checkpoints: Sequence[str]
) -> dict[str, Evaluation]:
    """Scores of a run by checkpoint, under the name of its method."""
    scores = {checkpoint: scores_of(root, on, checkpoint, spec.options) for checkpoint in checkpoints}
    return {checkpoint: each.model_copy(update={"name": compare_run.method}) for checkpoint, each in scores.items()}


def means_of(scores: Mapping[str, Evaluation]) -> dict[Figure, float]:
    """Every figure that the scores of a run hold, by checkpoint; by what was done those of `COLUMN_METRICS`."""
    means = {}
    for checkpoint, evaluation in scores.items():
        for column, rows in _by_column(evaluation).items():
            for structure, figures in rows.items():
                for metric in COLUMN_METRICS if column else evaluation.metrics:
                    means[Figure(metric, structure, checkpoint, column)] = figures[metric]["mean"] or 0.0
    return means


def _by_column(evaluation: Evaluation) -> dict[str, Rows]:
    """The means of all that was done, and those of `COLUMNS`, where what a run leaves out changes nothing."""
    last = summary_rows(evaluation)
    rows = next(iter(evaluation.columns.values()), last)
    found = {"": last}
    for column in COLUMNS:
        rows = found[column] = evaluation.columns.get(column, rows)
    return found


def over_seeds(values: Sequence[float]) -> MeanStd:
    """Mean and standard deviation; NaN where no, or not more than one, value is there."""
    mean = float(np.mean(values)) if values else math.nan
    return MeanStd(mean, float(np.std(values, ddof=1)) if len(values) > 1 else math.nan)


def describe_budget(budget: LabelBudget) -> str:
    """The number of labeled patients in words."""
    count, folds = budget.labeled_patients or budget.labeled, f" in {budget.folds} folds" if budget.folds else ""
    return ("all labeled patients" if count is None else pluralize(count, "labeled patient")) + folds


def _budget(spec: CompareSpec, results: Sequence[RunResult], labeled: int | None) -> LabelBudget:
    ours = [result for result in results if result.run.labeled == labeled]
    done = {(result.run.method, result.run.seed): result for result in ours if result.scores}
    counts = [result.labeled_patients for result in ours if result.labeled_patients is not None]
    rows = _judged([_row(method, spec, done) for method in spec.methods])
    missing = tuple(result for result in ours if not result.scores)
    return LabelBudget(labeled, max(counts, default=None), rows, missing, spec.min_effect, spec.baseline, spec.folds)


def _judged(rows: Sequence[Row]) -> tuple[Row, ...]:
    """The rows, with verdicts that hold for all methods together."""
    judged = iter(judged_together([row.against for row in rows if row.against]))
    return tuple(row._replace(against=next(judged)) if row.against else row for row in rows)


def _row(method: str, spec: CompareSpec, done: dict[tuple[str, int], RunResult]) -> Row:
    results = [done[method, seed] for seed in spec.seeds if (method, seed) in done]
    pairs = [
        (done[spec.baseline, result.run.seed].scores["last"], result.scores["last"])
        for result in results
        if method != spec.baseline and (spec.baseline, result.run.seed) in done
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
    if run.folds.is_file():
        return _missing_folds(run, steps)
    rows = read_rows(run)
    done = int(rows[-1]["step"]) if rows else 0
    return f"at step {done} of {steps}" if done < steps else "trained, but not scored yet"


def _missing_folds(run: RunFolder, steps: int) -> str:
    open_ = [name for name in read_folds(run) if not finished(run.root / name, "validation", steps, "")]
    told = [f"{name} {_missing_because(RunFolder(run.root / name), steps)}" for name in open_]
    return ", ".join(told) or "trained, but not scored yet"
