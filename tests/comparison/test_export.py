"""What programs read of a comparison."""

import csv
import json

import pytest

from patchcl.comparison.export import settings_hash, write_csv, write_results
from patchcl.comparison.results import read_budgets
from patchcl.evaluation.metrics import EMPTY_POLICY


@pytest.fixture
def made(make_spec, folder):
    """A spec, its budgets and its folder; one of four runs is missing."""
    spec = make_spec(seeds=(0, 1))
    dice = {("supervised", 0): [0.25, 0.5], ("supervised", 1): [0.5, 0.5], ("patchcl", 0): [0.5, 0.75]}
    out = folder(spec, lambda compare_run: dice.get((compare_run.method, compare_run.seed)))
    return spec, read_budgets(spec, out), out


def test_the_csv_has_a_line_for_everything_and_gaps_where_nothing_is_known(made):
    _, budgets, out = made
    write_csv(budgets, out / "compare.csv")
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
    assert (float(supervised["surface_dice_mean"]), supervised["rescued"]) == (0.75, "0")
    assert float(supervised["dice_one_pass_mean"]) == float(supervised["dice_mean"])


def test_the_results_say_where_every_run_comes_from_or_why_it_is_missing(made):
    spec, budgets, out = made
    write_results(spec, budgets, out / "results.json")
    results = json.loads((out / "results.json").read_text())
    assert results["empty_policy"] == EMPTY_POLICY
    assert results["spec"] == spec.model_dump(mode="json")
    assert results["answer"][0] == "supervised scores highest"
    assert len(results["rows"]) == 12
    runs = {run["run_id"]: run for run in results["runs"]}
    assert runs.keys() == {compare_run.run_id for compare_run in spec.runs}
    done, missing = runs["labeled_2/supervised/seed_1"], runs["labeled_2/patchcl/seed_1"]
    assert done["provenance"]["hardware"] == "an abacus"
    assert (done["scores"]["last"]["dice"], done["scores"]["last"]["surface_dice"], done["rescues"]) == (0.5, 0.75, 0)
    assert results["settings_hash"] == settings_hash(spec)
    assert done["scores"]["last"]["split_hash"] == spec.splits["labeled_2/seed_1"]
    assert done["missing_because"] is None
    assert (missing["missing_because"], missing["scores"], missing["minutes"]) == ("not run yet", {}, None)


def test_the_hash_is_that_of_what_runs_have_in_common(make_spec):
    same = {settings_hash(make_spec(seeds=seeds)) for seeds in ((0,), (1, 2))}
    assert len(same) == 1
    others = {settings_hash(make_spec(("supervised", "patchcl"), (2,), (0,), "training.steps=7"))}
    others |= {settings_hash(make_spec(voxels=True)), settings_hash(make_spec(("supervised",)))}
    assert len(others | same) == 4
