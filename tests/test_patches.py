"""Where patches are cut, from what, and how often: hand-computed grids and counted draws."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from patchcl.batch import IGNORE
from patchcl.losses.supervised import one_hot
from patchcl.patches import (
    ChosenPatches,
    binary_entropy,
    choose_patches,
    class_attended_patches,
    flip_at_random,
    grid_mean,
)


def test_entropy_is_zero_when_sure_and_one_bit_at_a_half():
    probs = torch.tensor([0.0, 1.0, 0.5, 0.25])
    quarter = -(0.25 * math.log2(0.25) + 0.75 * math.log2(0.75))
    torch.testing.assert_close(binary_entropy(probs), torch.tensor([0.0, 0.0, 1.0, quarter]))


def test_grid_mean_is_the_mean_of_every_half_overlapping_patch():
    maps = torch.rand(2, 3, 8, 6, generator=torch.Generator().manual_seed(0))
    pooled = grid_mean(maps, (4, 2))
    assert pooled.shape == (2, 3, 3, 5)
    for row in range(3):
        for column in range(5):
            patch = maps[:, :, 2 * row : 2 * row + 4, column : column + 2]
            torch.testing.assert_close(pooled[:, :, row, column], patch.mean(dim=(2, 3)))


@pytest.mark.parametrize("side", [(4, 4), (4, 4, 2)], ids=["slices", "volumes"])
def test_attended_patches_are_the_crop_times_the_confidence_in_its_class(side):
    generator, size = torch.Generator().manual_seed(0), (8, 12, 6)[: len(side)]
    image = torch.rand(3, 2, *size, generator=generator)
    probs = torch.rand(3, 4, *size, generator=generator).softmax(dim=1)
    chosen = choose_patches(probs, side, per_class=5, coverage=0.2)
    patches = class_attended_patches(image, probs, chosen, side)
    assert patches.shape == (20, 2, *side)
    for patch, place, corner, label in zip(patches, chosen.image, chosen.corner.tolist(), chosen.label, strict=True):
        window = tuple(slice(start, start + length) for start, length in zip(corner, side, strict=True))
        expected = image[(place, slice(None), *window)] * probs[(place, label, *window)]
        assert torch.equal(patch, expected)


@pytest.mark.parametrize("size", [(16, 16), (13, 22), (8, 9, 11)])
def test_patches_lie_inside_the_image_and_show_the_class_they_claim(size):
    generator, side = torch.Generator().manual_seed(0), (5, 4, 3)[: len(size)]
    mask = torch.randint(0, 3, (4, *size), generator=generator)
    chosen = choose_patches(one_hot(mask, 3), side, per_class=9, coverage=0.5)
    for place, corner, label in zip(chosen.image, chosen.corner.tolist(), chosen.label, strict=True):
        assert all(start + length <= full for start, length, full in zip(corner, side, size, strict=True))
        window = tuple(slice(start, start + length) for start, length in zip(corner, side, strict=True))
        assert label >= 0
        assert (mask[(place, *window)] == label).any()


def test_a_thin_structure_has_candidates_though_it_never_fills_a_patch():
    mask = torch.zeros(2, 16, 16, dtype=torch.int64)
    mask[0, 7, 2:14] = 1
    chosen = choose_patches(one_hot(mask, 2), (8, 8), per_class=3, coverage=0.5)
    assert (chosen.label == 1).sum() == 3
    assert (chosen.image[chosen.label == 1] == 0).all()


def test_a_class_that_is_absent_or_scarce_leaves_its_places_empty_and_shapes_stay():
    mask = torch.zeros(1, 16, 16, dtype=torch.int64)
    mask[0, 1:3, 1:3] = 2
    chosen = choose_patches(one_hot(mask, 4), (4, 4), per_class=6, coverage=0.9)
    assert chosen.label.shape == (24,)
    counts = [(chosen.label == k).sum().item() for k in range(4)]
    assert counts[0] == 6
    assert counts[1] == counts[3] == 0
    assert 1 <= counts[2] < 6
    assert (chosen.label == IGNORE).sum() == 24 - sum(counts)


def test_draws_are_without_replacement():
    probs = torch.rand(2, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    chosen = choose_patches(probs, (4, 4), per_class=30, coverage=0.01)
    for k in range(2):
        places = torch.cat([chosen.image[:, None], chosen.corner], dim=1)[chosen.label == k].tolist()
        assert len(places) == len({tuple(place) for place in places}) == 30


@pytest.mark.parametrize("sharpness", [0.0, 1.0, 2.0])
def test_draws_follow_one_minus_entropy(sharpness):
    """Four patches side by side, and two thousand classes with the same confidence in each: one draw of every class."""
    confidence = torch.tensor([0.95, 0.9, 0.8, 0.7])
    torch.manual_seed(0)
    chosen = choose_patches(confidence.expand(1, 2000, 2, 4), (2, 1), per_class=1, coverage=0.5, sharpness=sharpness)
    weights = (1 - binary_entropy(confidence.double()).numpy()) ** sharpness
    found = np.bincount(chosen.corner[:, 1].numpy(), minlength=4)
    assert chisquare(found, weights / weights.sum() * 2000).pvalue > 1e-3


def test_labeled_patches_are_always_sure():
    mask = torch.randint(0, 3, (2, 16, 16), generator=torch.Generator().manual_seed(0))
    assert choose_patches(one_hot(mask, 3), (4, 4), 5, coverage=0.3).entropy.abs().max() == 0


def test_flips_mirror_each_patch_whole():
    patches = torch.arange(64 * 2 * 9.0).view(64, 2, 3, 3)
    torch.manual_seed(0)
    flipped = flip_at_random(patches)
    kinds = set()
    for patch, original in zip(flipped, patches, strict=True):
        options = [original, original.flip(1), original.flip(2), original.flip(1, 2)]
        kinds.add(next(kind for kind, option in enumerate(options) if torch.equal(patch, option)))
    assert kinds == {0, 1, 2, 3}


def test_chosen_patches_never_depend_on_data_in_shape():
    shapes = {
        tuple(field.shape for field in choose_patches(one_hot(mask, 3), (4, 4), 5, 0.5))
        for mask in (torch.zeros(2, 12, 12, dtype=torch.int64), torch.randint(0, 3, (2, 12, 12)))
    }
    assert len(shapes) == 1
    assert isinstance(choose_patches(torch.ones(1, 1, 4, 4), (2, 2), 1, 0.5), ChosenPatches)
