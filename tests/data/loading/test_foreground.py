"""Where the structures of items are: in which, and at which of their voxels."""

from collections import Counter

import numpy as np
import pytest
import torch

from patchcl.core.errors import UserError
from patchcl.data.loading.foreground import VOXELS, Foreground
from patchcl.data.scan import IGNORED


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_items_without_a_structure_are_left_out() -> None:
    masks = np.zeros((4, 3, 3), np.uint8)
    masks[1, 0, 0], masks[2, :], masks[3, 2, 1] = 1, IGNORED, 2
    foreground = Foreground(masks)
    assert foreground.items == (1, 3)
    assert foreground.voxel(3, generator()) == (2, 1)


def test_a_small_structure_is_drawn_as_often_as_a_large_one_and_only_voxels_of_structures_are() -> None:
    mask = np.zeros((6, 30, 30), np.uint8)
    mask[1:5, 5:25, 5:25], mask[0, 0, 3] = 1, 2
    draw, foreground = generator(), Foreground([mask])
    voxels = [foreground.voxel(0, draw) for _ in range(400)]
    counts = Counter(int(mask[voxel]) for voxel in voxels)
    assert counts[0] == 0
    assert 160 < counts[2] < 240
    reached = np.array([voxel for voxel in voxels if mask[voxel] == 1])
    assert reached.min(axis=0).tolist() == [1, 5, 5]
    assert (reached.max(axis=0) >= [4, 23, 23]).all()


def test_few_voxels_are_kept_of_a_large_structure_spread_over_all_of_it() -> None:
    mask = np.ones((40, 40), np.uint8)
    draw, foreground = generator(), Foreground([mask])
    rows = {foreground.voxel(0, draw) for _ in range(3000)}
    assert len(rows) <= VOXELS
    assert {row for row, _ in rows} == set(range(40))


def test_where_nothing_is_shown_the_setting_is_named() -> None:
    with pytest.raises(UserError, match=r"training\.foreground_fraction: no labeled scan shows a structure"):
        Foreground(np.full((2, 3, 3), IGNORED, np.uint8))
