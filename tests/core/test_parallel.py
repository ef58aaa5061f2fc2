"""Many scans side by side: in order, the first failure ends it, and what was freed does not stay."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from patchcl.core.errors import UserError
from patchcl.core.parallel import in_parallel, pipelined


def test_what_is_found_keeps_its_order_and_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    assert in_parallel(range(40), lambda n: n * n, lambda *done: told.append(done)) == [n * n for n in range(40)]
    assert told == [(n, 40) for n in range(1, 41)]
    assert in_parallel([], lambda n: n) == []


def test_the_first_failure_ends_it_and_the_rest_is_not_begun() -> None:
    begun: list[int] = []

    def look(number: int) -> int:
        begun.append(number)
        if number == 1:
            raise UserError("the second file is broken")
        return number

    with pytest.raises(UserError, match="second file"):
        in_parallel(range(10_000), look)
    assert len(begun) < 10_000


def task_of(item, visit):
    """Reads, computes and writes, each a visit; ends with the item."""
    visit("read", item)
    yield
    visit("compute", item)
    yield
    visit("write", item)
    return item


def test_the_next_is_read_and_the_last_is_written_while_one_computes():
    """Each of the three waits for the others; were they not to overlap, that would end in an error."""
    meet, done = threading.Barrier(3, timeout=20), []

    def visit(part, item):
        if (part, item) in (("read", 3), ("compute", 2), ("write", 1)):
            meet.wait()
        done.append((part, item))

    assert [end.result() for end in pipelined(task_of(item, visit) for item in range(5))] == [0, 1, 2, 3, 4]
    for part in ("read", "compute", "write"):
        assert [item for said, item in done if said == part] == [0, 1, 2, 3, 4]


def test_who_reads_and_writes_computes_alone_and_nobody_else_does():
    before, seen = torch.get_num_threads(), {}
    torch.set_num_threads(2)
    try:
        tasks = [task_of(0, lambda part, _: seen.update({part: torch.get_num_threads()}))]
        assert [end.result() for end in pipelined(tasks)] == [0]
        with ThreadPoolExecutor(1) as later:
            seen["later"] = later.submit(torch.get_num_threads).result()
    finally:
        torch.set_num_threads(before)
    assert seen == {"read": 1, "compute": 2, "write": 1, "later": 2}


def test_what_fails_on_its_way_fails_alone_and_in_its_place():
    def visit(part, item):
        if (part, item) in (("read", "b"), ("compute", "c"), ("write", "e")):
            raise KeyError(part)

    ended = list(pipelined(task_of(item, visit) for item in "abcde"))
    assert [end.exception() and end.exception().args[0] for end in ended] == [None, "read", "compute", None, "write"]
    assert list(pipelined([])) == []


def test_at_most_three_tasks_are_under_way():
    under_way, most = set(), []

    def visit(part, item):
        if part == "read":
            under_way.add(item)
            most.append(len(under_way))

    for item, end in enumerate(pipelined(task_of(item, visit) for item in range(8))):
        end.result()
        under_way.discard(item)
    assert max(most) == 3
