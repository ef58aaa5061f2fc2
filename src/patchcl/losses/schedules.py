"""Schedules of loss weights: ramp-ups, and how long they take."""

import math


def ramp_up(step: int, length: int | float) -> float:
    """Sigmoid ramp-up from exp(-5) at step 0 to 1 at step `length`.

    Source: Laine & Aila, 2017, https://arxiv.org/abs/1610.02242.
    """
    remaining = 1 - min(step / length, 1.0) if length > 0 else 0.0
    return math.exp(-5 * remaining**2)


def linear_ramp(step: int | float, length: int | float) -> float:
    """Linear ramp-up from 0 at step 0 to 1 at step `length`."""
    return min(step / length, 1.0) if length > 0 else 1.0


def stage_length(fraction: float, max_steps: int | None, steps: int) -> float:
    """Steps of a stage that takes a fraction of all `steps` of a run, and `max_steps` of them at most.

    A short run has to divide its steps; a long one gains nothing from a warm-up that has done its work.
    """
    length = fraction * steps
    return length if max_steps is None else min(length, max_steps)


def linear_fall(step: int, start: float, end: float, final: float) -> float:
    """1 up to step `start`, from there on evenly down to `final` at step `end`."""
    fallen = linear_ramp(step - start, end - start) if step > start else 0.0
    return 1 - (1 - final) * fallen
