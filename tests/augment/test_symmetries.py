"""Symmetries of the grid: undone they leave nothing behind, and every image may have one of its own."""

import pytest
import torch

from patchcl.augment import AugmentSettings
from patchcl.augment.geometry import drawn_symmetries
from patchcl.augment.symmetries import applied, for_each, undone


@pytest.mark.parametrize("size", [(4, 4), (2, 3, 4)], ids=["slices", "volumes"])
def test_every_image_is_moved_by_its_own_and_put_back(size):
    symmetries = drawn_symmetries(size, AugmentSettings())
    assert len(symmetries) == 8
    image = torch.rand(9, 2, *size, generator=torch.Generator().manual_seed(0))
    chosen = torch.tensor([3, 0, 1, 2, 7, 6, 5, 4, 3])
    moved = for_each(applied, image, symmetries, chosen)
    for place, number in enumerate(chosen.tolist()):
        assert torch.equal(moved[place : place + 1], applied(image[place : place + 1], symmetries[number]))
    assert (
        len(
            {
                tuple(one.flatten().tolist())
                for one in for_each(applied, image[:1].expand(9, -1, *size), symmetries, chosen)
            }
        )
        == 8
    )
    assert torch.equal(for_each(undone, moved, symmetries, chosen), image)
