"""Memory that was freed: kept for what comes next while a scan or a step is worked on, and given back in between."""

import ctypes
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

AT_EACH_FREE = "MALLOC_TRIM_THRESHOLD_"
"""What has glibc give memory back whenever so many bytes are free, as Dask asks it for its workers."""
DASKS_WISH = "65536"
"""What Dask sets it to: every tensor is made of new pages then, a quarter of the time of small scans and steps."""
MOST_KEPT = 64 << 20
"""Bytes that glibc comes to keep by itself, at the most, where nobody sets anything; of one block, half of that."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3

Item = TypeVar("Item")


def releasing_memory(items: Iterable[Item]) -> Iterator[Item]:
    """`items`, with the memory that each took given back to the system before the next."""
    for item in items:
        yield item
        release_memory()


def release_memory() -> None:
    """Return to the system what was freed: glibc keeps it, apart for every thread, and more with every scan."""
    trim = _glibc("malloc_trim")
    if trim is not None:
        trim(0)


def keep_freed_memory(environment: Mapping[str, str] = os.environ) -> None:
    """In a worker of Dask: have glibc keep what is freed until `release_memory`; what a user has set stays."""
    tell = _glibc("mallopt")
    if tell is not None and environment.get(AT_EACH_FREE) == DASKS_WISH:
        tell(M_MMAP_THRESHOLD, MOST_KEPT // 2)
        tell(M_TRIM_THRESHOLD, MOST_KEPT)


def without_dasks_wish(environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` for a process that a worker of Dask starts for our work."""
    return {name: value for name, value in environment.items() if (name, value) != (AT_EACH_FREE, DASKS_WISH)}


def _glibc(name: str) -> Callable[..., int] | None:
    """A function of glibc; None where the system has another library."""
    return getattr(ctypes.CDLL(None), name, None) if os.name == "posix" else None
