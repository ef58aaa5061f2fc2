"""Paired comparison of two methods on the same patients, and in plain words what the difference is worth."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from patchcl.core.errors import UserError
from patchcl.evaluation.intervals import FEWEST_PATIENTS, Interval, paired_interval, patient_means
from patchcl.evaluation.metrics import EMPTY_POLICY
from patchcl.evaluation.scores import MEAN, Evaluation, MeanStd, Metric, summarise
from patchcl.evaluation.tables import empty_table, format_score, pluralize

COMPARED: tuple[Metric, Metric] = ("dice", "hd95_mm")
"""The metrics that a comparison shows of every structure; the difference is that of the first."""


class Difference(NamedTuple):
    """The difference in Dice of a structure, second evaluation less the first."""

    structure: str
    interval: Interval  # in Dice, 0 .. 1
    verdict: Literal["helped", "hurt", "no clear difference"]


class Comparison(NamedTuple):
    """Two methods on the same patients, side by side."""

    first: str
    second: str
    patients: int
    differences: tuple[Difference, ...]  # one per structure, then their mean

    @property
    def overall(self) -> Difference:
        """The difference of the mean over all structures."""
        return self.differences[-1]


def compare(first: Evaluation, second: Evaluation) -> Comparison:
    """What `second` adds to `first`, in Dice, patient by patient.

    A range that excludes 0 is a verdict only from `FEWEST_PATIENTS` patients on.

    Raises:
        UserError: The two do not score the same patients on the same structures.
    """
    return compare_seeds([first], [second])


def compare_seeds(firsts: Sequence[Evaluation], seconds: Sequence[Evaluation]) -> Comparison:
    """What a method adds to another, in Dice, patient by patient, over runs with several seeds.

    Runs are paired within a seed, so seeds may score different patients. A patient's difference is the mean over the
    seeds that scored it, and patients are the unit of the interval: it covers which patients were scored, and not
    which seeds were drawn. Hence a verdict also needs all seeds to be of its opinion.

    Args:
        firsts: One evaluation per seed; at least one.
        seconds: For each of these the one of the other method with the same seed.

    Raises:
        UserError: The two of a seed do not score the same patients on the same structures.
    """
    for first, second in zip(firsts, seconds, strict=True):
        _require_same("structures", first, second, first.structures, second.structures)
        _require_same("patients", first, second, sorted(first.patients), sorted(second.patients))
    patients = {patient for first in firsts for patient in first.patients}
    differences = [_difference(firsts, seconds, structure) for structure in (*firsts[0].structures, MEAN)]
    return Comparison(firsts[0].name, seconds[0].name, len(patients), tuple(differences))


def comparison_table(first: Evaluation, second: Evaluation) -> Table:
    """Both methods structure by structure, and their paired difference with its interval, for the terminal."""
    comparison = compare(first, second)
    title = f"Mean over {pluralize(comparison.patients, 'patient')}, and the paired difference with its 95 % interval"
    dice = (f"Dice %\n{first.name}", f"\n{second.name}", "difference\nin Dice points")
    distance = (f"95HD {first.unit}\n{first.name}", f"\n{second.name}")
    table = empty_table(title, EMPTY_POLICY, (*dice, *distance), box=box.SIMPLE, padding=(0, 1, 0, 0))
    for structure, interval, _ in comparison.differences:
        before, after = (
            [_mean(evaluation, metric, structure) for evaluation in (first, second)] for metric in COMPARED
        )
        table.add_row(
            escape(structure), *before, format_interval(interval), *after, style="bold" if structure == MEAN else None
        )
    return table


def in_words(comparison: Comparison) -> str:
    """The verdict on the mean of all structures, in one sentence."""
    mean, low, high = comparison.overall.interval
    patients = pluralize(comparison.patients, "patient")
    facts = f"({format_points(low)} to {format_points(high)}, 95 % interval over {patients})"
    change = f"{format_points(mean)} Dice points {facts}"
    match comparison.overall.verdict:
        case "helped":
            return f"{comparison.second} is better than {comparison.first}: {change}."
        case "hurt":
            return f"{comparison.second} is worse than {comparison.first}: {change}."
    few = f" With fewer than {FEWEST_PATIENTS} patients none can be shown." * (comparison.patients < FEWEST_PATIENTS)
    return f"No clear difference between {comparison.second} and {comparison.first}: {change}.{few}"


def render_comparison(first: Evaluation, second: Evaluation, console: Console) -> None:
    """Print both methods side by side, and the verdict."""
    console.print(comparison_table(first, second))
    console.print(in_words(compare(first, second)), style="bold", markup=False, highlight=False)


def format_points(dice: float) -> str:
    """A difference in Dice in points of a hundred, with its sign; a question mark where there is none."""
    rounded = "?" if math.isnan(dice) else f"{100 * dice:+.1f}".replace("-", "−")
    return "0.0" if rounded in ("+0.0", "−0.0") else rounded


def format_interval(interval: Interval) -> str:
    """A difference in Dice with its interval, in points of a hundred."""
    mean, low, high = map(format_points, interval)
    return f"{mean} ({low} to {high})"


def _mean(evaluation: Evaluation, metric: Metric, structure: str) -> str:
    return format_score(MeanStd(summarise(evaluation, metric, structure).mean, math.nan), metric)


def _require_same(what: str, first: Evaluation, second: Evaluation, ours: Sequence[str], theirs: Sequence[str]) -> None:
    if list(ours) != list(theirs):
        only = [f"{name} only in {first.name}" for name in ours if name not in theirs]
        only += [f"{name} only in {second.name}" for name in theirs if name not in ours]
        raise UserError(
            f"{first.name} and {second.name} were scored on different {what}: {', '.join(only) or 'another order'}. "
            "A paired comparison needs the same: evaluate both runs on the same side of one split."
        )


def _difference(firsts: Sequence[Evaluation], seconds: Sequence[Evaluation], structure: str) -> Difference:
    before, after = _over_seeds(firsts, structure), _over_seeds(seconds, structure)
    interval = paired_interval(list(before.values()), [after[patient] for patient in before])
    gains = [
        summarise(second, "dice", structure).mean - summarise(first, "dice", structure).mean
        for first, second in zip(firsts, seconds, strict=True)
    ]
    enough = len(before) >= FEWEST_PATIENTS
    if enough and interval.low > 0 and min(gains) > 0:
        return Difference(structure, interval, "helped")
    if enough and interval.high < 0 and max(gains) < 0:
        return Difference(structure, interval, "hurt")
    return Difference(structure, interval, "no clear difference")


def _over_seeds(evaluations: Sequence[Evaluation], structure: str) -> dict[str, float]:
    """The Dice of every patient, averaged over the seeds that scored it."""
    scores = [pair for evaluation in evaluations for pair in evaluation.by_patient("dice", structure).items()]
    return patient_means([dice for _, dice in scores], [patient for patient, _ in scores])
