"""Several runs at once, with a stand-in for the work that ends as the seed of its run says."""

import io
import os
import signal
import sys
import threading
import time

import pytest
from rich.console import Console

from patchcl.comparison import runner as runner
from patchcl.comparison.runner import run_jobs
from patchcl.comparison.spec import CompareRun, job_of
from patchcl.core.lock import locked

STAND_IN = """
import json, os, pathlib, signal, sys, time
job = json.loads(sys.stdin.readline())
root, on, steps = pathlib.Path(job["root"]), job["on"], job["settings"]["training"]["steps"]
print("working with", os.environ.get("OMP_NUM_THREADS"), flush=True)
def finish():
    (root / "evaluation").mkdir(parents=True, exist_ok=True)
    score = dict(patient="p", case="p", structure="left", dice=0.75, jaccard=0.5, hd95_mm=1, asd_mm=1)
    scores = dict(name="m", structures=["left"], unit="mm", scores=[score], provenance={"step": steps})
    for checkpoint in ("best", "last"):
        (root / "evaluation" / f"{on}_{checkpoint}.json").write_text(json.dumps(scores))
match job["settings"]["training"]["seed"]:
    case 0:
        finish()
    case 1:
        root.with_name("seed_1.error").write_text("the scans are gone")
        sys.exit(2)
    case 2:
        os.kill(os.getpid(), signal.SIGKILL)
    case 3:
        sys.stdin.read()
        root.with_name("saved").touch()
        sys.exit(143)
    case 4 if not root.with_name("was_killed").exists():
        root.with_name("was_killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    case 4:
        finish()
    case 5:
        time.sleep(0.5)
        finish()
    case 6 if not root.with_name("was_left_alone").exists():
        root.with_name("was_left_alone").touch()
        os.kill(os.getppid(), signal.SIGKILL)
        sys.stdin.read()
        root.with_name("saved").touch()
        sys.exit(143)
    case 6:
        finish()
"""


@pytest.fixture
def work(monkeypatch, tmp_path, make_spec):
    """Runs runs of these seeds; gives how it ended and all that was said."""
    monkeypatch.setattr(runner, "WORKER", (sys.executable, "-c", STAND_IN))

    def run(*seeds: int, at_once: int = 1, cluster: str | None = None):
        spec, said = make_spec(("supervised",), (2,), seeds), io.StringIO()
        jobs = {compare_run.run_id: job_of(spec, compare_run, tmp_path, at_once) for compare_run in spec.runs}
        ending = run_jobs(jobs, tmp_path, at_once, Console(file=said, width=200), cluster)
        return ending, said.getvalue()

    return run


def root(tmp_path, seed):
    return tmp_path / "runs" / CompareRun(2, "supervised", seed).run_id


def test_a_failed_run_does_not_hold_up_the_others(work, tmp_path):
    ending, said = work(1, 2, 0)
    assert not ending.stop
    assert ending.failed.keys() == {"labeled_2/supervised/seed_1", "labeled_2/supervised/seed_2"}
    assert ending.failed["labeled_2/supervised/seed_1"] == "the scans are gone"
    killed = ending.failed["labeled_2/supervised/seed_2"]
    assert "signal SIGKILL, perhaps for want of memory; see seed_2.log" in killed
    assert root(tmp_path, 2).with_name("seed_2.error").read_text() == killed
    assert "[3/3]" in said
    assert "seed_0 Dice 75.0 % on test" in said
    assert "seed_1 failed: the scans are gone" in said


def test_a_run_that_is_killed_once_is_made_nevertheless(work):
    ending, said = work(4)
    assert ending.failed == {}
    assert said.count("seed_4 starts") == 1
    assert "[1/1] labeled_2/supervised/seed_4 Dice" in said


def test_a_run_whose_worker_is_killed_saves_and_goes_on_under_another(work, tmp_path):
    ending, said = work(6, 0)
    assert ending.failed == {}
    assert "seed_6 Dice 75.0 % on test" in said
    assert root(tmp_path, 6).with_name("saved").is_file()


def test_so_many_work_at_once(work):
    _, said = work(5, 0, 0, at_once=2)
    lines = said.splitlines()
    assert [line.split()[-1] for line in lines[:2]] == ["starts", "starts"]
    assert lines.index(next(line for line in lines if "seed_0 Dice" in line)) < lines.index(
        next(line for line in lines if "seed_5 Dice" in line)
    )


def test_words_of_a_run_are_kept_beside_it(work, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    work(0)
    assert "working with 3" in root(tmp_path, 0).with_name("seed_0.log").read_text()


def test_a_stop_lets_runs_save_and_begins_no_more(work, tmp_path):
    def interrupt() -> None:
        while not root(tmp_path, 3).with_name("seed_3.log").is_file():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    ending, said = work(3, 5, 0)
    assert ending.stop.exit_code == 130
    assert ending.failed == {}
    assert root(tmp_path, 3).with_name("saved").is_file()
    assert "Stopping" in said
    assert not root(tmp_path, 5).with_name("seed_5.log").exists()


def test_after_a_stop_the_runs_that_a_process_still_holds_are_named(work, tmp_path):
    def interrupt() -> None:
        while not root(tmp_path, 3).with_name("seed_3.log").is_file():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with locked(root(tmp_path, 5), on_lost=pytest.fail) as ours:  # as of a worker that was lost
        assert ours
        ending, _ = work(5, 3, at_once=2)
    assert ending.unseen == ("labeled_2/supervised/seed_5",)


def test_with_nothing_to_do_no_cluster_is_asked(tmp_path):
    assert run_jobs({}, tmp_path, 1, Console(quiet=True), "tcp://127.0.0.1:9").failed == {}


def test_runs_are_made_on_a_cluster_as_they_are_here(work, tmp_path):
    distributed = pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    here = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "silence_logs": 50}
    with distributed.LocalCluster(n_workers=1, threads_per_worker=2, protocol="tcp", processes=False, **here) as engine:
        ending, said = work(4, 1, 2, 0, cluster=engine.scheduler_address)
    assert ending.failed.keys() == {"labeled_2/supervised/seed_1", "labeled_2/supervised/seed_2"}
    assert "2 units at a time. Dashboard: http://127.0.0.1:" in said
    assert "seed_4 Dice 75.0 % on test" in said
    assert "SIGKILL" in root(tmp_path, 2).with_name("seed_2.error").read_text()
