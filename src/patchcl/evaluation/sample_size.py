"""How many test patients, and how many seeds, would settle a difference whose interval settles nothing."""

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import stats

from patchcl.evaluation.intervals import FEWEST_PATIENTS, LEVEL, MeanDifference, over_patients, student

CHANCE = 0.8
"""How likely so many patients or seeds are to settle the question, if what they show goes on like this."""
MOST_PATIENTS = 1000
MOST_SEEDS = 50
"""Above these nobody is told a number."""
ASSUMPTION = "if the difference and its spread stay as seen (and then 4 times in 5)"


class Needed(NamedTuple):
    """What would settle a difference: more patients, or more seeds, or both; None where so many do not suffice."""

    patients: int | None  # with the seeds that were run
    seeds: int | None  # with the patients that were scored; None also where one seed says nothing about seeds
    both: tuple[int, int] | None  # patients and seeds, where neither suffices alone


def needed(difference: MeanDifference, smallest: float, missed: float = 1 - LEVEL) -> Needed:
    """The least numbers that would show the difference, or that it is too small to count if it looks so.

    Args:
        difference: As it was seen, of at least two patients.
        smallest: The least difference that counts.
        missed: The share of misses allowed; less where several questions share it.
    """
    target = abs(abs(difference.mean) - smallest)
    fewest = max(FEWEST_PATIENTS, math.ceil(1 - math.log2(missed)))

    def suffice(patients: int, seeds: int) -> bool:
        return patients >= fewest and _reach(difference, patients, seeds, missed) < target

    scored, run = difference.patients, difference.seeds
    most_seeds = MOST_SEEDS if run > 1 else 1
    patients = _least(scored, MOST_PATIENTS, lambda count: suffice(count, run))
    seeds = _least(run, most_seeds, lambda count: suffice(scored, count)) if run > 1 else None
    if patients is not None or seeds is not None:
        return Needed(patients, seeds, None)
    enough = _least(run, most_seeds, lambda count: suffice(MOST_PATIENTS, count))
    more = _least(scored, MOST_PATIENTS, lambda count: suffice(count, enough or run))
    return Needed(None, None, (more, enough) if more and enough else None)


def seeds_needed(gains: Sequence[float], smallest: float) -> int | None:
    """How many seeds that draw patients of their own would settle a mean gain; None for more than `MOST_SEEDS`."""
    seen = MeanDifference((float(np.mean(gains)),), len(gains), float(np.std(gains, ddof=1)) / math.sqrt(len(gains)))
    target = abs(abs(seen.mean) - smallest)
    return _least(len(gains), MOST_SEEDS, lambda count: _reach(seen, 1, count, 1 - LEVEL) < target)


def format_seeds_needed(found: int | None) -> str:
    """The number in words."""
    return f"more than {MOST_SEEDS} seeds" if found is None else f"about {found} seeds"


def format_needed(found: Needed, run: int) -> str:
    """The numbers in words, with their nouns, for a difference of which so many seeds were run."""
    if found.both is not None:
        return f"about {found.both[0]} test patients and {found.both[1]} seeds"
    ways = [f"{found.patients} test patients"] if found.patients is not None else []
    ways += [f"{found.seeds} seeds"] if found.seeds is not None else []
    if ways:
        return f"about {' or '.join(ways)}"
    return f"more than {MOST_PATIENTS} test patients" + f" and {MOST_SEEDS} seeds" * (run > 1)


def _least(first: int, last: int, suffices: Callable[[int], bool]) -> int | None:
    """The least count from `first` to `last` that suffices, where more never suffice less."""
    counts = range(first, last + 1)
    place = bisect_left(counts, True, key=suffices)
    return counts[place] if place < len(counts) else None


def _reach(difference: MeanDifference, patients: int, seeds: int, missed: float) -> float:
    """How far an interval would reach, and the mean stray from the truth on the other side at the chance wished for."""
    of_patients = difference.patient_error * math.sqrt(difference.patients / patients)
    of_seeds = difference.seed_error * math.sqrt(difference.seeds / seeds)
    widened = 1 + (_widening(difference.values, missed) - 1) * math.sqrt(difference.patients / patients)
    reach_of_patients = widened * student(patients, missed) * of_patients if of_patients else 0.0
    reach = math.hypot(reach_of_patients, student(seeds, missed) * of_seeds if of_seeds else 0.0)
    return reach + float(stats.norm.ppf(CHANCE)) * math.hypot(of_patients, of_seeds)


@lru_cache(maxsize=64)
def _widening(values: tuple[float, ...], missed: float) -> float:
    """How many times as far as Student's interval that of these patients reaches towards no difference."""
    alone = over_patients(values)
    mean, low, high = alone.interval(1 - missed)
    if not alone.patient_error:
        return 1.0
    return (mean - low if mean > 0 else high - mean) / (student(alone.patients, missed) * alone.patient_error)
