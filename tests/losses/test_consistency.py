"""Agreement of student and teacher: by hand, against PyTorch, and least where both say the same."""

import pytest
import torch
import torch.nn.functional as F
from beartype import beartype
from jaxtyping import TypeCheckError, jaxtyped

from patchcl.losses import consistency

squared_difference, squared_difference_where = (
    jaxtyped(typechecker=beartype)(function)
    for function in (consistency.squared_difference, consistency.squared_difference_where)
)
SIZES = pytest.mark.parametrize("size", [(4, 5), (3, 4, 5)], ids=["slices", "volumes"])


def draw(size: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """A student's logits and a teacher's probabilities."""
    generator = torch.Generator().manual_seed(0)
    logits, teacher = torch.randn(2, 2, 3, *size, generator=generator)
    return logits, teacher.softmax(dim=1)


def test_two_pixels_by_hand():
    target_probs = torch.tensor([[1.0, 0.2], [0.0, 0.8]]).view(1, 2, 1, 2)
    found = squared_difference(torch.full((1, 2, 1, 2), 7.0), target_probs)
    assert found.item() == pytest.approx((0.25 + 0.25 + 0.09 + 0.09) / 4, rel=1e-6)


@SIZES
def test_it_agrees_with_pytorch(size):
    logits, target_probs = draw(size)
    squares = (F.softmax(logits, dim=1) - target_probs) ** 2
    torch.testing.assert_close(squared_difference(logits, target_probs), squares.sum() / squares.numel())


@SIZES
def test_a_student_that_agrees_has_nothing_to_learn(size):
    _, target_probs = draw(size)
    logits = (target_probs.log() + 3).requires_grad_()
    agreeing = squared_difference(logits, target_probs)
    agreeing.backward()
    torch.testing.assert_close(logits.grad, torch.zeros_like(logits), rtol=0, atol=1e-7)
    torch.testing.assert_close(agreeing.detach(), torch.tensor(0.0))
    assert squared_difference(logits.roll(1, dims=1), target_probs) > agreeing


def test_only_counted_pixels_are_compared_and_none_is_worth_nothing():
    target_probs = torch.tensor([[1.0, 0.2], [0.0, 0.8]]).view(1, 2, 1, 2)
    logits = torch.full((1, 2, 1, 2), 7.0, requires_grad=True)
    for counted, expected in (([True, False], 0.25), ([False, True], 0.09), ([True, True], 0.17), ([False, False], 0)):
        found = squared_difference_where(logits, target_probs, torch.tensor(counted).view(1, 1, 2))
        assert found.item() == pytest.approx(expected, rel=1e-6)
        (gradient,) = torch.autograd.grad(found, logits)
        assert gradient.abs().sum(dim=1).gt(0).flatten().tolist() == counted


@SIZES
def test_where_every_pixel_counts_it_is_the_squared_difference(size):
    logits, target_probs = draw(size)
    every = torch.ones(2, *size, dtype=torch.bool)
    torch.testing.assert_close(
        squared_difference_where(logits, target_probs, every), squared_difference(logits, target_probs)
    )


def test_half_precision_logits_are_judged_in_single_precision():
    logits, target_probs = draw((4, 5))
    found = squared_difference(logits.bfloat16(), target_probs)
    assert found.dtype == torch.float32
    assert torch.equal(found, squared_difference(logits.bfloat16().float(), target_probs))


def test_probabilities_of_another_size_are_refused():
    logits, target_probs = draw((4, 5))
    with pytest.raises(TypeCheckError, match="target_probs"):
        squared_difference(logits, target_probs[:, :2])
