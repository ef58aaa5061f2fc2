"""Schedules: how the weight of a loss rises over the steps, in [0, 1]."""

import math


def ramp_up(step: int, length: float) -> float:
    """Sigmoid ramp-up from exp(-5) at step 0 to 1 at step `length`. Source: Laine & Aila, https://arxiv.org/abs/1610.02242."""
    remaining = 1 - min(step / length, 1.0) if length > 0 else 0.0
    return math.exp(-5 * remaining**2)


def linear_ramp(step: int, length: float) -> float:
    """Linear ramp-up from 0 at step 0 to 1 at step `length`."""
    return min(step / length, 1.0) if length > 0 else 1.0
