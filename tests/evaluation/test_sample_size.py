"""How many patients or seeds would do: by hand, by simulation, and in words."""

import numpy as np
import pytest
from scipy import stats

from patchcl.evaluation.intervals import MeanDifference, over_patients
from patchcl.evaluation.sample_size import (
    CHANCE,
    Needed,
    format_needed,
    format_seeds_needed,
    needed,
    seeds_needed,
)


def test_the_number_of_patients_agrees_with_the_textbook():
    """Spread 0.05, effect 0.02: (1.96 + 0.84)^2 * (0.05 / 0.02)^2 is 49, and a little more for t."""
    spread = MeanDifference(tuple(0.02 + 0.05 * value / np.std([-1.0, 0, 1], ddof=1) for value in (-1.0, 0, 1)))
    assert spread.patient_error == pytest.approx(0.05 / 3**0.5)
    found = needed(spread, 0.0)
    assert 49 <= found.patients <= 53
    assert found[1:] == (None, None)


def test_so_many_patients_settle_it_as_often_as_is_said():
    draws = np.random.default_rng(0)
    seen = over_patients(stats.norm.ppf((np.arange(20) + 0.5) / 20) * 0.05 + 0.02)
    patients = needed(seen, 0.001).patients
    spread = seen.patient_error * 20**0.5
    settled = [over_patients(row).interval().low > 0.001 for row in draws.normal(0.02, spread, (300, patients))]
    assert CHANCE - 0.08 < np.mean(settled) < CHANCE + 0.08


def test_more_questions_need_more_patients():
    seen = over_patients([0.0, 0.01, 0.02, 0.03, 0.04, -0.02])
    assert needed(seen, 0.001, 0.05 / 8).patients > needed(seen, 0.001).patients
    assert needed(over_patients([0.1, 0.101, 0.1]), 0.001).patients == 6
    assert needed(over_patients([0.1, 0.101, 0.1]), 0.001, 0.05 / 8).patients == 9  # 2 of 2^9 is 1 in 256


def test_seeds_help_where_seeds_disagree():
    patients_agree = over_patients([0.05, 0.05, 0.051, 0.05, 0.049, 0.05])
    seen = patients_agree._replace(seeds=2, seed_error=0.02)
    found = needed(seen, 0.001)
    assert found.patients is None
    assert 2 < found.seeds < 10


def test_where_both_are_too_few_both_are_told():
    seen = over_patients(np.linspace(-0.15, 0.25, 6))._replace(seeds=2, seed_error=0.03)
    found = needed(seen, 0.001)
    assert found[:2] == (None, None)
    patients, seeds = found.both
    assert 6 < patients <= 1000
    assert 2 < seeds <= 50


@pytest.mark.parametrize(
    ("seed_error", "smallest", "missed"), [(0.0, 0.001, 0.05), (0.004, 0.005, 0.01), (0.02, 0.001, 0.05)]
)
def test_the_numbers_are_the_least_that_would_do_found_by_trying_each(seed_error, smallest, missed):
    """Half-widths and standard errors from what an interval is, for every number of patients and seeds by itself."""
    values = [0.0, 0.005, 0.01, 0.01, 0.015, 0.02, 0.05, 0.14]
    seen = over_patients(values)._replace(seeds=3 if seed_error else 1, seed_error=seed_error)
    error, mean = stats.sem(values), np.mean(values)
    wider = (mean - over_patients(values).interval(1 - missed).low) / (stats.t.ppf(1 - missed / 2, 7) * error) - 1

    def settles(patients: int, seeds: int) -> bool:
        shrunk = (8 / patients) ** 0.5
        of_patients, of_seeds = error * shrunk, seed_error * (seen.seeds / seeds) ** 0.5
        reach = [(1 + wider * shrunk) * stats.t.ppf(1 - missed / 2, patients - 1) * of_patients]
        reach += [stats.t.ppf(1 - missed / 2, seeds - 1) * of_seeds] if seed_error else []
        strays = stats.norm.ppf(0.8) * np.hypot(of_patients, of_seeds)
        enough = patients >= 6 and 2 * 0.5**patients <= missed
        return enough and np.linalg.norm(reach) + strays < abs(mean - smallest)

    patients = next((count for count in range(8, 1001) if settles(count, seen.seeds)), None)
    seeds = next((count for count in range(3, 51) if settles(8, count)), None) if seed_error else None
    found = needed(seen, smallest, missed)
    assert found[:2] == (patients, seeds)
    assert needed(seen._replace(values=tuple(-value for value in reversed(values))), smallest, missed) == found
    if patients is None and seeds is None:
        more = next(count for count in range(3, 51) if settles(1000, count))
        assert found.both == (next(count for count in range(8, 1001) if settles(count, more)), more)


def test_what_cannot_be_settled_has_no_number():
    assert needed(over_patients([0.1, -0.098] * 5), 0.001) == Needed(None, None, None)


@pytest.mark.parametrize(
    ("found", "run", "words"),
    [
        (Needed(31, None, None), 1, "about 31 test patients"),
        (Needed(31, 5, None), 2, "about 31 test patients or 5 seeds"),
        (Needed(None, 5, None), 2, "about 5 seeds"),
        (Needed(None, None, (40, 6)), 2, "about 40 test patients and 6 seeds"),
        (Needed(None, None, None), 1, "more than 1000 test patients"),
        (Needed(None, None, None), 3, "more than 1000 test patients and 50 seeds"),
    ],
)
def test_the_numbers_have_nouns(found, run, words):
    assert format_needed(found, run) == words


def test_seeds_that_drew_their_own_patients_are_counted_alone():
    """By hand: mean 0.125 and error 0.025 of two seeds; of three t is 4.303 and the error 0.0204, which do."""
    assert seeds_needed([0.1, 0.15], 0.001) == 3
    assert seeds_needed([0.1, -0.1], 0.001) is None
    assert format_seeds_needed(3) == "about 3 seeds"
    assert format_seeds_needed(None) == "more than 50 seeds"
