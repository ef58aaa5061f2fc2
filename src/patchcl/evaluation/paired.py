"""Paired comparison of two methods on the same patients, and in plain words what the difference is worth."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from patchcl.core.errors import UserError
from patchcl.evaluation.intervals import FEWEST_PATIENTS, LEVEL, Interval, MeanDifference, holm, over_seeds
from patchcl.evaluation.metrics import EMPTY_POLICY
from patchcl.evaluation.sample_size import ASSUMPTION, Needed, format_needed, needed
from patchcl.evaluation.scores import MEAN, Evaluation, MeanStd, Metric, require_scores, summarise
from patchcl.evaluation.tables import empty_table, format_score, pluralize

COMPARED: tuple[Metric, Metric] = ("dice", "hd95_mm")
"""The metrics that a comparison shows of every structure; the difference is that of the first."""
SMALLEST_EFFECT = 0.001
"""The least difference in Dice that counts, unless told otherwise: a tenth of a Dice point."""
NOTHING_LEARNED = 0.01
"""Where no mean Dice reaches this, there is nothing to compare."""
VerdictName = Literal["helped", "hurt", "equal", "no clear difference", "no verdict"]


class Difference(NamedTuple):
    """The difference in Dice of a structure, second evaluation less the first."""

    structure: str
    interval: Interval  # in Dice, -1 .. 1
    verdict: VerdictName
    p_value: float  # corrected where several comparisons share their verdicts
    estimate: MeanDifference

    def needed(self, smallest: float, comparisons: int = 1) -> Needed | None:
        """How many patients or seeds would settle it; None where it is settled, or one patient tells no spread."""
        if self.verdict != "no clear difference":
            return None
        return needed(self.estimate, smallest, (1 - LEVEL) / comparisons)


class Comparison(NamedTuple):
    """Two methods on the same patients, side by side."""

    first: str
    second: str
    patients: int
    differences: tuple[Difference, ...]  # one per structure, then their mean
    highest: float  # mean Dice of the better one
    smallest: float = SMALLEST_EFFECT  # difference in Dice that counts
    comparisons: int = 1  # that share their verdicts

    @property
    def overall(self) -> Difference:
        """The difference of the mean over all structures."""
        return self.differences[-1]

    @property
    def seeds(self) -> int:
        """How many seeds were run."""
        return self.overall.estimate.seeds

    @property
    def learned(self) -> bool:
        """Whether either of them found anything."""
        return self.highest >= NOTHING_LEARNED

    def settled_by(self, difference: Difference) -> str:
        """How many patients or seeds would settle a difference; nothing where it is settled."""
        found = difference.needed(self.smallest, self.comparisons) if self.learned else None
        return format_needed(found, self.seeds) if found else ""


def compare(first: Evaluation, second: Evaluation, smallest: float = SMALLEST_EFFECT) -> Comparison:
    """What `second` adds to `first`, in Dice, patient by patient.

    "helped" and "hurt" need an interval that lies beyond all differences too small to count, and `FEWEST_PATIENTS`
    patients; "equal" one that lies within these.

    Args:
        first: The evaluation of what there was.
        second: That of what is new.
        smallest: The least difference in Dice that counts.

    Raises:
        UserError: The two do not score the same patients on the same structures, or a score is none.
    """
    return compare_seeds([first], [second], smallest)


def compare_seeds(
    firsts: Sequence[Evaluation], seconds: Sequence[Evaluation], smallest: float = SMALLEST_EFFECT
) -> Comparison:
    """What a method adds to another, in Dice, patient by patient, over runs with several seeds.

    Runs are paired within a seed, so seeds may score different patients. A patient's difference is the mean over the
    seeds that scored it; the interval covers both which patients were scored and which seeds were drawn.

    Args:
        firsts: One evaluation per seed; at least one.
        seconds: For each of these the one of the other method with the same seed.
        smallest: The least difference in Dice that counts.

    Raises:
        UserError: The two of a seed do not score the same patients on the same structures, or a score is none.
    """
    for first, second in zip(firsts, seconds, strict=True):
        _require_same("structures", first, second, first.structures, second.structures)
        _require_same("patients", first, second, sorted(first.patients), sorted(second.patients))
        require_scores(first)
        require_scores(second)
    patients = {patient for first in firsts for patient in first.patients}
    differences = [_difference(firsts, seconds, structure, smallest) for structure in (*firsts[0].structures, MEAN)]
    means = [float(np.mean([summarise(each, "dice").mean for each in runs])) for runs in (firsts, seconds)]
    return Comparison(firsts[0].name, seconds[0].name, len(patients), tuple(differences), max(means), smallest)


def require_effect(smallest: float) -> float:
    """The least difference in Dice that counts, unless it cannot be one.

    Raises:
        UserError: It is not from 0 to below 1.
    """
    if not 0 <= smallest < 1:
        raise UserError(
            f"The least difference that counts is {100 * smallest:g} Dice points, expected 0 to below 100. "
            "Give --min-effect in Dice points, such as 0.1."
        )
    return smallest


def judged_together(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The same comparisons with verdicts that hold for all of them together, after Holm; intervals stay."""
    same_structure = zip(*(comparison.differences for comparison in comparisons), strict=True)
    corrected = [holm([each.p_value for each in same]) for same in same_structure]
    return [
        comparison._replace(
            comparisons=len(comparisons),
            differences=tuple(
                _judged(difference, p_values[place], comparison.smallest)
                for difference, p_values in zip(comparison.differences, corrected, strict=True)
            ),
        )
        for place, comparison in enumerate(comparisons)
    ]


def comparison_table(first: Evaluation, second: Evaluation) -> Table:
    """Both methods structure by structure, and their paired difference with its interval, for the terminal."""
    comparison = compare(first, second)
    title = f"Mean over {pluralize(comparison.patients, 'patient')}, and the paired difference with its 95 % interval"
    dice = (f"Dice %\n{first.name}", f"\n{second.name}", "difference\nin Dice points")
    distance = (f"95HD {first.unit}\n{first.name}", f"\n{second.name}")
    table = empty_table(title, EMPTY_POLICY, (*dice, *distance), box=box.SIMPLE, padding=(0, 1, 0, 0))
    for difference in comparison.differences:
        structure, interval = difference.structure, difference.interval
        before, after = (
            [_mean(evaluation, metric, structure) for evaluation in (first, second)] for metric in COMPARED
        )
        table.add_row(
            escape(structure), *before, format_interval(interval), *after, style="bold" if structure == MEAN else None
        )
    return table


def in_words(comparison: Comparison) -> str:
    """The verdict on the mean of all structures, in a sentence or two."""
    first, second, overall = comparison.first, comparison.second, comparison.overall
    patients = pluralize(comparison.patients, "patient")
    if not comparison.learned:
        return f"Nothing was learned: mean Dice is below {100 * NOTHING_LEARNED:g} % with {first} and with {second}."
    mean, low, high = map(format_points, overall.interval)
    if overall.verdict == "no verdict":
        return f"{second} less {first} is {mean} Dice points on one patient, who gives no interval and no verdict."
    over = patients if comparison.seeds == 1 else f"{patients} and {comparison.seeds} seeds"
    change = f"{mean} Dice points ({low} to {high}, 95 % interval over {over})"
    match overall.verdict:
        case "helped":
            return f"{second} is better than {first}: {change}."
        case "hurt":
            return f"{second} is worse than {first}: {change}."
        case "equal":
            least = format_least(comparison.smallest)
            return f"{second} and {first} are equal: {change}; less than {least} counts as none."
    return f"No clear difference between {second} and {first}: {change}.{_outlook(comparison)}"


def render_comparison(first: Evaluation, second: Evaluation, console: Console) -> None:
    """Print both methods side by side, the verdict, and what would settle the structures that are open."""
    console.print(comparison_table(first, second))
    comparison = compare(first, second)
    console.print(in_words(comparison), style="bold", highlight=False, markup=False)
    enough = {each.structure: comparison.settled_by(each) for each in comparison.differences[:-1]}
    listed = "; ".join(f"{structure}, {count}" for structure, count in enough.items() if count)
    if listed:
        console.print(f"What would settle single structures: {listed}.", highlight=False, markup=False)


def format_points(dice: float) -> str:
    """A difference in Dice in points of a hundred, with its sign; a question mark where there is none."""
    rounded = "?" if math.isnan(dice) else f"{100 * dice:+.1f}".replace("-", "−")
    return "0.0" if rounded in ("+0.0", "−0.0") else rounded


def format_least(smallest: float) -> str:
    """The least difference that counts, in Dice points."""
    return f"{100 * smallest:g} Dice points"


def format_interval(interval: Interval) -> str:
    """A difference in Dice with its interval, if there is one, in points of a hundred."""
    mean, low, high = map(format_points, interval)
    return mean if math.isnan(interval.low) else f"{mean} ({low} to {high})"


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


def _difference(
    firsts: Sequence[Evaluation], seconds: Sequence[Evaluation], structure: str, smallest: float
) -> Difference:
    gains = []
    for first, second in zip(firsts, seconds, strict=True):
        before, after = (each.by_patient("dice", structure) for each in (first, second))
        gains.append({patient: after[patient] - before[patient] for patient in before})
    estimate = over_seeds(gains)
    found = Difference(structure, estimate.interval(), "no verdict", 1.0, estimate)
    return _judged(found, estimate.p_value(smallest), smallest)


def _judged(difference: Difference, p_value: float, smallest: float) -> Difference:
    """The difference with the verdict that this p-value and its interval allow."""
    mean, low, high = difference.interval
    verdict: VerdictName = "no clear difference"
    if math.isnan(low):
        verdict = "no verdict"
    elif p_value <= 1 - LEVEL:
        verdict = "helped" if mean > 0 else "hurt"
    elif -smallest <= low and high <= smallest and difference.estimate.patients >= FEWEST_PATIENTS:
        verdict = "equal"
    return difference._replace(verdict=verdict, p_value=p_value)


def _outlook(comparison: Comparison) -> str:
    """What would settle a comparison, as further sentences."""
    few = f" With fewer than {FEWEST_PATIENTS} patients none can be shown." * (comparison.patients < FEWEST_PATIENTS)
    enough = comparison.settled_by(comparison.overall)
    return f"{few} {enough[0].upper()}{enough[1:]} would settle it, {ASSUMPTION}."
