"""Tables of a comparison: what stands in their columns and cells, and how they look on a terminal."""

import math
from collections.abc import Sequence

import numpy as np
from rich import box
from rich.markup import escape
from rich.table import Table

from patchcl.comparison.results import COLUMN_METRICS, DICE, Figure, LabelBudget, Row
from patchcl.evaluation.metrics import EMPTY_POLICY, SURFACE_POLICY
from patchcl.evaluation.paired import Comparison, format_interval
from patchcl.evaluation.scores import HEADINGS, SURFACE_METRICS, MeanStd, Metric
from patchcl.evaluation.tables import format_score, pluralize

BEST_DICE = Figure("dice", checkpoint="best")
MOST_COLUMNS = 6
"""Structures that have a column each; more are listed below one another."""
EXTREMES = 5
"""Of structures that are listed: so many of the lowest, and of the highest."""
DETAILS: tuple[Metric, ...] = ("jaccard", "surface_dice", "hd95_mm", "asd_mm")


def scored_patients(budget: LabelBudget) -> str:
    """How many patients were scored, and by which runs."""
    if budget.folds is None:
        return f"{pluralize(budget.patients, 'patient')} scored"
    return f"{pluralize(budget.patients, 'labeled patient')}, each scored by the run that has not seen it"


def quality_table(budget: LabelBudget) -> Table:
    """The table of mean Dice: the last checkpoint, its difference from the baseline, the best checkpoint."""
    table = _table(("Dice %\nlast", f"against {budget.baseline}\nin Dice points", "Dice %\nbest"))
    for row in budget.rows:
        runs = (_marked(budget, row, DICE), difference_cell(row.against), _marked(budget, row, BEST_DICE))
        table.add_row(row.name, *runs)
    return table


def columns_table(budget: LabelBudget) -> Table:
    """The table of the Dice by what is done beyond one pass of the network, of the last checkpoint."""
    table = _table([f"Dice %\n{column}" for column in budget.columns])
    for row in budget.rows:
        table.add_row(row.name, *(_marked(budget, row, Figure("dice", column=column)) for column in budget.columns))
    return table


def column_figures(budget: LabelBudget) -> list[Figure]:
    """What the page shows by what is done beyond one pass, the last of each metric being the one that counts."""
    return [Figure(metric, column=column) for metric in COLUMN_METRICS for column in budget.columns]


def column_headings(budget: LabelBudget) -> list[tuple[str, str]]:
    """For each of `column_figures` the score and what was done."""
    return [(HEADINGS[figure.metric].format(unit=budget.unit), figure.column) for figure in column_figures(budget)]


def surface_table(budget: LabelBudget) -> Table:
    """The table of the other metrics, of the last checkpoint."""
    metrics = detail_metrics(budget)
    table = _table([HEADINGS[metric].format(unit=budget.unit) for metric in metrics])
    for row in budget.rows:
        table.add_row(row.name, *(_marked(budget, row, Figure(metric)) for metric in metrics))
    return table


def detail_metrics(budget: LabelBudget) -> list[Metric]:
    """The metrics beside Dice; those of surfaces where any run has them, as runs of version 0.1 have not."""
    measured = {metric for evaluation in budget.evaluations for metric in evaluation.metrics}
    return [metric for metric in DETAILS if metric in measured or metric not in SURFACE_METRICS]


def policy(budget: LabelBudget) -> str:
    """What scores mean where masks are empty, and where surfaces count as one."""
    return " ".join([EMPTY_POLICY, *[SURFACE_POLICY] * (SURFACE_METRICS[0] in detail_metrics(budget))])


def structure_tables(budget: LabelBudget) -> list[Table]:
    """The Dice of every structure, of the last checkpoint, with seeds, training time and memory.

    Where structures are many, they get a table of their own with a line for each: of the lowest and highest alone,
    with a line that tells how many were left out.
    """
    many, shown = budget.structures, () if has_many(budget) else budget.structures
    costs = _table((*(f"{name}\nDice %" for name in shown), "seeds", "minutes", "GiB"))
    for row in budget.rows:
        dice = (dice_cell(row, name) for name in shown)
        seeds = str(len(row.results))
        costs.add_row(row.name, *dice, seeds, format_mean(row.minutes), format_mean(row.peak_gib, digits=2))
    return [costs, _long_table(budget)] if shown != many else [costs]


def has_many(budget: LabelBudget) -> bool:
    """Whether there are too many structures for a column each."""
    return len(budget.structures) > MOST_COLUMNS


def extremes(budget: LabelBudget) -> list[str]:
    """The structures that methods find worst on average, and those that they find best, worst first."""

    def dice(structure: str) -> float:
        return float(np.nanmean([row.mean_std(Figure("dice", structure)).mean for row in budget.rows if row.results]))

    ranked = sorted(budget.structures, key=dice)
    return ranked if len(ranked) <= 2 * EXTREMES else ranked[:EXTREMES] + ranked[-EXTREMES:]


def dice_cell(row: Row, structure: str) -> str:
    """The Dice of a structure in percent; nothing where nothing was measured."""
    return format_mean(row.mean_std(Figure("dice", structure)), scale=100)


def details(budget: LabelBudget) -> list[Figure]:
    """The columns of the detailed table of the page."""
    structures = () if has_many(budget) else budget.structures
    return [*map(Figure, detail_metrics(budget)), *(Figure("dice", structure) for structure in structures)]


def figure_cell(row: Row, figure: Figure) -> str:
    """A figure as tables print it; nothing where nothing was measured."""
    value = row.mean_std(figure)
    return "" if math.isnan(value.mean) else format_score(value, figure.metric)


def difference_cell(against: Comparison | None) -> str:
    """The mean difference with its interval; nothing where there is none."""
    return format_interval(against.overall.interval) if against else ""


def format_mean(figure: MeanStd, digits: int = 1, scale: int = 1) -> str:
    """The mean alone; nothing where it is not known."""
    return "" if math.isnan(figure.mean) else f"{scale * figure.mean:.{digits}f}"


def is_best(budget: LabelBudget, row: Row, figure: Figure) -> bool:
    """Whether no method with as many seeds has a better figure, and not all have the same."""
    return row.mean_std(figure).mean == budget.best(figure)


def _marked(budget: LabelBudget, row: Row, figure: Figure) -> str:
    """The figure, bold where it is the best of its column."""
    text = figure_cell(row, figure)
    return f"[bold]{text}[/bold]" if is_best(budget, row, figure) else text


def _table(headings: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("method", no_wrap=True)
    for heading in headings:
        table.add_column(escape(heading), justify="right")
    return table


def _long_table(budget: LabelBudget) -> Table:
    """A line for each of `extremes`, a column for each method."""
    table, shown = Table(box=box.SIMPLE, padding=(0, 1, 0, 0)), extremes(budget)
    table.add_column("Dice % of")
    for row in budget.rows:
        table.add_column(escape(row.name.replace("_", "_\n").replace("+", "\n+")), justify="right", vertical="bottom")
    for place, structure in enumerate(shown):
        left_out = place + 1 == EXTREMES and len(shown) < len(budget.structures)
        cells = (dice_cell(row, structure) for row in budget.rows)
        table.add_row(escape(structure), *cells, end_section=left_out)
    if len(shown) < len(budget.structures):
        table.caption = f"The lowest and the highest of {len(budget.structures)} structures; all are in compare.csv."
    return table
