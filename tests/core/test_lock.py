"""Who may work in a folder: one at a time, whoever is dead is replaced, and whoever is replaced finds out."""

import errno
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from patchcl.core import lock as lock_module
from patchcl.core.lock import STALE_SECONDS, locked, locks_on, this_host


def never() -> None:
    raise AssertionError("lost")


def put_lock(target, number=1, host="elsewhere", pid=1, silent=0.0, ending=".lock-"):
    path = target.with_name(f"{target.name}{ending}{number}")
    path.write_text(json.dumps([host, pid]))
    then = time.time() - silent
    os.utime(path, (then, then))
    return path


@pytest.fixture
def target(tmp_path):
    return tmp_path / "seed_0"


@pytest.fixture(scope="module")
def dead_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_lock_says_who_holds_it_and_goes_when_the_work_is_done(target):
    with locked(target, never) as ours:
        (lock,) = locks_on(target)
        assert ours
        assert (lock.host, lock.pid) == (this_host(), os.getpid())
        assert lock.alive
        assert str(os.getpid()) in str(lock)
        with locked(target, never) as again:
            assert not again
        assert locks_on(target)[0].path == lock.path
    assert list(target.parent.iterdir()) == []


def test_a_lock_goes_when_the_work_fails(target):
    with pytest.raises(ValueError, match="oh"), locked(target, never):
        raise ValueError("oh")
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("stop", [OSError(errno.ENOSPC, "No space left on device"), SystemExit("killed")])
def test_a_lock_that_could_not_be_made_whole_is_not_there(stop, target, monkeypatch):
    def stopped(whole, path):
        assert json.loads(whole.read_text()) == [this_host(), os.getpid()], "it names its holder before it counts"
        assert locks_on(target) == []
        raise stop

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", stopped)
        with pytest.raises(type(stop)), locked(target, on_lost=never):
            pass
    assert list(target.parent.iterdir()) == []
    with locked(target, on_lost=never) as ours:
        assert ours


def test_a_file_system_without_links_has_locks_all_the_same(target, monkeypatch):
    def refuse(whole, path):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with locked(target, never) as ours, locked(target, never) as again:
        assert (ours, again) == (True, False)
        assert locks_on(target)[0].pid == os.getpid()
    assert list(target.parent.iterdir()) == []


def test_another_folder_is_another_matter(target):
    put_lock(target.with_name("seed_01"))
    with locked(target, never) as ours:
        assert ours


@pytest.mark.parametrize(
    ("host", "silent", "alive"),
    [
        ("elsewhere", STALE_SECONDS / 2, True),
        ("elsewhere", STALE_SECONDS * 2, False),
        ("here", STALE_SECONDS / 2, True),
        ("here", STALE_SECONDS * 2, False),
        ("here, gone", 0.0, False),
    ],
)
def test_a_silent_or_gone_holder_is_replaced(host, silent, alive, target, dead_pid):
    pid = dead_pid if host == "here, gone" else os.getpid()
    old = put_lock(target, 3, "elsewhere" if host == "elsewhere" else this_host(), pid, silent)
    assert locks_on(target)[0].alive == alive
    assert locks_on(target)[0].silent_seconds == pytest.approx(silent, abs=20)
    with locked(target, never) as ours:
        assert ours != alive
        assert old.exists() == alive
        assert [lock.number for lock in locks_on(target)] == [3 if alive else 4]


def test_a_lock_that_version_01_wrote_counts_and_is_taken_over(target):
    old = put_lock(target, 3, ending=".claim-")
    with locked(target, never) as ours:
        assert not ours
    put_lock(target, 3, silent=2 * STALE_SECONDS, ending=".claim-")
    with locked(target, never) as ours:
        assert ours
        assert [lock.path.name for lock in locks_on(target)] == [f"{target.name}.lock-4"]
        assert not old.exists()


def test_a_lock_that_is_being_written_counts(target):
    put_lock(target).write_text("")
    assert locks_on(target)[0].alive
    with locked(target, never) as ours:
        assert not ours


@pytest.mark.parametrize("content", ["]", "[1]", '["h", "x"]', '["h", -1]', '{"a": 1}', "[" * 100_000])
def test_a_damaged_lock_counts_until_it_is_stale(content, target):
    path = put_lock(target)
    path.write_text(content)
    with locked(target, never) as ours:
        assert not ours
    os.utime(path, (0, 0))
    with locked(target, never) as ours:
        assert ours


@pytest.mark.parametrize("name", ["run[1]", "run*", "a?b", "x.lock-y"])
def test_any_name_of_a_folder_can_be_locked(name, tmp_path):
    (tmp_path / f"{name}.lock-no number").touch()
    with locked(tmp_path / name, never) as ours, locked(tmp_path / name, never) as again:
        assert (ours, again) == (True, False)
    with locked(tmp_path / name, never) as ours:
        assert ours


@pytest.mark.parametrize("left", [False, True], ids=["nobody before", "a dead one before"])
def test_of_many_who_want_a_lock_at_once_one_gets_it(left, target):
    if left:
        put_lock(target, silent=2 * STALE_SECONDS)
    ready, done = threading.Barrier(8), threading.Barrier(8)

    def compete() -> bool:
        ready.wait()
        with locked(target, never) as ours:
            done.wait()
            return ours

    with ThreadPoolExecutor(8) as pool:
        assert sum(task.result() for task in [pool.submit(compete) for _ in range(8)]) == 1


def test_the_holder_is_heard_of_as_long_as_it_works(target, monkeypatch):
    monkeypatch.setattr(lock_module, "HEARTBEAT_SECONDS", 0.01)
    with locked(target, never):
        (lock,) = locks_on(target)
        os.utime(lock.path, (0, 0))
        assert within_seconds(lambda: locks_on(target)[0].silent_seconds < 60)


def test_a_holder_that_was_replaced_is_told(target, monkeypatch):
    monkeypatch.setattr(lock_module, "HEARTBEAT_SECONDS", 0.01)
    lost = threading.Event()
    with locked(target, lost.set):
        assert not lost.wait(0.1)
        put_lock(target, number=2)
        assert lost.wait(5)


def within_seconds(condition) -> bool:
    deadline = time.monotonic() + 5
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()
