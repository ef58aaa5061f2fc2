"""Schedules of loss weights: ramp-ups."""

import math


def ramp_up(step: int, length: int | float) -> float:
    """Sigmoid ramp-up from exp(-5) at step 0 to 1 at step `length`.

    Source: Laine & Aila, 2017, https://arxiv.org/abs/1610.02242.
    """
    remaining = 1 - min(step / length, 1.0) if length > 0 else 0.0
    return math.exp(-5 * remaining**2)


def linear_ramp(step: int, length: int | float) -> float:
    """Linear ramp-up from 0 at step 0 to 1 at step `length`."""
    return min(step / length, 1.0) if length > 0 else 1.0
