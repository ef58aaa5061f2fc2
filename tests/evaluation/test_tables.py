import io
import math

import pytest
from rich.console import Console

from patchcl.evaluation import tables
from patchcl.evaluation.evaluate import evaluate_folders
from patchcl.evaluation.metrics import EMPTY_POLICY
from patchcl.evaluation.object_metrics import OBJECT_POLICY
from patchcl.evaluation.scores import Evaluation, MeanStd, PooledObjects, Score
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


SHOWN = """
run: 2 patients, mean ± standard deviation
┏━━━━━━━━━━━┳━━━━━━━━━━━━━┳━━━━━━━━━━━━━┳━━━━━━━━━━━━━┳━━━━━━━━━━━━━┳━━━━━━━━━━━━━━━━┓
┃ structure ┃      Dice % ┃   Jaccard % ┃ 95HD voxels ┃  ASD voxels ┃ surface Dice % ┃
┡━━━━━━━━━━━╇━━━━━━━━━━━━━╇━━━━━━━━━━━━━╇━━━━━━━━━━━━━╇━━━━━━━━━━━━━╇━━━━━━━━━━━━━━━━┩
│ left      │ 75.0 ± 35.4 │ 37.5 ± 17.7 │ 3.00 ± 1.41 │ 1.50 ± 0.71 │     18.8 ± 8.8 │
│ right     │ 50.0 ± 35.4 │ 25.0 ± 17.7 │ 2.00 ± 1.41 │ 1.00 ± 0.71 │     12.5 ± 8.8 │
│ mean      │ 62.5 ± 35.4 │ 31.2 ± 17.7 │ 2.50 ± 1.41 │ 1.25 ± 0.71 │     15.6 ± 8.8 │
└───────────┴─────────────┴─────────────┴─────────────┴─────────────┴────────────────┘
Empty. Ignore. Training diverged and was rescued, see the report of the run. Surface.
Training is unfinished: scored at step 2 of 6.
run: what symmetries and post-processing add
┏━━━━━━━━━━━┳━━━━━━━━━━┳━━━━━━━━━━┳━━━━━━━━━━━━━┳━━━━━━━━━━━━━┓
┃           ┃   Dice % ┃   Dice % ┃ 95HD voxels ┃ 95HD voxels ┃
┃ structure ┃ one pass ┃ and more ┃    one pass ┃    and more ┃
┡━━━━━━━━━━━╇━━━━━━━━━━╇━━━━━━━━━━╇━━━━━━━━━━━━━╇━━━━━━━━━━━━━┩
│ left      │     25.0 │     75.0 │        1.50 │        1.00 │
│ right     │      0.0 │    100.0 │        2.00 │        0.00 │
│ mean      │     50.0 │     62.5 │        2.50 │        3.00 │
└───────────┴──────────┴──────────┴─────────────┴─────────────┘
Post-processing: largest.
run: single objects, mean ± standard deviation over patients
┏━━━━━━━━━━━━━━━━━━━━━━━┳━━━━━━━━━━━━━┳━━━━━━━━━━━━━━━┳━━━━━━━━━━━━━━━━━━┓
┃ structure             ┃ object F1 % ┃ object Dice % ┃ Hausdorff voxels ┃
┡━━━━━━━━━━━━━━━━━━━━━━━╇━━━━━━━━━━━━━╇━━━━━━━━━━━━━━━╇━━━━━━━━━━━━━━━━━━┩
│ left                  │ 75.0 ± 35.4 │   37.5 ± 17.7 │      6.00 ± 2.83 │
│ left, all in one pool │        50.0 │          25.0 │             4.00 │
└───────────────────────┴─────────────┴───────────────┴──────────────────┘
Object.
Note: since the run was trained, this has changed: x.
"""


def scored(name: str, structures=("left", "right"), **changes) -> Evaluation:
    """Two patients, whose means and deviations are plain to see; objects are scored as the structures are."""
    scores = [
        Score(
            **{"patient": patient, "case": patient, "structure": structure, "dice": dice, "jaccard": dice / 2},
            **{"hd95_mm": 4 * dice, "asd_mm": 2 * dice, "surface_dice": dice / 4, **objects(dice)},
        )
        for structure, of_patients in zip(structures, ((0.5, 1.0), (0.25, 0.75)), strict=True)
        for patient, dice in zip(("ann", "bob"), of_patients, strict=True)
    ]
    given = {"name": name, "structures": structures, "unit": "voxels", "scores": tuple(scores), "provenance": {}}
    return Evaluation(**(given | changes))


def objects(f1: float) -> dict[str, float]:
    return {"object_f1": f1, "object_dice": f1 / 2, "object_hausdorff_mm": 8 * f1}


def column(*of_structures: tuple[float | None, float | None]) -> dict:
    return {
        structure: {"dice": {"mean": dice, "std": 0.1}, "hd95_mm": {"mean": distance, "std": None}}
        for structure, (dice, distance) in zip(("left", "right", "mean"), of_structures, strict=True)
    }


def test_all_that_is_shown(monkeypatch):
    for policy in ("empty", "surface", "ignore", "object"):
        monkeypatch.setattr(tables, f"{policy.upper()}_POLICY", f"{policy.capitalize()}.")
    provenance = {"ignored_voxels": 3, "trained_rescues": 1, "unfinished": "step 2 of 6", "postprocessing": "largest"}
    columns = {
        "one pass": column((0.25, 1.5), (None, 2.0), (0.5, 2.5)),
        "and more": column((0.75, 1.0), (1.0, None), (0.625, 3.0)),
    }
    evaluation = scored(
        "run",
        provenance=provenance | {"changed_since_training": "x"},
        pooled={"left": PooledObjects(**objects(0.5))},
        columns=columns,
    )
    out = io.StringIO()
    render(evaluation, Console(file=out, width=150))
    assert [line.rstrip() for line in out.getvalue().splitlines()] == SHOWN.strip("\n").splitlines()


def test_the_row_of_means_is_bold():
    out = io.StringIO()
    evaluation = scored("run", columns={"one": column((0.25, 1.5), (0.0, 2.0), (0.5, 2.5))})
    render(evaluation, Console(file=out, width=150, force_terminal=True, color_system="standard"))
    bold = [line for line in out.getvalue().splitlines() if "\x1b[1m" in line and "structure" not in line]
    assert len([line for line in bold if "mean " in line]) == 2
    assert not [line for line in bold if "left" in line or "right" in line]
