"""A lock on a folder that machines share: a file that only one process can make, with host, process and heartbeat.

The holder touches its lock file as long as it works. A lock whose file stays untouched for `STALE_SECONDS`, or whose
process is gone from this machine, is stale: the next process takes it over with a lock of a higher number. A holder
that had only slept finds that lock at its next heartbeat and is told that it has lost its own.

Why this is not the library `filelock`: its `SoftFileLock` makes its file in the same way and names host and process,
but has no heartbeat, so the lock of another machine that died is never free again, or, with a lifetime, is taken from a
holder that still works. Its `SoftFileLease` has a heartbeat, and stands in releases from 3.30 on: machines whose torch
is fixed often come with older ones. It also makes a process that has just started watch the lock of a dead machine for
the whole term, where this one goes by the clock of the file system, and it does not tell who has been silent how long.
"""

import errno
import glob
import json
import os
import platform
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from patchcl.core.documents import parse_json
from patchcl.core.files import UNFINISHED

HEARTBEAT_SECONDS = 30.0
STALE_SECONDS = 300.0
"""Far more than a heartbeat: a folder shared over a network may show what another machine did a minute late."""
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""What file systems without hard links say, as exFAT and some of networks."""
ENDINGS = (".lock-", ".claim-")
"""What stands between the name of the folder and the number of its lock; the second is that of version 0.1."""


class Lock(NamedTuple):
    """The content of a lock file, and for how long its holder has not been heard of."""

    path: Path
    number: int
    host: str
    pid: int
    silent_seconds: float

    @property
    def alive(self) -> bool:
        """Whether its holder still works, as far as can be told from here."""
        return self.silent_seconds < STALE_SECONDS and (self.host != this_host() or _runs(self.pid))

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host.partition('/')[0]}"


def locks_on(folder: Path) -> list[Lock]:
    """The locks on `folder`, which need not exist, stale ones too; the one that counts is the last."""
    name = glob.escape(folder.name)
    paths = [path for ending in ENDINGS for path in folder.parent.glob(f"{name}{ending}*") if _numbered(path)]
    return sorted((lock for lock in map(_read, paths) if lock), key=lambda lock: lock.number)


@contextmanager
def locked(folder: Path, on_lost: Callable[[], object]) -> Iterator[bool]:
    """Holds the lock on `folder` for the time inside; false if another holds it.

    Args:
        folder: What to lock; the lock file lies beside it.
        on_lost: Called, in a thread of its own, when another has taken over: nothing may be written any more.
    """
    path = _acquire(folder)
    if path is None:
        yield False
        return
    ended = threading.Event()
    heartbeat = threading.Thread(target=_heartbeat, args=(folder, path, ended, on_lost), daemon=True)
    heartbeat.start()
    try:
        yield True
    finally:
        ended.set()
        heartbeat.join()
        path.unlink(missing_ok=True)


def this_host() -> str:
    """The machine, and on Linux the container, within which process numbers mean something."""
    try:
        return f"{platform.node()}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return platform.node()


def _acquire(folder: Path) -> Path | None:
    """The file of a new lock on `folder`, stale ones removed; None if another holds one or was quicker."""
    locks = locks_on(folder)
    if any(lock.alive for lock in locks):
        return None
    number = max((lock.number for lock in locks), default=0) + 1
    path = folder.with_name(f"{folder.name}{ENDINGS[0]}{number}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _make(path, json.dumps([this_host(), os.getpid()]))
    except FileExistsError:
        return None
    last = [lock.path for lock in locks_on(folder)][-1:]
    if last != [path]:  # stale ones were cleared away by a quicker process while we counted them
        path.unlink(missing_ok=True)
        return None
    for lock in locks:
        lock.path.unlink(missing_ok=True)
    return path


def _make(path: Path, holder: str) -> None:
    """Make a lock file with its holder in one step: one that names nobody would count for `STALE_SECONDS`.

    Raises:
        FileExistsError: Another was quicker.
    """
    whole = path.with_name(f"{UNFINISHED}{os.getpid()}-{threading.get_ident()}-{path.name}")
    try:
        whole.write_text(holder, encoding="utf-8")
        os.link(whole, path)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        with path.open("x", encoding="utf-8") as file:
            file.write(holder)
    finally:
        whole.unlink(missing_ok=True)


def _heartbeat(folder: Path, path: Path, ended: threading.Event, on_lost: Callable[[], object]) -> None:
    while not ended.wait(HEARTBEAT_SECONDS):
        with suppress(OSError):  # a shared folder may be out of reach for a while; the next heartbeat tries again
            locks = locks_on(folder)
            if not locks or locks[-1].path != path:
                on_lost()
                return
            os.utime(path)


def _read(path: Path) -> Lock | None:
    """None if the lock was released a moment ago."""
    try:
        text, silent = path.read_text(encoding="utf-8", errors="replace"), _now(path.parent) - path.stat().st_mtime
    except FileNotFoundError:
        return None
    host, pid = _holder(text)
    return Lock(path, int(path.name.rpartition("-")[2]), host, pid, silent)


def _numbered(path: Path) -> bool:
    return re.fullmatch("[0-9]{1,9}", path.name.rpartition("-")[2]) is not None


def _holder(text: str) -> tuple[str, int]:
    """Host and process in a lock file; nobody known where it is being written, or damaged."""
    try:
        host, pid = parse_json(text)
    except (ValueError, TypeError):
        return "?", 0
    return (host, pid) if isinstance(host, str) and type(pid) is int and 0 < pid < 2**31 else ("?", 0)


def _now(folder: Path) -> float:
    """The time by the clock of the file system, which all who share the folder have in common."""
    probe = folder / f".clock-{platform.node()}-{os.getpid()}-{threading.get_ident()}"
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink()


def _runs(pid: int) -> bool:
    """Whether there is such a process here; on Windows, where asking would end it, the heartbeats alone must tell."""
    if os.name == "nt":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is somebody else's
        pass
    return True
