import io
import math

import pytest
from rich.console import Console

from patchcl.evaluation.evaluate import evaluate_folders
from patchcl.evaluation.metrics import EMPTY_POLICY
from patchcl.evaluation.object_metrics import OBJECT_POLICY
from patchcl.evaluation.scores import MeanStd
from patchcl.evaluation.tables import format_score, pluralize, render

CLASSES = ("background", "left", "right")


def test_tables_show_the_figures_and_the_policy(folders):
    evaluation = evaluate_folders(*folders, CLASSES)
    out = io.StringIO()
    console = Console(file=out, width=120)
    render(evaluation, console)
    text = " ".join(out.getvalue().split())
    assert "68.8 ± 26.5" in text
    assert EMPTY_POLICY[:60] in text


def test_tables_of_objects_show_their_figures_and_how_they_are_counted(folders):
    out = io.StringIO()
    render(evaluate_folders(*folders, CLASSES, objects=True), Console(file=out, width=200))
    text = " ".join(out.getvalue().split())
    assert "left, all in one pool" in text
    assert OBJECT_POLICY[:60] in text
    assert "66.7" in text


@pytest.mark.parametrize(
    ("spread", "metric", "text"),
    [
        (MeanStd(0.12345, 0.0678), "dice", "12.3 ± 6.8"),
        (MeanStd(12.345, 0.678), "hd95_mm", "12.35 ± 0.68"),
        (MeanStd(1.0, math.nan), "object_f1", "100.0"),
        (MeanStd(0.0, 0.0), "asd_mm", "0.00 ± 0.00"),
    ],
)
def test_overlap_is_shown_in_percent_and_distance_with_two_digits(spread, metric, text):
    assert format_score(spread, metric) == text


def test_one_patient_is_no_patients():
    assert [pluralize(patients, "patient") for patients in (0, 1, 2)] == ["0 patients", "1 patient", "2 patients"]


HOSTILE = ("background", "[/red]", "[bold]NCR/NET[/bold]")


def test_names_are_shown_as_they_are_and_no_markup(folders):
    out = io.StringIO()
    figures = {"dice": {"mean": 0.5}, "hd95_mm": {"mean": 1.0}}
    columns = {"one pass": dict.fromkeys((*HOSTILE[1:], "mean"), figures)}
    evaluation = evaluate_folders(*folders, HOSTILE, objects=True)
    evaluation = evaluation.model_copy(update={"name": "[/x]", "columns": columns})
    render(evaluation, Console(file=out, width=200))
    assert out.getvalue().count("[/red] ") == 3
    assert "[bold]NCR/NET[/bold], all in one pool" in out.getvalue()
    assert "[/x]: 2 patients" in out.getvalue()


def test_what_changed_since_training_is_noted(folders):
    out = io.StringIO()
    evaluation = evaluate_folders(*folders, CLASSES)
    known = evaluation.provenance | {"changed_since_training": "labelsTr/[/a] was replaced"}
    render(evaluation.model_copy(update={"provenance": known}), Console(file=out, width=200))
    assert "Note: since the run was trained, this has changed: labelsTr/[/a] was replaced." in out.getvalue()
