"""The demo from end to end, with a few steps: all of its parts are real, only its answer is worth nothing."""

import io
import shutil

import pytest
from rich.console import Console

from patchcl.config import load_settings
from patchcl.core.errors import UserError
from patchcl.demo.demo import METHODS, compare_spec, demo_settings, run_demo, train_or_continue
from patchcl.demo.phantom import write_cardiac
from patchcl.methods import method_names
from patchcl.runs.folder import RunFolder


def test_it_ends_with_a_table_an_answer_and_a_report_and_does_nothing_twice(tmp_path):
    said = io.StringIO()
    result = run_demo(tmp_path, 0, Console(file=said, width=140), steps=2)
    text = " ".join(said.getvalue().split())
    for expected in ("RV", "MYO", "LV", "95HD", "supervised", "patchcl", "Dice points"):
        assert expected in text
    assert set(result.evaluations) == set(METHODS)
    assert len(result.evaluations["patchcl"].patients) == 12
    assert "data:image/png;base64" in result.report.read_text()

    before = {method: RunFolder(tmp_path / method).last.stat().st_mtime_ns for method in METHODS}
    with pytest.raises(UserError, match=r"holds the demo of seed 0\. Choose a new folder with -o, or add: --seed 0"):
        run_demo(tmp_path, 1, Console(quiet=True), steps=2)
    again = run_demo(tmp_path, 0, Console(quiet=True), steps=2)
    assert again.evaluations == result.evaluations
    assert before == {method: RunFolder(tmp_path / method).last.stat().st_mtime_ns for method in METHODS}


def test_a_run_of_other_steps_is_not_shown_as_that_of_today(cardiac, trained, tmp_path, tiny):
    root = shutil.copytree(trained, tmp_path / "run")
    with pytest.raises(UserError, match=r"training\.steps was 6, now 9\n"):
        train_or_continue(cardiac, root, load_settings(None, [*tiny, "training.steps=9"]), Console(quiet=True))


def test_a_demo_that_was_killed_while_a_run_began_goes_on(cardiac, trained, tmp_path, tiny):
    run = RunFolder.create(tmp_path / "run")
    shutil.copy(RunFolder(trained).settings, run.settings)
    train_or_continue(cardiac, run.root, load_settings(None, [*tiny, "training.steps=1"]), Console(quiet=True))
    assert run.last.is_file()


def test_both_methods_get_the_same_but_for_the_method():
    supervised, patchcl = (demo_settings(method, seed=3).model_dump() for method in METHODS)
    assert supervised.pop("method")["name"] == "supervised"
    assert patchcl.pop("method")["name"] == "patchcl"
    assert supervised == patchcl
    assert supervised["training"]["seed"] == 3


def test_the_table_asks_for_every_method_under_the_same_settings(tmp_path):
    write_cardiac(tmp_path, labeled=5, unlabeled=2, test=1, seed=0)
    spec = compare_spec(tmp_path, seed=4, steps=5)
    assert set(spec.methods) == {*method_names(), "unimatch+contrast", "bcp+contrast"}
    assert {(compare_run.labeled, compare_run.seed) for compare_run in spec.runs} == {(3, 4)}
    assert spec.on == "test"
    ours, theirs = (
        spec.settings["training"],
        demo_settings("patchcl", seed=4, steps=5).model_dump(mode="json")["training"],
    )
    assert ours | {"seed": 4} == theirs
