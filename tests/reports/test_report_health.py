"""What stands under Diagnostics: tables by hand, curves that hold what was logged, nothing where nothing is known."""

import pytest

from patchcl.figures.charts import DARK, LIGHT, diagnostic_curves, diagnostic_terms
from patchcl.figures.overlays import png
from patchcl.methods.patchcl import PatchCLSettings
from patchcl.methods.supervised import SupervisedSettings
from patchcl.reports.run_report import diagnostics

FIRST = {
    "step": 20,
    "validation_dice": 0.5,
    "accepted_background": 1.0,
    "accepted_left": 0.0,
    "agreement_background": 0.875,
    "found_background": 0.75,
    "found_left": 0.0,
    "ece": 0.03125,
    "ece_structures": 0.25,
    "warnings": 0,
}
LAST = FIRST | {"step": 40, "accepted_left": 0.5, "agreement_left": 0.625, "ece": 0.0625, "effective_rank": 3.14159}
LOGS = {"supervised": [{"step": 20, "loss": 1.0, "accepted": 0.5}, FIRST], "patchcl": [FIRST, LAST, {"step": 45}]}
SETTINGS = {"supervised": SupervisedSettings(), "patchcl": PatchCLSettings()}


def test_the_tables_hold_the_last_validation():
    content = diagnostics(LOGS, SETTINGS)
    assert content["warnings"] == []
    assert content["classes"] == [
        ("background", [("supervised", ["100.0", "87.5", "75.0"]), ("patchcl", ["100.0", "87.5", "75.0"])]),
        ("left", [("supervised", ["0.0", "–", "0.0"]), ("patchcl", ["50.0", "62.5", "0.0"])]),
    ]
    assert content["whole"] == {
        "columns": ["all pixels", "structures", "effective rank"],
        "rows": [("supervised", "20", ["0.0312", "0.25", "–"]), ("patchcl", "40", ["0.0625", "0.25", "3.14"])],
    }


def test_every_warning_stands_beside_its_run():
    ill = [{"step": step, "loss": 1.0, "consistency": 1.0} for step in range(3)]
    ill += [LAST | {"step": step, "agreement_left": 0.25} for step in range(3)]
    content = diagnostics({"supervised": [FIRST], "patchcl": ill}, SETTINGS)
    ((run, warning),) = content["warnings"]
    assert run == "patchcl"
    assert "25.0 % of left. Raise method.confidence_threshold (now 0)" in warning


@pytest.mark.parametrize("rows", [[], [{"step": 5, "loss": 1.0, "accepted": 0.5}, {"step": 5, "validation_dice": 0.2}]])
def test_runs_that_logged_none_of_it_show_nothing(rows):
    assert diagnostics({"patchcl": rows}, SETTINGS) is None
    assert png(diagnostic_curves({"patchcl": rows})).startswith(b"\x89PNG")


def test_a_run_that_logged_contrast_alone_still_has_its_warning():
    rows = [{"step": step, "loss": 8.0, "contrast": 8.0, "contrast_over_collapse": 0.0} for step in range(40)]
    content = diagnostics({"patchcl": rows}, SETTINGS)
    assert [run for run, _ in content["warnings"]] == ["patchcl"]
    assert content["classes"] == content["whole"]["rows"] == []


def test_curves_hold_what_the_validations_logged_one_line_per_run():
    figure = diagnostic_curves(LOGS, DARK)
    by_title = {axis.get_title(loc="left"): axis for axis in figure.axes}
    terms = ["accepted left", "agreement background", "ece", "ece structures", "agreement left", "effective rank"]
    assert list(by_title) == terms
    supervised, patchcl = by_title["ece"].lines
    assert supervised.get_xydata().tolist() == [[20, 0.03125]]
    assert patchcl.get_xydata().tolist() == [[20, 0.03125], [40, 0.0625]]
    assert [line.get_color() for line in by_title["ece"].lines] == list(DARK.runs[:2])
    (alone,) = by_title["effective rank"].lines
    assert alone.get_color() == DARK.runs[1] != LIGHT.runs[1]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["supervised", "patchcl"]


def test_acceptance_of_all_or_nothing_is_no_curve():
    assert "accepted_left" not in diagnostic_terms({"supervised": [FIRST]})
    assert "accepted_left" in diagnostic_terms(LOGS)
