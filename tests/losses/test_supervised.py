"""Dice and cross-entropy by hand, against MONAI and PyTorch, and what IGNORE takes out of them."""

import math

import pytest
import torch
import torch.nn.functional as F
from beartype import beartype
from jaxtyping import TypeCheckError, jaxtyped
from monai.losses import DiceLoss

from patchcl.core.batch import IGNORE
from patchcl.losses import supervised

dice_and_cross_entropy, soft_dice_loss, cross_entropy, one_hot, over_levels = (
    jaxtyped(typechecker=beartype)(function)
    for function in (
        supervised.dice_and_cross_entropy,
        supervised.soft_dice_loss,
        supervised.cross_entropy,
        supervised.one_hot,
        supervised.over_levels,
    )
)
LOSSES = [dice_and_cross_entropy, soft_dice_loss, cross_entropy]
SIZES = pytest.mark.parametrize("size", [(6, 5), (4, 3, 5)], ids=["slices", "volumes"])


def draw(size: tuple[int, ...], classes: int = 3, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and a mask."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(batch, classes, *size, generator=generator)
    return logits, torch.randint(0, classes, (batch, *size), generator=generator)


def test_two_pixels_by_hand():
    probs = torch.tensor([[0.2, 0.6], [0.8, 0.4]]).view(1, 2, 1, 2)  # of class 1: 0.8 and 0.4
    mask = torch.tensor([1, 0]).view(1, 1, 2)
    dice = 1 - (2 * 0.6 / (0.04 + 0.36 + 1) + 2 * 0.8 / (0.64 + 0.16 + 1)) / 2
    entropy = -(math.log(0.8) + math.log(0.6)) / 2
    assert soft_dice_loss(probs, mask).item() == pytest.approx(dice, abs=1e-5)
    assert cross_entropy(probs.log(), mask).item() == pytest.approx(entropy, rel=1e-6)
    assert dice_and_cross_entropy(probs.log(), mask).item() == pytest.approx((dice + entropy) / 2, abs=1e-5)


def test_two_pixels_that_count_as_a_whole_one_and_a_quarter():
    probs = torch.tensor([[0.2, 0.6], [0.8, 0.4]]).view(1, 2, 1, 2)
    mask, weight = torch.tensor([1, 0]).view(1, 1, 2), torch.tensor([1.0, 0.25]).view(1, 1, 2)
    background = 2 * 0.25 * 0.6 / (0.04 + 0.25 * 0.36 + 0.25)
    dice = 1 - (background + 2 * 0.8 / (0.64 + 0.25 * 0.16 + 1)) / 2
    entropy = -(math.log(0.8) + 0.25 * math.log(0.6)) / 1.25
    assert soft_dice_loss(probs, mask, weight).item() == pytest.approx(dice, abs=1e-4)
    assert cross_entropy(probs.log(), mask, weight).item() == pytest.approx(entropy, rel=1e-6)
    both = dice_and_cross_entropy(probs.log(), mask, weight)
    assert both.item() == pytest.approx((dice + entropy) / 2, abs=1e-4)


@SIZES
@pytest.mark.parametrize("loss", LOSSES)
def test_pixels_of_no_weight_are_ignored_ones_and_those_of_full_weight_are_as_without(loss, size):
    logits, mask = draw(size)
    scores = logits.softmax(dim=1) if loss is soft_dice_loss else logits
    known = (torch.rand(mask.shape, generator=torch.Generator().manual_seed(1)) < 0.7).float()
    ignored = mask.masked_fill(known == 0, IGNORE)
    torch.testing.assert_close(loss(scores, mask, known), loss(scores, ignored))
    torch.testing.assert_close(loss(scores, ignored, torch.ones_like(known)), loss(scores, ignored))


def test_deep_supervision_halves_the_weight_of_each_level_by_hand():
    """Losses 7, 2 and 10 of masks at their sizes: (7 + 2 / 2 + 10 / 4) / (1 + 1 / 2 + 1 / 4) = 6."""
    mask = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 0, 0], [2, 2, 0, IGNORE]]).expand(3, 4, 4)
    logits, half, quarter = (torch.full((3, 3, side, side), value) for side, value in ((4, 7.0), (2, 2.0), (1, 10.0)))
    seen = []

    def loss(given, target, weight):
        seen.append((target, weight))
        return given.mean()

    assert over_levels(loss, logits, (half, quarter), mask).item() == pytest.approx(6)
    (of_all, unweighted), (of_half, _), (of_quarter, _) = seen
    assert torch.equal(of_all, mask)
    assert unweighted is None
    assert of_half.tolist() == [[[0, 1], [2, IGNORE]]] * 3
    assert of_quarter.shape == (3, 1, 1)
    assert torch.equal(over_levels(loss, logits, (), mask), loss(logits, mask, None))
    over_levels(loss, logits, (half,), mask, (mask + 0.5).float())
    assert seen[-1][1].tolist() == [[[0.5, 1.5], [2.5, IGNORE + 0.5]]] * 3


@SIZES
def test_a_shrunk_mask_keeps_its_classes_and_its_type(size):
    _, mask = draw(size)
    small = supervised.shrunk(mask, [length // 2 for length in size])
    assert (small.shape[1:], small.dtype) == (tuple(length // 2 for length in size), torch.int64)
    assert set(small.unique().tolist()) <= set(mask.unique().tolist())
    assert torch.equal(supervised.shrunk(mask, size), mask)


@SIZES
@pytest.mark.parametrize("classes", [2, 4])
def test_they_agree_with_monai_and_pytorch(size, classes):
    logits, mask = draw(size, classes)
    monai = DiceLoss(to_onehot_y=True, softmax=True, squared_pred=True, batch=True)(logits, mask.unsqueeze(1))
    torch.testing.assert_close(soft_dice_loss(logits.softmax(dim=1), mask), monai)
    torch.testing.assert_close(cross_entropy(logits, mask), F.cross_entropy(logits, mask))


@pytest.mark.parametrize("loss", [soft_dice_loss, lambda probs, mask: cross_entropy(probs.log(), mask)])
def test_a_batch_counts_as_one_large_image(loss):
    logits, mask = draw((6, 5))
    probs = logits.softmax(dim=1)
    large = torch.cat(list(probs), dim=1).unsqueeze(0), torch.cat(list(mask), dim=0).unsqueeze(0)
    torch.testing.assert_close(loss(probs, mask), loss(*large))


def test_dice_runs_from_zero_for_the_same_to_one_for_nothing_in_common():
    mask = torch.tensor([0, 1, 2, 2]).view(1, 2, 2)
    assert soft_dice_loss(one_hot(mask, 3), mask).item() == pytest.approx(0, abs=1e-6)
    assert soft_dice_loss(one_hot((mask + 1) % 3, 3), mask).item() == pytest.approx(1, abs=1e-5)


def test_a_class_that_is_absent_costs_nothing_unless_it_is_predicted():
    mask = torch.tensor([0, 1, 0, 1]).view(1, 2, 2)
    right, wrong = one_hot(mask, 3), one_hot(torch.tensor([2, 1, 0, 1]).view(1, 2, 2), 3)
    assert soft_dice_loss(right, mask).item() == pytest.approx(0, abs=1e-6)
    assert soft_dice_loss(wrong, mask).item() == pytest.approx((1 - 2 / 3 + 0 + 1) / 3, abs=1e-5)


@SIZES
@pytest.mark.parametrize("loss", LOSSES)
def test_ignored_pixels_might_as_well_not_be_there(loss, size):
    logits, mask = draw(size)
    scores = logits.softmax(dim=1) if loss is soft_dice_loss else logits
    ignored = mask.clone()
    ignored[..., :2] = IGNORE
    leaf = scores.clone().requires_grad_()
    found = loss(leaf, ignored)
    torch.testing.assert_close(found, loss(scores[..., 2:], mask[..., 2:]))
    found.backward()
    assert leaf.grad[..., :2].abs().max() == 0
    assert leaf.grad[..., 2:].abs().min() > 0


def test_one_known_pixel_is_a_mean_of_its_own():
    mask = torch.tensor([IGNORE, 1, IGNORE]).view(1, 1, 3)
    logits = torch.tensor([0.25, 0.75]).log().view(1, 2, 1, 1).expand(1, 2, 1, 3)
    assert cross_entropy(logits, mask).item() == pytest.approx(-math.log(0.75), rel=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_all_is_made_on_the_device_of_what_is_given(loss):
    """The meta device refuses to work with tensors of another."""
    logits, mask = (given.to("meta") for given in draw((6, 5)))
    assert loss(logits, mask).device.type == "meta"


@SIZES
@pytest.mark.parametrize("loss", LOSSES)
def test_where_all_is_ignored_there_is_nothing_to_learn(loss, size):
    logits, mask = draw(size)
    leaf = logits.requires_grad_()
    found = loss(leaf, torch.full_like(mask, IGNORE))
    found.backward()
    assert found.item() == pytest.approx(0, abs=1e-6)
    assert torch.equal(leaf.grad, torch.zeros_like(leaf))


def test_half_precision_logits_are_judged_in_single_precision():
    logits, mask = draw((6, 5))
    found = dice_and_cross_entropy(logits.bfloat16(), mask)
    assert found.dtype == torch.float32
    assert torch.equal(found, dice_and_cross_entropy(logits.bfloat16().float(), mask))


@SIZES
def test_one_hot_agrees_with_pytorch_and_is_zero_where_ignored(size):
    _, mask = draw(size, classes=4)
    assert torch.equal(one_hot(mask, 4), F.one_hot(mask, 4).movedim(-1, 1).float())
    ignored = mask.masked_fill(mask == 2, IGNORE)
    assert torch.equal(one_hot(ignored, 4).sum(dim=1), (mask != 2).float())


@pytest.mark.parametrize("loss", LOSSES)
def test_a_mask_of_another_size_is_refused(loss):
    logits, mask = draw((6, 5))
    with pytest.raises(TypeCheckError, match="mask"):
        loss(logits, mask[..., :-1])


@pytest.mark.parametrize("shape", [(2, 3, 9, 7), (1, 10, 5, 6, 4)])
def test_cross_entropy_of_flattened_maps_is_that_of_maps_bit_for_bit(shape):
    torch.manual_seed(0)
    mask = torch.randint(IGNORE, shape[1], (shape[0], *shape[2:]))
    ours, theirs = (torch.randn(shape, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2))
    loss = cross_entropy(ours, mask)
    total = F.cross_entropy(theirs, mask, ignore_index=IGNORE, reduction="sum") / (mask != IGNORE).sum()
    loss.backward()
    total.backward()
    assert torch.equal(loss, total)
    assert torch.equal(ours.grad, theirs.grad)
