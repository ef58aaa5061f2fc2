"""How the threads of torch wait for work, which has to be said before torch is loaded.

Threads that wait by turning on the spot are the fastest on cores of their own, and hold up everything, themselves
included, on cores that other programs use too. benchmarks/threads.py measures both.
"""

import os
import sys
import time
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path

POLICY = "OMP_WAIT_POLICY"
USERS = (POLICY, "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Who has set one of these has decided how threads wait."""
OURS = "PATCHCL_CHOSE_WAIT_POLICY"
"""Set beside a policy that we have chosen, so that the processes which inherit both may choose anew."""
TOO_LATE = (
    "other programs use the cores of this machine, and torch was imported before patchcl could have its threads wait "
    "asleep, so computing may be many times slower. Set OMP_WAIT_POLICY=PASSIVE before torch is imported."
)
LOOK_SECONDS = 0.1
"""How long the machine is looked at, where its load of the last minute may be that of a program that has ended."""


def choose_wait_policy(environment: MutableMapping[str, str] = os.environ) -> bool:
    """Has threads of this process wait asleep if other programs use the cores that it may use; true if so.

    Nothing is changed where the user has decided it. Where torch is loaded already it is too late, and a line says so:
    fewer threads would help as well, but sums, and so the weights of a run, depend on their number.
    """
    if _decided(environment) or not crowded():
        return False
    if "torch" in sys.modules:
        from patchcl.core.console import errors

        errors.print(f"Warning: {TOO_LATE}", markup=False, highlight=False, soft_wrap=True)
        return False
    environment.update({POLICY: "PASSIVE", OURS: "1"})
    return True


def for_new_process(environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` for a process that begins now: other programs may have come, or gone, since this one began.

    A process that has a share of the cores needs no more than that to be free.
    """
    given = {**environment}
    if given.pop(OURS, None) is not None:
        given.pop(POLICY, None)
    share = given.get("OMP_NUM_THREADS", "")
    if not _decided(given) and crowded(cores=min(usable_cores(), int(share)) if share.isdecimal() else None):
        given |= {POLICY: "PASSIVE", OURS: "1"}
    return given


def crowded(
    load: Callable[[], float] | None = None, busy: Callable[[], float] | None = None, cores: float | None = None
) -> bool:
    """Whether the programs that run now leave fewer cores of the machine free than a process may use.

    Args:
        load: Mean number of programs that wanted to run in the last minute; by default, what the system says.
        busy: How many cores are at work right now; asked only if that load is high.
        cores: How many the process may use; by default, those that this one may.
    """
    room = (os.cpu_count() or 1) - (cores or usable_cores()) + 0.5  # half a core is for what is always going on
    return (load or _load)() > room and (busy or busy_cores)() > room


def usable_cores() -> float:
    """Cores that this process may use: by its affinity, and by the quota of its container."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(affinity, _quota(Path("/sys/fs/cgroup/cpu.max")))


def busy_cores(stat: Path = Path("/proc/stat"), seconds: float = LOOK_SECONDS) -> float:
    """How many cores of the machine work within the next moment; infinitely many where nothing tells."""
    try:
        before = _ticks(stat)
        time.sleep(seconds)
        working, all_ticks = (now - then for now, then in zip(_ticks(stat), before, strict=True))
    except (OSError, ValueError, IndexError):
        return float("inf")
    return (os.cpu_count() or 1) * working / all_ticks if all_ticks > 0 else float("inf")


def _decided(environment: Mapping[str, str]) -> bool:
    """Whether the user has said how threads wait."""
    return any(name in environment for name in USERS)


def _load() -> float:
    """0 where nothing tells, as on Windows."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def _ticks(stat: Path) -> tuple[int, int]:
    """Ticks in which a core worked, and all ticks, since the machine started."""
    ticks = [int(part) for part in stat.read_text(encoding="ascii").splitlines()[0].split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)  # the fourth is idle, the fifth waits for a disk


def _quota(file: Path) -> float:
    """Cores that a container is granted; infinitely many where it is not bounded."""
    try:
        granted, period = file.read_text(encoding="ascii").split()
        return float("inf") if granted == "max" else max(1.0, int(granted) / int(period))
    except (OSError, ValueError, ZeroDivisionError):
        return float("inf")
