"""Units on the workers of a real Dask scheduler on the loopback: killed, stopped, refused, and nobody there."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from patchcl.core import cluster as cluster
from patchcl.core.errors import UserError
from patchcl.core.executor import as_they_end, workers
from patchcl.core.signals import StopRequest

dask = pytest.importorskip("dask", reason="the extra `cluster` is not installed")
distributed = pytest.importorskip("distributed", reason="the extra `cluster` is not installed")

DASK_KEYS = Path(__file__).parents[2] / "examples" / "dask_keys.sh"
KILLED_ONCE = """
import os, pathlib, signal
mark = pathlib.Path({mark!r})
mark.open("a").write("x")
if {times} >= len(mark.read_text()):
    os.kill(os.getpid(), signal.SIGKILL)
"""
UNTIL_STOPPED = """
import pathlib, time
from patchcl.core.unit_process import stop_asked
mark = pathlib.Path({mark!r})
mark.write_text("begun")
while not stop_asked():
    time.sleep(0.01)
mark.write_text("saved")
"""
NEW_PAGES = """
import os, pathlib, resource
wish, before = os.environ["MALLOC_TRIM_THRESHOLD_"], resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    freed = b"x" * 3_000_000
    del freed
pages = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
pathlib.Path({mark!r}).write_text(f"{{wish}} {{pages * resource.getpagesize() / 3e8}}")
"""
ONCE_UNTIL_STOPPED = """
import pathlib, time
from patchcl.core.unit_process import stop_asked
mark = pathlib.Path({mark!r})
ending = "again " if mark.exists() else "saved "
mark.touch()
while ending == "saved " and not stop_asked():
    time.sleep(0.01)
with mark.open("a") as file:
    file.write(ending)
"""


@pytest.fixture(scope="module")
def engine():
    """Two workers, each a process that is started again when it was killed."""
    here = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, silence_logs=50, **here) as made:
        yield made


@pytest.fixture
def address(engine):
    engine.wait_for_workers(2, timeout=60)
    return engine.scheduler_address


def until(happened) -> None:
    limit = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < limit
        time.sleep(0.02)


def test_units_are_worked_on_and_one_whose_worker_is_killed_again(address, tmp_path):
    said = []
    units = [KILLED_ONCE.format(mark=str(tmp_path / str(number)), times=number == 2) for number in range(6)]
    with workers(1, address, tmp_path, said.append) as executor:
        assert executor.slots() == 2
        ended = list(as_they_end(executor, exec, units, StopRequest(), ahead=1))
        same = [executor.submit(time.monotonic).result() for _ in range(2)]
    assert sorted(unit for unit, _ in ended) == sorted(units)
    assert [future.exception() for _, future in ended] == [None] * 6
    assert (tmp_path / "2").read_text() in ("xx", "xxx")  # what waited beside it may begin again as well
    assert same[0] < same[1]  # equal calls are two calls
    assert said[0].startswith(f"Cluster {address}: 2 units at a time. Dashboard: http://127.0.0.1:")
    assert {path.name for path in tmp_path.iterdir()} == {str(number) for number in range(6)}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells of new pages")
def test_what_a_unit_frees_is_kept_for_what_it_makes_next(address, tmp_path):
    """Dask has its workers give it back at once, and every tensor be made of new pages."""
    with workers(1, address, tmp_path, print) as executor:
        executor.submit(exec, NEW_PAGES.format(mark=str(tmp_path / "mark"))).result()
    wish, share = (tmp_path / "mark").read_text().split()
    assert (wish, float(share) < 0.2) == ("65536", True)


def test_a_scheduler_that_is_too_busy_to_say_how_many_workers_there_are_is_not_lost(address, tmp_path, monkeypatch):
    def busy():
        raise OSError("Timed out trying to connect")

    monkeypatch.setattr(cluster, "COUNT_SECONDS", 0)
    with workers(1, address, tmp_path, print) as executor:
        monkeypatch.setattr(executor.client, "nthreads", busy)
        assert executor.slots() == 2
        assert [future.result() for _, future in as_they_end(executor, abs, [-1], StopRequest())] == [1]


def test_a_stop_lets_what_runs_save(address, tmp_path):
    stop, marks = StopRequest(), [tmp_path / str(number) for number in range(4)]
    units = [UNTIL_STOPPED.format(mark=str(mark)) for mark in marks]

    def look():
        if all(mark.exists() for mark in marks[:2]):
            stop.signal = 15

    with workers(1, address, tmp_path, print) as executor:
        ended = list(as_they_end(executor, exec, units, stop, on_wait=look))
    assert [future.exception() for _, future in ended] == [None, None]
    assert [mark.read_text() for mark in tmp_path.iterdir()] == ["saved", "saved"]


def test_a_stop_waits_for_nobody_where_no_worker_is_left(tmp_path):
    here = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "silence_logs": 50, "protocol": "tcp"}
    with distributed.LocalCluster(n_workers=0, threads_per_worker=1, processes=False, **here) as engine:
        stop = StopRequest()
        with workers(1, engine.scheduler_address, tmp_path, print) as executor:
            ended = as_they_end(executor, exec, [""], stop, on_begin=lambda _: setattr(stop, "signal", 15))
            assert [future.cancelled() for _, future in ended] == [True]


def test_a_scheduler_that_is_lost_is_one_message(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 1)
    here = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "silence_logs": 50, "protocol": "tcp"}
    with (
        distributed.LocalCluster(n_workers=0, processes=False, **here) as engine,
        pytest.raises(UserError, match="The cluster is gone"),
        workers(1, engine.scheduler_address, tmp_path, print) as executor,
    ):
        list(as_they_end(executor, abs, [1], StopRequest(), on_wait=engine.close))
    assert not [record for record in caplog.records if record.exc_info]


def test_units_of_a_program_that_is_gone_end(address, tmp_path):
    mark = tmp_path / "mark"
    made = cluster.ClusterExecutor(address, tmp_path, print)
    made.submit(exec, UNTIL_STOPPED.format(mark=str(mark)))
    until(mark.exists)
    made.client.close()
    until(lambda: mark.read_text() == "saved")


def test_a_unit_goes_on_elsewhere_when_its_worker_is_taken_off(tmp_path):
    here = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "silence_logs": 50, "protocol": "tcp"}
    mark = tmp_path / "mark"
    unit = ONCE_UNTIL_STOPPED.format(mark=str(mark))
    taken_off = []
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=False, **here) as engine:

        def look():
            if mark.exists() and not taken_off:
                taken_off.extend(worker for worker in engine.workers.values() if worker.state.executing_count)
                engine.loop.add_callback(taken_off[0].close)

        with workers(1, engine.scheduler_address, tmp_path, print) as executor:
            ((_, future),) = as_they_end(executor, exec, [unit], StopRequest(), on_wait=look)
            assert future.exception() is None
    until(lambda: set(mark.read_text().split()) == {"saved", "again"})


def test_workers_of_another_version_or_without_the_folder_are_refused(address, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "__version__", "9.9")
    with pytest.raises(
        UserError, match=r"worker at tcp://127\.0\.0\.1:\d+ has patchcl 0\.\S+, and this is patchcl 9\.9"
    ):
        cluster.ClusterExecutor(address, tmp_path, print)
    monkeypatch.undo()
    monkeypatch.setattr(cluster, "resolve_name", json.loads)  # which fails, as where there is none
    with pytest.raises(UserError, match=r"has no patchcl \(.+\), and this"):
        cluster.ClusterExecutor(address, tmp_path, print)
    monkeypatch.undo()
    monkeypatch.setattr(cluster, "SEES", len)
    with pytest.raises(UserError, match=rf"does not see {tmp_path}\. Choose a folder that all workers share"):
        cluster.ClusterExecutor(address, tmp_path, print)


def test_a_worker_that_comes_later_is_looked_at_too(address, tmp_path):
    with workers(1, address, tmp_path, print) as executor:
        for change, message in (("version", "this is patchcl 9.9"), ("folder", "does not see 9.9")):
            executor.sender = executor.sender._replace(**{change: "9.9"})
            with pytest.raises(UserError, match=message):
                list(as_they_end(executor, abs, [1], StopRequest()))
            executor.sender = executor.sender._replace(version=cluster.__version__)


def test_an_address_where_nobody_answers_is_told_after_a_time_limit(monkeypatch, tmp_path):
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        for address in (f"tcp://127.0.0.1:{port}", "tcp://127.0.0.1:9", "nonsense", "foo://a:1"):
            then = time.monotonic()
            with pytest.raises(UserError, match=rf"No Dask scheduler answered at {address} within 0\.5 seconds"):
                cluster.ClusterExecutor(address, tmp_path, print)
            assert time.monotonic() - then < 10


def test_a_worker_is_no_scheduler(engine, tmp_path):
    worker = next(iter(engine.scheduler_info["workers"]))
    with pytest.raises(UserError, match="is a Dask Worker, not a scheduler"):
        cluster.ClusterExecutor(worker, tmp_path, print)


def test_a_scheduler_file_names_the_address(engine, tmp_path):
    file = tmp_path / "scheduler.json"
    file.write_text(json.dumps({"type": "Scheduler", "address": engine.scheduler_address}))
    with workers(1, str(file), tmp_path, print) as executor:
        assert executor.submit(os.getpid).result() != os.getpid()
    for content in ("[]", "{", '{"type": "Scheduler"}'):
        file.write_text(content)
        with pytest.raises(UserError, match=r"scheduler\.json is not the file of a Dask scheduler"):
            cluster.ClusterExecutor(str(file), tmp_path, print)
    with pytest.raises(UserError, match=r"none\.json is not the file"):
        cluster.ClusterExecutor(str(tmp_path / "none.json"), tmp_path, print)


@pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl here")
def test_who_has_the_keys_is_served_and_nobody_else(tmp_path, monkeypatch):
    for name in ("ours", "others"):
        subprocess.run(["bash", DASK_KEYS, tmp_path / name], check=True)
    read = [yaml.safe_load((tmp_path / name / "tls.yaml").read_text()) for name in ("ours", "others")]
    ours, others = ({"distributed": dask.config.merge(dask.config.config, found)["distributed"]} for found in read)
    assert (tmp_path / "ours" / "key.pem").stat().st_mode & 0o077 == 0
    here = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "silence_logs": 50, "processes": False}
    with (
        dask.config.set(ours),
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, protocol="tls", **here) as engine,
    ):
        assert engine.scheduler_address.startswith("tls://")
        with workers(1, engine.scheduler_address, tmp_path, print) as executor:
            assert executor.submit(abs, -1).result() == 1
        monkeypatch.setattr(cluster, "CONNECT_SECONDS", 1)
        for config in (others, {"distributed.comm.tls.ca-file": None}):
            with dask.config.set(config), pytest.raises(UserError, match="No Dask scheduler answered at tls://"):
                cluster.ClusterExecutor(engine.scheduler_address, tmp_path, print)


def test_without_the_extra_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UserError, match=r"pip install 'patchcl\[cluster\]'"):
        cluster.ClusterExecutor("tcp://127.0.0.1:9", Path(), print)
