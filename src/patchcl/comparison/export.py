"""A comparison of many methods for programs: one CSV for the figures, one JSON with where every cell comes from."""

import csv
import hashlib
import io
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from patchcl.comparison.results import CellResult, Figure, Level, Row
from patchcl.comparison.spec import Question, counted_labeled
from patchcl.comparison.summary import headline, sentences
from patchcl.comparison.worker import CHECKPOINTS
from patchcl.core.files import write_json, write_text
from patchcl.evaluation.metrics import EMPTY_POLICY
from patchcl.evaluation.scores import MEAN, METRICS


def write_csv(levels: Sequence[Level], path: Path) -> None:
    """One line for every count of labeled patients, method, checkpoint and structure; what is not known is empty."""
    lines = [_plain(line) for level in levels for row in level.rows for line in _lines(level, row)]
    table = io.StringIO()
    writer = csv.DictWriter(table, list(dict.fromkeys(key for line in lines for key in line)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    write_text(path, table.getvalue())


def write_results(question: Question, levels: Sequence[Level], path: Path) -> None:
    """The answer, the same figures, and of every cell its provenance, or why it is empty."""
    results = [result for level in levels for row in level.rows for result in row.results]
    empty = [result for level in levels for result in level.empty]
    content = {
        "answer": [headline(levels), *sentences(levels)],
        "asked": question.model_dump(mode="json"),
        "settings_sha256": settings_fingerprint(question),
        "empty_policy": EMPTY_POLICY,
        "rows": [line for level in levels for row in level.rows for line in _lines(level, row)],
        "cells": [_cell(result) for result in (*results, *empty)],
    }
    write_json(path, _plain(content))


def settings_fingerprint(question: Question) -> str:
    """The sha256 of what all cells have in common, in hex."""
    common = question.model_dump(mode="json", include={"settings", "methods", "on", "voxels"})
    return hashlib.sha256(json.dumps(common, sort_keys=True).encode()).hexdigest()


def _lines(level: Level, row: Row) -> Iterator[dict[str, Any]]:
    differences = {each.structure: each.interval for each in row.against.differences} if row.against else {}
    for checkpoint in reversed(CHECKPOINTS):
        for structure in (*level.structures, MEAN):
            yield {
                "labeled": counted_labeled(level.labeled),
                "labeled_patients": level.labeled_patients,
                "method": row.method,
                "seeds": len(row.results),
                "checkpoint": checkpoint,
                "structure": structure,
                **_figures(level, row, structure, checkpoint),
                **_difference(differences.get(structure) if checkpoint == "last" else None),
                "minutes": row.minutes.mean,
                "peak_gib": row.peak_gib.mean,
            }


def _figures(level: Level, row: Row, structure: str, checkpoint: str) -> dict[str, float]:
    spreads = {metric: row.spread(Figure(metric, structure, checkpoint)) for metric in METRICS}
    named = {metric.replace("_mm", f"_{level.unit}"): spread for metric, spread in spreads.items()}
    return {f"{name}_{part}": value for name, spread in named.items() for part, value in spread._asdict().items()}


def _difference(interval: Any) -> dict[str, float | None]:  # noqa: ANN401 - an Interval or None
    """Of the Dice from the baseline, in [-1, 1]."""
    values = interval or (None, None, None)
    return dict(zip(("dice_difference", "dice_difference_low", "dice_difference_high"), values, strict=True))


def _cell(result: CellResult) -> dict[str, Any]:
    return {
        "place": result.cell.place,
        **result.cell._asdict(),
        "empty_because": result.why or None,
        "provenance": result.provenance,
        "sessions": [session.model_dump() for session in result.sessions],
        "minutes": result.minutes,
        "peak_gib": result.peak_gib,
        "scores": {
            checkpoint: {
                **{key: of.provenance.get(key) for key in ("step", "weights", "settings_sha256", "split_fingerprint")},
                **{
                    metric.replace("_mm", f"_{of.unit}"): result.means[Figure(metric, checkpoint=checkpoint)]
                    for metric in METRICS
                },
            }
            for checkpoint, of in result.scores.items()
        },
    }


def _plain(content: Any) -> Any:  # noqa: ANN401 - whatever JSON can hold
    """For JSON, which knows no NaN."""
    if isinstance(content, dict):
        return {key: _plain(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_plain(value) for value in content]
    return None if isinstance(content, float) and math.isnan(content) else content
