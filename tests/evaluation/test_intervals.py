import math

import numpy as np
import pytest
from scipy.stats import t

from patchcl.evaluation.intervals import Interval, paired_interval, patient_means


def test_scans_of_one_patient_are_averaged_first():
    means = patient_means([1.0, 5.0, 3.0, 7.0], ["b", "a", "b", "a"])
    assert means == {"b": 2.0, "a": 6.0}
    assert list(means) == ["b", "a"]


def test_every_scan_needs_a_patient():
    with pytest.raises(ValueError, match="shorter"):
        patient_means([1.0, 2.0], ["a"])


def test_interval_agrees_with_a_bootstrap_written_out():
    draws = np.random.default_rng(3)
    first = draws.normal(0.80, 0.05, 20)
    second = first + draws.exponential(0.02, 20)
    resampled = np.random.default_rng(99).choice(second - first, (100_000, 20)).mean(axis=1)
    interval = paired_interval(first.tolist(), second.tolist(), level=0.9)
    assert interval.mean == pytest.approx(np.mean(second - first))
    assert (interval.low, interval.high) == pytest.approx(np.percentile(resampled, [5, 95]), abs=3e-4)


def test_interval_is_close_to_the_t_interval_on_normal_differences():
    differences = np.random.default_rng(0).normal(0.1, 1.0, 400)
    interval = paired_interval(np.zeros(400).tolist(), differences.tolist())
    half = t.ppf(0.975, 399) * differences.std(ddof=1) / math.sqrt(400)
    assert interval.low == pytest.approx(differences.mean() - half, abs=0.005)
    assert interval.high == pytest.approx(differences.mean() + half, abs=0.005)


def test_interval_is_paired():
    """A gain of 0.01 in every patient is plain although patients differ by far more."""
    first = np.linspace(0.2, 0.9, 10)
    gain = np.where(np.arange(10) % 2, 0.012, 0.008)
    interval = paired_interval(first.tolist(), (first + gain).tolist())
    assert 0.007 < interval.low < interval.mean < interval.high < 0.013


def test_the_sign_is_second_minus_first():
    assert paired_interval([1.0, 2.0, 4.0], [0.0, 0.0, 0.0]).mean == pytest.approx(-7 / 3)


def test_same_scores_give_the_same_interval():
    first, second = [0.1, 0.5, 0.4, 0.8], [0.2, 0.4, 0.7, 0.9]
    assert paired_interval(first, second) == paired_interval(first, second)
    assert paired_interval(first, second, resamples=99) != paired_interval(first, second, seed=1, resamples=99)


def test_patients_who_all_differ_alike_give_no_width():
    assert paired_interval([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]) == Interval(0.0, 0.0, 0.0)
    assert paired_interval([1.0, 2.0], [1.5, 2.5]) == Interval(0.5, 0.5, 0.5)


def test_one_patient_gives_no_range():
    interval = paired_interval([0.5], [0.75])
    assert interval.mean == 0.25
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)


@pytest.mark.parametrize(("first", "second"), [([1.0], [1.0, 2.0]), ([], [])])
def test_unpaired_values_are_refused(first, second):
    with pytest.raises(ValueError, match="same patients twice"):
        paired_interval(first, second)
