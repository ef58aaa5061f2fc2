"""The part of the report that says whether pseudo-labels and contrast did their work."""

from collections.abc import Mapping, Sequence
from typing import Any

from patchcl.core.settings import Section
from patchcl.figures.overlays import health_terms
from patchcl.runs.log import Row
from patchcl.training.diagnostics import alarms, class_names

SHARES = ("accepted", "agreement", "found")
CALIBRATION = {"ece": "all pixels", "ece_structures": "structures"}


def health(logs: Mapping[str, Sequence[Row]], settings: Mapping[str, Section]) -> dict[str, Any] | None:
    """What stands under Health: alarms, and tables of the last validation; None if no run has logged any of it.

    Args:
        logs: By the name of each run its log.
        settings: By the name of each run those of its method.
    """
    raised = [(name, alarm) for name, rows in logs.items() for alarm in alarms(rows, settings[name])]
    last = {name: _last(rows) for name, rows in logs.items() if health_terms({name: rows})}
    if not raised and not last:
        return None
    return {"alarms": raised, "classes": _classes(last), "whole": _whole(last)}


def _last(rows: Sequence[Row]) -> Row:
    return next(row for row in reversed(rows) if "validation_dice" in row)


def _classes(last: Mapping[str, Row]) -> list[tuple[str, list[tuple[str, list[str]]]]]:
    """Of every class and run the shares, in per cent."""
    return [
        (name, [(run, [_shown(row, f"{share}_{name}", 100, ".1f") for share in SHARES]) for run, row in last.items()])
        for name in class_names(list(last.values()))
    ]


def _whole(last: Mapping[str, Row]) -> dict[str, Any]:
    """Of every run the calibration error, and what its method knows about itself."""
    own = [name for name in health_terms({"": list(last.values())}) if not name.startswith(("accepted_", "agreement_"))]
    names = [*CALIBRATION, *(name for name in own if name not in CALIBRATION)]
    rows = [(run, f"{row['step']:.0f}", [_shown(row, name, 1, ".3g") for name in names]) for run, row in last.items()]
    return {"columns": [CALIBRATION.get(name, name.replace("_", " ")) for name in names], "rows": rows}


def _shown(row: Row, key: str, factor: int, form: str) -> str:
    return format(factor * row[key], form) if key in row else "–"
