"""A cell: a process of its own that is asked to stop, waited for, and tried again by whoever started it."""

import json
import os
import sys
import time
from threading import Thread

import pytest

from patchcl.comparison import cell as cell
from patchcl.comparison.cell import BUSY, Cell, error_file, log_file, run_cell
from patchcl.core.lock import this_host
from patchcl.core.unit_process import LostWorkerError, asking


@pytest.fixture
def call(tmp_path):
    """Runs a cell whose process runs this source."""

    def call(source: str):
        return run_cell(Cell("here", str(tmp_path / "runs" / "here"), "the job", (sys.executable, "-c", source)))

    return call


def test_the_process_gets_the_job_and_what_it_prints_is_kept(call, tmp_path):
    root = tmp_path / "runs" / "here"
    error_file(tmp_path / "other").touch()
    ending = call("print(input())")
    assert (ending.failure, ending.stopped) == (None, False)
    assert ending.seconds > 0
    assert log_file(root).read_text() == "the job\n"
    assert not error_file(root).exists()


def test_how_its_threads_wait_is_chosen_when_it_begins(call, tmp_path, monkeypatch):
    """Not when the comparison began, which may be days ago."""
    for policy in ("PASSIVE", "ACTIVE"):
        monkeypatch.setattr(cell, "for_new_process", lambda given, now=policy: {**given, "OMP_WAIT_POLICY": now})
        call("import os; print(os.environ['OMP_WAIT_POLICY'])")
    assert log_file(tmp_path / "runs" / "here").read_text() == "PASSIVE\nACTIVE\n"


def test_a_worker_of_dask_passes_on_no_wish_to_give_memory_back_at_once(call, tmp_path, monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "65536")
    call("import os; print(os.environ.get('MALLOC_TRIM_THRESHOLD_'))")
    assert log_file(tmp_path / "runs" / "here").read_text() == "None\n"


def test_a_failure_is_kept_and_forgotten_when_it_is_tried_again(call, tmp_path):
    assert call("1 / 0").failure == "its process ended with exit code 1; see here.log"
    assert error_file(tmp_path / "runs" / "here").is_file()
    assert call("pass").failure is None
    assert not error_file(tmp_path / "runs" / "here").exists()


@pytest.mark.parametrize("source", [f"exit({BUSY})", "exit(143)", "import os; os.kill(os.getpid(), 9)"])
def test_what_was_cut_short_is_to_be_tried_again(call, source):
    with pytest.raises(LostWorkerError, match="its process ended with"):
        call(source)


def test_a_request_to_stop_ends_its_input(call):
    with asking(lambda: True):
        ending = call("import sys\nsys.stdin.read()\nexit(143)")
    assert (ending.failure, ending.stopped) == (None, True)


def test_a_run_that_another_holds_is_waited_for(call, tmp_path, monkeypatch):
    monkeypatch.setattr(cell, "POLL_SECONDS", 0.01)
    lock = tmp_path / "runs" / "here.lock-1"
    lock.parent.mkdir()
    lock.write_text(json.dumps([this_host(), os.getpid()]))
    with asking(lambda: True):
        assert call("pass").stopped
    freed = []
    Thread(target=lambda: (time.sleep(0.2), freed.append(time.monotonic()), lock.unlink())).start()
    assert call("pass").failure is None
    assert freed
