"""Dataset fingerprint: sizes, spacings and sizes of classes of all scans that training may open, grey values if asked.

Source: the idea is nnU-Net's data fingerprint, Isensee et al., 2021, https://doi.org/10.1038/s41592-020-01008-z.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.ndimage import find_objects

from patchcl.core.files import write_json
from patchcl.core.parallel import ProgressCallback, in_parallel
from patchcl.core.settings import FrozenSettings
from patchcl.data.dataset import Case, Dataset
from patchcl.data.formats import tells_by_name
from patchcl.data.geometry import Grid, require_same_grid
from patchcl.data.preprocessing.colours import are_colours, full_scale
from patchcl.data.preprocessing.orientation import common_orientation, orientation_of, oriented, oriented_grid
from patchcl.data.scan import IGNORED, read_grid, read_image, read_mask

SAMPLE = 10_000
"""Voxels that are kept of every scan and channel, nnU-Net's number: enough for percentiles."""
SAMPLES = 5_000_000
"""And of all scans together; of more than 500 fewer are kept of each, so that memory stays flat."""


class ScanFacts(FrozenSettings):
    """The header of one scan, its axes in the order of the data set's orientation."""

    name: str
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    orientation: str | None = None
    """Of the file; None where it is not known or oblique."""


class Range(FrozenSettings):
    """Range of one quantity along every axis, over all scans."""

    min: tuple[float, ...]
    median: tuple[float, ...]
    max: tuple[float, ...]


class Intensities(FrozenSettings):
    """Intensities of one channel, over a sample of the voxels of all labeled scans."""

    channel: str
    foreground: bool
    """Only voxels of a class other than the background were looked at."""
    min: float
    percentile_0_5: float
    percentile_5: float
    median: float
    percentile_95: float
    percentile_99_5: float
    max: float
    mean: float
    std: float


class ClassFacts(FrozenSettings):
    """One class in the labeled masks."""

    name: str
    fraction: float
    """Of all annotated voxels, in [0, 1]."""
    scans: int
    """In which it is found."""
    median_voxels: float
    """In those."""
    side_fraction: tuple[float, ...] = ()
    """Sides of the box around it over those of the image that the network sees, a slice or a volume; the median.

    Empty if it is in no labeled image, or only in such as are annotated in part.
    """
    side_mm: tuple[float, ...] = ()
    """The same sides in mm."""


class Fingerprint(FrozenSettings):
    """Dataset fingerprint: what a plan is made from."""

    scans: tuple[ScanFacts, ...]
    shape: Range | None
    """Along the axes of `orientation`; None where some scans are slices and others volumes."""
    orientation: str | None = None
    """What the axes of all volumes are brought to; None where they are taken as the files have them."""
    spacing_mm: Range | None
    anisotropy: float
    """How many times the coarsest spacing of a scan is its finest; the median over all scans."""
    colours: bool
    """The channels are the colours of a picture."""
    full_scale: float | None
    """The value of full colour: 1, 255 or 65535."""
    intensities: tuple[Intensities, ...] = ()
    """Of every channel whose voxels were looked at and hold anything."""
    classes: tuple[ClassFacts, ...] = ()
    """Empty where no mask was looked at."""


class _Sample(NamedTuple):
    """Sample of one scan: what is kept of it."""

    values: list[np.ndarray]  # one for every channel, at most SAMPLE long
    voxels: np.ndarray  # (K,) of each class
    sides: dict[int, np.ndarray]  # by class (2, dimensions) the sides of the box around it: shares of the image, and mm


def read_headers(
    dataset: Dataset, labeled: Collection[str] | None = None, on_progress: ProgressCallback | None = None
) -> Fingerprint:
    """What the headers of all scans in `dataset` say, test scans aside; of colour pictures also their full scale.

    Args:
        dataset: As training may see it.
        labeled: The patients who teach with their masks; None is everybody who has one.
        on_progress: Told how many scans of all are done.

    Raises:
        UserError: A file cannot be read.
    """
    cases = _training_cases(dataset)
    grids = in_parallel(cases, lambda case: read_grid(case.images[0]), on_progress)
    orientation = common_orientation(grids)
    scans = [_facts_of(case, grid, orientation) for case, grid in zip(cases, grids, strict=True)]
    colours = are_colours(dataset, cases)
    spacings = [scan.spacing_mm for scan in scans]
    return Fingerprint(
        scans=tuple(scans),
        shape=_spread([scan.shape for scan in scans]),
        spacing_mm=_spread(spacings),
        anisotropy=float(np.median([max(spacing) / min(spacing) for spacing in spacings])),
        colours=colours,
        orientation=orientation,
        full_scale=full_scale(_taught(cases, labeled) or cases) if colours else None,
    )


def with_structures(
    headers: Fingerprint,
    dataset: Dataset,
    foreground: Collection[int] = (),
    labeled: Collection[str] | None = None,
    slice_axis: int | None = None,
    on_progress: ProgressCallback | None = None,
) -> Fingerprint:
    """`headers` with what the labeled masks hold, and the intensities under them where these matter.

    Args:
        headers: Of all scans.
        dataset: As training may see it.
        foreground: Channels whose intensities matter where there is a class, as those of CT do. If there are any, the
            images of labeled scans are read as well.
        labeled: The patients who teach with their masks; None is everybody who has one.
        slice_axis: Along which the network sees slices of volumes; None if it sees volumes.
        on_progress: Told how many scans of all are done.

    Raises:
        UserError: A file cannot be read.
    """
    taught = _taught(_training_cases(dataset), labeled)
    kept = min(SAMPLE, SAMPLES // max(len(taught), 1))

    def look_into(case: Case) -> _Sample:
        return _look_into(case, dataset, foreground, slice_axis, kept, headers.orientation)

    samples = in_parallel(taught, look_into, on_progress)
    intensities = _intensities(dataset, samples, foreground) if foreground else ()
    return headers.model_copy(update={"intensities": intensities, "classes": _classes(dataset, samples)})


def save_fingerprint(path: Path, fingerprint: Fingerprint) -> None:
    """Write `fingerprint` as JSON."""
    write_json(path, fingerprint.model_dump(mode="json"))


def _training_cases(dataset: Dataset) -> list[Case]:
    return [case for case in dataset.cases if case.folder != "imagesTs"]


def _taught(cases: Sequence[Case], labeled: Collection[str] | None) -> list[Case]:
    return [case for case in cases if case.mask is not None and (labeled is None or case.patient in labeled)]


def _facts_of(case: Case, grid: Grid, orientation: str | None) -> ScanFacts:
    seen = oriented_grid(grid, orientation)
    own = orientation_of(grid)
    return ScanFacts(name=case.name, shape=seen.shape, spacing_mm=seen.spacing_mm, orientation=own)


def _spread(rows: Sequence[Sequence[float]]) -> Range | None:
    if len({len(row) for row in rows}) != 1:
        return None
    values = np.array(rows, dtype=np.float64)
    minimum, middle, most = (tuple(row.tolist()) for row in (values.min(0), np.median(values, axis=0), values.max(0)))
    return Range(min=minimum, median=middle, max=most)


def _look_into(
    case: Case,
    dataset: Dataset,
    foreground: Collection[int],
    slice_axis: int | None,
    kept: int,
    orientation: str | None,
) -> _Sample:
    """The mask of one scan; the image only where some of its intensities matter."""
    image = read_image(case.images) if foreground else None
    grid = image.grid if image else read_grid(case.images[0])
    mask = _mask_of(case, dataset, grid)
    known = mask != IGNORED
    inside = known & (mask > 0)
    values = [
        _sampled(channel[inside] if index in foreground else channel.ravel(), kept)
        for index, channel in enumerate(image.voxels if image else ())
    ]
    seen = oriented(mask[None], grid, orientation)[0]
    sides = _sides(seen, oriented_grid(grid, orientation), slice_axis, len(dataset.classes))
    return _Sample(values, np.bincount(mask[known], minlength=len(dataset.classes)), sides)


def _mask_of(case: Case, dataset: Dataset, grid: Grid) -> np.ndarray:
    assert case.mask is not None  # only labeled scans are looked into
    by_name = tells_by_name(case.mask)
    if not by_name:
        require_same_grid(read_grid(case.mask), grid, case.mask, case.images[0].name)
    return read_mask(case.mask, dataset.classes, grid if by_name else None, dataset.ignore)


def _sides(mask: np.ndarray, grid: Grid, slice_axis: int | None, classes: int) -> dict[int, np.ndarray]:
    """The box around each class: the median over the images in `mask` that show it and are annotated throughout."""
    sliced = slice_axis is not None and mask.ndim == 3
    axes = [axis for axis in range(mask.ndim) if not (sliced and axis == slice_axis)]
    units = np.array([[1 / grid.shape[axis] for axis in axes], [grid.spacing_mm[axis] for axis in axes]])
    found: dict[int, list[list[int]]] = {}
    for image in np.moveaxis(mask, slice_axis, 0) if sliced and slice_axis is not None else mask[None]:
        for label, box in enumerate(find_objects(image, classes - 1) if (image != IGNORED).all() else (), start=1):
            if box is not None:
                found.setdefault(label, []).append([side.stop - side.start for side in box])
    return {label: units * np.median(sides, axis=0) for label, sides in found.items()}


def _sampled(values: np.ndarray, kept: int) -> np.ndarray:
    """At most `kept` of `values`, evenly spread over them."""
    if len(values) <= kept:
        return values.copy()  # and not a view, which would keep the whole scan
    return np.asarray(values[np.linspace(0, len(values) - 1, kept).astype(np.int64)])


def _intensities(dataset: Dataset, samples: Sequence[_Sample], foreground: Collection[int]) -> tuple[Intensities, ...]:
    if not samples:
        return ()
    pooled = [np.concatenate(values) for values in zip(*(sample.values for sample in samples), strict=True)]
    return tuple(
        _statistics(values, dataset.channels[index], index in foreground)
        for index, values in enumerate(pooled)
        if len(values)
    )


def _statistics(values: np.ndarray, channel: str, foreground: bool) -> Intensities:
    quantiles = np.percentile(values, [0.5, 5, 50, 95, 99.5]).tolist()
    names = ("percentile_0_5", "percentile_5", "median", "percentile_95", "percentile_99_5")
    return Intensities(
        channel=channel,
        foreground=foreground,
        min=float(values.min()),
        max=float(values.max()),
        mean=float(values.mean(dtype=np.float64)),
        std=float(values.std(dtype=np.float64)),
        **dict(zip(names, quantiles, strict=True)),
    )


def _classes(dataset: Dataset, samples: Sequence[_Sample]) -> tuple[ClassFacts, ...]:
    if not samples:
        return ()
    counts = np.array([sample.voxels for sample in samples])  # (scans, K)
    fractions = counts.sum(axis=0) / max(counts.sum(), 1)
    return tuple(
        ClassFacts(
            name=name,
            fraction=float(fraction),
            scans=int((column > 0).sum()),
            median_voxels=float(np.median(column[column > 0])) if column.any() else 0.0,
            **_typical_sides([sample.sides[label] for sample in samples if label in sample.sides]),
        )
        for label, (name, fraction, column) in enumerate(zip(dataset.classes, fractions, counts.T, strict=True))
    )


def _typical_sides(sides: Sequence[np.ndarray]) -> dict[str, tuple[float, ...]]:
    if not sides:
        return {}
    fraction, mm = np.median(sides, axis=0).tolist()
    return {"side_fraction": tuple(fraction), "side_mm": tuple(mm)}
