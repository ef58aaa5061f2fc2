"""Which run is to be used: masks alone, unless validation patients speak for another; test patients never choose."""

import json

import pytest

from patchcl.comparison.choice import choice_file, choose, run_to_use, write_choice
from patchcl.comparison.results import read_budgets
from patchcl.comparison.spec import run_root
from patchcl.comparison.worker import scores_file
from patchcl.core.errors import UserError
from patchcl.evaluation.scores import read_evaluation, write_evaluation

BASE = (0.25, 0.5, 0.5, 0.375) * 2


@pytest.fixture
def made(make_spec, folder):
    """Made of what every method adds on validation patients to `BASE`, by seed; on test patients the reverse."""

    def make(patients=8, labeled=(2,), seeds=(0, 1), **gains):
        spec = make_spec(tuple(gains), labeled, seeds)

        def gain(compare_run):
            return gains[compare_run.method](compare_run)

        out = folder(spec, lambda compare_run: [each - gain(compare_run) for each in BASE])
        for compare_run in spec.runs:
            root = run_root(out, compare_run)
            scores = read_evaluation(scores_file(root, "test", "last"))
            dice = {f"p{place}": each + gain(compare_run) for place, each in enumerate(BASE[:patients])}
            ours = [
                score.model_copy(update={"dice": dice[score.patient]})
                for score in scores.scores
                if score.patient in dice
            ]
            on = scores.model_copy(update={"scores": tuple(ours), "provenance": scores.provenance})
            write_evaluation(on, scores_file(root, "validation", "last").with_suffix(""))
        return read_budgets(spec, out), out

    return make


def none(_):
    return 0.0


def test_masks_alone_are_chosen_unless_another_method_is_better_beyond_chance(made):
    budgets, _ = made(supervised=none, patchcl=lambda run: 0.125 * run.seed, mean_teacher=lambda _: -0.125)
    choice = choose(budgets)
    assert (choice.method, choice.run_id, choice.patients) == ("supervised", "labeled_2/supervised/seed_0", 8)
    assert choice.reason.startswith(
        "No method is better than supervised beyond chance over 8 validation patients and 2 seeds: patchcl +6.2 ("
    )
    assert choice.against_baseline["patchcl"].verdict == "no clear difference"


def test_the_better_method_is_chosen_whatever_the_test_says_and_of_its_seeds_the_best(made):
    budgets, _ = made(supervised=none, patchcl=lambda run: 0.125 + run.seed / 1024, mean_teacher=lambda _: 0.0625)
    assert budgets[0].complete[0].method == "supervised"
    choice = choose(budgets)
    assert (choice.method, choice.seed) == ("patchcl", 1)
    assert choice.sentence.startswith(
        "Chosen run: labeled_2/patchcl/seed_1. On validation patients patchcl is better than supervised: +12.5 Dice poi"
    )
    assert choice.dice["supervised"] == pytest.approx(sum(BASE) / 8)
    assert choice.against_baseline["mean_teacher"].difference == pytest.approx(0.0625)


def test_masks_alone_judge_whatever_the_tables_compare_with(made):
    """Otherwise the method that an ablation starts from would be chosen for no other being better."""
    budgets, _ = made(patchcl=none, supervised=none, mean_teacher=lambda run: 0.125 * run.seed)
    ablated = budgets[0]._replace(baseline="patchcl")
    choice = choose([ablated])
    assert choice.method == "supervised"
    assert choice.reason.startswith("No method is better than supervised beyond chance")
    without = [row for row in ablated.rows if row.method != "supervised"]
    assert choose([ablated._replace(rows=tuple(without))]).method == "patchcl"


def test_with_folds_the_reason_speaks_of_labeled_patients(made):
    budgets, _ = made(supervised=none, patchcl=lambda _: 0.125)
    better = choose([budgets[0]._replace(folds=5)]).reason
    assert better.startswith("On labeled patients patchcl is better than supervised: +12.5")
    assert better.endswith(". Each patient was scored by the run that has not seen it.")
    alone = choose([budgets[0]._replace(folds=5, rows=budgets[0].rows[:1])]).reason
    assert "compared with supervised on labeled patients. Each" in alone


def test_few_patients_are_no_reason(made):
    budgets, _ = made(patients=4, supervised=none, patchcl=lambda _: 0.25)
    choice = choose(budgets)
    assert choice.method == "supervised"
    assert "over 4 validation patients and 2 seeds; with fewer than 6 patients none can be shown to be" in choice.reason


def test_one_patient_gives_a_choice_without_an_interval(made):
    budgets, out = made(patients=1, seeds=(0,), supervised=none, patchcl=lambda _: 0.25)
    choice = choose(budgets)
    write_choice(choice, out)
    judged = json.loads(choice_file(out).read_text())["against_baseline"]["patchcl"]
    assert (choice.method, judged["low"], judged["verdict"]) == ("supervised", None, "no verdict")


def test_the_most_labeled_patients_count(made):
    budgets, _ = made(labeled=(1, 2), supervised=none, patchcl=lambda run: 0.125 if run.labeled == 1 else -0.125)
    assert choose(budgets).run_id == "labeled_2/supervised/seed_0"


def test_alone_the_baseline_is_chosen_and_without_it_nothing(made):
    budgets, out = made(supervised=none)
    choice = choose(budgets)
    assert choice.reason.startswith("No other method is there")
    write_choice(choice, out)
    assert run_to_use(out) == run_root(out, budgets[0].rows[0].results[0].run)
    unjudged = budgets[0].rows[0]._replace(results=(budgets[0].rows[0].results[0]._replace(validation=None),))
    assert choose([budgets[0]._replace(rows=(unjudged,))]) is None
    write_choice(None, out)
    assert not choice_file(out).exists()


def test_a_method_that_lacks_a_seed_is_no_candidate(made):
    budgets, _ = made(supervised=none, patchcl=lambda _: 0.125)
    patchcl = budgets[0].rows[1]
    short = budgets[0]._replace(rows=(budgets[0].rows[0], patchcl._replace(results=patchcl.results[:1])))
    assert choose([short]).method == "supervised"


def test_the_run_is_told_with_its_reason(made, capsys):
    budgets, out = made(supervised=none, patchcl=lambda _: 0.125)
    write_choice(choose(budgets), out)
    assert run_to_use(out) == out / "runs" / "labeled_2" / "patchcl" / "seed_0"
    assert "Chosen run: labeled_2/patchcl/seed_0. On validation patients patchcl is bet" in capsys.readouterr().out
    run = out / "runs" / "labeled_2" / "supervised" / "seed_0"
    assert run_to_use(run) == run


def test_a_comparison_without_a_choice_is_explained(made):
    _, out = made(supervised=none)
    with pytest.raises(UserError, match="has chosen no run"):
        run_to_use(out)
    choice_file(out).write_text("{}")
    with pytest.raises(UserError, match=r"chosen\.json cannot be read. Make it anew with: patchcl compare --show"):
        run_to_use(out)


def test_where_nobody_validates_masks_alone_are_chosen(made):
    budgets, out = made(supervised=none, patchcl=lambda _: 0.125)
    blind = [row._replace(results=tuple(map(unseen, row.results))) for row in budgets[0].rows]
    choice = choose([budgets[0]._replace(rows=tuple(blind))])
    assert (choice.run_id, choice.patients) == ("labeled_2/supervised/seed_0", 0)
    assert choose([budgets[0]._replace(rows=tuple(blind), baseline="patchcl")]) == choice
    assert choice.reason == (
        "No patient was kept for validation, so nothing speaks for another method than supervised."
    )
    write_choice(choice, out)
    assert run_to_use(out) == out / "runs" / choice.run_id
    still_to_judge = [row._replace(results=tuple(r._replace(validation=None) for r in row.results)) for row in blind]
    still_to_judge[0] = still_to_judge[0]._replace(
        results=tuple(r._replace(validation_patients=2) for r in still_to_judge[0].results)
    )
    assert choose([budgets[0]._replace(rows=tuple(still_to_judge))]) is None


def unseen(result):
    return result._replace(validation=None, validation_patients=0)
