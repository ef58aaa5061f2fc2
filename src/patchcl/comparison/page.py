"""HTML page of a comparison: the answer, the scores, charts and masks that it rests on, and what is missing."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from patchcl.comparison.choice import Choice
from patchcl.comparison.export import settings_hash
from patchcl.comparison.remarks import caution, missing, remarks
from patchcl.comparison.results import DICE, Figure, LabelBudget, Row, describe_budget
from patchcl.comparison.spec import CompareSpec, run_root
from patchcl.comparison.summary import INTERVALS, headline, sentences
from patchcl.comparison.tables import (
    BEST_DICE,
    column_figures,
    column_headings,
    detail_metrics,
    details,
    dice_cell,
    extremes,
    figure_cell,
    format_mean,
    has_many,
    is_best,
    policy,
    scored_patients,
)
from patchcl.comparison.variants import changes
from patchcl.comparison.worker import scores_file
from patchcl.core.errors import UserError
from patchcl.data.dataset import read_dataset
from patchcl.data.preprocessing.plan import load_plan
from patchcl.evaluation.intervals import Interval
from patchcl.evaluation.paired import format_least, format_points
from patchcl.evaluation.scores import HEADINGS
from patchcl.figures.charts import MethodMarks, efficiency_chart, methods_chart
from patchcl.figures.overlays import Panel, overlay_grid, png
from patchcl.figures.representative_slice import RepresentativeSlice, representative_slice
from patchcl.reports.page import picture_uri, themed, write_page
from patchcl.runs.folder import RunFolder

TITLE = "Which method makes most of few masks and many scans?"
PANELS = 4
"""Number of pictures in a row."""
NOT_KNOWN = Interval(math.nan, math.nan, math.nan)
Overlay = dict[str, str]


def write_compare_page(
    spec: CompareSpec, budgets: Sequence[LabelBudget], out: Path, choice: Choice | None = None
) -> None:
    """Write the page about the comparison in `out` to `out`/compare.html.

    Raises:
        UserError: The page cannot be written.
    """
    content = {
        "title": TITLE,
        "headline": headline(budgets),
        "sentences": sentences(budgets),
        "choice": choice,
        "warnings": list(remarks(budgets)),
        "caution": list(caution(budgets)),
        "budgets": [_budget(budget) for budget in budgets if budget.structures],
        "curves": _curves(budgets, spec.baseline),
        "overlay": next((_overlay(spec, budget, out) for budget in budgets if budget.complete), None),
        "missing": missing(budgets),
        "intervals": INTERVALS,
        "baseline": spec.baseline,
        "facts": list(_facts(spec, budgets)),
        "runs": list(_runs(budgets)),
    }
    write_page("compare.html.j2", content, out / "compare.html")


def _budget(budget: LabelBudget) -> dict[str, Any]:
    """The tables and the chart of one label budget."""
    return {
        "name": describe_budget(budget),
        "scored": scored_patients(budget),
        "policy": policy(budget),
        "columns": column_headings(budget),
        "metrics": [HEADINGS[metric].format(unit=budget.unit) for metric in detail_metrics(budget)],
        "structures": () if has_many(budget) else budget.structures,
        "listed": list(_listed(budget)) if has_many(budget) else [],
        "rows": [_row(budget, row) for row in budget.rows],
        "chart": themed(lambda theme: methods_chart(_marks(budget), theme)),
    }


def _listed(budget: LabelBudget) -> Iterator[tuple[str, list[tuple[str, list[str]]]]]:
    """Tables of structures, a line for each with the Dice of every method: of the extremes, and of all."""
    choices = {"extremes": extremes(budget), "all": budget.structures}
    for name, structures in choices.items():
        yield name, [(structure, [dice_cell(row, structure) for row in budget.rows]) for structure in structures]


def _row(budget: LabelBudget, row: Row) -> dict[str, Any]:
    difference = row.against.overall if row.against else None
    known = difference is not None and difference.verdict != "no verdict"
    low_high = [format_points(end) for end in difference.interval[1:]] if difference and known else []
    return {
        "method": row.name,
        "seeds": len(row.results),
        "dice": _figure(budget, row, DICE),
        "difference": format_points(difference.interval.mean) if difference else "",
        "interval": " to ".join(low_high),
        "verdict": difference.verdict.split()[0] if difference else "",
        "settled_by": row.against.settled_by(difference) if row.against and difference else "",
        "best": _figure(budget, row, BEST_DICE),
        "minutes": format_mean(row.minutes),
        "peak_gib": format_mean(row.peak_gib, digits=2),
        "columns": [_figure(budget, row, figure) for figure in column_figures(budget)],
        "details": [_figure(budget, row, figure) for figure in details(budget)],
    }


def _figure(budget: LabelBudget, row: Row, figure: Figure) -> tuple[str, bool]:
    """A figure, and whether it is the best of its column."""
    return figure_cell(row, figure), is_best(budget, row, figure)


def _marks(budget: LabelBudget) -> dict[str, MethodMarks]:
    """The marks of every method in the chart of a label budget, the best method on top."""
    rows = sorted((row for row in budget.rows if row.results), key=lambda row: -row.mean_std().mean)
    return {
        row.name: MethodMarks(
            patients=list(row.patient_dice().values()),
            dice=row.mean_std().mean,
            difference=row.against.overall.interval if row.against else NOT_KNOWN,
            verdict=row.against.overall.verdict if row.against else "",
            minutes=row.minutes.mean,
            peak_gib=row.peak_gib.mean,
        )
        for row in rows
    }


def _curves(budgets: Sequence[LabelBudget], baseline: str) -> dict[str, str] | None:
    """The chart of Dice over labeled patients; None with a single label budget."""
    curves: dict[str, list[tuple[int, float, float]]] = {}
    for budget in budgets:
        for row in budget.rows:
            if row.results and budget.labeled_patients is not None:
                curves.setdefault(row.method, []).append((budget.labeled_patients, *row.mean_std()))
    counts = {labeled for points_ in curves.values() for labeled, _, _ in points_}
    return themed(lambda theme: efficiency_chart(curves, baseline, theme)) if len(counts) > 1 else None


def _overlay(spec: CompareSpec, budget: LabelBudget, out: Path) -> Overlay | None:
    """The masks of every method on the same patient; None if the scans are not there any more."""
    rows = {row.method: row for row in budget.complete}
    first = rows.get(budget.baseline, budget.complete[0]).results[0]
    results = {
        name: result for name, row in rows.items() for result in row.results if result.run.seed == first.run.seed
    }
    dice = first.scores["last"].by_patient("dice")
    patient = sorted(dice, key=lambda name: dice[name])[len(dice) // 2]
    case = next(score.case for score in first.scores["last"].scores if score.patient == patient)
    runs = [RunFolder(run_root(out, result.run)) for result in results.values()]
    try:
        plan = load_plan(runs[0].plan)
        stems = [scores_file(run.root, spec.on, "last", spec.options).stem for run in runs]
        masks = [run.predictions / stem / f"{case}.nii.gz" for run, stem in zip(runs, stems, strict=True)]
        view = representative_slice(read_dataset(spec.data).case(case), masks, plan)
    except UserError:
        return None
    captions = {name: result.scores["last"].by_patient("dice")[patient] for name, result in results.items()}
    picture = png(overlay_grid(_panels(view, captions), [""] * PANELS, plan.classes, aspect=view.aspect))
    words = f"{case}, slice {view.slice_index}, seed {first.run.seed}, with {describe_budget(budget)}"
    return {"picture": picture_uri(picture), "words": words, "by": first.run.method}


def _panels(view: RepresentativeSlice, dice: Mapping[str, float]) -> list[list[Panel]]:
    """The image, the reference and every method, a few to a row."""
    captions = ["image", "reference", *(f"{name}: Dice {100 * value:.1f} %" for name, value in dice.items())]
    panels = [Panel(view.image, mask, text) for mask, text in zip([None, *view.masks], captions, strict=True)]
    return [panels[start : start + PANELS] for start in range(0, len(panels), PANELS)]


def _facts(spec: CompareSpec, budgets: Sequence[LabelBudget]) -> Iterator[tuple[str, str]]:
    """The facts that somebody needs to judge or repeat the comparison."""
    results = [result for budget in budgets for row in budget.rows for result in row.results]
    common = spec.settings

    def all_of(key: str) -> str:
        return ", ".join(sorted({str(result.provenance.get(key)) for result in results})) or "not known yet"

    yield "data", f"{spec.data} (hash {spec.data_hash[:16]})"
    yield "scored on", spec.on
    if spec.folds:
        yield "folds of each run", str(spec.folds)
    yield "least difference that counts", format_least(spec.min_effect)
    yield "seeds", ", ".join(map(str, spec.seeds))
    yield "steps", str(common["training"]["steps"])
    for name in spec.methods:
        own = changes(spec.settings_of(name), common)
        if own:
            yield name, ", ".join([spec.methods[name]["name"], *(f"{key}={value}" for key, value in own.items())])
    yield "splits", "; ".join(f"{key} {split_hash[:16]}" for key, split_hash in spec.splits.items())
    yield "settings hash", settings_hash(spec)[:16]
    for key in ("hardware", "patchcl", "torch", "python", "commit"):
        yield key, all_of(key)


def _runs(budgets: Sequence[LabelBudget]) -> Iterator[tuple[str, ...]]:
    """Name, Dice, rescues, time, start and commit of every finished run."""
    for budget in budgets:
        for row in budget.rows:
            for result in row.results:
                yield (
                    result.run.run_id,
                    f"{100 * result.means[DICE]:.1f}",
                    str(result.rescues or ""),
                    f"{result.minutes:.1f}",
                    str(result.provenance.get("started")),
                    str(result.provenance.get("commit")),
                )
