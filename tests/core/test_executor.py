"""Units on processes of this machine: one that is killed costs one unit, and a stop lets those that run end."""

import os
import signal
import time
from concurrent.futures import CancelledError
from contextlib import suppress
from itertools import count, islice
from pathlib import Path

import pytest

from patchcl.core import executor as executor
from patchcl.core.errors import UserError
from patchcl.core.executor import LocalExecutor, Tally, as_they_end, environment, workers
from patchcl.core.signals import StopRequest

KILLED_ONCE = """
import os, pathlib, signal
mark = pathlib.Path({mark!r})
mark.open("a").write("x")
if len(mark.read_text()) <= {times}:
    os.kill(os.getpid(), signal.SIGKILL)
"""
UNTIL_STOPPED = """
import pathlib, time
from patchcl.core.unit_process import stop_asked
pathlib.Path({mark!r}).touch()
while not stop_asked():
    time.sleep(0.01)
pathlib.Path({mark!r}).write_text("saved")
"""


@pytest.fixture(scope="module")
def two():
    with workers(2, None, Path(), print) as made:
        yield made


def test_every_unit_is_worked_on_once_and_given_when_it_has_ended(two):
    given = {unit: future.result() for unit, future in as_they_end(two, abs, range(-20, 0), StopRequest(), ahead=3)}
    assert given == {number: -number for number in range(-20, 0)}


def test_units_are_taken_as_places_become_free(two):
    taken = []

    def units():
        for number in count():
            taken.append(number)
            yield number

    ended = as_they_end(two, abs, units(), StopRequest(), ahead=1)
    list(islice(ended, 50))
    assert 50 <= len(taken) <= 53
    ended.close()


def test_a_unit_whose_process_is_killed_is_worked_on_again(two, tmp_path):
    units = [KILLED_ONCE.format(mark=str(tmp_path / str(number)), times=number % 2) for number in range(4)]
    ended = list(as_they_end(two, exec, units, StopRequest()))
    assert sorted(unit for unit, _ in ended) == sorted(units)
    assert all(future.exception() is None for _, future in ended)
    assert [len((tmp_path / str(number)).read_text()) for number in range(4)] == [1, 2, 1, 2]


def test_not_for_ever(two, tmp_path):
    ((_, future),) = as_they_end(two, exec, [KILLED_ONCE.format(mark=str(tmp_path / "0"), times=99)], StopRequest())
    assert "SIGKILL" in str(future.exception())
    assert len((tmp_path / "0").read_text()) == 1 + executor.RETRIES
    assert two.submit(abs, -1).result() == 1


def test_a_place_where_nothing_can_be_done_ends_it_all(two):
    refuses = "from patchcl.core.errors import UserError\nraise UserError('another version')"
    with pytest.raises(UserError, match="another version"):
        list(as_they_end(two, exec, [refuses], StopRequest()))


def test_a_stop_waits_for_what_runs_and_begins_no_more(tmp_path):
    stop, begun, waits = StopRequest(), [], []

    def look():
        waits.append(1)
        if (tmp_path / "0").exists():
            stop.signal = signal.SIGTERM

    units = [UNTIL_STOPPED.format(mark=str(tmp_path / str(number))) for number in range(3)]
    with workers(1, None, tmp_path, print) as one:
        ended = list(as_they_end(one, exec, units, stop, on_begin=begun.append, on_wait=look))
        assert [(unit, future.exception()) for unit, future in ended] == [(units[0], None)]
        with pytest.raises(CancelledError):
            one.submit(abs, 1).result()
    assert begun == units[:1]
    assert (tmp_path / "0").read_text() == "saved"
    assert not (tmp_path / "1").exists()


def test_who_leaves_in_a_hurry_leaves_no_process_behind():
    with suppress(KeyboardInterrupt), workers(1, None, Path(), print) as one:
        process = one.submit(os.getpid).result()
        one.submit(time.sleep, 60)
        raise KeyboardInterrupt
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


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
def test_processes_share_cores_and_cards(set_before, cards, at_once, expected, monkeypatch):
    for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in set_before.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(executor, "usable_cores", lambda: 5.0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: cards)
    given = [environment(slot, at_once) for slot in range(at_once)]
    assert {(each.get("OMP_NUM_THREADS"), each.get("CUDA_VISIBLE_DEVICES")) for each in given} == expected


def test_it_waits_for_what_was_begun_where_nobody_is_in_a_hurry():
    with LocalExecutor(1) as one:
        future = one.submit(pow, 3, 2)
    assert future.result() == 9


def test_a_tally_tells_how_long_the_rest_will_take():
    assert str(Tally(60, running=2)) == "0 of 60 done, 2 running, 0 failed"
    then = time.monotonic()
    assert str(Tally(60, 20, 1, 2, then - 600)) == "20 of 60 done, 2 running, 1 failed, 20 min left"
    assert str(Tally(4, 1, 0, 1, then - 10)).endswith(", 30 s left")
    assert str(Tally(2, 1, 0, 1, then - 3 * 3600)).endswith(", 3.0 h left")
