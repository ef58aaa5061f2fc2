"""What programs read of a comparison."""

import csv
import json

import pytest

from patchcl.comparison.export import settings_fingerprint, write_csv, write_results
from patchcl.comparison.results import read_levels
from patchcl.evaluation.metrics import EMPTY_POLICY


@pytest.fixture
def made(question, folder):
    """A question, its levels and its folder; one of four cells is empty."""
    asked = question(seeds=(0, 1))
    dice = {("supervised", 0): [0.25, 0.5], ("supervised", 1): [0.5, 0.5], ("patchcl", 0): [0.5, 0.75]}
    out = folder(asked, lambda cell: dice.get((cell.method, cell.seed)))
    return asked, read_levels(asked, out), out


def test_the_csv_has_a_line_for_everything_and_gaps_where_nothing_is_known(made):
    _, levels, out = made
    write_csv(levels, out / "compare.csv")
    with (out / "compare.csv").open() as file:
        lines = {(line["method"], line["checkpoint"], line["structure"]): line for line in csv.DictReader(file)}
    assert len(lines) == 2 * 2 * 3
    supervised, patchcl = lines["supervised", "last", "mean"], lines["patchcl", "last", "left"]
    assert (supervised["labeled"], supervised["labeled_patients"], supervised["seeds"]) == ("2", "2", "2")
    assert float(supervised["dice_mean"]) == pytest.approx(0.4375)
    assert float(supervised["dice_std"]) == pytest.approx(0.0884, abs=1e-4)
    assert float(supervised["hd95_mm_mean"]) == 9
    assert supervised["dice_difference"] == patchcl["dice_std"] == ""
    assert float(patchcl["dice_difference"]) == 0.25
    assert float(lines["patchcl", "best", "left"]["dice_mean"]) == 0.75
    assert lines["patchcl", "best", "left"]["dice_difference"] == ""
    assert (float(patchcl["minutes"]), float(patchcl["peak_gib"])) == (1, 0.5)


def test_the_results_say_where_every_cell_comes_from_or_why_it_is_empty(made):
    asked, levels, out = made
    write_results(asked, levels, out / "results.json")
    results = json.loads((out / "results.json").read_text())
    assert results["empty_policy"] == EMPTY_POLICY
    assert results["asked"] == asked.model_dump(mode="json")
    assert results["answer"][0] == "supervised scores highest"
    assert len(results["rows"]) == 12
    cells = {cell["place"]: cell for cell in results["cells"]}
    assert cells.keys() == {cell.place for cell in asked.cells}
    done, empty = cells["labeled_2/supervised/seed_1"], cells["labeled_2/patchcl/seed_1"]
    assert done["provenance"]["hardware"] == "an abacus"
    assert done["scores"]["last"]["dice"] == 0.5
    assert done["scores"]["last"]["split_fingerprint"] == asked.splits["labeled_2/seed_1"]
    assert done["empty_because"] is None
    assert (empty["empty_because"], empty["scores"], empty["minutes"]) == ("not run yet", {}, None)


def test_the_fingerprint_is_that_of_what_cells_have_in_common(question):
    same = {settings_fingerprint(question(seeds=seeds)) for seeds in ((0,), (1, 2))}
    assert len(same) == 1
    others = {settings_fingerprint(question(("supervised", "patchcl"), (2,), (0,), "training.steps=7"))}
    others |= {settings_fingerprint(question(voxels=True)), settings_fingerprint(question(("supervised",)))}
    assert len(others | same) == 4
