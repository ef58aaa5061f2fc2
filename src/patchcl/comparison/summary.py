"""Summary of a comparison for the terminal: tables, and the answer in words."""

import math
from collections.abc import Iterable, Iterator, Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from patchcl.comparison.results import BASELINE, DICE, Figure, LabelBudget, Row, describe_budget, remarks
from patchcl.evaluation.intervals import FEWEST_PATIENTS
from patchcl.evaluation.metrics import EMPTY_POLICY
from patchcl.evaluation.paired import NOTHING_LEARNED, Comparison, VerdictName, compare_seeds, format_interval
from patchcl.evaluation.sample_size import ASSUMPTION
from patchcl.evaluation.scores import MeanStd, Metric
from patchcl.evaluation.tables import format_score, pluralize

NOTHING = "Nothing to compare yet"
INTERVALS = (
    "Differences are paired seed by seed and patient by patient; a patient's is averaged over seeds. Their 95 % "
    "intervals cover which patients were scored and, where several seeds were run, which seeds were drawn. Better, "
    "worse and clear mean that the interval lies beyond all differences too small to count, and that there are at "
    f"least {FEWEST_PATIENTS} patients; equal, that it lies within these. What would settle a difference holds "
    f"{ASSUMPTION}."
)
BEST_DICE = Figure("dice", checkpoint="best")
DETAILS: tuple[Metric, ...] = ("jaccard", "hd95_mm", "asd_mm")
MANY = 2
"""From so many comparisons on, the reader is told that chance gets as many tries."""
WORDS: dict[VerdictName, str] = {
    "helped": "Better than",
    "equal": "Equal to",
    "no clear difference": "Not clearly different from",
    "no verdict": "Scored on one patient, which is no verdict against",
    "hurt": "Worse than",
}


def render_budgets(budgets: Sequence[LabelBudget], console: Console) -> None:
    """Print all tables, what is missing, and the answer."""
    for budget in budgets:
        console.rule(f"[bold]{describe_budget(budget)}[/bold]", align="left")
        console.print(
            f"{pluralize(budget.patients, 'patient')} scored; mean ± standard deviation over seeds", highlight=False
        )
        for table in (quality_table(budget), surface_table(budget), structure_table(budget)):
            console.print(table)
        console.print(EMPTY_POLICY, style="dim", highlight=False)
    for run_id, reason in missing(budgets):
        console.print(f"Missing: {run_id}: {reason}", highlight=False, markup=False)
    for remark in (*remarks(budgets), *caution(budgets)):
        console.print(f"Note: {remark}", highlight=False, markup=False)
    console.print(INTERVALS, style="dim", highlight=False)
    console.print(headline(budgets), style="bold", markup=False, highlight=False)
    for sentence in sentences(budgets):
        console.print(sentence, markup=False, highlight=False)


def quality_table(budget: LabelBudget) -> Table:
    """The table of mean Dice: the last checkpoint, its difference from the baseline, the best checkpoint."""
    table = _table(("Dice %\nlast", f"against {BASELINE}\nin Dice points", "Dice %\nbest"))
    for row in budget.rows:
        runs = (_marked(budget, row, DICE), difference_cell(row.against), _marked(budget, row, BEST_DICE))
        table.add_row(row.method, *runs)
    return table


def surface_table(budget: LabelBudget) -> Table:
    """The table of the other metrics, of the last checkpoint."""
    table = _table(("Jaccard %", f"95HD {budget.unit}", f"ASD {budget.unit}"))
    for row in budget.rows:
        table.add_row(row.method, *(_marked(budget, row, Figure(metric)) for metric in DETAILS))
    return table


def structure_table(budget: LabelBudget) -> Table:
    """The table of the Dice of every structure, of the last checkpoint; seeds, training time and memory."""
    table = _table((*(f"{name}\nDice %" for name in budget.structures), "seeds", "minutes", "GiB"))
    for row in budget.rows:
        dice = (format_mean(row.mean_std(Figure("dice", name)), scale=100) for name in budget.structures)
        table.add_row(
            row.method, *dice, str(len(row.results)), format_mean(row.minutes), format_mean(row.peak_gib, digits=2)
        )
    return table


def details(budget: LabelBudget) -> list[Figure]:
    """The columns of the second table of the page."""
    return [*map(Figure, DETAILS), *(Figure("dice", structure) for structure in budget.structures)]


def figure_cell(row: Row, figure: Figure) -> str:
    """A figure as tables print it; nothing where nothing was measured."""
    return format_score(row.mean_std(figure), figure.metric) if row.results else ""


def difference_cell(against: Comparison | None) -> str:
    """The mean difference with its interval; nothing where there is none."""
    return format_interval(against.overall.interval) if against else ""


def format_mean(figure: MeanStd, digits: int = 1, scale: int = 1) -> str:
    """The mean alone; nothing where it is not known."""
    return "" if math.isnan(figure.mean) else f"{scale * figure.mean:.{digits}f}"


def missing(budgets: Sequence[LabelBudget]) -> list[tuple[str, str]]:
    """Every run without scores, and why it has none."""
    return [(result.run.run_id, result.missing_because) for budget in budgets for result in budget.missing]


def headline(budgets: Sequence[LabelBudget]) -> str:
    """Which method scores highest, in one line; methods that score alike are named together."""
    complete = [budget for budget in budgets if budget.complete]
    if not complete:
        return NOTHING
    best: dict[str, list[LabelBudget]] = {}
    for budget in (budget for budget in complete if budget.learned):
        best.setdefault(_highest(budget), []).append(budget)
    if not best:
        return "Nothing was learned"
    if len(best) == 1:
        (names,) = best
        return f"{names} score alike" if " and " in names else f"{names} scores highest"
    counts = [f"{method} with {_listed(budget.labeled_patients for budget in won)}" for method, won in best.items()]
    return f"Highest Dice: {', '.join(counts)} labeled patients"


def sentences(budgets: Sequence[LabelBudget]) -> list[str]:
    """For every label budget: the best method, its lead over the next, and how all stand to the baseline."""
    return [" ".join(_about(budget)) for budget in budgets if budget.complete]


def caution(budgets: Sequence[LabelBudget]) -> Iterator[str]:
    """What became of multiple comparisons: chance gets a try with each."""
    tries = sum(row.against is not None for budget in budgets for row in budget.rows)
    if tries >= MANY:
        yield (
            f"There are {tries} comparisons with {BASELINE}. Verdicts on methods with as many labeled patients are "
            "corrected for one another (Holm), so that chance gets one try in all; intervals are not, each stands for "
            "itself."
        )


def lead(budget: LabelBudget) -> Comparison | None:
    """What the best method adds to the next; None if there is no next, or no seed that both have."""
    if len(budget.complete) < 2:
        return None
    best, second = ({result.run.seed: result.scores["last"] for result in row.results} for row in budget.complete[:2])
    seeds = [seed for seed in best if seed in second]
    if not seeds:
        return None
    return compare_seeds([second[seed] for seed in seeds], [best[seed] for seed in seeds], budget.smallest)


def _highest(budget: LabelBudget) -> str:
    """The name of the best method, or the names of all that score as high."""
    top = budget.complete[0].mean_std().mean
    return " and ".join(row.method for row in budget.complete if row.mean_std().mean == top)


def _about(budget: LabelBudget) -> Iterator[str]:
    best, ahead = budget.complete[0], lead(budget)
    where = f"With {describe_budget(budget)} ({pluralize(budget.seeds, 'seed')})"
    if not budget.learned:
        yield f"{where} nothing was learned: no method has a mean Dice of {100 * NOTHING_LEARNED:g} %."
        return
    gain = f", {difference_cell(best.against)} points against {BASELINE}" if best.against else ""
    highest = _highest(budget)
    has = "share" if " and " in highest else "has"
    yield f"{where} {highest} {has} the highest Dice, {figure_cell(best, DICE)} %{gain}."
    if ahead is not None:
        yield _about_lead(ahead)
    for verdict, wording in WORDS.items():
        names = [
            _with_outlook(row.method, row.against)
            for row in budget.rows
            if row.against and row.against.overall.verdict == verdict
        ]
        if names:
            yield f"{wording} {BASELINE}: {', '.join(names)}."


def _about_lead(ahead: Comparison) -> str:
    """What the best method's lead over the next is worth."""
    if ahead.overall.verdict == "equal":
        return f"The next, {ahead.first}, is equal to it: {difference_cell(ahead)}."
    how = "is clear" if ahead.overall.verdict == "helped" else "may be chance"
    enough = ahead.settled_by(ahead.overall)
    outlook = f"; {enough} would settle it" if enough else ""
    return f"Its lead over the next, {ahead.first}, {how}: {difference_cell(ahead)}{outlook}."


def _with_outlook(method: str, against: Comparison) -> str:
    """The method, and what would settle its difference from the baseline where that is open."""
    enough = against.settled_by(against.overall)
    return f"{method} (settled by {enough})" if enough else method


def _listed(counts: Iterable[int | None]) -> str:
    return " and ".join(map(str, counts))


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
