"""How threads wait: asleep beside other programs, and never against what the user has set."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from patchcl.core import threads
from patchcl.core.threads import OURS, POLICY, USERS, _quota, busy_cores, crowded, for_new_process, usable_cores

CORES = os.cpu_count() or 1


@pytest.mark.parametrize(("load", "busy", "expected"), [
    (0.0, 0.0, False), (CORES + 1.0, CORES, True), (CORES + 1.0, 0.0, False), (0.0, CORES, False),
])  # fmt: skip
def test_cores_are_crowded_if_they_were_and_are(load, busy, expected):
    """A load that is only of the last minute may be that of our own run before."""
    assert crowded(lambda: load, lambda: busy) is expected


def test_where_there_is_room_for_all_cores_of_ours_nothing_is_crowded(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1}, raising=False)
    assert not crowded(lambda: 60.0, lambda: 60.0)
    assert crowded(lambda: 63.0, lambda: 63.0)


INFINITE = float("inf")


@pytest.mark.parametrize(
    ("text", "cores"), [("150000 100000\n", 1.5), ("max 100000\n", INFINITE), ("50000 100000", 1.0), ("?", INFINITE)]
)
def test_the_quota_of_a_container_counts(tmp_path, text, cores):
    file = tmp_path / "cpu.max"
    assert _quota(file) == INFINITE
    file.write_text(text)
    assert _quota(file) == cores
    assert 1 <= usable_cores() <= CORES


def test_busy_cores_are_counted_by_the_ticks_between_two_looks(tmp_path):
    assert busy_cores(tmp_path / "none", 0) == float("inf")
    still = tmp_path / "stat"
    still.write_text("cpu  10 0 10 70 10 0 0 0 0 0\ncpu0 ...\n")
    assert busy_cores(still, 0) == float("inf")
    if Path("/proc/stat").exists():
        assert 0 <= busy_cores() <= CORES


WHAT = """
import os, sys
from patchcl.core import threads
threads.crowded = lambda: True
{before}
print(threads.choose_wait_policy(), os.environ.get("OMP_WAIT_POLICY"), "torch" in sys.modules)
"""


def ended(code, **environment):
    """A Python with this code, where the user has decided nothing."""
    clean = {name: value for name, value in os.environ.items() if name not in (*USERS, OURS)}
    return subprocess.run([sys.executable, "-c", code], env=clean | environment, capture_output=True, text=True)


def said(before="", **environment):
    return ended(WHAT.format(before=before), **environment).stdout.strip()


@pytest.mark.parametrize("name", USERS)
def test_what_the_user_has_set_stays(name):
    assert said(**{name: "1"}) == f"False {'1' if name == POLICY else None} False"


def test_on_crowded_cores_threads_wait_asleep():
    assert said() == "True PASSIVE False"


def test_once_torch_is_loaded_nothing_is_changed_and_a_line_says_what_would_have_helped():
    late = ended(WHAT.format(before="sys.modules['torch'] = sys"))
    assert late.stdout.strip() == "False None True"
    assert "Set OMP_WAIT_POLICY=PASSIVE before torch is imported." in late.stderr
    assert len(late.stderr.splitlines()) == 1
    assert not ended(WHAT.format(before="")).stderr


def test_a_process_that_begins_later_is_told_what_holds_then(monkeypatch):
    """Other programs that have come since, or gone; torch in this process is nothing to the new one."""
    seen = []
    monkeypatch.setattr(threads, "crowded", lambda cores=None: seen.append(cores) or busy)
    busy, share = True, {"OMP_NUM_THREADS": "1"}
    told = for_new_process({"A": "b"})
    assert told == {"A": "b", POLICY: "PASSIVE", OURS: "1"}
    assert for_new_process(share) == share | {POLICY: "PASSIVE", OURS: "1"}
    assert seen == [None, 1]
    busy = False
    assert for_new_process(told) == {"A": "b"}
    busy = True
    assert for_new_process({POLICY: "ACTIVE"}) == {POLICY: "ACTIVE"}
    assert for_new_process({"KMP_BLOCKTIME": "0"}) == {"KMP_BLOCKTIME": "0"}


def test_a_share_of_the_cores_needs_no_more_than_that_to_be_free(monkeypatch):
    """The last of eight processes that share eight cores begins while the others compute."""
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(threads, "usable_cores", lambda: 8.0)
    assert crowded(lambda: 7.0, lambda: 7.0)
    assert not crowded(lambda: 7.0, lambda: 7.0, cores=1)
    assert crowded(lambda: 8.0, lambda: 8.0, cores=1)


def test_the_face_chooses_before_it_loads_torch():
    code = "import sys; from patchcl.core import threads; threads.crowded = lambda: 'torch' not in sys.modules\n"
    code += "import patchcl; patchcl.train; import os; print(os.environ.get('OMP_WAIT_POLICY'), 'torch' in sys.modules)"
    assert ended(code).stdout == "PASSIVE True\n"
