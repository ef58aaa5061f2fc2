"""Runs of two processes on this machine: what a stop, a death and another number of processes cost."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

import patchcl
from patchcl.config import load_settings
from patchcl.core.errors import UserError
from patchcl.runs.folder import RunFolder
from patchcl.runs.log import read_rows
from patchcl.training import crew
from patchcl.training.place import Place
from patchcl.training.watch import LostProcessError

SETTINGS = (
    *("plan.size=[32, 32]", "plan.fit=resize", "network.features=[8, 16]", "training.device=cpu"),
    *("training.steps=24", "training.validate_every=8", "training.log_every=1"),
    *("training.labeled_per_batch=2", "training.unlabeled_per_batch=2"),
)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """In each process, so that all of them compute alike."""
    threads, before = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    torch.set_num_threads(2)
    os.environ["OMP_NUM_THREADS"] = "2"
    yield
    torch.set_num_threads(threads)
    del os.environ["OMP_NUM_THREADS"]
    if before is not None:
        os.environ["OMP_NUM_THREADS"] = before


@pytest.fixture
def signalled(monkeypatch):
    """Send a signal to the process that the next run starts, once its log has some rows."""
    started, sent = crew._started, []

    def arrange(run, number):
        def send(process):
            limit = time.monotonic() + 120
            while time.monotonic() < limit and not (run.log_csv.exists() and len(run.log_csv.read_text().split()) > 3):
                time.sleep(0.02)
            process.send_signal(number)
            sent.append(time.monotonic())

        def start(*arguments):
            processes = started(*arguments)
            threading.Thread(target=send, args=processes).start()
            return processes

        monkeypatch.setattr(crew, "_started", start)
        return lambda: monkeypatch.setattr(crew, "_started", started) or sent[0]

    return arrange


def weights(root):
    return torch.load(RunFolder(root).last)["method"]


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def without_times(root):
    return [{k: v for k, v in row.items() if k != "seconds_per_step"} for row in read_rows(RunFolder(root))]


@pytest.mark.parametrize(("devices", "starts", "told"), [(3, True, True), (2, True, False), (3, False, False)])
def test_who_starts_more_processes_than_cores_is_told(devices, starts, told, monkeypatch, capsys):
    """Where a launcher starts them, a process may see its own cores alone."""
    monkeypatch.setattr(crew, "usable_cores", lambda: 2.0)
    place = Place(0, devices, 0, starts=starts)
    crew._warn_of_few_cores(devices, place, torch.device("cpu"))
    warning = "Warning: --devices 3 makes more processes than there are cores (2), which gains nothing.\n"
    assert capsys.readouterr().err == warning * told
    crew._warn_of_few_cores(devices, place, torch.device("cuda"))
    assert capsys.readouterr().err == ""


@pytest.fixture(scope="module")
def straight(cardiac, tmp_path_factory):
    """A run of two processes that nothing stopped; with patients enough for both to validate."""
    root = tmp_path_factory.mktemp("two") / "straight"
    outcome = patchcl.train(cardiac, root, devices=2, settings=SETTINGS)
    assert (outcome.steps_done, bool(outcome.stop)) == (24, False)
    return root


def test_two_processes_leave_one_run(straight):
    run = RunFolder.open(straight)
    assert [row["step"] for row in read_rows(run) if "loss" in row] == list(range(1, 25))
    assert len(list(run.tensorboard.iterdir())) == 1
    assert run.postprocessing.is_file()
    assert json.loads(run.provenance.read_text())["processes"] == 2


def test_a_signal_to_any_process_stops_all_and_resuming_equals_not_stopping(cardiac, straight, tmp_path, signalled):
    undone = signalled(RunFolder(tmp_path / "stopped"), signal.SIGTERM)
    outcome = patchcl.train(cardiac, tmp_path / "stopped", devices=2, settings=SETTINGS)
    assert outcome.stop.exit_code == 143
    assert 0 < outcome.steps_done < 24
    assert torch.load(outcome.run.last)["step"] == outcome.steps_done
    undone()
    assert patchcl.resume(tmp_path / "stopped").steps_done == 24
    assert same(weights(straight), weights(tmp_path / "stopped"))
    assert without_times(straight) == without_times(tmp_path / "stopped")


def test_a_dead_process_ends_the_others_and_one_alone_goes_on(cardiac, tmp_path, signalled, capsys):
    undone, run = signalled(RunFolder(tmp_path / "run"), signal.SIGKILL), RunFolder(tmp_path / "run")
    asked = [*SETTINGS, "training.checkpoint_minutes=1e-6"]
    with pytest.raises(LostProcessError, match=r"process 1 was killed by signal 9.*patchcl resume"):
        patchcl.train(cardiac, run.root, devices=2, settings=asked)
    assert time.monotonic() - undone() < 60
    assert 0 < torch.load(run.last)["step"] < 24
    assert patchcl.resume(run.root, devices=1).steps_done == 24
    assert "processes were 2, now 1: each step sees the same images" in capsys.readouterr().out
    facts = json.loads(run.provenance.read_text())
    assert facts["processes"] == 1
    assert "processes were 2, now 1" in facts["accepted_changes"][0]


def test_torchrun_starts_what_the_program_starts_itself(cardiac, straight, tmp_path):
    options = [part for setting in SETTINGS for part in ("--set", setting)]
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "patchcl"]
    call = [*program, "train", cardiac, "-o", tmp_path / "run", "--devices", "2", *options]
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    told = subprocess.run(call, capture_output=True, text=True, env=environment, check=False, timeout=300)
    assert told.returncode == 0, told.stderr
    assert told.stdout.count("Trained 24 steps") == 1
    assert same(weights(straight), weights(tmp_path / "run"))


def test_what_cannot_be_shared_starts_nothing(cardiac, tmp_path, monkeypatch):
    monkeypatch.setattr(crew, "_started", lambda *_: pytest.fail("a process was started"))
    with pytest.raises(UserError, match="labeled_per_batch is 2"):
        patchcl.train(cardiac, tmp_path / "run", devices=3, settings=SETTINGS)
    assert not (tmp_path / "run").exists()


def test_processes_that_do_not_come_are_one_message(monkeypatch, tmp_path):
    monkeypatch.setattr(crew, "JOIN_SECONDS", 0.5)
    monkeypatch.setattr(crew, "_started", lambda *_: [])
    with (
        pytest.raises(UserError, match=r"Not all 2 processes of this run came to 127.0.0.1:[0-9]+ within 0 seconds"),
        crew.crew_of(load_settings(None, [*SETTINGS, "training.devices=2"])),
    ):
        pytest.fail("the other process is not there")
