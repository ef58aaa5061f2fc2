"""One worker per cell, also on machines that share a folder: a claim is a file that only one of them can make.

The holder touches its claim as long as it works. A claim that stays untouched for `STALE_SECONDS`, or whose process is
gone from this machine, is dead, and the next worker takes over with a claim of a higher number. A holder that had only
slept finds that claim at its next beat and gives up.
"""

import json
import os
import platform
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

BEAT_SECONDS = 30.0
STALE_SECONDS = 300.0
"""Far more than a beat: a folder shared over a network may show what another machine did a minute late."""


class Claim(NamedTuple):
    """What a claim file says, and for how long its holder has not been heard of."""

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


def claims_on(cell: Path) -> list[Claim]:
    """The claims on the cell in the folder `cell`, dead ones too; the one that counts is the last."""
    found = [_read(path) for path in cell.parent.glob(f"{cell.name}.claim-*")]
    return sorted((claim for claim in found if claim), key=lambda claim: claim.number)


@contextmanager
def claimed(cell: Path, give_up: Callable[[], object]) -> Iterator[bool]:
    """Holds the claim on `cell` for the time inside; false if another holds it.

    Args:
        cell: The folder of the cell; the claim lies beside it.
        give_up: Called, in a thread of its own, when another has taken over: nothing may be written any more.
    """
    path = _take(cell)
    if path is None:
        yield False
        return
    ended = threading.Event()
    beats = threading.Thread(target=_beat, args=(cell, path, ended, give_up), daemon=True)
    beats.start()
    try:
        yield True
    finally:
        ended.set()
        beats.join()
        path.unlink(missing_ok=True)


def this_host() -> str:
    """The machine, and on Linux the container, within which process numbers mean something."""
    try:
        return f"{platform.node()}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return platform.node()


def _take(cell: Path) -> Path | None:
    """A new claim on `cell` in the place of dead ones; None if another was there or was quicker."""
    claims = claims_on(cell)
    if any(claim.alive for claim in claims):
        return None
    number = max((claim.number for claim in claims), default=0) + 1
    path = cell.with_name(f"{cell.name}.claim-{number}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            json.dump([this_host(), os.getpid()], file)
    except FileExistsError:
        return None
    last = [claim.path for claim in claims_on(cell)][-1:]
    if last != [path]:  # dead ones were cleared away by a quicker one while we counted them
        path.unlink(missing_ok=True)
        return None
    for claim in claims:
        claim.path.unlink(missing_ok=True)
    return path


def _beat(cell: Path, path: Path, ended: threading.Event, give_up: Callable[[], object]) -> None:
    while not ended.wait(BEAT_SECONDS):
        with suppress(OSError):  # a shared folder may be out of reach for a while; the next beat tries again
            claims = claims_on(cell)
            if not claims or claims[-1].path != path:
                give_up()
                return
            os.utime(path)


def _read(path: Path) -> Claim | None:
    """None if the claim was given back a moment ago."""
    try:
        text, silent = path.read_text(encoding="utf-8"), _now(path.parent) - path.stat().st_mtime
    except FileNotFoundError:
        return None
    host, pid = json.loads(text) if text.endswith("]") else ("?", 0)  # being written
    return Claim(path, int(path.name.rpartition("-")[2]), host, pid, silent)


def _now(folder: Path) -> float:
    """The time by the clock of the file system, which all who share the folder have in common."""
    probe = folder / f".clock-{platform.node()}-{os.getpid()}-{threading.get_ident()}"
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink()


def _runs(pid: int) -> bool:
    """Whether there is such a process here; on Windows, where asking would end it, the beats alone must tell."""
    if os.name == "nt":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is somebody else's
        pass
    return True
