"""Who may work on a cell: one at a time, whoever is dead is replaced, and whoever is replaced finds out."""

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from patchcl.core import lock as claims
from patchcl.core.lock import STALE_SECONDS, claimed, claims_on, this_host


def never() -> None:
    raise AssertionError("gave up")


def put_claim(cell, number=1, host="elsewhere", pid=1, silent=0.0):
    path = cell.with_name(f"{cell.name}.claim-{number}")
    path.write_text(json.dumps([host, pid]))
    then = time.time() - silent
    os.utime(path, (then, then))
    return path


@pytest.fixture
def cell(tmp_path):
    return tmp_path / "seed_0"


@pytest.fixture(scope="module")
def dead_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_claim_says_who_holds_it_and_goes_when_the_work_is_done(cell):
    with claimed(cell, never) as ours:
        (claim,) = claims_on(cell)
        assert ours
        assert (claim.host, claim.pid) == (this_host(), os.getpid())
        assert claim.alive
        assert str(os.getpid()) in str(claim)
        with claimed(cell, never) as again:
            assert not again
        assert claims_on(cell)[0].path == claim.path
    assert list(cell.parent.iterdir()) == []


def test_a_claim_goes_when_the_work_fails(cell):
    with pytest.raises(ValueError, match="oh"), claimed(cell, never):
        raise ValueError("oh")
    assert list(cell.parent.iterdir()) == []


def test_another_cell_is_another_matter(cell):
    put_claim(cell.with_name("seed_01"))
    with claimed(cell, never) as ours:
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
def test_a_silent_or_gone_holder_is_replaced(host, silent, alive, cell, dead_pid):
    pid = dead_pid if host == "here, gone" else os.getpid()
    old = put_claim(cell, 3, "elsewhere" if host == "elsewhere" else this_host(), pid, silent)
    assert claims_on(cell)[0].alive == alive
    assert claims_on(cell)[0].silent_seconds == pytest.approx(silent, abs=20)
    with claimed(cell, never) as ours:
        assert ours != alive
        assert old.exists() == alive
        assert [claim.number for claim in claims_on(cell)] == [3 if alive else 4]


def test_a_claim_that_is_being_written_counts(cell):
    put_claim(cell).write_text("")
    assert claims_on(cell)[0].alive
    with claimed(cell, never) as ours:
        assert not ours


@pytest.mark.parametrize("left", [False, True], ids=["nobody before", "a dead one before"])
def test_of_many_who_want_a_cell_at_once_one_gets_it(left, cell):
    if left:
        put_claim(cell, silent=2 * STALE_SECONDS)
    ready, done = threading.Barrier(8), threading.Barrier(8)

    def compete() -> bool:
        ready.wait()
        with claimed(cell, never) as ours:
            done.wait()
            return ours

    with ThreadPoolExecutor(8) as pool:
        assert sum(task.result() for task in [pool.submit(compete) for _ in range(8)]) == 1


def test_the_holder_is_heard_of_as_long_as_it_works(cell, monkeypatch):
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.01)
    with claimed(cell, never):
        (claim,) = claims_on(cell)
        os.utime(claim.path, (0, 0))
        assert within_seconds(lambda: claims_on(cell)[0].silent_seconds < 60)


def test_a_holder_that_was_replaced_gives_up(cell, monkeypatch):
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.01)
    gave_up = threading.Event()
    with claimed(cell, gave_up.set):
        assert not gave_up.wait(0.1)
        put_claim(cell, number=2)
        assert gave_up.wait(5)


def within_seconds(condition) -> bool:
    deadline = time.monotonic() + 5
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()
