"""What the table beside the masks says, by hand."""

import csv

import numpy as np
import pytest
from rich.console import Console

from patchcl.data.geometry import Grid
from patchcl.inference.case_summary import CaseSummary, Confidences, render, sizes_of, write_table

CLASSES = ("background", "RV", "LV")


def test_sizes_are_volumes_in_ml_and_areas_of_slices():
    mask = np.zeros((10, 10, 4), np.uint8)
    mask[:5, :5, :2] = 2
    volume = Grid((10, 10, 4), np.eye(4), (2.0, 2.0, 5.0))
    assert sizes_of(mask, volume, CLASSES, {}) == {"RV ml": 0.0, "LV ml": pytest.approx(50 * 20 / 1000)}
    assert sizes_of(mask[..., 0], Grid((10, 10), np.eye(4), (2.0, 2.0)), CLASSES, {})["LV mm2"] == 100


def test_sizes_of_regions_are_those_of_their_classes_together():
    mask = np.array([[0, 1, 2], [2, 2, 1]], np.uint8)
    grid = Grid((2, 3), np.eye(4), (1.0, 1.0))
    assert sizes_of(mask, grid, CLASSES, {"whole": (1, 2), "core": (2,)}) == {"whole mm2": 5, "core mm2": 3}


def test_confidence_is_that_of_structures_and_of_all_where_there_is_none():
    probs = np.array([[[0.9, 0.3], [0.2, 0.6]], [[0.1, 0.7], [0.8, 0.4]]])  # (K, rows, columns)
    parts = Confidences().with_part(probs[:, :1]).with_part(probs[:, 1:])
    assert parts.mean == pytest.approx((0.7 + 0.8) / 2)
    assert Confidences().with_part(probs[:, :, :1][:, :1]).mean == pytest.approx(0.9)


def test_scans_that_are_segmented_one_by_one_get_one_table(tmp_path):
    path = tmp_path / "predictions.csv"

    def case(name, size, **unlike):
        return CaseSummary(name, {"LV ml": size}, 0.98765, unlike)

    write_table(path, [case("b", 12.3456789)])
    write_table(path, [case("a", 2.0, noise="much"), case("c, the third", 3.0)])
    write_table(path, [case("b", 4.0, noise="much", spacing="wide")])
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert rows[1] == {
        "case": "b",
        "LV ml": "4",
        "mean confidence": "0.9877",
        "unlike training": "noise, spacing",
    }
    assert [row["case"] for row in rows] == ["a", "b", "c, the third"]
    write_table(path, [CaseSummary("d", {"RV ml": 1.0}, 0.5, {})])  # of another run: a table of its own
    assert [row["case"] for row in csv.DictReader(path.read_text().splitlines())] == ["d"]


def test_a_scan_that_is_called_as_a_formula_has_one_row_that_is_none(tmp_path):
    path = tmp_path / "predictions.csv"
    for confidence in (0.25, 0.5):
        write_table(path, [CaseSummary("=HYPERLINK(1)", {"LV ml": 1.0}, confidence, {})])
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [(row["case"], row["mean confidence"]) for row in rows] == [("'=HYPERLINK(1)", "0.5000")]


def test_a_line_for_each_scan_that_is_unlike_training(tmp_path):
    console = Console(record=True, width=200)
    cases = [CaseSummary("a", {}, 1.0, {}), CaseSummary("[red]b", {}, 1.0, {"noise": "much", "spacing": "wide"})]
    render(cases, tmp_path, console)
    said = console.export_text()
    assert said.count("Warning:") == 1
    assert "[red]b is unlike what the network was trained on: much; wide." in said
    assert f"1 of them unlike what it was trained on. Volumes, mean confidence and warnings: {tmp_path}" in said
