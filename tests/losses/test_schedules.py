"""Ramps by hand."""

import math

import pytest

from patchcl.losses.schedules import linear_fall, linear_ramp, ramp_up, stage_length


@pytest.mark.parametrize(
    ("step", "length", "gaussian", "linear"),
    [
        (0, 40, math.exp(-5), 0),
        (10, 40, math.exp(-5 * 0.75**2), 0.25),
        (20, 40, math.exp(-1.25), 0.5),
        (40, 40, 1, 1),
        (41, 40, 1, 1),
        (0, 0, 1, 1),
        (0, 0.5, math.exp(-5), 0),
        (1, 2.5, math.exp(-5 * 0.6**2), 0.4),
    ],
)
def test_ramps(step, length, gaussian, linear):
    assert ramp_up(step, length) == pytest.approx(gaussian, rel=1e-12)
    assert linear_ramp(step, length) == pytest.approx(linear, rel=1e-12)


@pytest.mark.parametrize(
    ("fraction", "max_steps", "steps", "length"),
    [(0.3, 660, 800, 240), (0.3, 660, 2200, 660), (0.3, 660, 30000, 660), (0.3, None, 30000, 9000), (1.0, 0, 10, 0)],
)
def test_a_stage_is_a_fraction_of_the_run_up_to_its_limit(fraction, max_steps, steps, length):
    assert stage_length(fraction, max_steps, steps) == pytest.approx(length, rel=1e-12)


@pytest.mark.parametrize(
    ("step", "start", "end", "left"),
    [
        (0, 4, 10, 1),
        (4, 4, 10, 1),
        (7, 4, 10, 0.625),
        (10, 4, 10, 0.25),
        (5, 5.5, 10, 1),
        (9, 12, 10, 1),
        (3, 0, 4, 0.4375),
    ],
)
def test_a_weight_falls_evenly_to_what_is_to_be_left(step, start, end, left):
    assert linear_fall(step, start, end, final=0.25) == pytest.approx(left, rel=1e-12)
    assert linear_fall(step, start, end, final=1.0) == 1
