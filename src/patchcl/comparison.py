"""Compare two methods on the same patients, and say in plain words what the difference is worth."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

from patchcl.errors import UserError
from patchcl.evaluate import MEAN, Evaluation, Metric, Spread, counted, shown, summarise
from patchcl.metrics import EMPTY_POLICY
from patchcl.statistics import FEWEST_PATIENTS, Interval, paired_interval

COMPARED: tuple[Metric, Metric] = ("dice", "hd95_mm")
"""What a comparison shows of every structure; the difference is that of the first."""


class Difference(NamedTuple):
    """What the second evaluation adds to the Dice of a structure."""

    structure: str
    interval: Interval  # in Dice, 0 .. 1
    verdict: Literal["helped", "hurt", "no clear difference"]


class Comparison(NamedTuple):
    """Two evaluations of the same patients, side by side."""

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
    _demand_same("structures", first, second, first.structures, second.structures)
    _demand_same("patients", first, second, sorted(first.patients), sorted(second.patients))
    differences = [_difference(first, second, structure) for structure in (*first.structures, MEAN)]
    return Comparison(first.name, second.name, len(first.patients), tuple(differences))


def comparison_table(first: Evaluation, second: Evaluation) -> Table:
    """Both methods structure by structure, and their paired difference with its interval, for the terminal."""
    comparison = compare(first, second)
    title = f"Mean over {counted(comparison.patients)}, and the paired difference with its 95 % interval"
    table = Table(
        title=title,
        caption=EMPTY_POLICY,
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE,
        padding=(0, 1, 0, 0),
    )
    table.add_column("structure")
    for heading in (f"Dice %\n{first.name}", f"\n{second.name}", "difference\nin Dice points"):
        table.add_column(heading, justify="right")
    for heading in (f"95HD {first.unit}\n{first.name}", f"\n{second.name}"):
        table.add_column(heading, justify="right")
    for structure, interval, _ in comparison.differences:
        before, after = ([_cell(of, metric, structure) for of in (first, second)] for metric in COMPARED)
        change = f"{points(interval.mean)} ({points(interval.low)} to {points(interval.high)})"
        table.add_row(structure, *before, change, *after, style="bold" if structure == MEAN else None)
    return table


def in_words(comparison: Comparison) -> str:
    """The verdict on the mean of all structures, in one sentence."""
    mean, low, high = comparison.overall.interval
    facts = f"({points(low)} to {points(high)}, 95 % interval over {counted(comparison.patients)})"
    change = f"{points(mean)} Dice points {facts}"
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
    console.print(in_words(compare(first, second)), style="bold", highlight=False)


def points(dice: float) -> str:
    """A difference in Dice in points of a hundred, with its sign; a question mark where there is none."""
    rounded = "?" if math.isnan(dice) else f"{100 * dice:+.1f}".replace("-", "−")
    return "0.0" if rounded in ("+0.0", "−0.0") else rounded


def _cell(evaluation: Evaluation, metric: Metric, structure: str) -> str:
    return shown(Spread(summarise(evaluation, metric, structure).mean, math.nan), metric)


def _demand_same(what: str, first: Evaluation, second: Evaluation, ours: Sequence[str], theirs: Sequence[str]) -> None:
    if list(ours) != list(theirs):
        only = [f"{name} only in {first.name}" for name in ours if name not in theirs]
        only += [f"{name} only in {second.name}" for name in theirs if name not in ours]
        raise UserError(
            f"{first.name} and {second.name} were scored on different {what}: {', '.join(only) or 'another order'}. "
            "A paired comparison needs the same: evaluate both runs on the same side of one split."
        )


def _difference(first: Evaluation, second: Evaluation, structure: str) -> Difference:
    before, after = first.by_patient("dice", structure), second.by_patient("dice", structure)
    interval = paired_interval(list(before.values()), [after[patient] for patient in before])
    enough = len(before) >= FEWEST_PATIENTS
    if enough and interval.low > 0:
        return Difference(structure, interval, "helped")
    if enough and interval.high < 0:
        return Difference(structure, interval, "hurt")
    return Difference(structure, interval, "no clear difference")
