"""What is known of runs: their names, the table of facts, and what two runs differ in."""

import pytest

from patchcl.config import load_settings
from patchcl.core.errors import UserError
from patchcl.data.preprocessing.plan import Plan
from patchcl.data.splits import Split
from patchcl.evaluation.scores import Evaluation, Score, write_evaluation
from patchcl.reports.facts import RunFacts, _evaluations, _names, changes, facts_table, unfinished, unmatched
from patchcl.runs.contents import contents_of, write_contents
from patchcl.runs.folder import RunFolder

SPLIT = Split(labeled=("a",), unlabeled=("b", "c"), validation=("d",), test=())


PLAN = Plan(dimensions=2, fit="resize", size=(8, 8), normalise="min_max", channels=("MRI",), classes=("b", "a"))


class _Plan:
    dimensions, size = 2, (32, 48)


@pytest.fixture
def facts(tmp_path):
    def make(name: str, *overrides: str, split: Split = SPLIT, **known: object) -> RunFacts:
        settings = load_settings(None, [f"method.name={name}", "training.steps=40", *overrides])
        rows = [{"step": 10.0}, {"step": 20.0}]
        return RunFacts(name, RunFolder(tmp_path / name), settings, _Plan(), split, rows, known, {})

    return make


def test_facts_stand_once_where_runs_agree_and_side_by_side_where_they_do_not(facts) -> None:
    runs = [facts("supervised", seconds=90.0, steps_per_second=5.0), facts("patchcl", hardware="an abacus")]
    table = dict(facts_table(runs))
    assert table["method"] == ["supervised", "patchcl"]
    assert table["patients"] == ["1 labeled, 2 unlabeled, 1 validation, 0 test"]
    assert table["split hash"] == [SPLIT.hash]
    assert table["steps"] == ["20 of 40"]
    assert table["network"] == ["2-D U-Net, input 32 × 48, auto"]
    assert table["hardware"] == ["not known", "an abacus"]
    assert table["time"] == ["1.5 min, 5.0 steps/s", "not known"]


def test_folds_of_which_none_is_listed_have_made_no_step(facts) -> None:
    run = facts("supervised")
    run.folder.root.mkdir()
    run.folder.folds.write_text('{"runs": []}')
    assert dict(facts_table([run]))["steps"] == ["0 of 40"]


def test_runs_that_differ_in_the_method_alone_are_matched(facts) -> None:
    others = ["training.device=cpu", "training.memory_gib=1", "cache=/elsewhere"]
    assert list(unmatched([facts("supervised"), facts("patchcl", *others)])) == []


def test_the_same_files_in_another_folder_are_no_difference(facts) -> None:
    first, moved = facts("supervised", "data=/before"), facts("patchcl", "data=/after")
    assert [line.endswith("the method: data.") for line in unmatched([first, moved])] == [True]  # nothing tells
    for run, files in ((first, {"a": "1"}), (moved, {"a": "1", "b": "2"})):
        contents = contents_of(files.items(), run.settings, PLAN, SPLIT, (), ())
        run.folder.root.mkdir()
        write_contents(run.folder.contents, contents)
    assert list(unmatched([first, moved])) == []
    write_contents(first.folder.contents, contents_of([("a", "9")], first.settings, PLAN, SPLIT, (), ()))
    assert [line.endswith("the method: data.") for line in unmatched([first, moved])] == [True]


def test_what_else_could_explain_a_difference_is_named(facts) -> None:
    other = SPLIT.model_copy(update={"labeled": ("b",), "unlabeled": ("a", "c")})
    first, changed = facts("supervised"), facts("patchcl", "training.steps=50", "plan.size=[8, 8]", split=other)
    splits, settings = unmatched([first, changed])
    assert splits.startswith("patchcl and supervised learned from different splits")
    assert settings.startswith("patchcl and supervised differ in more than the method: ")
    assert {"plan.size", "training.steps"} == {*settings.partition(": ")[2].rstrip(".").split(", ")}


def test_runs_have_the_shortest_names_that_tell_them_apart(tmp_path) -> None:
    one, two = RunFolder(tmp_path / "one"), RunFolder(tmp_path / "two")
    elsewhere = RunFolder(tmp_path / "elsewhere" / "one")
    supervised, patchcl = (load_settings(None, [f"method.name={name}"]) for name in ("supervised", "patchcl"))
    assert _names([one, two], [supervised, patchcl]) == ["supervised", "patchcl"]
    assert _names([one, two], [patchcl, patchcl]) == ["one", "two"]
    assert _names([one, elsewhere], [patchcl, patchcl]) == [str(run.root) for run in (one, elsewhere)]
    with pytest.raises(UserError, match="named twice"):
        _names([one, one], [patchcl, patchcl])


SCORED = (("supervised", "1"), ("patchcl", "1"), ("fixmatch", "2"))


def scored(run: RunFacts, **known: str) -> RunFacts:
    evaluation = Evaluation(name=run.name, structures=("left",), unit="mm", scores=(), provenance=known)
    return run._replace(evaluations={"test_last": evaluation})


def test_what_changed_and_was_accepted_is_told(facts) -> None:
    run = facts("patchcl", accepted_changes=["then: labelsTr/a.nii.gz was replaced"])
    assert list(changes([facts("supervised"), run])) == [
        "patchcl went on although this had changed: then: labelsTr/a.nii.gz was replaced."
    ]
    assert dict(facts_table([run]))["changed and accepted"] == ["then: labelsTr/a.nii.gz was replaced"]
    assert dict(facts_table([facts("supervised")]))["changed and accepted"] == ["nothing"]
    late = scored(facts("patchcl"), changed_since_training="training.seed was 0, now 1")
    assert list(changes([late])) == ["Before patchcl was scored, this had changed: training.seed was 0, now 1."]


def test_scores_of_an_unfinished_run_are_told(facts) -> None:
    early, done = scored(facts("patchcl"), unfinished="step 20 of 40"), scored(facts("supervised"))
    assert list(unfinished([early, done])) == ["patchcl was scored before training had ended, at step 20 of 40."]


def test_scores_on_other_masks_are_told(facts) -> None:
    first, same, other = (scored(facts(name), data_hash=hash_) for name, hash_ in SCORED)
    assert list(unmatched([first, same])) == []
    assert list(unmatched([first, other])) == [
        "fixmatch and supervised were scored on other scans or masks: evaluate both anew."
    ]
    assert list(unmatched([first, facts("mean_teacher")])) == []


def test_scores_of_different_options_are_never_set_side_by_side(tmp_path) -> None:
    """A name of its own for each; scores of before have their options in the provenance alone."""
    scores = scored_with("--fast").model_copy(update={"name": "patchcl"})
    runs = [RunFolder.create(tmp_path / name) for name in ("old", "new")]
    write_evaluation(scores, runs[0].evaluation / "test_last")
    write_evaluation(scores, runs[1].evaluation / "test_last_fast")
    write_evaluation(scored_with(""), runs[1].evaluation / "test_last")
    write_evaluation(scores, runs[1].evaluation / "test_last_student")
    assert list(_evaluations(runs[0], "old")) == ["test_last_fast"]
    assert list(_evaluations(runs[1], "new")) == ["test_last", "test_last_fast"]


def scored_with(options: str) -> Evaluation:
    one = Score(patient="p", case="p", structure="left", dice=0.5, jaccard=0.5, hd95_mm=9, asd_mm=1)
    return Evaluation(name="run", structures=("left",), unit="mm", scores=(one,), provenance={"options": options})
