"""Parallel work on many scans, or one after the other, in memory that does not grow with their number."""

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from patchcl.core.memory import release_memory

READERS = min(os.cpu_count() or 1, 8)
"""How many scans are read at once."""
TRIM_EVERY = 32
"""After so many scans, side by side, the memory of those before is given back to the system."""

Item = TypeVar("Item")
Found = TypeVar("Found")
ProgressCallback = Callable[[int, int], None]
Task = Generator[None, None, Found]


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


def pipelined(tasks: Iterable[Task[Found]]) -> Iterator[Future[Found]]:
    """While one task computes, a thread reads for the next and another writes what the last has found.

    A task is a generator with two `yield`, after it has read and after it has computed; so three are under way at most.
    Gives for each, in their order, how it ended: `result` waits until it has, and raises what the task raised.
    """
    reader, writer = _single_thread("reader"), _single_thread("writer")
    begun = ((task, reader.submit(next, task)) for task in tasks)
    last: Future[Found] | None = None
    try:
        ahead = next(begun, None)
        while ahead is not None:
            (task, read), ahead = ahead, next(begun, None)
            computed = _outcome(task, read)
            if last is not None:
                yield last
            last = writer.submit(_ended, task, computed)
        if last is not None:
            yield last
    finally:
        reader.shutdown(cancel_futures=True)
        writer.shutdown()


def _single_thread(name: str) -> ThreadPoolExecutor:
    """A thread in which torch computes alone: a team of threads beside that of the network would slow both down."""
    import torch  # whoever computes has loaded it

    def alone() -> None:
        torch.get_num_threads()  # which a thread takes from others when it is first asked, and not again
        torch.set_num_threads(1)

    pool, threads = ThreadPoolExecutor(1, name), torch.get_num_threads()
    pool.submit(alone).result()
    torch.set_num_threads(threads)  # for threads to come, which the line above has set as well
    return pool


def _outcome(task: Task[Found], read: Future[None]) -> Exception | None:
    """Lets a task compute that has read; what went wrong with either."""
    try:
        read.result()
        next(task)
    except Exception as error:  # which is raised again by whoever asks how the task ended
        return error
    return None


def _ended(task: Task[Found], problem: Exception | None) -> Found:
    """Lets a task write, and gives what it returns."""
    if problem is not None:
        raise problem
    try:
        next(task)
    except StopIteration as end:
        found: Found = end.value
        return found
    raise RuntimeError("a task has to end after its second yield")
