"""What a reader must know beside the figures of a comparison, because it could explain some of them."""

from collections.abc import Iterator, Sequence

from patchcl.comparison.results import LabelBudget, describe_budget
from patchcl.evaluation.scores import Evaluation

FEWEST_SEEDS = 3
"""Below this the deviation over seeds says little."""
MANY = 2
"""From so many comparisons on, the reader is told that chance gets as many tries."""


def remarks(budgets: Sequence[LabelBudget]) -> Iterator[str]:
    """Caveats that a reader must know beside the figures, because they could explain some of them."""
    results = [result for budget in budgets for row in budget.rows for result in row.results]
    rescued = [f"{result.run.run_id} ({result.rescues})" for result in results if result.rescues]
    if rescued:
        yield f"* Training diverged and was rescued, so many times: {', '.join(rescued)}."
    symmetries = sorted({int(scores.provenance.get("symmetries") or 1) for scores in _scores(budgets)})
    if len(symmetries) > 1:
        yield f"Not all runs were scored on averages over as many symmetries: {', '.join(map(str, symmetries))}."
    commits = sorted({str(result.provenance.get("commit")) for result in results})
    if len(commits) > 1:
        yield f"The runs were made by several commits: {', '.join(commits)}."
    machines = {
        (session.hardware, session.threads, session.at_once) for result in results for session in result.sessions
    }
    if len(machines) > 1:
        listed = [f"{name} ({threads} threads, {count} at once)" for name, threads, count in sorted(machines)]
        yield f"Times and memory were not all measured under the same conditions: {'; '.join(listed)}."
    if any(budget.folds for budget in budgets if budget.patients):
        yield (
            "The patients that are scored chose post-processing and best checkpoints together: their figures flatter. "
            "That folds learn from most of the same patients is in no interval."
        )
    elif any(scores.provenance.get("on") == "validation" for scores in _scores(budgets)):
        yield "Scored on validation patients, who chose the best checkpoints: their figures flatter."
    if results and max(budget.seeds for budget in budgets) < FEWEST_SEEDS:
        yield f"Fewer than {FEWEST_SEEDS} seeds are a first look: another seed may turn the order round."
    for budget in budgets:
        yield from _unevenness(budget)


def caution(budgets: Sequence[LabelBudget]) -> Iterator[str]:
    """What became of multiple comparisons: chance gets a try with each."""
    tries = sum(row.against is not None for budget in budgets for row in budget.rows)
    if tries >= MANY:
        yield (
            f"There are {tries} comparisons with {budgets[0].baseline}. Verdicts on methods with as many labeled "
            "patients are corrected for one another (Holm), so that chance gets one try in all; intervals are not, "
            "each stands for itself."
        )


def missing(budgets: Sequence[LabelBudget]) -> list[tuple[str, str]]:
    """Every run without scores, and why it has none."""
    return [(result.run.run_id, result.missing_because) for budget in budgets for result in budget.missing]


def _scores(budgets: Sequence[LabelBudget]) -> Iterator[Evaluation]:
    return (scores for budget in budgets for scores in budget.evaluations)


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
        where, names = describe_budget(budget), ", ".join(lone)
        yield f"With {where}, not every seed of {names} has a {budget.baseline} run to pair with."
