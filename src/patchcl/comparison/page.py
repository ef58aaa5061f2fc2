"""A comparison of many methods as a page for people: the answer, what it rests on, and what is missing."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from patchcl.comparison.export import settings_fingerprint
from patchcl.comparison.results import BASELINE, DICE, Figure, Level, Row, labeled_words, remarks
from patchcl.comparison.spec import Question, cell_root
from patchcl.comparison.summary import (
    BEST_DICE,
    INTERVALS,
    caution,
    details,
    figure_cell,
    headline,
    is_best,
    missing,
    plain,
    sentences,
)
from patchcl.core.errors import UserError
from patchcl.data.dataset import read_dataset
from patchcl.data.preprocessing.plan import load_plan
from patchcl.evaluation.intervals import Interval
from patchcl.evaluation.metrics import EMPTY_POLICY
from patchcl.evaluation.paired import points
from patchcl.evaluation.tables import counted
from patchcl.figures.charts import MethodMarks, efficiency_chart, methods_chart
from patchcl.figures.overlays import Panel, overlay_grid, png
from patchcl.figures.representative_slice import TellingSlice, telling_slice
from patchcl.reports.page import picture_uri, themed, write_page
from patchcl.runs.folder import RunFolder

TITLE = "Which method makes most of few masks and many scans?"
PANELS = 4
"""Pictures in a row."""
NOT_KNOWN = Interval(math.nan, math.nan, math.nan)
Overlay = dict[str, str]


def write_grid_page(question: Question, levels: Sequence[Level], out: Path) -> None:
    """Write the page about the comparison in `out` to `out`/compare.html.

    Raises:
        UserError: The page cannot be written.
    """
    content = {
        "title": TITLE,
        "headline": headline(levels),
        "sentences": sentences(levels),
        "warnings": list(remarks(levels)),
        "caution": list(caution(levels)),
        "levels": [_level(level) for level in levels if level.structures],
        "curves": _curves(levels),
        "overlay": next((_overlay(question, level, out) for level in levels if level.complete), None),
        "missing": missing(levels),
        "policy": EMPTY_POLICY,
        "intervals": INTERVALS,
        "baseline": BASELINE,
        "facts": list(_facts(question, levels)),
        "cells": list(_cells(levels)),
    }
    write_page("compare.html.j2", content, out / "compare.html")


def _level(level: Level) -> dict[str, Any]:
    """The table and the chart of one count of labeled patients."""
    return {
        "name": labeled_words(level),
        "scored": counted(level.patients),
        "unit": level.unit,
        "structures": level.structures,
        "rows": [_row(level, row) for row in level.rows],
        "chart": themed(lambda theme: methods_chart(_marks(level), theme)),
    }


def _row(level: Level, row: Row) -> dict[str, Any]:
    difference = row.against.overall if row.against else None
    low_high = [points(end) for end in difference.interval[1:]] if difference else []
    return {
        "method": row.method,
        "seeds": len(row.results),
        "dice": _cell(level, row, DICE),
        "difference": points(difference.interval.mean) if difference else "",
        "interval": " to ".join(low_high),
        "verdict": difference.verdict.split()[0] if difference else "",
        "best": _cell(level, row, BEST_DICE),
        "minutes": plain(row.minutes),
        "peak_gib": plain(row.peak_gib, digits=2),
        "details": [_cell(level, row, figure) for figure in details(level)],
    }


def _cell(level: Level, row: Row, figure: Figure) -> tuple[str, bool]:
    """A figure, and whether it is the best of its column."""
    return figure_cell(row, figure), is_best(level, row, figure)


def _marks(level: Level) -> dict[str, MethodMarks]:
    """What the chart of a level draws, the best method on top."""
    rows = sorted((row for row in level.rows if row.results), key=lambda row: -row.spread().mean)
    return {
        row.method: MethodMarks(
            patients=list(row.patient_dice().values()),
            dice=row.spread().mean,
            difference=row.against.overall.interval if row.against else NOT_KNOWN,
            verdict=row.against.overall.verdict if row.against else "",
            minutes=row.minutes.mean,
            peak_gib=row.peak_gib.mean,
        )
        for row in rows
    }


def _curves(levels: Sequence[Level]) -> dict[str, str] | None:
    """Dice over labeled patients; None with a single count of these."""
    curves: dict[str, list[tuple[int, float, float]]] = {}
    for level in levels:
        for row in level.rows:
            if row.results and level.labeled_patients is not None:
                curves.setdefault(row.method, []).append((level.labeled_patients, *row.spread()))
    counts = {labeled for points_ in curves.values() for labeled, _, _ in points_}
    return themed(lambda theme: efficiency_chart(curves, BASELINE, theme)) if len(counts) > 1 else None


def _overlay(question: Question, level: Level, out: Path) -> Overlay | None:
    """What every method made of the same patient; None if the scans are not there any more."""
    rows = {row.method: row for row in level.complete}
    first = rows.get(BASELINE, level.complete[0]).results[0]
    results = {
        name: next((each for each in row.results if each.cell.seed == first.cell.seed), None)
        for name, row in rows.items()
    }
    dice = first.scores["last"].by_patient("dice")
    patient = sorted(dice, key=lambda name: dice[name])[len(dice) // 2]
    case = next(score.case for score in first.scores["last"].scores if score.patient == patient)
    shown = {name: each for name, each in results.items() if each is not None}
    runs = [RunFolder(cell_root(out, each.cell)) for each in shown.values()]
    try:
        plan = load_plan(runs[0].plan)
        masks = [run.predictions / f"{question.on}_last" / f"{case}.nii.gz" for run in runs]
        view = telling_slice(read_dataset(question.data).case(case), masks, plan)
    except UserError:
        return None
    captions = {name: each.scores["last"].by_patient("dice")[patient] for name, each in shown.items()}
    picture = png(overlay_grid(_panels(view, captions), [""] * PANELS, plan.classes, aspect=view.aspect))
    words = f"{case}, slice {view.place}, seed {first.cell.seed}, with {labeled_words(level)}"
    return {"picture": picture_uri(picture), "words": words, "by": first.cell.method}


def _panels(view: TellingSlice, dice: Mapping[str, float]) -> list[list[Panel]]:
    """The image, the reference and every method, a few to a row."""
    captions = ["image", "reference", *(f"{name}: Dice {100 * value:.1f} %" for name, value in dice.items())]
    panels = [Panel(view.image, mask, text) for mask, text in zip([None, *view.masks], captions, strict=True)]
    return [panels[start : start + PANELS] for start in range(0, len(panels), PANELS)]


def _facts(question: Question, levels: Sequence[Level]) -> Iterator[tuple[str, str]]:
    """What somebody must know to judge or repeat the comparison."""
    results = [result for level in levels for row in level.rows for result in row.results]
    common = question.settings

    def all_of(key: str) -> str:
        return ", ".join(sorted({str(result.provenance.get(key)) for result in results})) or "not known yet"

    yield "data", f"{question.data} (fingerprint {question.data_fingerprint[:16]})"
    yield "scored on", question.on
    yield "seeds", ", ".join(map(str, question.seeds))
    yield "steps", str(common["training"]["steps"])
    yield "splits", "; ".join(f"{place} {fingerprint[:16]}" for place, fingerprint in question.splits.items())
    yield "settings fingerprint", settings_fingerprint(question)[:16]
    for key in ("hardware", "patchcl", "torch", "python", "commit"):
        yield key, all_of(key)


def _cells(levels: Sequence[Level]) -> Iterator[tuple[str, str, str, str, str]]:
    """Of every finished cell its place, Dice, time, start and commit."""
    for level in levels:
        for row in level.rows:
            for each in row.results:
                dice = 100 * each.means[DICE]
                known = each.provenance
                yield (
                    each.cell.place,
                    f"{dice:.1f}",
                    f"{each.minutes:.1f}",
                    str(known.get("started")),
                    str(known.get("commit")),
                )
