"""Boxes are boxes of the right size, and image and mask are mixed by the same ones."""

import pytest
import torch

from patchcl.augment.mix import Shown, cut_mix, joined, mix, mix_shown, random_boxes

SIZES = pytest.mark.parametrize("size", [(50, 40), (20, 25, 40)], ids=["slices", "volumes"])


def boxes(size: tuple[int, ...], batch: int = 200, seed: int = 0, **options: float) -> torch.Tensor:
    torch.manual_seed(seed)
    return random_boxes(torch.empty(batch, 2, *size), **options)


def sides(box: torch.Tensor) -> list[torch.Tensor]:
    """For every axis, which of its places (B, S) the boxes (B, 1, *S) take up."""
    axes = range(2, box.ndim)
    return [box.flatten(1, 1).amax(dim=[1, *(other for other in axes if other != axis)]) for axis in axes]


@SIZES
def test_a_box_is_one_piece_with_straight_sides(size):
    box = boxes(size, probability=1.0)
    assert box.dtype == torch.bool
    assert box.shape == (200, 1, *size)
    filled = torch.ones(1, dtype=torch.long)
    for axis, side in enumerate(sides(box)):
        edges = side.long().diff(dim=1, prepend=torch.zeros(200, 1), append=torch.zeros(200, 1)).abs().sum(dim=1)
        assert edges.unique().tolist() == [2], f"not in one piece along axis {axis}"
        filled = filled * side.sum(dim=1)
    assert torch.equal(box.flatten(1).sum(dim=1), filled)


@SIZES
def test_sides_fill_their_range_and_differ_between_axes(size):
    fractions = torch.stack([side.sum(dim=1) / side.shape[1] for side in sides(boxes(size, probability=1.0))], dim=1)
    pixel = 1 / torch.tensor(size)
    assert (fractions >= 0.2 - pixel).all()
    assert (fractions <= 0.6 + pixel).all()
    assert (fractions.amin(dim=0) < 0.26).all()
    assert (fractions.amax(dim=0) > 0.54).all()
    assert torch.corrcoef(fractions.T).fill_diagonal_(0).abs().max() < 0.25


def test_sides_can_be_chosen():
    (rows, columns) = sides(boxes((50, 40), probability=1.0, smallest=0.5, largest=0.5))
    assert set(rows.sum(dim=1).tolist()) <= {25, 24, 26}
    assert set(columns.sum(dim=1).tolist()) <= {20, 19, 21}


@SIZES
def test_boxes_lie_anywhere_in_the_image(size):
    for side in sides(boxes(size, probability=1.0)):
        often = side.float().mean(dim=0)
        assert often.min() > 0, "there is a place that no box covers"
        assert often[: len(often) // 2].mean().item() == pytest.approx(often[len(often) // 2 :].mean().item(), abs=0.1)


@pytest.mark.parametrize(
    ("options", "minimum", "most"),
    [({"probability": 0.0}, 0, 0), ({"probability": 0.2}, 20, 60), ({}, 70, 130), ({"probability": 1.0}, 200, 200)],
)
def test_the_chance_decides_how_many_images_get_one(options, minimum, most):
    assert minimum <= boxes((50, 40), **options).flatten(1).any(dim=1).sum() <= most


def test_boxes_follow_from_the_global_seed():
    assert torch.equal(boxes((50, 40), seed=3), boxes((50, 40), seed=3))
    assert not torch.equal(boxes((50, 40), seed=3), boxes((50, 40), seed=4))


def test_the_inside_comes_from_the_other():
    base, other = torch.arange(6.0).view(1, 1, 2, 3).repeat(1, 2, 1, 1), torch.full((1, 2, 2, 3), 9.0)
    box = torch.tensor([[[[False, True, True], [False, False, False]]]])
    assert mix(base, other, box).tolist() == [[[[0, 9, 9], [3, 4, 5]]] * 2]
    mask = mix(base[:, 0].long(), other[:, 0].long(), box)
    assert mask.tolist() == [[[0, 9, 9], [3, 4, 5]]]
    assert mask.dtype == torch.int64


@SIZES
def test_image_and_mask_are_mixed_alike(size):
    mask = torch.randint(0, 4, (6, *size), generator=torch.Generator().manual_seed(0))
    image = mask.unsqueeze(1).float().expand(-1, 3, *size)
    box = boxes(size, batch=6, probability=1.0)
    mixed, target = mix(image, image.roll(1, dims=0), box), mix(mask, mask.roll(1, dims=0), box)
    assert torch.equal(mixed, target.unsqueeze(1).float().expand(-1, 3, *size))
    assert not torch.equal(target, mask)


@SIZES
def test_cut_mix_puts_a_box_of_each_image_into_the_next_and_moves_its_mask_along(size):
    mask = torch.arange(6).view(6, *[1] * len(size)).expand(6, *size)
    image = mask.unsqueeze(1).float().expand(-1, 3, *size)
    torch.manual_seed(0)
    mixed, target = cut_mix(image, mask, probability=1.0)
    assert all(target[k].unique().tolist() == sorted([k, (k - 1) % 6]) for k in range(6))
    assert torch.equal(mixed, target.unsqueeze(1).float().expand(-1, 3, *size))
    assert torch.equal(target != mask, boxes(size, batch=6, probability=1.0).squeeze(1))
    unmixed, same = cut_mix(image, mask, probability=0.0)
    assert torch.equal(unmixed, image)
    assert torch.equal(same, mask)


def shown(first: int, count: int, annotated: bool, weight: float | None) -> Shown:
    """Images of 2 x 3 pixels, of which number k is all `first` + k, and so is all that is told of it."""
    number = torch.arange(first, first + count).view(-1, 1, 1).expand(count, 2, 3)
    told = torch.full((count, 2, 3), annotated)
    return Shown(
        number[:, None], number, number[:, None], told, None if weight is None else torch.full((count, 2, 3), weight)
    )


def test_one_image_is_dealt_to_each_and_begun_again():
    labeled = shown(10, 2, annotated=True, weight=None)
    assert [image.unique().item() for image in labeled.dealt(5).mask] == [10, 11, 10, 11, 10]
    assert [image.unique().item() for image in labeled.dealt(1).image] == [10]
    assert [image.unique().item() for image in labeled.after().mask] == [11, 10]


@pytest.mark.parametrize("weight", [None, 0.5])
def test_all_that_is_told_of_images_moves_with_their_boxes(weight):
    unlabeled, labeled = shown(0, 2, False, weight), shown(10, 2, True, None if weight is None else 1.0)
    box = torch.zeros(2, 1, 2, 3, dtype=torch.bool)
    box[0, :, 0] = True
    mixed = mix_shown(unlabeled, labeled, box)
    assert mixed.mask.tolist() == [[[10] * 3, [0] * 3], [[1] * 3] * 2]
    assert torch.equal(mixed.image[:, 0], mixed.mask)
    assert torch.equal(mixed.probs[:, 0], mixed.mask)
    assert torch.equal(mixed.annotated, mixed.mask >= 10)
    assert mixed.weight is None if weight is None else torch.equal(mixed.weight == 1, mixed.annotated)
    whole = mix_shown(unlabeled, labeled, torch.tensor([True, False]).view(2, 1, 1, 1))
    assert [image.unique().item() for image in whole.mask] == [10, 1]


def test_batches_are_joined_in_their_order():
    both = joined(shown(0, 2, False, None), shown(10, 1, True, None), shown(20, 1, True, None))
    assert [image.unique().item() for image in both.mask] == [0, 1, 10, 20]
    assert both.image.shape == (4, 1, 2, 3)
    assert both.weight is None
