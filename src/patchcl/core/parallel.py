"""Parallel work on many scans, or one after the other, in memory that does not grow with their number."""

import ctypes
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

READERS = min(os.cpu_count() or 1, 8)
"""How many scans are read at once."""
TRIM_EVERY = 32
"""After so many scans, side by side, the memory of those before is given back to the system."""

Item = TypeVar("Item")
Found = TypeVar("Found")
ProgressCallback = Callable[[int, int], None]


def in_parallel(
    items: Sequence[Item], look: Callable[[Item], Found], on_progress: ProgressCallback | None = None
) -> list[Found]:
    """Parallel map on threads: what `look` finds in each of `items`, in their order; the first that fails ends it.

    `on_progress` is told how many items of all are done.
    """
    found = []
    with ThreadPoolExecutor(READERS) as pool:
        tasks = [pool.submit(look, item) for item in items]
        try:
            for done in range(1, len(items) + 1):
                found.append(tasks[done - 1].result())
                if on_progress is not None:
                    on_progress(done, len(items))
                if done % TRIM_EVERY == 0 or done == len(items):
                    release_memory()
        finally:
            pool.shutdown(cancel_futures=True)
    return found


def releasing_memory(items: Iterable[Item]) -> Iterator[Item]:
    """`items`, with the memory that each took given back to the system before the next."""
    for item in items:
        yield item
        release_memory()


def release_memory() -> None:
    """Return to the system what was freed: glibc keeps it, apart for every thread, and more with every scan."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)
