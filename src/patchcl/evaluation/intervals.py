"""Confidence intervals of paired differences, with patients as the unit: is a difference more than chance?"""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import bootstrap

FEWEST_PATIENTS = 6
"""Below this no interval can support a claim: five patients who all improve do so by chance more than 1 time in 20."""


class Interval(NamedTuple):
    """A mean difference and the range that holds it at the level asked for; bounds are NaN if there is no range."""

    mean: float
    low: float
    high: float


def patient_means(values: Sequence[float], patients: Sequence[str]) -> dict[str, float]:
    """The mean of the scans of each patient, in order of first appearance: scans of one patient are no separate proof.

    Args:
        values: One value per scan.
        patients: The patient of every scan.
    """
    scans = defaultdict(list)
    for value, patient in zip(values, patients, strict=True):
        scans[patient].append(value)
    return {patient: float(np.mean(of_scans)) for patient, of_scans in scans.items()}


def paired_interval(
    first: Sequence[float], second: Sequence[float], seed: int = 0, resamples: int = 10_000, level: float = 0.95
) -> Interval:
    """The mean of `second - first` over patients, with its percentile bootstrap interval.

    Args:
        first: One value per patient.
        second: One value for each of the same patients, in the same order.
        seed: Of the resampling, so that the same scores give the same interval.
        resamples: Times the patients are drawn anew, with replacement.
        level: The share of resamples within the interval.

    Returns:
        The mean and the bounds. Patients who all differ alike give a range of no width; one patient gives no range.

    Raises:
        ValueError: The two differ in length, or are empty.
    """
    if len(first) != len(second) or not len(first):
        raise ValueError(f"A paired interval needs the same patients twice, got {len(first)} and {len(second)} values.")
    differences = np.subtract(second, first)
    mean = float(differences.mean())
    if len(differences) == 1:
        return Interval(mean, float("nan"), float("nan"))
    if np.ptp(differences) == 0:
        return Interval(mean, mean, mean)
    drawn = bootstrap(
        (differences,),
        np.mean,
        n_resamples=resamples,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return Interval(mean, float(drawn.confidence_interval.low), float(drawn.confidence_interval.high))
