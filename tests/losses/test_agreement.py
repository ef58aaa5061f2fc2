"""Agreement by hand: what is counted, and what several steps make of it."""

import pytest
import torch
from beartype import beartype
from jaxtyping import jaxtyped

from patchcl.losses import agreement
from patchcl.losses.agreement import KEPT, Agreement

overlap_and_size = jaxtyped(typechecker=beartype)(agreement.overlap_and_size)


def test_pixels_are_counted_where_they_are_to_be_compared():
    one, other = torch.tensor([[[0, 1, 1, 2]]]), torch.tensor([[[0, 1, 2, 2]]])
    where = torch.tensor([[[True, True, True, False]]])
    assert overlap_and_size(one, other, where, 3).tolist() == [[1, 1, 0], [2, 3, 1]]


def dice_after(*counts: list[list[float]]) -> float:
    agreement = Agreement(len(counts[0][0]))
    for overlap_and_sizes in counts:
        agreement.add(torch.tensor(overlap_and_sizes))
    return agreement.dice.item()


def test_the_first_step_counts_in_full_and_background_does_not():
    assert dice_after([[0.0, 3.0, 4.0], [100.0, 12.0, 8.0]]) == pytest.approx((0.5 + 1) / 2)


def test_later_steps_are_averaged_before_they_are_divided():
    first, nothing, wrong = [[0.0, 5.0], [0.0, 10.0]], [[0.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 40.0]]
    assert dice_after(first, nothing) == pytest.approx(1), "images that do not show it"
    before, new = KEPT**2 * (1 - KEPT), 1 - KEPT
    assert dice_after(first, nothing, wrong) == pytest.approx(2 * 5 * before / (10 * before + 40 * new))


def test_structures_that_nobody_finds_are_no_agreement():
    assert dice_after([[9.0, 4.0, 0.0], [18.0, 8.0, 0.0]]) == pytest.approx(0.5)


def test_what_was_counted_is_in_the_checkpoint():
    one, other = Agreement(2), Agreement(2)
    one.add(torch.tensor([[0.0, 1.0], [0.0, 8.0]]))
    other.load_state_dict(one.state_dict())
    assert other.dice == one.dice == 0.25
