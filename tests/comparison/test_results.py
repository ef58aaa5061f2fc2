"""The numbers, with runs whose Dice is made up so that the outcome is known by hand."""

import math

import numpy as np
import pytest

from patchcl.comparison.remarks import remarks
from patchcl.comparison.results import Figure, RunResult, describe_budget, over_seeds, read_budgets, read_run
from patchcl.comparison.spec import CompareRun, run_root
from patchcl.comparison.worker import Session
from patchcl.runs.folder import RunFolder

DICE = {
    ("supervised", 0): [0.25, 0.5, 0.5],
    ("supervised", 1): [0.5, 0.5, 0.25],
    ("patchcl", 0): [0.5, 0.75, 0.75],
    ("patchcl", 1): [0.5, 0.5, 0.75],
}


@pytest.fixture
def budget(make_spec, folder):
    """Two methods, two seeds, three patients."""
    spec = make_spec(seeds=(0, 1))
    return read_budgets(spec, folder(spec, lambda compare_run: DICE[compare_run.method, compare_run.seed]))[0]


def test_figures_are_means_over_patients_then_mean_and_deviation_over_seeds(budget):
    supervised, patchcl = budget.rows
    assert supervised.mean_std() == (pytest.approx(5 / 12), pytest.approx(0))
    assert patchcl.mean_std().mean == pytest.approx((2 / 3 + 7 / 12) / 2)
    assert patchcl.mean_std().std == pytest.approx((2 / 3 - 7 / 12) / math.sqrt(2))
    assert patchcl.mean_std(Figure("dice", "left")) == patchcl.mean_std()
    assert patchcl.mean_std(Figure("dice", checkpoint="best")).mean == pytest.approx(patchcl.mean_std().mean + 0.125)
    assert patchcl.mean_std(Figure("hd95_mm")) == (9, 0)
    assert (budget.patients, budget.seeds, budget.structures, budget.unit) == (3, 2, ("left", "right"), "mm")


def test_the_difference_is_paired_by_seed_and_patient(budget):
    """Gains of p0, p1, p2: (0.25 + 0) / 2, (0.25 + 0) / 2, (0.25 + 0.5) / 2."""
    supervised, patchcl = budget.rows
    assert supervised.against is None
    estimate = patchcl.against.overall.estimate
    assert estimate.values == (0.125, 0.125, 0.375)
    assert patchcl.against.overall.interval == estimate.interval()
    assert (estimate.mean, estimate.seeds) == (pytest.approx(5 / 24), 2)
    assert (patchcl.against.first, patchcl.against.second, patchcl.pairs) == ("supervised", "patchcl", 2)


def test_a_patient_has_the_mean_of_all_seeds(budget):
    assert budget.rows[1].patient_dice() == {"p0": 0.5, "p1": 0.625, "p2": 0.75}


def test_the_best_of_a_column_is_the_highest_dice_and_none_where_all_are_alike(budget):
    assert budget.best(Figure("dice")) == budget.rows[1].mean_std().mean
    assert budget.best(Figure("hd95_mm")) is None
    assert [row.method for row in budget.complete] == ["patchcl", "supervised"]


def test_of_distances_the_lowest_is_the_best(make_spec, folder):
    spec = make_spec()
    (budget,) = read_budgets(spec, folder(spec, lambda compare_run: DICE[compare_run.method, compare_run.seed]))
    near = budget.rows[0].results[0]
    near = near._replace(means=near.means | {Figure("asd_mm"): 1.0})
    budget = budget._replace(rows=(budget.rows[0]._replace(results=(near,)), budget.rows[1]))
    assert budget.best(Figure("asd_mm")) == 1.0


def test_a_method_with_fewer_seeds_is_never_the_best(make_spec, folder):
    spec = make_spec(seeds=(0, 1))
    runs = {key: value for key, value in DICE.items() if key != ("patchcl", 1)}
    (budget,) = read_budgets(spec, folder(spec, lambda compare_run: runs.get((compare_run.method, compare_run.seed))))
    assert [row.method for row in budget.complete] == ["supervised"]
    assert budget.rows[1].pairs == 1
    assert budget.rows[1].against.overall.interval.mean == pytest.approx(0.25)
    assert math.isnan(budget.rows[1].mean_std().std)
    assert [result.run for result in budget.missing] == [CompareRun(2, "patchcl", 1)]
    first_look, remark = remarks([budget])
    assert first_look == "Fewer than 3 seeds are a first look: another seed may turn the order round."
    assert "never called the best: patchcl (1)" in remark


def test_seeds_may_score_other_patients(make_spec, folder):
    """p2 is scored with the first seed alone: its gain is that seed's."""
    spec = make_spec(seeds=(0, 1))
    (budget,) = read_budgets(
        spec, folder(spec, lambda compare_run: DICE[compare_run.method, compare_run.seed][: 3 - compare_run.seed])
    )
    assert budget.rows[1].against.overall.interval.mean == pytest.approx(np.mean([0.125, 0.125, 0.25]))
    assert budget.rows[1].patient_dice()["p2"] == 0.75
    assert budget.patients == 3


def test_a_missing_run_says_why(make_spec, folder):
    spec = make_spec(("supervised",), seeds=range(5))
    out = folder(spec, lambda compare_run: [0.5] if compare_run.seed != 1 else None)
    roots = {compare_run.seed: run_root(out, compare_run) for compare_run in spec.runs}
    roots[2].with_name("seed_2.error").write_text("no memory")
    for seed in (0, 2, 3, 4):
        (roots[seed] / "evaluation" / "test_last.json").unlink()
    for seed, step in ((0, 4), (4, 6)):
        RunFolder(roots[seed]).log_jsonl.write_text(f'{{"step": {step}}}\n')
    reasons = [read_run(spec, compare_run, out).missing_because for compare_run in spec.runs]
    expected = ("at step 4 of 6", "not run yet", "failed: no memory", "at step 0 of 6", "trained, but not scored yet")
    assert reasons == list(expected)
    (budget,) = read_budgets(spec, out)
    assert (budget.seeds, budget.patients, budget.structures, budget.complete) == (0, 0, (), [])
    assert math.isnan(budget.rows[0].mean_std().mean)
    assert budget.rows[0].against is None


def test_the_pace_of_what_was_measured_stands_for_all_steps():
    """4 of 6 steps took 60 seconds, so all took 90; the rest was killed before it could say."""
    common = {"hardware": "an abacus", "threads": 1, "at_once": 1}
    sessions = [
        Session(**common, steps=1, seconds=20, peak_mib=512),
        Session(**common, steps=3, seconds=40, peak_mib=2048),
    ]
    result = RunResult(CompareRun(2, "supervised", 0), {}, {}, "", sessions, 6, {}, None)
    assert (result.minutes, result.peak_gib) == (1.5, 2)
    silent = result._replace(sessions=[Session(**common, steps=0, seconds=0, peak_mib=None)])
    assert math.isnan(silent.minutes)
    assert math.isnan(silent.peak_gib)


def test_cost_is_averaged_over_seeds(budget):
    assert budget.rows[0].minutes == (1, 0)
    assert budget.rows[0].peak_gib == (0.5, 0)


def test_labeled_patients_are_counted_in_the_split(make_spec, folder, tmp_path):
    spec = make_spec(("supervised",), (1, None))
    one, everyone = read_budgets(spec, folder(spec, lambda compare_run: [0.5]))
    assert describe_budget(one) == "1 labeled patient"
    assert describe_budget(everyone) == "3 labeled patients"  # one of four validates
    nothing = read_budgets(make_spec(("patchcl",), (1, 3, None)), tmp_path / "elsewhere")
    words = ["1 labeled patient", "3 labeled patients", "all labeled patients"]
    assert [describe_budget(each) for each in nothing] == words


def test_over_seeds_by_hand():
    assert over_seeds([1.0, 3.0]) == (2, pytest.approx(math.sqrt(2)))
    assert over_seeds([1.0])[0] == 1
    assert all(math.isnan(part) for part in (over_seeds([1.0]).std, *over_seeds([])))
