"""Several workers at once, with a stand-in for the work that ends as the seed of its run says."""

import io
import json
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
from patchcl.core.lock import this_host

STAND_IN = """
import json, os, pathlib, signal, sys, time
job = json.loads(sys.stdin.readline())
root, on, steps = pathlib.Path(job["root"]), job["on"], job["settings"]["training"]["steps"]
print("working with", os.environ.get("OMP_NUM_THREADS"), os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
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
    case 4 if not root.with_name("was_busy").exists():
        root.with_name("was_busy").touch()
        sys.exit(75)
    case 4:
        finish()
    case 5:
        time.sleep(0.5)
        finish()
"""


@pytest.fixture
def work(monkeypatch, tmp_path, make_spec):
    """Runs runs of these seeds; gives how it ended and all that was said."""
    monkeypatch.setattr(runner, "WORKER", (sys.executable, "-c", STAND_IN))
    monkeypatch.setattr(runner, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(runner, "LOOK_SECONDS", 0.05)

    def run(*seeds: int, at_once: int = 1):
        spec, said = make_spec(("supervised",), (2,), seeds), io.StringIO()
        jobs = {compare_run.run_id: job_of(spec, compare_run, tmp_path, at_once) for compare_run in spec.runs}
        ending = run_jobs(jobs, at_once, Console(file=said, width=200))
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


def test_a_failure_is_forgotten_when_the_run_is_tried_again(work, tmp_path):
    work(2)
    path = root(tmp_path, 2).with_name("seed_2.error")
    path.write_text("of long ago")
    ending, _ = work(2)
    assert "SIGKILL" in ending.failed["labeled_2/supervised/seed_2"]


def test_so_many_work_at_once(work):
    _, said = work(5, 0, 0, at_once=2)
    lines = said.splitlines()
    assert [line.split()[-1] for line in lines[:2]] == ["starts", "starts"]
    assert lines.index(next(line for line in lines if "seed_0 Dice" in line)) < lines.index(
        next(line for line in lines if "seed_5 Dice" in line)
    )


@pytest.mark.parametrize(
    ("set_before", "cards", "at_once", "expected"),
    [
        ({}, 0, 2, {("2", None)}),
        ({}, 3, 2, {("2", "0"), ("2", "1")}),
        ({"OMP_NUM_THREADS": "7", "CUDA_VISIBLE_DEVICES": "4,6"}, 8, 2, {("7", "4"), ("7", "6")}),
        ({"CUDA_VISIBLE_DEVICES": "5"}, 8, 2, {("2", "5")}),
        ({}, 1, 1, {(None, None)}),
    ],
)
def test_workers_share_cores_and_cards(set_before, cards, at_once, expected, monkeypatch):
    for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in set_before.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(runner, "_cores", lambda: 5)
    monkeypatch.setattr("torch.cuda.device_count", lambda: cards)
    given = [runner._environment(slot, at_once) for slot in range(at_once)]
    assert {(each.get("OMP_NUM_THREADS"), each.get("CUDA_VISIBLE_DEVICES")) for each in given} == expected


def test_words_of_a_worker_are_kept_beside_its_run(work, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    work(0)
    assert "working with 3" in root(tmp_path, 0).with_name("seed_0.log").read_text()


def test_a_finished_run_is_not_begun_again(work, tmp_path):
    work(0)
    before = root(tmp_path, 0).with_name("seed_0.log").read_text()
    ending, said = work(0)
    assert "was finished elsewhere: Dice 75.0 %" in said
    assert root(tmp_path, 0).with_name("seed_0.log").read_text() == before
    assert ending.failed == {}


def test_a_run_that_another_was_quicker_to_take_comes_later(work):
    ending, said = work(4)
    assert ending.failed == {}
    assert said.count("seed_4 starts") + said.count("seed_4 goes on") == 2
    assert "[1/1] labeled_2/supervised/seed_4 Dice" in said


def test_runs_of_others_are_waited_for(work, tmp_path):
    lock = root(tmp_path, 0).with_name("seed_0.lock-1")
    lock.parent.mkdir(parents=True)
    lock.write_text(json.dumps(["elsewhere", 1]))
    threading.Timer(0.5, lock.unlink).start()
    _, said = work(0)
    assert said.count("Others are working on labeled_2/supervised/seed_0; waiting") == 1
    assert said.index("waiting") < said.index("seed_0 starts")


def test_a_takeover_is_announced(work, tmp_path):
    lock = root(tmp_path, 0).with_name("seed_0.lock-1")
    lock.parent.mkdir(parents=True)
    lock.write_text(json.dumps(["elsewhere/pid:1", 77]))
    then = time.time() - 3600
    os.utime(lock, (then, then))
    _, said = work(0)
    assert "seed_0: taking over from process 77 on elsewhere, silent for 60 min" in said
    assert this_host() not in said


def test_a_stop_lets_workers_save_and_begins_no_more(work, tmp_path):
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
