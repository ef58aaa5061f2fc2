"""The run of a comparison that is to be used: masks alone, unless validation patients speak for another method.

Validation patients have masks and are learned from by no run; with folds every labeled patient is one, for the run that
has not seen it, and the run to be used is an ensemble. Test patients never choose.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from patchcl.comparison.results import LabelBudget, RunResult, over_seeds
from patchcl.comparison.spec import BASELINE, CompareRun, run_root
from patchcl.comparison.spec_file import spec_file
from patchcl.core.console import console
from patchcl.core.documents import parse_json
from patchcl.core.errors import UserError
from patchcl.core.files import write_json
from patchcl.core.settings import FrozenSettings
from patchcl.evaluation.intervals import FEWEST_PATIENTS
from patchcl.evaluation.paired import Comparison, VerdictName, compare_seeds, format_interval, in_words, judged_together
from patchcl.evaluation.scores import Evaluation, summarise
from patchcl.evaluation.tables import pluralize

FOLDS_SAY = " Each patient was scored by the run that has not seen it."


class Judged(FrozenSettings):
    """What a method adds to the baseline on validation patients, in Dice."""

    difference: float
    low: float | None  # of the 95 % interval; None for a single patient
    high: float | None
    p_value: float  # corrected for the other methods (Holm)
    verdict: VerdictName


class Choice(FrozenSettings):
    """The run to be used, and why."""

    run_id: str
    labeled: int | None  # patients with masks, as asked
    method: str
    seed: int
    reason: str
    patients: int  # validation patients that judged, all seeds together
    dice: dict[str, float]  # by method, on them
    against_baseline: dict[str, Judged]

    @property
    def sentence(self) -> str:
        """The choice and its reason."""
        return f"Chosen run: {self.run_id}. {self.reason}"


def choose(budgets: Sequence[LabelBudget]) -> Choice | None:
    """The run to be used, among those with most labeled patients; None where the baseline is not scored.

    A method must be better than the baseline beyond chance, after Holm, on validation patients; of several the one
    with the highest Dice is taken, else the baseline, as where no patient was kept for validation. Of its seeds that
    with the highest Dice. Where there is `supervised`, that is the baseline, whatever the tables compare with.
    """
    budgets = list(map(_beside_masks_alone, budgets))
    for budget in reversed(budgets):
        scored = _scored(budget)
        if budget.baseline in scored:
            return _choice(budget, scored)
    return next(filter(None, map(_unjudged, reversed(budgets))), None)


def write_choice(choice: Choice | None, out: Path) -> None:
    """Keep the choice in `out`, or remove one that holds no longer."""
    if choice is None:
        choice_file(out).unlink(missing_ok=True)
    else:
        write_json(choice_file(out), choice.model_dump(mode="json"))


def choice_file(out: Path) -> Path:
    """The file of a comparison that names the run to be used."""
    return out / "chosen.json"


def run_to_use(folder: Path) -> Path:
    """`folder`, which may hold a run; or if it holds a comparison the folder of the chosen run, and why is told.

    Raises:
        UserError: The comparison has chosen no run, or its file is damaged.
    """
    if not spec_file(folder).is_file():
        return folder
    path = choice_file(folder)
    try:
        choice = Choice.model_validate(parse_json(path.read_bytes()))
    except OSError as error:
        raise UserError(
            f"{folder} holds a comparison that has chosen no run: that needs scores of its baseline (--baseline, by "
            f"default the method supervised). Go on with patchcl compare DATA -o {folder}, with it among --methods; or "
            "name one of the runs."
        ) from error
    except ValueError as error:
        raise UserError(f"{path} cannot be read. Make it anew with: patchcl compare --show {folder}") from error
    console.print(choice.sentence, markup=False, highlight=False, soft_wrap=True)
    return run_root(folder, CompareRun(choice.labeled, choice.method, choice.seed))


def _beside_masks_alone(budget: LabelBudget) -> LabelBudget:
    """`budget` with masks alone as its baseline, if a run of these can be judged or has nobody to judge it."""
    alone = [result for row in budget.rows if row.method == BASELINE for result in row.results]
    usable = any(result.validation or result.validation_patients == 0 for result in alone)
    return budget._replace(baseline=BASELINE) if usable else budget


def _scored(budget: LabelBudget) -> dict[str, list[RunResult]]:
    """By method its runs with validation scores, of those that have them for all seeds of the baseline."""
    scored = {row.method: [result for result in row.results if result.validation] for row in budget.rows}
    seeds = {result.run.seed for result in scored.get(budget.baseline, [])}
    return {
        method: [result for result in results if result.run.seed in seeds]
        for method, results in scored.items()
        if seeds and seeds <= {result.run.seed for result in results}
    }


def _unjudged(budget: LabelBudget) -> Choice | None:
    """The first run of the baseline that kept nobody for validation; None if there is none that is finished."""
    ours = [result for row in budget.rows if row.method == budget.baseline for result in row.results]
    runs = [result.run for result in ours if result.validation_patients == 0]
    if not runs:
        return None
    reason = f"No patient was kept for validation, so nothing speaks for another method than {budget.baseline}."
    return Choice(**runs[0]._asdict(), run_id=runs[0].run_id, reason=reason, patients=0, dice={}, against_baseline={})


def _choice(budget: LabelBudget, scored: Mapping[str, Sequence[RunResult]]) -> Choice:
    """Of methods whose runs have validation scores, the baseline among them."""
    judged = _judged(budget, scored)
    dice = {method: over_seeds([_dice(run) for run in runs]).mean for method, runs in scored.items()}
    better = [method for method, comparison in judged.items() if comparison.overall.verdict == "helped"]
    method = max(better, key=lambda name: dice[name], default=budget.baseline)
    run = max(scored[method], key=_dice).run
    return Choice(
        run_id=run.run_id,
        labeled=run.labeled,
        method=method,
        seed=run.seed,
        reason=_reason(budget, judged, judged.get(method)) + FOLDS_SAY * bool(budget.folds),
        patients=len({patient for run in scored[method] for patient in _on_validation(run).patients}),
        dice=dice,
        against_baseline={name: _figures(comparison) for name, comparison in judged.items()},
    )


def _judged(budget: LabelBudget, scored: Mapping[str, Sequence[RunResult]]) -> dict[str, Comparison]:
    """Every other method against the baseline, seed by seed, with verdicts that hold for all together."""
    evaluations = {method: [_on_validation(run) for run in runs] for method, runs in scored.items()}
    baseline = evaluations.pop(budget.baseline)
    compared = [compare_seeds(baseline, ours, budget.smallest) for ours in evaluations.values()]
    return dict(zip(evaluations, judged_together(compared), strict=True))


def _reason(budget: LabelBudget, judged: Mapping[str, Comparison], best: Comparison | None) -> str:
    """Why the best method, or the baseline where there is none, in words."""
    baseline, judge = budget.baseline, "labeled patient" if budget.folds else "validation patient"
    if best:
        return f"On {judge}s {in_words(best)}"
    if not judged:
        return f"No other method is there to be compared with {baseline} on {judge}s."
    first = next(iter(judged.values()))
    gains = [f"{method} {format_interval(comparison.overall.interval)}" for method, comparison in judged.items()]
    over = pluralize(first.patients, judge) + ("" if first.seeds == 1 else f" and {first.seeds} seeds")
    few = f"; with fewer than {FEWEST_PATIENTS} patients none can be shown to be" * (first.patients < FEWEST_PATIENTS)
    return f"No method is better than {baseline} beyond chance over {over}{few}: {', '.join(gains)} Dice points."


def _figures(comparison: Comparison) -> Judged:
    mean, *bounds = comparison.overall.interval
    low, high = (None if math.isnan(bound) else bound for bound in bounds)
    overall = comparison.overall
    return Judged(difference=mean, low=low, high=high, p_value=overall.p_value, verdict=overall.verdict)


def _dice(run: RunResult) -> float:
    return summarise(_on_validation(run), "dice").mean


def _on_validation(run: RunResult) -> Evaluation:
    assert run.validation is not None
    return run.validation
