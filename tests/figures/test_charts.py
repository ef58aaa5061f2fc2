import numpy as np
import pytest

from patchcl.evaluation.intervals import Interval
from patchcl.figures.charts import (
    DARK,
    LIGHT,
    MethodMarks,
    diagnostic_curves,
    diagnostic_terms,
    efficiency_chart,
    learning_curves,
    loss_terms,
    methods_chart,
    patient_chart,
    smooth,
)
from patchcl.figures.overlays import (
    png,
)

LOGS = {
    "supervised": [
        {"step": 10, "loss": 1.0, "supervised": 1.0, "learning_rate": 0.01, "seconds_per_step": 0.2},
        {"step": 10, "validation_dice": 0.25, "validation_dice_left": 0.5},
        {"step": 20, "loss": 0.5, "supervised": 0.5, "learning_rate": 0.01, "seconds_per_step": 0.2},
        {"step": 20, "validation_dice": 0.75, "validation_dice_left": 0.5},
    ],
    "patchcl": [{"step": 10, "loss": 2.0, "supervised": 1.5, "contrast": 0.5, "patches_1": 16.0}],
}


def test_learning_curves_draw_what_was_logged():
    figure = learning_curves(LOGS)
    by_title = {axis.get_title(loc="left"): axis for axis in figure.axes}
    assert list(by_title) == ["Validation Dice, %", "loss", "supervised", "contrast"]
    (dice,) = by_title["Validation Dice, %"].lines
    assert dice.get_xydata().tolist() == [[10, 25], [20, 75]]
    assert by_title["loss"].lines[0].get_xydata().tolist() == [[10, 1], [20, 0.5]]
    assert {line.get_color() for line in by_title["loss"].lines} == set(LIGHT.runs[:2])
    assert {line.get_color() for line in by_title["contrast"].lines} == {LIGHT.runs[1]}


def test_learning_curves_draw_runs_that_have_not_begun():
    assert png(learning_curves({"supervised": []}, DARK)).startswith(b"\x89PNG")


def test_loss_terms_leave_bookkeeping_out():
    assert loss_terms(LOGS) == ["loss", "supervised", "contrast"]


def test_smooth_by_hand():
    assert smooth([3.0, 0.0, 3.0, 6.0], 3).tolist() == [1.5, 2.0, 3.0, 4.5]
    assert smooth([1.0, 5.0], 1).tolist() == [1.0, 5.0]
    assert smooth([4.0], 3).tolist() == [4.0]


def test_patients_stand_in_the_order_of_the_first_run():
    figure = patient_chart({"supervised": {"a": 0.9, "b": 0.5}, "patchcl": {"b": 0.75, "a": 0.8}})
    (axis,) = figure.axes
    _, first, second = axis.collections
    assert [label.get_text() for label in axis.get_xticklabels()] == ["b", "a"]
    assert first.get_offsets().tolist() == [[0, 50], [1, 90]]
    assert second.get_offsets().tolist() == [[0, 75], [1, 80]]


def test_label_efficiency_draws_every_method_with_its_deviation():
    """Names that share a stem share a colour; the legend ranks the ends, whatever the order of the lines."""
    nothing = float("nan")
    curves = {
        "supervised": [(3, 0.5, 0.1), (7, 0.75, 0.02)],
        "unimatch": [(3, 0.625, nothing), (7, 0.875, nothing)],
        "unimatch+contrast": [(7, 0.8, 0.01)],
        "bcp": [],
    }
    figure = efficiency_chart(curves, "supervised", LIGHT)
    (axis,) = figure.axes
    lines = {container.get_label(): container for container in axis.containers}
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "unimatch",
        "unimatch+contrast",
        "supervised",
    ]
    data, _, (bars,) = lines["supervised"]
    assert data.get_xydata().tolist() == [[3, 50], [7, 75]]
    assert [segment[:, 1].tolist() for segment in bars.get_segments()] == [
        pytest.approx([40, 60]),
        pytest.approx([73, 77]),
    ]
    colours = {name: line[0].get_color() for name, line in lines.items()}
    assert colours["supervised"] == LIGHT.ink
    assert colours["unimatch"] == colours["unimatch+contrast"] == LIGHT.runs[0]
    assert lines["unimatch"][0].get_linestyle() != lines["unimatch+contrast"][0].get_linestyle()
    assert [label.get_text() for label in axis.get_xticklabels()] == ["3", "7"]
    assert png(figure).startswith(b"\x89PNG")


def test_many_methods_can_still_be_told_apart():
    names = [f"method {number}" for number in range(2 * len(LIGHT.runs))]
    (axis,) = efficiency_chart({name: [(1, 0.5, 0.1)] for name in names}, "method 0").axes
    looks = {(line[0].get_color(), line[0].get_marker()) for line in axis.containers}
    assert len(looks) == len(names)


def test_the_chart_of_methods_has_a_line_for_each():
    unknown = float("nan")
    methods = {
        "new": MethodMarks([0.5, 0.75], 0.625, Interval(0.1, 0.05, 0.15), "helped", 2.0, 1.5),
        "old": MethodMarks([0.25, 0.5], 0.375, Interval(unknown, unknown, unknown), "", 1.0, unknown),
        "bad": MethodMarks([0.25], 0.25, Interval(-0.1, -0.2, -0.05), "hurt", 1.0, 0.5),
        "odd": MethodMarks([0.25], 0.25, Interval(0.1, 0.05, 0.2), "no clear difference", 1.0, 0.5),
    }
    figure = methods_chart(methods, DARK)
    patients, difference, minutes, memory = figure.axes
    assert [label.get_text() for label in patients.get_yticklabels()] == list(methods)
    assert patients.yaxis_inverted()
    assert patients.collections[0].get_offsets()[:, 0].tolist() == [50, 75]
    assert np.abs(patients.collections[0].get_offsets()[:, 1]).max() < 0.5
    assert patients.lines[0].get_xdata().tolist() == [62.5, 62.5]
    zero, *lines = difference.lines
    assert zero.get_xdata() == [0, 0]
    assert lines[0].get_xdata().tolist() == pytest.approx([5, 15])
    assert [line.get_color() for line in lines[::2]] == [DARK.runs[0], DARK.ink, DARK.runs[1], DARK.ink]
    assert [bar.get_width() for bar in minutes.patches] == [2, 1, 1, 1]
    assert [bar.get_width() for bar in memory.patches][::2] == [1.5, 0.5]
    assert png(figure).startswith(b"\x89PNG")


def test_curves_hold_what_the_validations_logged_one_line_per_run(diagnostic_logs):
    figure = diagnostic_curves(diagnostic_logs, DARK)
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


def test_acceptance_of_all_or_nothing_is_no_curve(diagnostic_logs):
    assert "accepted_left" not in diagnostic_terms({"supervised": diagnostic_logs["supervised"][1:]})
    assert "accepted_left" in diagnostic_terms(diagnostic_logs)


def test_of_a_hundred_classes_mean_and_extremes_are_drawn():
    log = [
        {"step": step, "validation_dice": 0.5, "ece": 0.25}
        | {f"agreement_{place}": place / 128 for place in range(128)}
        | {f"accepted_{place}": 0.5 for place in range(2)}
        for step in (20, 40)
    ]
    figure = diagnostic_curves({"patchcl": log})
    curves = {axis.get_title(loc="left"): axis.lines[0].get_ydata().tolist() for axis in figure.axes}
    assert list(curves) == [
        "ece",
        "accepted 0",
        "accepted 1",
        "agreement mean",
        "agreement lowest",
        "agreement highest",
    ]
    assert (curves["agreement lowest"], curves["agreement highest"]) == ([0, 0], [127 / 128] * 2)
    assert curves["agreement mean"] == [pytest.approx(127 / 256)] * 2


def test_a_run_whose_name_begins_with_an_underscore_has_its_place_in_the_legend():
    charts = learning_curves({"_first": LOGS["supervised"]}), patient_chart({"_first": {"a": 0.5}})
    assert [[text.get_text() for text in chart.axes[0].get_legend().get_texts()] for chart in charts] == [
        [" _first"]
    ] * 2
    figure = efficiency_chart({"_first": [(2, 0.5, 0.1)]}, "_first")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [" _first"]
