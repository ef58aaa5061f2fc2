"""Intervals of mean paired differences, over patients and over seeds: is a difference more than chance?

The interval over patients is that of Student's t or of the studentised bootstrap, at each end the one that reaches
further: alone, the first misses too often where few patients lose much, the second where tails are heavy. Which others
were tried, and how often each is right, is in docs/results.md, from benchmarks/intervals.py.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import stats

LEVEL = 0.95
"""How often an interval should hold the truth."""
FEWEST_PATIENTS = 6
"""Below this no interval can support a claim: five patients who all improve do so by chance more than 1 time in 20."""
RESAMPLES = 10_000
"""Times the patients are drawn anew. An even number: half of the draws mirror the others."""
SMALLEST_P = 1e-6
"""Nothing is called less likely by chance than this."""


class Interval(NamedTuple):
    """A mean difference and the range that holds it at the level asked for; bounds are NaN if there is no range."""

    mean: float
    low: float
    high: float


class MeanDifference(NamedTuple):
    """A mean paired difference of scores from 0 to 1, and what decides how far it may be from the truth."""

    values: tuple[float, ...]  # of every patient, sorted
    seeds: int = 1
    seed_error: float = 0.0  # standard error of the mean, of which seeds were drawn

    @property
    def patients(self) -> int:
        """How many were scored."""
        return len(self.values)

    @property
    def mean(self) -> float:
        """Over patients."""
        return float(np.mean(self.values))

    @property
    def patient_error(self) -> float:
        """Standard error of the mean, of which patients were scored; 0 where all differ alike."""
        alike = self.values[0] == self.values[-1]
        return 0.0 if alike else float(np.std(self.values, ddof=1)) / math.sqrt(self.patients)

    def interval(self, level: float = LEVEL) -> Interval:
        """The mean and its bounds, in [-1, 1]. Patients who all differ alike give no width, one patient no range."""
        if self.patients < 2:
            return Interval(self.mean, math.nan, math.nan)
        mean, missed = self.mean, 1 - level
        below, above = (self._reach(errors, missed) for errors in _errors(self.values, missed))
        return Interval(mean, max(mean - below, -1.0), min(mean + above, 1.0))

    def p_value(self, smallest: float = 0.0) -> float:
        """The least share of misses at which the interval shows a difference of more than `smallest`.

        It is never below the chance that so many patients all improve, or all do not, where each does either as often:
        no interval can be trusted further where patients are few.
        """
        if self.patients < 2 or abs(self.mean) <= smallest:
            return 1.0
        low, high = math.log(SMALLEST_P), 0.0
        for _ in range(20):
            middle = (low + high) / 2
            low, high = (low, middle) if self._shows(1 - math.exp(middle), smallest) else (middle, high)
        return max(math.exp(high), 2.0 ** (1 - self.patients))

    def _shows(self, level: float, smallest: float) -> bool:
        _, low, high = self.interval(level)
        return low > smallest or high < -smallest

    def _reach(self, errors: float, missed: float) -> float:
        """How far the interval reaches from the mean to one side, which is `errors` patient errors for one seed.

        Source: Banerjee, Sankhya 22 (1960): the squares of two half-widths add up to the square of one that holds for
        the sum.
        """
        seeds = student(self.seeds, missed) * self.seed_error if self.seed_error else 0.0
        return math.hypot(errors * self.patient_error, seeds)


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


def paired_interval(first: Sequence[float], second: Sequence[float], level: float = LEVEL) -> Interval:
    """The mean of `second - first` over patients, with its interval.

    Args:
        first: One score from 0 to 1 per patient.
        second: One for each of the same patients, in the same order.
        level: How often the interval should hold the truth.

    Raises:
        ValueError: The two differ in length, or are empty.
    """
    if len(first) != len(second) or not len(first):
        raise ValueError(f"A paired interval needs the same patients twice, got {len(first)} and {len(second)} values.")
    return over_patients(np.subtract(second, first)).interval(level)


def over_patients(differences: Iterable[float]) -> MeanDifference:
    """The mean difference of one run from another, from one difference per patient; their order does not matter."""
    return MeanDifference(tuple(sorted(map(float, differences))))


def over_seeds(differences: Sequence[Mapping[str, float]]) -> MeanDifference:
    """The mean difference of a method from another, over patients and over runs with several seeds.

    The mean is that over patients of each one's mean over the seeds that scored it. What seeds add is the spread of
    their means; where all seeds scored the same patients, less what patients add to it who react to seeds each in
    their own way, for that is in the spread over patients already.

    Args:
        differences: Of every seed that of each patient.
    """
    pairs = [pair for seed in differences for pair in seed.items()]
    found = over_patients(patient_means([value for _, value in pairs], [name for name, _ in pairs]).values())
    if len(differences) == 1:
        return found
    means = [float(np.mean(list(seed.values()))) for seed in differences]
    variance = float(np.var(means, ddof=1)) / len(means) if max(means) > min(means) else 0.0
    counted = _counted_already(differences) if variance else 0.0
    return found._replace(seeds=len(means), seed_error=math.sqrt(max(variance - counted, 0.0)))


def seed_interval(gains: Sequence[float], level: float = LEVEL) -> Interval:
    """The mean over seeds that drew patients of their own, with Student's interval, which covers both draws.

    A seed's gain is a mean over its patients, so gains of seeds are close to normally spread.
    """
    mean = float(np.mean(gains))
    if len(gains) == 1:
        return Interval(mean, math.nan, math.nan)
    error = float(np.std(gains, ddof=1)) / math.sqrt(len(gains)) if max(gains) > min(gains) else 0.0
    reach = student(len(gains), 1 - level) * error
    return Interval(mean, mean - reach, mean + reach)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of several questions, so corrected that chance gets one try in all.

    Source: Holm, Scandinavian Journal of Statistics 6 (1979).
    """
    order = np.argsort(p_values, kind="stable")
    corrected = np.maximum.accumulate(np.asarray(p_values)[order] * np.arange(len(order), 0, -1))
    found = np.empty(len(order))
    found[order] = np.minimum(corrected, 1.0)
    return [float(value) for value in found]


def student(count: int, missed: float) -> float:
    """How many standard errors Student's interval reaches from the mean of `count` values."""
    return float(stats.t.ppf(1 - missed / 2, count - 1))


def _errors(values: tuple[float, ...], missed: float) -> tuple[float, float]:
    """How many standard errors the interval over patients reaches below and above the mean.

    A few patients drawn anew spread too little, so the bootstrap is asked for a higher level the fewer there are.
    """
    patients, alone = len(values), student(len(values), missed)
    roots = _roots(values)
    if not len(roots):
        return alone, alone
    tail = missed / 2 * (patients - 2) / patients
    place = max(math.floor(tail * (len(roots) + 1)), 1)
    return max(alone, float(roots[-place])), max(alone, -float(roots[place - 1]))


@lru_cache(maxsize=64)  # a p-value asks for many levels
def _roots(values: tuple[float, ...]) -> np.ndarray:
    """How far the means of patients drawn anew are from their mean, in their own standard errors; sorted.

    Draws in which all are alike have no error, and are left out.
    """
    if values[0] == values[-1]:
        return np.zeros(0)
    counts, centred = draws(len(values)), np.subtract(values, np.mean(values))
    means = counts @ centred / len(values)
    variances = (counts @ centred**2 / len(values) - means**2) / (len(values) - 1)
    spread = variances > 1e-9 * np.var(values)
    return np.sort(means[spread] / np.sqrt(variances[spread]))


@lru_cache(maxsize=1)  # all structures and methods have the same number of patients
def draws(patients: int) -> np.ndarray:
    """How often each resample holds each patient; every draw also in reverse, so that changed signs mirror all."""
    drawn = np.random.default_rng(0).multinomial(patients, np.full(patients, 1 / patients), RESAMPLES // 2)
    return np.vstack([drawn, drawn[:, ::-1]]).astype(float)


def _counted_already(differences: Sequence[Mapping[str, float]]) -> float:
    """What single patients' reactions to seeds add to the variance of the mean; 0 where seeds scored others."""
    names = sorted(differences[0])
    if len(names) < 2 or any(sorted(seed) != names for seed in differences):
        return 0.0
    table = np.array([[seed[name] for name in names] for seed in differences])
    left = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
    return float((left**2).sum() / ((len(names) - 1) * (len(table) - 1)) / table.size)
