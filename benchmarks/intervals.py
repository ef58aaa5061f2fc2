"""Do the intervals of paired differences keep their promise? Simulated patients and seeds with a known true difference.

    OMP_NUM_THREADS=1 python benchmarks/intervals.py      # about 15 minutes on one core
    python benchmarks/intervals.py --repetitions 200      # a first look; give it another --results

The true mean difference is 0, so every "helped" is false. Shapes of differences between patients, in Dice:

- normal; few gain much, few lose much (exponential, skewness 2 and -2); heavy tails (Student's t with 3 degrees);
- ties: both methods score near 1, differ little, and scores are rounded to 0.05, so that many patients tie;
- one in ten fails: nine patients in ten gain 0.05, one loses 0.45. Nobody can know of a failure that was not drawn,
  which happens in 0.9^n of all samples; no interval from the differences alone can be right more often.

Of seeds: every patient, every seed and every pair of both adds a normal deviation.
"""

import argparse
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from scipy import stats

from patchcl.core.files import write_json
from patchcl.evaluation.intervals import FEWEST_PATIENTS, RESAMPLES, draws, student
from patchcl.runs.provenance import origin

RESULTS = Path(__file__).parent / "results" / "intervals.json"
SIZES = (5, 6, 7, 8, 10, 12, 20, 40)
BEFORE, AFTER = "percentile bootstrap", "further of t and studentised bootstrap"
SEED_SIZES = tuple(itertools.product((2, 3, 5), (6, 12, 20)))
"""Seeds and patients."""
SEED_SPREADS = (0.0, 0.02, 0.05)
"""Standard deviation over seeds; over patients it is 0.05, of a patient with a seed 0.04."""
BATCH = 250
Bounds = tuple[np.ndarray, np.ndarray]  # low and high of every repetition
Shape = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]


class Resampled(NamedTuple):
    """Repetitions of an experiment, one a row, and the same patients drawn anew."""

    values: np.ndarray  # (repetitions, patients), sorted
    means: np.ndarray  # (repetitions, resamples), sorted
    roots: np.ndarray  # studentised, sorted, NaN last

    @property
    def error(self) -> np.ndarray:
        """Standard error of every mean."""
        return np.std(self.values, axis=1, ddof=1) / np.sqrt(self.values.shape[1])


def main() -> None:
    """Simulate everything, and write it down."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--repetitions", type=int, default=4000)
    arguments.add_argument("--results", type=Path, default=RESULTS, help="the result file")
    chosen, console = arguments.parse_args(), Console()
    found: dict[str, Any] = {"origin": origin(torch.device("cpu")), "repetitions": chosen.repetitions}
    found["patients"] = {}
    for name in SHAPES:
        found["patients"][name] = {str(size): of_patients(name, size, chosen.repetitions) for size in SIZES}
        console.print(name, found["patients"][name], highlight=False)
    found["seeds"] = list(of_seeds(chosen.repetitions // 2))
    console.print(found["seeds"], highlight=False)
    write_json(chosen.results, found)


def ties(generator: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Differences of rounded scores from 0 to 1, most of them near 1."""
    patient = generator.beta(8, 2, size)
    first, second = (np.clip(patient + generator.normal(0, 0.04, size), 0, 1) for _ in range(2))
    return (np.round(20 * second) - np.round(20 * first)) / 20


def failing(generator: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """A gain for nine patients in ten, and a loss nine times as large for the tenth."""
    return np.where(generator.random(size) < 0.1, -0.45, 0.05) + generator.normal(0, 0.02, size)


SHAPES: dict[str, Shape] = {
    "normal": lambda generator, size: generator.normal(0, 0.05, size),
    "few gain much": lambda generator, size: generator.exponential(0.05, size) - 0.05,
    "few lose much": lambda generator, size: 0.05 - generator.exponential(0.05, size),
    "heavy tails": lambda generator, size: 0.03 * generator.standard_t(3, size),
    "ties": ties,
    "one in ten fails": failing,
}


def of_patients(shape: str, patients: int, repetitions: int) -> dict[str, dict[str, float]]:
    """Of every way, in per cent: how often it holds the truth, lies above it; median width in Dice points."""
    generator = np.random.default_rng([list(SHAPES).index(shape), patients])
    batches: dict[str, list[Bounds]] = {way: [] for way in WAYS}
    for _ in range(0, repetitions, BATCH):
        sample = resampled(SHAPES[shape](generator, (min(BATCH, repetitions), patients)))
        for way, bounds in WAYS.items():
            batches[way].append(bounds(sample))
    joined = {way: tuple(map(np.concatenate, zip(*found, strict=True))) for way, found in batches.items()}
    return {way: figures(low, high) for way, (low, high) in joined.items()}


def figures(low: np.ndarray, high: np.ndarray) -> dict[str, float]:
    """Of many intervals of a difference whose truth is 0."""
    return {
        "holds": 100 * float(np.mean((low <= 0) & (high >= 0))),
        "above": 100 * float(np.mean(low > 0)),
        "width": 100 * float(np.median(high - low)),
    }


def resampled(values: np.ndarray) -> Resampled:
    """Every row drawn anew, as the package does it, all rows at once."""
    values = np.sort(values, axis=1)
    counts, patients = draws(values.shape[1]), values.shape[1]
    mean = values.mean(axis=1, keepdims=True)
    centred = values - mean
    means = centred @ counts.T / patients
    variances = (centred**2 @ counts.T / patients - means**2) / (patients - 1)
    spread = variances > 1e-9 * values.var(axis=1, keepdims=True)
    roots = np.full_like(means, np.nan)
    roots[spread] = means[spread] / np.sqrt(variances[spread])
    return Resampled(values, np.sort(means + mean, axis=1), np.sort(roots, axis=1))


def percentile(sample: Resampled) -> Bounds:
    """What was used before: the middle 95 % of resampled means."""
    low, high = np.percentile(sample.means, [2.5, 97.5], axis=1)
    return low, high


def bca(sample: Resampled) -> Bounds:
    """Bias-corrected and accelerated bootstrap."""
    rows, mean = np.arange(len(sample.values)), sample.values.mean(axis=1, keepdims=True)
    centred = sample.values - mean
    power = np.maximum((centred**2).sum(axis=1), 1e-30) ** 1.5
    acceleration = (centred**3).sum(axis=1) / (6 * power)
    below = np.clip(((sample.means < mean).mean(axis=1) + (sample.means <= mean).mean(axis=1)) / 2, 1e-4, 1 - 1e-4)
    bias = stats.norm.ppf(below)
    ends = []
    for tail in (0.025, 0.975):
        shifted = bias + stats.norm.ppf(tail)
        share = stats.norm.cdf(bias + shifted / (1 - acceleration * shifted))
        ends.append(sample.means[rows, np.round(share * (RESAMPLES - 1)).astype(int)])
    return ends[0], ends[1]


def of_student(sample: Resampled) -> Bounds:
    """Student's t."""
    mean, reach = sample.values.mean(axis=1), student(sample.values.shape[1], 0.05) * sample.error
    return mean - reach, mean + reach


def studentised(sample: Resampled, tail: float = 0.025) -> Bounds:
    """Bootstrap-t: the resampled means, each measured in its own standard error."""
    counts = np.count_nonzero(~np.isnan(sample.roots), axis=1)
    place = np.maximum(np.floor(tail * (counts + 1)).astype(int), 1)
    rows, mean = np.arange(len(counts)), sample.values.mean(axis=1)
    upper = np.where(counts > 0, sample.roots[rows, np.maximum(counts - place, 0)], 0)
    lower = np.where(counts > 0, sample.roots[rows, np.minimum(place - 1, RESAMPLES - 1)], 0)
    return mean - upper * sample.error, mean - lower * sample.error


def ours(sample: Resampled) -> Bounds:
    """`patchcl.evaluation.intervals.MeanDifference.interval` for all rows at once."""
    patients = sample.values.shape[1]
    both = of_student(sample), studentised(sample, 0.025 * (patients - 2) / patients)
    low, high = np.minimum(both[0][0], both[1][0]), np.maximum(both[0][1], both[1][1])
    return np.maximum(low, -1), np.minimum(high, 1)


def sign_flip(sample: Resampled) -> Bounds:
    """The exact test of symmetry (4,095 random flips from 12 patients on), as bounds that only say what it rejects."""
    patients = sample.values.shape[1]
    if patients <= 12:
        flips = np.array(list(itertools.product((1.0, -1.0), repeat=patients)))
    else:
        drawn = np.random.default_rng(0).choice((1.0, -1.0), (4095, patients))
        flips = np.vstack([np.ones(patients), drawn])
    total = sample.values.sum(axis=1)
    p_value = np.mean(np.abs(sample.values @ flips.T) >= np.abs(total)[:, None] - 1e-12, axis=1)
    rejected = np.where(p_value <= 0.05, np.sign(total), 0)
    return np.where(rejected > 0, 1e-9, -1.0), np.where(rejected < 0, -1e-9, 1.0)


WAYS: dict[str, Callable[[Resampled], Bounds]] = {
    BEFORE: percentile,
    "BCa bootstrap": bca,
    "Student's t": of_student,
    "sign flip": sign_flip,
    "studentised bootstrap": studentised,
    AFTER: ours,
}


def of_seeds(repetitions: int) -> Iterator[dict[str, float]]:
    """For numbers of seeds and patients and a spread over seeds: how often both ways hold the truth, and lie above."""
    for (seeds, patients), spread in itertools.product(SEED_SIZES, SEED_SPREADS):
        generator = np.random.default_rng([seeds, patients, round(100 * spread)])
        cells = (
            generator.normal(0, 0.05, (repetitions, 1, patients))
            + generator.normal(0, spread, (repetitions, seeds, 1))
            + generator.normal(0, 0.04, (repetitions, seeds, patients))
        )
        before, after = seeds_before(cells), seeds_after(cells)
        yield {
            **{"seeds": seeds, "patients": patients, "spread": spread},
            **{f"before_{key}": value for key, value in before.items()},
            **{f"after_{key}": value for key, value in after.items()},
        }


def seeds_before(cells: np.ndarray) -> dict[str, float]:
    """The percentile bootstrap over the patients' means over seeds; a verdict needed the consent of all seeds."""
    joined = [percentile(resampled(batch)) for batch in batches_of(cells.mean(axis=1))]
    low, high = (np.concatenate(ends) for ends in zip(*joined, strict=True))
    consent = cells.mean(axis=2).min(axis=1) > 0
    return figures(low, high) | {"above": 100 * float(np.mean((low > 0) & consent))}


def seeds_after(cells: np.ndarray) -> dict[str, float]:
    """`patchcl.evaluation.intervals.over_seeds` for all repetitions at once."""
    seeds, patients = cells.shape[1:]
    joined: list[Bounds] = [ours(resampled(batch)) for batch in batches_of(cells.mean(axis=1))]
    low, high = (np.concatenate(ends) for ends in zip(*joined, strict=True))
    means, of_patients, mean = cells.mean(axis=2), cells.mean(axis=1), cells.mean(axis=(1, 2))
    left = cells - means[:, :, None] - of_patients[:, None, :] + mean[:, None, None]
    counted = (left**2).sum(axis=(1, 2)) / ((patients - 1) * (seeds - 1)) / (patients * seeds)
    variance = np.maximum(means.var(axis=1, ddof=1) / seeds - counted, 0)
    squared = student(seeds, 0.05) ** 2 * variance
    return figures(mean - np.sqrt((mean - low) ** 2 + squared), mean + np.sqrt((high - mean) ** 2 + squared))


def batches_of(values: np.ndarray) -> Iterator[np.ndarray]:
    """The rows, so many at a time as memory can hold drawn anew."""
    return (values[start : start + BATCH] for start in range(0, len(values), BATCH))


def called_helped(of_way: dict[str, float], patients: int) -> float:
    """How often "helped" is said: never where patients are too few for a verdict."""
    return of_way["above"] if patients >= FEWEST_PATIENTS else 0.0


if __name__ == "__main__":
    main()
