"""What is said beside the figures."""

from patchcl.comparison.remarks import caution, remarks
from patchcl.comparison.results import read_budgets
from patchcl.comparison.spec import run_root
from patchcl.comparison.worker import Session
from patchcl.core.files import write_json

DICE = {
    ("supervised", 0): [0.25, 0.5, 0.5],
    ("supervised", 1): [0.5, 0.5, 0.25],
    ("patchcl", 0): [0.5, 0.75, 0.75],
    ("patchcl", 1): [0.5, 0.5, 0.75],
}


def test_what_could_explain_a_figure_is_remarked(make_spec, folder):
    spec = make_spec(seeds=(0, 1, 2))
    out = folder(spec, lambda compare_run: DICE[compare_run.method, min(compare_run.seed, 1)])
    assert list(remarks(read_budgets(spec, out))) == []
    root = run_root(out, spec.runs[1])
    write_json(root / "provenance.json", {"commit": "def"})
    fast = Session(hardware="a loom", threads=8, at_once=2, steps=6, seconds=1, peak_mib=1)
    write_json(root / "sessions.json", [fast.model_dump()])
    commits, machines = remarks(read_budgets(spec, out))
    assert commits == "The runs were made by several commits: abc, def."
    assert "a loom (8 threads, 2 at once); an abacus (1 threads, 1 at once)" in machines


def test_scores_of_validation_patients_are_named_as_such(make_spec, folder):
    spec = make_spec(("supervised",), seeds=(0, 1, 2), on="validation")
    (remark,) = remarks(read_budgets(spec, folder(spec, lambda compare_run: [0.5])))
    assert remark.startswith("Scored on validation patients, who chose the best checkpoints")


def test_with_folds_it_is_said_what_their_patients_chose_and_what_intervals_leave_out(make_spec, folder):
    spec = make_spec(("supervised",), (None,), (0, 1, 2), folds=2)
    (remark,) = remarks(read_budgets(spec, folder(spec, lambda compare_run: [0.5])))
    assert remark.startswith("The patients that are scored chose post-processing and best checkpoints together")
    assert remark.endswith("is in no interval.")


def test_a_seed_without_a_baseline_is_not_paired(make_spec, folder):
    spec = make_spec(seeds=(0, 1))
    runs = {key: value for key, value in DICE.items() if key != ("supervised", 1)}
    (budget,) = read_budgets(spec, folder(spec, lambda compare_run: runs.get((compare_run.method, compare_run.seed))))
    assert budget.rows[1].pairs == 1
    assert any("not every seed of patchcl has a supervised run" in remark for remark in remarks([budget]))


def test_many_comparisons_come_with_a_warning(budgets):
    made = budgets(supervised=0, patchcl=0.125, mean_teacher=0, fixmatch=0)
    assert next(caution(made[:1])).startswith("There are 3 comparisons with supervised")
    assert list(caution([made[0]._replace(rows=made[0].rows[:2])])) == []


def test_rescued_runs_are_named(make_spec, folder, change):
    spec = make_spec(seeds=(0, 1, 2))
    out = folder(spec, lambda compare_run: DICE[compare_run.method, 0])
    change(spec, spec.runs[1], out, provenance={"trained_rescues": 2})
    (remark,) = remarks(read_budgets(spec, out))
    assert remark == "* Training diverged and was rescued, so many times: labeled_2/patchcl/seed_0 (2)."


def test_runs_that_were_scored_otherwise_are_remarked(make_spec, folder, change):
    """As `patchcl evaluate RUN --fast` leaves one."""
    spec = make_spec(seeds=(0, 1, 2))
    out = folder(spec, lambda compare_run: DICE[compare_run.method, 0])
    for compare_run in spec.runs[1:]:
        change(spec, compare_run, out, provenance={"symmetries": 8})
    (remark,) = remarks(read_budgets(spec, out))
    assert remark == "Not all runs were scored on averages over as many symmetries: 1, 8."
