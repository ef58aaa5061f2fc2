"""Where patches lie, what they show and how they are cut: hand-computed grids and plain slicing."""

import math

import pytest
import torch

from patchcl.contrast.patches import (
    ChosenPatches,
    binary_entropy,
    class_attended_features,
    class_attended_patches,
    flip_at_random,
    grid_mean,
    patch_confidence,
    patch_grid,
)
from patchcl.core.batch import IGNORE
from patchcl.losses.supervised import one_hot


def windows(corners, side):
    return [tuple(slice(start, start + length) for start, length in zip(c, side, strict=True)) for c in corners]


def test_entropy_is_zero_when_sure_and_one_bit_at_a_half():
    probs = torch.tensor([0.0, 1.0, 0.5, 0.25])
    quarter = -(0.25 * math.log2(0.25) + 0.75 * math.log2(0.75))
    torch.testing.assert_close(binary_entropy(probs), torch.tensor([0.0, 0.0, 1.0, quarter]))


def test_average_patch_entropy_is_zero_for_masks_and_one_bit_for_even_odds():
    image = torch.rand(1, 1, 8, 8)
    sure = one_hot(torch.zeros(1, 8, 8, dtype=torch.int64), 2)
    assert patch_grid(image, sure, (4, 4), "confidence").entropy.abs().max() == 0
    torch.testing.assert_close(
        patch_grid(image, torch.full((1, 2, 8, 8), 0.5), (4, 4), "confidence").entropy, torch.ones(2, 9)
    )


def test_pixels_that_nobody_annotated_show_no_class():
    mask = torch.tensor([[[0, 0, 1, 1], [0, 0, 1, IGNORE], [IGNORE, IGNORE, IGNORE, IGNORE], [IGNORE, 1, IGNORE, 0]]])
    grid = patch_grid(torch.ones(1, 1, 4, 4), one_hot(mask, 2), (2, 2), "confidence")
    corners = [tuple(corner) for corner in grid.corner.tolist()]
    shown = {corner: grid.coverage[:, n].tolist() for n, corner in enumerate(corners)}
    assert [shown[corner] for corner in ((0, 0), (0, 2), (2, 0), (2, 2))] == [[1, 0], [0, 0.75], [0, 0.25], [0.25, 0]]
    assert torch.equal(grid.confidence, grid.coverage)


def test_grid_mean_is_the_mean_of_every_half_overlapping_patch():
    maps = torch.rand(2, 3, 8, 6, generator=torch.Generator().manual_seed(0))
    pooled = grid_mean(maps, (4, 2))
    assert pooled.shape == (2, 3, 3, 5)
    for row in range(3):
        for column in range(5):
            patch = maps[:, :, 2 * row : 2 * row + 4, column : column + 2]
            torch.testing.assert_close(pooled[:, :, row, column], patch.mean(dim=(2, 3)))


@pytest.mark.parametrize(
    ("size", "side"),
    [
        ((64, 64), (16, 16)),
        ((40, 56), (8, 20)),
        ((37, 50), (8, 12)),
        ((16, 24), (16, 24)),
        ((9, 7), (2, 2)),
        ((24, 32, 16), (8, 16, 4)),
        ((25, 19, 10), (8, 4, 6)),
    ],
)
def test_means_of_tiles_are_those_of_pooling_with_a_whole_window(size, side):
    maps = torch.rand(3, 4, *size, generator=torch.Generator().manual_seed(0))
    pool = torch.nn.functional.avg_pool2d if len(size) == 2 else torch.nn.functional.avg_pool3d
    expected = pool(maps.double(), side, tuple(length // 2 for length in side))
    torch.testing.assert_close(grid_mean(maps, side).double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "side"), [((9, 16), (3, 4)), ((7, 7), (7, 7)), ((4, 5), (1, 1)), ((16, 8, 7), (4, 4, 7))]
)
def test_patches_of_an_odd_side_are_pooled_with_a_whole_window(size, side):
    maps = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    pool = torch.nn.functional.avg_pool2d if len(size) == 2 else torch.nn.functional.avg_pool3d
    assert torch.equal(grid_mean(maps, side), pool(maps, side, tuple(max(1, length // 2) for length in side)))


@pytest.mark.parametrize("side", [(4, 4), (4, 4, 2)], ids=["slices", "volumes"])
@pytest.mark.parametrize("source", ["confidence", "attended"])
def test_a_grid_tells_of_every_patch_what_plain_slicing_finds(side, source):
    generator, size = torch.Generator().manual_seed(0), (8, 12, 6)[: len(side)]
    image = torch.rand(3, 2, *size, generator=generator)
    probs = (4 * torch.randn(3, 4, *size, generator=generator)).softmax(dim=1)
    grid = patch_grid(image, probs, side, source)
    assert len(set(map(tuple, torch.cat([grid.image[:, None], grid.corner], 1).tolist()))) == len(grid.image)
    for n, window in enumerate(windows(grid.corner.tolist(), side)):
        place = int(grid.image[n])
        shown = probs[(place, slice(None), *window)].flatten(1)
        attended = shown * image[(place, slice(None), *window)].mean(dim=0).flatten()
        torch.testing.assert_close(grid.confidence[:, n], shown.mean(dim=1))
        covered = torch.stack([(shown.argmax(dim=0) == k).float().mean() for k in range(4)])
        torch.testing.assert_close(grid.coverage[:, n], covered)
        entropy = binary_entropy(shown if source == "confidence" else attended).mean(dim=1)
        torch.testing.assert_close(grid.entropy[:, n], entropy)
    guidance = 1 - grid.entropy if source == "confidence" else grid.entropy
    assert torch.equal(grid.guidance, guidance)


def test_the_two_sources_guide_to_the_same_side():
    """Mid-grey tissue of a class: sure and full of entropy. Both say: take it rather than what is not of the class."""
    image, probs = torch.full((1, 1, 4, 8), 0.5), torch.zeros(1, 1, 4, 8)
    probs[..., :4] = 1
    probs[..., 4:] = 0.6  # doubtful, and half as bright once attended to
    for source in ("confidence", "attended"):
        guidance = patch_grid(image, probs, (4, 4), source).guidance[0]
        assert guidance[0] > guidance[2], source


@pytest.mark.parametrize("side", [(4, 4), (4, 4, 2)], ids=["slices", "volumes"])
def test_attended_patches_are_the_crop_times_the_confidence_in_its_class(side):
    generator, size = torch.Generator().manual_seed(0), (8, 12, 6)[: len(side)]
    image = torch.rand(3, 2, *size, generator=generator)
    probs = torch.rand(3, 4, *size, generator=generator).softmax(dim=1)
    grid = patch_grid(image, probs, side, "confidence")
    pick = torch.randperm(len(grid.image), generator=generator)[:12]
    label = torch.randint(0, 4, (12,), generator=generator)
    chosen = ChosenPatches(grid.image[pick], grid.corner[pick], label, torch.zeros(12))
    patches = class_attended_patches(image, probs, chosen, side)
    assert patches.shape == (12, 2, *side)
    for patch, place, window, k in zip(
        patches, chosen.image, windows(chosen.corner.tolist(), side), label, strict=True
    ):
        assert torch.equal(patch, image[(place, slice(None), *window)] * probs[(place, k, *window)])


@pytest.mark.parametrize("size", [(16, 24), (18, 26), (16, 8, 16)], ids=["even", "odd", "volumes"])
def test_attended_features_are_their_mean_under_the_confidence_in_the_class(size):
    generator, reduction = torch.Generator().manual_seed(0), (2, 2, 4)[: len(size)]
    low = tuple(length // by for length, by in zip(size, reduction, strict=True))
    features = torch.randn(3, 5, *low, generator=generator)
    coarse = torch.rand(3, 4, *low, generator=generator)
    probs = torch.nn.functional.interpolate(coarse, scale_factor=tuple(map(float, reduction)), mode="nearest")
    side = (8, 4, 8)[: len(size)]
    grid = patch_grid(torch.ones(3, 1, *size), probs, side, "confidence")
    label = torch.arange(len(grid.image)) % 4
    chosen = ChosenPatches(grid.image, grid.corner, label, torch.zeros(len(label)))
    found = class_attended_features(features, probs, chosen, side, reduction)
    corners = (chosen.corner // torch.tensor(reduction)).tolist()
    for n, window in enumerate(windows(corners, [length // by for length, by in zip(side, reduction, strict=True)])):
        place, k = int(grid.image[n]), int(label[n])
        weight = coarse[(place, k, *window)].flatten()
        expected = (features[(place, slice(None), *window)].flatten(1) * weight).sum(dim=1) / weight.sum()
        torch.testing.assert_close(found[n], expected)


def test_gradients_of_overlapping_patches_can_be_repeated_bit_for_bit():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1, 16, 8, 8, 8, generator=generator, requires_grad=True)
    probs = torch.rand(1, 3, 8, 8, 8, generator=generator)
    corner, label = torch.randint(0, 4, (32, 3), generator=generator), torch.arange(32) % 3
    chosen = ChosenPatches(torch.zeros_like(label), corner, label, torch.zeros(32))

    def gradient() -> torch.Tensor:
        pooled = class_attended_features(features, probs, chosen, (4, 4, 4), (1, 1, 1))
        return torch.autograd.grad(pooled.square().sum(), features)[0]

    first = gradient()
    assert all(torch.equal(first, gradient()) for _ in range(20))


def test_flips_mirror_each_patch_whole():
    patches = torch.arange(64 * 2 * 9.0).view(64, 2, 3, 3)
    torch.manual_seed(0)
    flipped = flip_at_random(patches)
    kinds = set()
    for patch, original in zip(flipped, patches, strict=True):
        options = [original, original.flip(1), original.flip(2), original.flip(1, 2)]
        kinds.add(next(kind for kind, option in enumerate(options) if torch.equal(patch, option)))
    assert kinds == {0, 1, 2, 3}


@pytest.mark.parametrize("size", [(8, 6), (8, 6, 4)])
def test_the_confidence_in_a_patch_is_that_of_the_pixels_of_its_class(size):
    side, generator = (4, 2, 2)[: len(size)], torch.Generator().manual_seed(0)
    probs = torch.rand(2, 3, *size, generator=generator)
    probs[0] = one_hot(torch.randint(0, 3, (1, *size), generator=generator), 3)[0]
    corner = torch.tensor([[0] * len(size), [2] + [1] * (len(size) - 1), [4] * len(side)]).clamp(max=2)
    chosen = ChosenPatches(torch.tensor([0, 1, 1]), corner, torch.tensor([2, 1, 0]), torch.zeros(3))
    found = patch_confidence(probs, chosen, side)
    assert found[0] == 1
    for n, window in enumerate(windows(corner.tolist(), side)):
        seen = probs[(chosen.image[n], chosen.label[n], *window)]
        torch.testing.assert_close(found[n], (seen * seen).sum() / seen.sum())


def test_a_patch_without_its_class_has_no_confidence():
    chosen = ChosenPatches(
        torch.tensor([0]), torch.zeros(1, 2, dtype=torch.int64), torch.tensor([IGNORE]), torch.zeros(1)
    )
    assert patch_confidence(torch.zeros(1, 2, 4, 4), chosen, (2, 2)) == 0
