"""Who may write into a run: one process, the second is told who it is, and a dead one is in nobody's way."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from patchcl.core.errors import UserError
from patchcl.core.lock import locks_on
from patchcl.runs.folder import RunFolder
from patchcl.runs.writer import lock_target, one_writer

HOLD = """
import sys, pathlib
from patchcl.runs.writer import one_writer
with one_writer(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the run."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / "run"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_the_second_writer_is_told_of_the_first(holder, tmp_path):
    told = rf"run is in the hands of process {holder.pid} on \S+, .* one writer"
    with pytest.raises(UserError, match=told), one_writer(tmp_path / "run"):
        raise AssertionError
    (tmp_path / "same").symlink_to(tmp_path / "run")
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match=f"process {holder.pid}"), one_writer(tmp_path / "same"):
        raise AssertionError


def test_a_dead_writer_is_in_nobodys_way(holder, tmp_path):
    holder.kill()
    holder.wait()
    assert locks_on(tmp_path / "run")
    with one_writer(tmp_path / "run"):
        assert [lock.pid for lock in locks_on(tmp_path / "run")] == [os.getpid()]
    assert not locks_on(tmp_path / "run")


def test_the_lock_lies_within_where_nothing_may_be_put_beside_it(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    assert lock_target(tmp_path / "run") == tmp_path / "run" / ".writer"
    with one_writer(tmp_path / "run"):
        assert [path.name for path in (tmp_path / "run").iterdir()] == [".writer.lock-1"]
        RunFolder.create(tmp_path / "run")
    with pytest.raises(UserError, match="not empty"):
        RunFolder.create(tmp_path / "run")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder in which nobody can create anything")
def test_a_folder_that_cannot_be_created_is_named():
    with pytest.raises(UserError, match=r"Cannot create the run folder /proc/run: .*-o"), one_writer(Path("/proc/run")):
        raise AssertionError


def test_a_folder_that_became_read_only_is_named(tmp_path, monkeypatch):
    """As after a file system was mounted again, for reading alone."""
    (tmp_path / "run").mkdir()

    def read_only(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("patchcl.core.lock._make", read_only)
    told = rf"Cannot write into the run folder {tmp_path / 'run'}: Read-only file system\. .*-o"
    with pytest.raises(UserError, match=told), one_writer(tmp_path / "run"):
        raise AssertionError


def test_the_run_in_the_folder_one_stands_in(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")
    with one_writer(Path()), pytest.raises(UserError, match="hands of process"), one_writer(tmp_path / "run"):
        raise AssertionError
