"""Summary of a comparison for the terminal: tables, and the answer in words."""

from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console

from patchcl.comparison.choice import Choice
from patchcl.comparison.remarks import caution, missing, remarks
from patchcl.comparison.results import DICE, LabelBudget, describe_budget
from patchcl.comparison.tables import (
    columns_table,
    difference_cell,
    figure_cell,
    format_mean,
    policy,
    quality_table,
    scored_patients,
    structure_tables,
    surface_table,
)
from patchcl.evaluation.intervals import FEWEST_PATIENTS
from patchcl.evaluation.paired import NOTHING_LEARNED, Comparison, VerdictName, compare_seeds
from patchcl.evaluation.sample_size import ASSUMPTION
from patchcl.evaluation.tables import pluralize

NOTHING = "Nothing to compare yet"
INTERVALS = (
    "Differences are paired seed by seed and patient by patient; a patient's is averaged over seeds. Their 95 % "
    "intervals cover which patients were scored and, where several seeds were run, which seeds were drawn. Better, "
    "worse and clear mean that the interval lies beyond all differences too small to count, and that there are at "
    f"least {FEWEST_PATIENTS} patients; equal, that it lies within these. What would settle a difference holds "
    f"{ASSUMPTION}."
)
WORDS: dict[VerdictName, str] = {
    "helped": "Better than",
    "equal": "Equal to",
    "no clear difference": "Not clearly different from",
    "no verdict": "Scored on one patient, which is no verdict against",
    "hurt": "Worse than",
}


def render_budgets(budgets: Sequence[LabelBudget], console: Console, choice: Choice | None = None) -> None:
    """Print all tables, what is missing, the answer, and the run to be used."""
    for budget in budgets:
        console.rule(f"[bold]{describe_budget(budget)}[/bold]", align="left")
        console.print(f"{scored_patients(budget)}; mean ± standard deviation over seeds", highlight=False)
        columns = [columns_table(budget)] if budget.columns else []
        for table in (quality_table(budget), *columns, surface_table(budget), *structure_tables(budget)):
            console.print(table)
        console.print(policy(budget), style="dim", highlight=False)
    for run_id, reason in missing(budgets):
        console.print(f"Missing: {run_id}: {reason}", highlight=False, markup=False)
    for remark in (*remarks(budgets), *caution(budgets)):
        console.print(f"Note: {remark}", highlight=False, markup=False)
    console.print(INTERVALS, style="dim", highlight=False)
    console.print(headline(budgets), style="bold", markup=False, highlight=False)
    for sentence in (*sentences(budgets), *([choice.sentence] if choice else [])):
        console.print(sentence, markup=False, highlight=False)


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
    """The name of the best method, or the names of all that score as high, to the digit shown or as good as."""
    best, *others = budget.complete
    ahead, top = lead(budget), format_mean(best.mean_std(), scale=100)
    alike = [row.method for row in others if format_mean(row.mean_std(), scale=100) == top]
    if not alike and ahead is not None and ahead.overall.verdict == "equal":
        alike = [ahead.first]
    return " and ".join([best.method, *alike])


def _about(budget: LabelBudget) -> Iterator[str]:
    best, ahead = budget.complete[0], lead(budget)
    where = f"With {describe_budget(budget)} ({pluralize(budget.seeds, 'seed')})"
    if not budget.learned:
        yield f"{where} nothing was learned: no method has a mean Dice of {100 * NOTHING_LEARNED:g} %."
        return
    gain = f", {difference_cell(best.against)} points against {budget.baseline}" if best.against else ""
    highest = _highest(budget)
    has = "share" if " and " in highest else "has"
    yield f"{where} {highest} {has} the highest Dice, {figure_cell(best, DICE)} %{gain}."
    if ahead is not None:
        yield _about_lead(ahead, shared=has == "share")
    for verdict, wording in WORDS.items():
        names = [
            _with_outlook(row.method, row.against)
            for row in budget.rows
            if row.against and row.against.overall.verdict == verdict
        ]
        if names:
            yield f"{wording} {budget.baseline}: {', '.join(names)}."


def _about_lead(ahead: Comparison, shared: bool) -> str:
    """What the best method's lead over the next is worth; where they share the highest Dice it is none."""
    if ahead.overall.verdict == "equal":
        return f"The next, {ahead.first}, is equal to it: {difference_cell(ahead)}."
    if ahead.overall.verdict == "no verdict":
        return f"Its lead over the next, {ahead.first}, {difference_cell(ahead)}, is that of one patient: no verdict."
    if shared:
        return f"{ahead.second} and {ahead.first} differ by {difference_cell(ahead)}."
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
