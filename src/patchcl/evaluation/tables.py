"""Tables of scores for the terminal, and how they write figures."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from patchcl.evaluation.metrics import EMPTY_POLICY, IGNORE_POLICY, SURFACE_POLICY
from patchcl.evaluation.object_metrics import OBJECT_POLICY
from patchcl.evaluation.scores import (
    CHANGED,
    FRACTION_METRICS,
    HEADINGS,
    IGNORED_VOXELS,
    MEAN,
    OBJECT_METRICS,
    RESCUES,
    UNFINISHED,
    Evaluation,
    MeanStd,
    Metric,
    summarise,
)


def render(evaluation: Evaluation, console: Console) -> None:
    """Print the scores and what they rest on."""
    console.print(score_table(evaluation))
    if evaluation.columns:
        console.print(columns_table(evaluation))
    if evaluation.pooled:
        console.print(object_table(evaluation))
    if CHANGED in evaluation.provenance:
        note = f"Note: since the run was trained, this has changed: {evaluation.provenance[CHANGED]}."
        console.print(note, markup=False, highlight=False, soft_wrap=True)


def score_table(evaluation: Evaluation) -> Table:
    """The table of scores: mean and standard deviation over patients of every structure."""
    title = f"{evaluation.name}: {pluralize(len(evaluation.patients), 'patient')}, mean ± standard deviation"
    notes = {IGNORED_VOXELS: IGNORE_POLICY, RESCUES: "Training diverged and was rescued, see the report of the run."}
    told = [note for key, note in notes.items() if key in evaluation.provenance]
    if "surface_dice" in evaluation.metrics:
        told.append(SURFACE_POLICY)
    if UNFINISHED in evaluation.provenance:
        told.append(f"Training is unfinished: scored at {evaluation.provenance[UNFINISHED]}.")
    caption = " ".join([EMPTY_POLICY, *told])
    metrics = [metric for metric in evaluation.metrics if metric not in OBJECT_METRICS]
    table = empty_table(title, caption, _headings(metrics, evaluation.unit))
    for structure in (*evaluation.structures, MEAN):
        cells = [format_score(summarise(evaluation, metric, structure), metric) for metric in metrics]
        table.add_row(escape(structure), *cells, style="bold" if structure == MEAN else None)
    return table


def columns_table(evaluation: Evaluation) -> Table:
    """Means by what was done beyond one pass of the network; the last of each metric is the one that counts."""
    metrics: tuple[Metric, Metric] = ("dice", "hd95_mm")
    title = f"{evaluation.name}: what symmetries and post-processing add"
    done = [column.replace("-", "-\n") for column in evaluation.columns]
    headings = [f"{heading}\n{column}" for heading in _headings(metrics, evaluation.unit) for column in done]
    narrow = {"box": box.SIMPLE, "padding": (0, 1, 0, 0)} if len(headings) > 4 else {}  # for 80 characters
    table = empty_table(title, f"Post-processing: {evaluation.provenance.get('postprocessing')}.", headings, **narrow)
    for structure in (*evaluation.structures, MEAN):
        cells = [
            format_score(MeanStd(rows[structure][metric]["mean"] or 0.0, math.nan), metric)
            for metric in metrics
            for rows in evaluation.columns.values()
        ]
        table.add_row(escape(structure), *cells, style="bold" if structure == MEAN else None)
    return table


def object_table(evaluation: Evaluation) -> Table:
    """The table of the scores of single objects: over patients, and of all objects in one pool."""
    title = f"{evaluation.name}: single objects, mean ± standard deviation over patients"
    table = empty_table(title, OBJECT_POLICY, _headings(OBJECT_METRICS, evaluation.unit))
    for structure, together in evaluation.pooled.items():
        cells = [format_score(summarise(evaluation, metric, structure), metric) for metric in OBJECT_METRICS]
        table.add_row(escape(structure), *cells)
        figures = together.model_dump()
        table.add_row(
            f"{escape(structure)}, all in one pool",
            *(format_score(MeanStd(figures[metric], math.nan), metric) for metric in OBJECT_METRICS),
        )
    return table


def format_score(figure: MeanStd, metric: Metric) -> str:
    """A score as tables print it: overlap in percent with one digit, distances with two."""
    scale, digits = (100, 1) if metric in FRACTION_METRICS else (1, 2)
    deviation = "" if math.isnan(figure.std) else f" ± {scale * figure.std:.{digits}f}"
    return f"{scale * figure.mean:.{digits}f}{deviation}"


def pluralize(count: int, noun: str) -> str:
    """The count with its noun, in the plural unless it is 1."""
    return f"{count} {noun}" + "s" * (count != 1)


def empty_table(title: str, caption: str, headings: Iterable[str], **look: Any) -> Table:  # noqa: ANN401 - of rich
    """A table of structures without rows, as all tables of this room look.

    Args:
        title: Above it.
        caption: Below it.
        headings: Of the columns after that with the names of structures.
        look: What else `rich.table.Table` takes.
    """
    table = Table(title=escape(title), caption=escape(caption), title_justify="left", caption_justify="left", **look)
    table.add_column("structure")
    for heading in headings:
        table.add_column(escape(heading), justify="right")
    return table


def _headings(metrics: Sequence[Metric], unit: str) -> list[str]:
    return [HEADINGS[metric].format(unit=unit) for metric in metrics]
