"""Scores as tables for the terminal."""

import math
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from patchcl.evaluation.metrics import EMPTY_POLICY, IGNORE_POLICY
from patchcl.evaluation.object_metrics import OBJECT_POLICY
from patchcl.evaluation.scores import (
    HEADINGS,
    IGNORED_VOXELS,
    MEAN,
    METRICS,
    OBJECT_METRICS,
    SHARES,
    Evaluation,
    Metric,
    Spread,
    summarise,
)


def render(evaluation: Evaluation, console: Console) -> None:
    """Print the scores and what they rest on."""
    console.print(score_table(evaluation))
    if evaluation.pooled:
        console.print(object_table(evaluation))


def score_table(evaluation: Evaluation) -> Table:
    """The scores of every structure, for the terminal: mean and standard deviation over patients."""
    title = f"{evaluation.name}: {counted(len(evaluation.patients))}, mean ± standard deviation"
    caption = " ".join([EMPTY_POLICY, *([IGNORE_POLICY] if IGNORED_VOXELS in evaluation.provenance else [])])
    table = _empty_table(title, caption, METRICS, evaluation.unit)
    for structure in (*evaluation.structures, MEAN):
        cells = [shown(summarise(evaluation, metric, structure), metric) for metric in METRICS]
        table.add_row(structure, *cells, style="bold" if structure == MEAN else None)
    return table


def object_table(evaluation: Evaluation) -> Table:
    """The scores of single objects, for the terminal: over patients, and of all objects in one pool."""
    title = f"{evaluation.name}: single objects, mean ± standard deviation over patients"
    table = _empty_table(title, OBJECT_POLICY, OBJECT_METRICS, evaluation.unit)
    for structure, together in evaluation.pooled.items():
        cells = [shown(summarise(evaluation, metric, structure), metric) for metric in OBJECT_METRICS]
        table.add_row(structure, *cells)
        figures = together.model_dump()
        table.add_row(
            f"{structure}, all in one pool",
            *(shown(Spread(figures[metric], math.nan), metric) for metric in OBJECT_METRICS),
        )
    return table


def shown(spread: Spread, metric: Metric) -> str:
    """A figure as tables print it: overlap in percent with one digit, distances with two."""
    scale, digits = (100, 1) if metric in SHARES else (1, 2)
    deviation = "" if math.isnan(spread.std) else f" ± {scale * spread.std:.{digits}f}"
    return f"{scale * spread.mean:.{digits}f}{deviation}"


def counted(patients: int) -> str:
    """So many patients, in words."""
    return f"{patients} patient" + "s" * (patients != 1)


def _empty_table(title: str, caption: str, metrics: Sequence[Metric], unit: str) -> Table:
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    table.add_column("structure")
    for metric in metrics:
        table.add_column(HEADINGS[metric].format(unit=unit), justify="right")
    return table
