"""Scheduled numbers: plain ones, or tensors that stay where they are and are filled anew."""

import torch

from patchcl.core.schedule import StaticNumbers, StaticStep, scheduled


def test_a_plain_step_is_given_plain_numbers():
    assert scheduled(3, lambda at: 0.5 * at) == 1.5
    assert isinstance(scheduled(3, lambda at: 0.5 * at), float)


def test_a_static_step_is_given_the_same_memory_at_every_step_with_the_values_of_that_step():
    numbers = StaticNumbers(torch.device("cpu"))
    places = set()
    for number in (3, 4, 9):
        numbers.fill(number)
        step = StaticStep(number, numbers)
        half, square = scheduled(step, lambda at: 0.5 * at), scheduled(step, lambda at: at**2)
        assert (step, half, square) == (number, 0.5 * number, number**2)
        assert half.dtype == square.dtype == torch.float32
        assert half.shape == ()
        places.add((half.data_ptr(), square.data_ptr()))
    assert len(places) == 1


def test_what_is_filled_is_seen_without_asking_again():
    numbers = StaticNumbers(torch.device("cpu"))
    held = scheduled(StaticStep(0, numbers), lambda at: float(at))
    numbers.fill(7)
    assert held == 7
