from collections import Counter

import pytest

from patchcl.data.loading.loader import items_at


@pytest.mark.parametrize(("size", "batch"), [(12, 4), (10, 3), (3, 7), (1, 2)])
def test_every_pass_shows_every_item_once(size: int, batch: int) -> None:
    seen = [item for step in range(2 * size) for item in items_at(step, size, batch, seed=5)]
    passes = [seen[start : start + size] for start in range(0, len(seen) - size + 1, size)]
    assert all(sorted(one) == list(range(size)) for one in passes)
    if size > 9:
        assert len({tuple(one) for one in passes}) == len(passes)


def test_a_step_depends_on_nothing_but_its_arguments() -> None:
    forward = [items_at(step, 50, 4, seed=1) for step in range(40)]
    backward = [items_at(step, 50, 4, seed=1) for step in reversed(range(40))]
    assert forward == backward[::-1]
    assert forward != [items_at(step, 50, 4, seed=2) for step in range(40)]


def test_a_seed_does_not_repeat_the_passes_of_its_neighbour() -> None:
    assert items_at(1, 50, 50, seed=0) != items_at(0, 50, 50, seed=1)


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_processes_share_the_batch_of_one(ranks: int) -> None:
    for step in range(8):
        together = [item for rank in range(ranks) for item in items_at(step, 30, 8 // ranks, 0, rank, ranks)]
        assert together == items_at(step, 30, 8, 0)


def test_items_are_shown_equally_often() -> None:
    counts = Counter(item for step in range(30) for item in items_at(step, 10, 4, seed=0))
    assert set(counts.values()) == {12}
