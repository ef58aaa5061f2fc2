"""Export of a comparison for programs: one CSV for the figures, one JSON with where every run comes from."""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from patchcl.comparison.choice import Choice
from patchcl.comparison.results import COLUMN_METRICS, COLUMNS, Figure, LabelBudget, Row, RunResult
from patchcl.comparison.spec import CompareSpec, format_labeled
from patchcl.comparison.summary import headline, sentences
from patchcl.comparison.worker import CHECKPOINTS
from patchcl.core.files import write_json, write_rows
from patchcl.evaluation.metrics import EMPTY_POLICY, SURFACE_POLICY
from patchcl.evaluation.paired import Comparison, Difference
from patchcl.evaluation.scores import MEAN, METRICS, SURFACE_METRICS, Metric

ALL_METRICS = METRICS + SURFACE_METRICS


def write_csv(budgets: Sequence[LabelBudget], path: Path) -> None:
    """Write one line for every label budget, method, checkpoint and structure; what is not known is empty."""
    lines = [_without_nan(line) for budget in budgets for row in budget.rows for line in _lines(budget, row)]
    write_rows(path, {key: key for line in lines for key in line}, lines)


def write_results(spec: CompareSpec, budgets: Sequence[LabelBudget], path: Path, choice: Choice | None = None) -> None:
    """Write the answer, the chosen run, the same figures, and of every run its provenance, or why it has no scores."""
    results = [result for budget in budgets for row in budget.rows for result in row.results]
    missing = [result for budget in budgets for result in budget.missing]
    content = {
        "answer": [headline(budgets), *sentences(budgets)],
        "chosen": choice.model_dump(mode="json") if choice else None,
        "spec": spec.model_dump(mode="json"),
        "settings_hash": settings_hash(spec),
        "empty_policy": EMPTY_POLICY,
        "surface_policy": SURFACE_POLICY,
        "rows": [line for budget in budgets for row in budget.rows for line in _lines(budget, row)],
        "runs": [_run(result) for result in (*results, *missing)],
    }
    write_json(path, _without_nan(content))


def settings_hash(spec: CompareSpec) -> str:
    """The sha256 of what all runs have in common, in hex."""
    set_ = {key for key in ("own", "folds") if getattr(spec, key)}
    common = spec.model_dump(mode="json", include={"settings", "methods", "on", "voxels"} | set_)
    return hashlib.sha256(json.dumps(common, sort_keys=True).encode()).hexdigest()


def _lines(budget: LabelBudget, row: Row) -> Iterator[dict[str, Any]]:
    differences = {each.structure: each for each in row.against.differences} if row.against else {}
    for checkpoint in reversed(CHECKPOINTS):
        for structure in (*budget.structures, MEAN):
            yield {
                "labeled": format_labeled(budget.labeled),
                "labeled_patients": budget.labeled_patients,
                "method": row.method,
                "seeds": len(row.results),
                "rescued": sum(result.rescues > 0 for result in row.results),
                "checkpoint": checkpoint,
                "structure": structure,
                **_figures(budget, row, structure, checkpoint),
                **_difference(row.against, differences.get(structure) if checkpoint == "last" else None),
                "minutes": row.minutes.mean,
                "peak_gib": row.peak_gib.mean,
            }


def _figures(budget: LabelBudget, row: Row, structure: str, checkpoint: str) -> dict[str, float]:
    named = {_named(metric, budget.unit): Figure(metric, structure, checkpoint) for metric in ALL_METRICS}
    for column, short in COLUMNS.items():
        for metric in COLUMN_METRICS:
            named[f"{_named(metric, budget.unit)}_{short}"] = Figure(metric, structure, checkpoint, column)
    return {
        f"{name}_{part}": value
        for name, figure in named.items()
        for part, value in row.mean_std(figure)._asdict().items()
    }


def _named(metric: Metric, unit: str) -> str:
    return metric.replace("_mm", f"_{unit}")


def _difference(against: Comparison | None, found: Difference | None) -> dict[str, Any]:
    """Of the Dice from the baseline, in [-1, 1]; the verdict is corrected for the other methods, the interval not."""
    values = found.interval if found else (None, None, None)
    bounds = dict(zip(("dice_difference", "dice_difference_low", "dice_difference_high"), values, strict=True))
    return {
        **bounds,
        "p_value": found.p_value if found else None,
        "verdict": found.verdict if found else None,
        "settled_by": against.settled_by(found) or None if against and found else None,
    }


def _run(result: RunResult) -> dict[str, Any]:
    return {
        "run_id": result.run.run_id,
        **result.run._asdict(),
        "missing_because": result.missing_because or None,
        "provenance": result.provenance,
        "sessions": [session.model_dump() for session in result.sessions],
        "rescues": result.rescues,
        "minutes": result.minutes,
        "peak_gib": result.peak_gib,
        "scores": {
            checkpoint: {
                **{key: scores.provenance.get(key) for key in ("step", "weights", "settings_hash", "split_hash")},
                **{
                    _named(metric, scores.unit): result.means[Figure(metric, checkpoint=checkpoint)]
                    for metric in scores.metrics
                },
            }
            for checkpoint, scores in result.scores.items()
        },
    }


def _without_nan(content: Any) -> Any:  # noqa: ANN401 - whatever JSON can hold
    """The content with None for NaN, which JSON does not know."""
    if isinstance(content, dict):
        return {key: _without_nan(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and math.isnan(content) else content
