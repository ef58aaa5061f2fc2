"""From the spec to the answer, with a stand-in for training."""

import io
import json
import shutil
import subprocess
import sys

import pytest
from rich.console import Console

from patchcl.comparison import runner as runner
from patchcl.comparison.comparison import compare_methods, show_comparison
from patchcl.comparison.spec import run_root
from patchcl.comparison.spec_file import read_spec
from patchcl.config import read_settings
from patchcl.core.errors import UserError
from patchcl.runs.folder import RunFolder

FAILS = """
import json, pathlib, sys
job = json.loads(sys.stdin.readline())
root = pathlib.Path(job["root"])
root.with_name(root.name + ".error").write_text("no memory")
sys.exit(1)
"""
HOLD = """
import pathlib, sys
from patchcl.core.lock import locked
with locked(pathlib.Path(sys.argv[1]), print):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _blank_charts(monkeypatch):
    monkeypatch.setattr("patchcl.comparison.page.themed", lambda draw: {"light": "blank", "dark": "blank"})


def test_only_what_is_missing_is_run_and_all_is_shown(make_spec, folder, monkeypatch):
    monkeypatch.setattr(runner, "WORKER", (sys.executable, "-c", FAILS))
    spec, said = make_spec(seeds=(0, 1)), io.StringIO()
    out = folder(spec, lambda compare_run: [0.25, 0.5] if compare_run.seed == 0 else None)
    done = [run_root(out, compare_run) for compare_run in spec.runs if compare_run.seed == 0]
    before = {path: path.stat().st_mtime_ns for root in done for path in root.rglob("*")}
    ending = compare_methods(spec, out, 2, Console(file=said, width=120))
    assert ending.failed == dict.fromkeys(("labeled_2/supervised/seed_1", "labeled_2/patchcl/seed_1"), "no memory")
    assert before == {path: path.stat().st_mtime_ns for root in done for path in root.rglob("*")}
    text = said.getvalue()
    assert "4 runs, 2 of them finished already." in text
    assert "Missing: labeled_2/patchcl/seed_1: failed: no memory" in text
    assert {"compare.json", "compare.csv", "results.json", "compare.html", "files.json", "runs"} == {
        path.name for path in out.iterdir()
    }


def test_runs_that_are_finished_know_where_their_data_were_moved_to(make_spec, folder, cardiac, tmp_path):
    spec = make_spec(seeds=(0,))
    out = folder(spec, lambda _: [0.25, 0.5])
    moved = shutil.copytree(cardiac, tmp_path / "moved")
    assert compare_methods(spec.model_copy(update={"data": moved}), out, 1, Console(quiet=True)).failed == {}
    for compare_run in spec.runs:
        assert read_settings(RunFolder(run_root(out, compare_run)).settings).data == moved


def test_who_comes_second_is_told_of_the_first(make_spec, tmp_path):
    call = [sys.executable, "-c", HOLD, tmp_path / "comparison"]
    with subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "held\n"
        told = (
            rf"in the hands of process {first.pid} on .*, and a comparison has one writer.*compare --show need not wait"
        )
        with pytest.raises(UserError, match=told):
            compare_methods(make_spec(), tmp_path / "comparison", 1, Console(quiet=True))
        first.stdin.close()
    assert not (tmp_path / "comparison").exists()


def test_a_cluster_that_is_not_there_is_told_and_the_folder_is_free_again(make_spec, tmp_path):
    pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    for _ in range(2):
        with pytest.raises(UserError, match="No Dask scheduler answered at nonsense"):
            compare_methods(make_spec(), tmp_path / "comparison", 1, Console(quiet=True), "nonsense")


def test_a_part_of_the_runs_is_made_alone_but_all_is_shown(make_spec, folder):
    spec = make_spec(seeds=(0, 1))
    out = folder(spec, lambda compare_run: [0.25, 0.5])
    said = io.StringIO()
    compare_methods(make_spec(("patchcl",), seeds=(1,)), out, 1, Console(file=said, width=120))
    assert "1 runs, 1 of them finished already." in said.getvalue()
    assert read_spec(out).runs == spec.runs
    assert "supervised" in (out / "compare.csv").read_text()


def test_the_other_side_can_be_shown(make_spec, folder):
    spec = make_spec(on="validation")
    out = folder(spec, lambda compare_run: [0.25, 0.5])
    said = io.StringIO()
    show_comparison(out, Console(file=said), on="test")
    assert "Nothing to compare yet" in said.getvalue()
    show_comparison(out, Console(file=said))
    assert "supervised and patchcl share the highest Dice, 37.5 %" in " ".join(said.getvalue().split())


def test_a_folder_without_a_comparison_is_explained(tmp_path):
    with pytest.raises(UserError, match="holds no comparison"):
        show_comparison(tmp_path, Console(quiet=True))


def test_the_chosen_run_is_kept_and_shown_wherever_the_answer_is(make_spec, folder):
    spec, said = make_spec(on="validation"), io.StringIO()
    out = folder(spec, lambda compare_run: [0.25, 0.5] if compare_run.method == "supervised" else [0.5, 0.75])
    show_comparison(out, Console(file=said, width=120))
    chosen = json.loads((out / "chosen.json").read_text())
    assert (chosen["run_id"], chosen["patients"]) == ("labeled_2/supervised/seed_0", 2)
    sentence = f"Chosen run: labeled_2/supervised/seed_0. {chosen['reason']}"
    assert sentence in " ".join(said.getvalue().split())
    assert sentence in (out / "compare.html").read_text()
    assert json.loads((out / "results.json").read_text())["chosen"] == chosen
