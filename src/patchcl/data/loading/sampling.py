"""Which items each step sees, as a pure function of (seed, step, rank): resuming needs no saved loader state."""

from functools import lru_cache

import numpy as np


def items_at(step: int, size: int, batch: int, seed: int, rank: int = 0, ranks: int = 1) -> list[int]:
    """The `batch` items, out of `size`, that process `rank` of `ranks` sees at `step`.

    All steps and ranks together walk through endless passes over the items, each pass in a fresh order.
    """
    start = (step * ranks + rank) * batch
    return [_item_at(position, size, seed) for position in range(start, start + batch)]


def _item_at(position: int, size: int, seed: int) -> int:
    lap, place = divmod(position, size)
    return int(_order(size, seed, lap)[place])


@lru_cache(maxsize=16)
def _order(size: int, seed: int, lap: int) -> np.ndarray:
    return np.random.default_rng([seed, lap]).permutation(size)
