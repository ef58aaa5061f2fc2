"""Familiarity: how unlike the scans of training a scan is, by its grid and by what the network gets to see of it.

A quantity is flagged if it lies outside all that training saw, and outside the range in which one more scan of that
kind would lie: Student's prediction interval over patients, corrected for the number of quantities.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from nibabel.orientations import aff2axcodes
from scipy.stats import t

from patchcl.core.documents import parse_json
from patchcl.core.files import write_json
from patchcl.core.settings import FrozenSettings
from patchcl.data.geometry import Grid
from patchcl.data.preprocessing.orientation import OBLIQUE, orientation_of, oriented_grid

LEVELS = (5, 25, 50, 75, 95)
"""Percentiles of what the network sees that are compared."""
LINES = 256
"""Lines of voxels that are looked at in a scan, spread over all of it."""
GOLDEN = (math.sqrt(5) - 1) / 2
"""Multiples of it, less their whole parts, are spread evenly and keep step with no size of slices."""
CHANCE = 0.02
"""That one more scan of the kind that training saw is flagged, if quantities are normal."""
LEAST_RATIO = 1.25
"""How many times larger or smaller spacing, extent and noise may be where those of training are all the same."""
LEAST_STEP = 0.15
"""What intensities may differ by where those of training are all the same, over the width of the middle 90 %."""


class Look(FrozenSettings):
    """What can be compared of one scan."""

    spacing_mm: tuple[float, ...]
    extent_mm: tuple[float, ...]
    """The field of view along every axis, in the order that the network sees."""
    orientation: str = ""
    """Where the axes of the file point to, such as LPS; empty where it is not known."""
    intensities: tuple[tuple[float, ...], ...] = ()
    """`LEVELS` of every channel as the network sees it; empty where nobody looked."""
    noise: tuple[float, ...] = ()
    """How far neighbouring voxels of every channel differ, over the width of the middle 90 % of all."""


class Familiarity(FrozenSettings):
    """What training saw."""

    patients: int
    scans: tuple[Look, ...]


class _Quantities(NamedTuple):
    """Numbers that are compared, all on a scale where differences count."""

    name: str  # of the flag
    of: str  # the channel, or nothing
    known: np.ndarray  # (scans, Q)
    found: np.ndarray  # (Q,)
    least: float  # half of the width that every range has at the least


def look_at(grid: Grid, lines: np.ndarray | None = None, orientation: str | None = None) -> Look:
    """What can be compared of a scan.

    Args:
        grid: That of the scan, as it was read.
        lines: (C, L, X) lines of voxels as the network sees them, see `lines_of`; None leaves intensities out.
        orientation: That of the network, in whose order spacings and extents are; None for that of the file.
    """
    seen = oriented_grid(grid, orientation)
    channels = [_intensities(channel) for channel in (() if lines is None else lines)]
    return Look(
        spacing_mm=seen.spacing_mm,
        extent_mm=tuple(length * spacing for length, spacing in zip(seen.shape, seen.spacing_mm, strict=True)),
        orientation="".join(str(code) for code in aff2axcodes(grid.affine)[: len(grid.shape)]),
        intensities=tuple(percentiles for percentiles, _ in channels),
        noise=tuple(noise for _, noise in channels),
    )


def lines_of(image: np.ndarray) -> np.ndarray:
    """Some lines (C, L, X) of a prepared image (N, C, *S), which may be memory-mapped."""
    across = (len(image), *image.shape[2:-1])
    places = np.unravel_index(spread_places(math.prod(across)), across)
    lines = [image[(first, slice(None), *rest)] for first, *rest in zip(*places, strict=True)]
    return np.stack(lines, axis=1)


def spread_places(count: int) -> list[int]:
    """Up to `LINES` places from 0 to `count` - 1, spread over all."""
    if count <= LINES:
        return list(range(count))
    return sorted({int(count * (step * GOLDEN % 1)) for step in range(LINES)})


def unlike(known: Familiarity, found: Look, channels: Sequence[str]) -> dict[str, str]:
    """What of a scan lies outside what training saw: a word for each kind, and what was found and known.

    Kinds are axes, spacing, field of view, orientation, intensities and noise. Of one patient nothing but the first and
    `orientation` can be told.
    """
    scans = [scan for scan in known.scans if len(scan.spacing_mm) == len(found.spacing_mm)]
    if not scans:
        return {"axes": f"it has {len(found.spacing_mm)} axes, which no scan of training has"}
    flags: dict[str, str] = {}
    compared = list(_quantities(scans, found, channels)) if known.patients > 1 else []
    chance = CHANCE / max(sum(len(each.found) for each in compared), 1)
    for each in compared:
        low, high = _range(each.known, each.least, known.patients, chance)
        outside = (each.found < low) | (each.found > high)
        if outside.any():
            flags[each.name] = "; ".join([*([flags[each.name]] if each.name in flags else []), _told(each)])
    orientations = sorted({scan.orientation for scan in scans if scan.orientation})
    if found.orientation and orientations and found.orientation not in orientations:
        flags["orientation"] = f"its axes are {found.orientation} (training: {', '.join(orientations)})"
    return flags


def stored_order(grid: Grid, orientation: str | None) -> dict[str, str]:
    """A flag of a volume that cannot be brought to the `orientation` of the network, since nobody knows how it lies."""
    if orientation is None or len(grid.shape) != 3 or orientation_of(grid) is not None:
        return {}
    why = f"it is oblique by more than {OBLIQUE}°" if grid.placed else "it does not say how it lies in the patient"
    return {"orientation": f"{why}, so its axes stay as they are stored (training: {orientation})"}


def save_familiarity(path: Path, known: Familiarity) -> None:
    """Write `known` as JSON."""
    write_json(path, known.model_dump(mode="json"))


def read_familiarity(path: Path) -> Familiarity | None:
    """What `save_familiarity` wrote; None where a run kept nothing, or nothing that can be read."""
    try:
        return Familiarity.model_validate(parse_json(path.read_bytes()))
    except (OSError, ValueError):
        return None


def _intensities(lines: np.ndarray) -> tuple[tuple[float, ...], float]:
    """`LEVELS` and the noise of lines (L, X) of one channel."""
    percentiles = tuple(np.percentile(lines, LEVELS).tolist())
    steps = np.abs(np.diff(lines, axis=-1)) if lines.shape[-1] > 1 else np.zeros(1)
    return percentiles, max(float(steps.mean()) / max(percentiles[-1] - percentiles[0], 1e-6), 1e-6)


def _quantities(scans: Sequence[Look], found: Look, channels: Sequence[str]) -> Iterator[_Quantities]:
    def logarithms(name: str, of: str, known: Iterable[Sequence[float]], one: Sequence[float]) -> _Quantities:
        return _Quantities(name, of, np.log(list(known)), np.log(one), math.log(LEAST_RATIO))

    yield logarithms("spacing", "", [scan.spacing_mm for scan in scans], found.spacing_mm)
    yield logarithms("field of view", "", [scan.extent_mm for scan in scans], found.extent_mm)
    looked = [scan for scan in scans if len(scan.intensities) == len(found.intensities) == len(channels)]
    for place, channel in enumerate(channels if looked else ()):
        known = np.array([scan.intensities[place] for scan in looked])
        width = float((known[:, -1] - known[:, 0]).mean())
        yield _Quantities("intensities", channel, known, np.array(found.intensities[place]), LEAST_STEP * width)
        yield logarithms("noise", channel, [[scan.noise[place]] for scan in looked], [found.noise[place]])


def _range(known: np.ndarray, least: float, patients: int, chance: float) -> tuple[np.ndarray, np.ndarray]:
    """The bounds (Q,) of what is not flagged; `chance` is that of one quantity to lie outside."""
    factor = t.ppf(1 - chance / 2, patients - 1) * math.sqrt(1 + 1 / patients)
    middle = known.mean(axis=0)
    half = np.maximum(factor * known.std(axis=0, ddof=1 if len(known) > 1 else 0), least)
    return np.minimum(middle - half, known.min(axis=0)), np.maximum(middle + half, known.max(axis=0))


def _told(each: _Quantities) -> str:
    """What was found, and what training had."""
    if each.name == "intensities":
        place = int(np.abs(each.found - each.known.mean(axis=0)).argmax())
        low, high = each.known[:, place].min(), each.known[:, place].max()
        found = f"percentile {LEVELS[place]} of {each.of} is {each.found[place]:.2f} as the network sees it"
        return f"{found} (training: {low:.2f}-{high:.2f})"
    if each.name == "noise":
        ratio = float(np.exp(each.found[0] - np.median(each.known)))
        return f"neighbouring voxels of {each.of} differ {ratio:.2g} times as much as in training"
    found, low, high = np.exp(each.found), np.exp(each.known.min(axis=0)), np.exp(each.known.max(axis=0))
    spans = [f"{a:.4g}" if f"{a:.4g}" == f"{b:.4g}" else f"{a:.4g}-{b:.4g}" for a, b in zip(low, high, strict=True)]
    return f"{each.name} {' × '.join(f'{value:.4g}' for value in found)} mm (training: {' × '.join(spans)} mm)"
