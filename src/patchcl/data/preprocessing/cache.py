"""From scans to network inputs and back: normalise, bring to one size or spacing, and keep the outcome on disk.

Network axes of a slice are the two axes of the file that slices are not taken along, in file order; of a volume all
three. Padding and resizing follow from grid and plan alone, so `to_scan_grid` undoes exactly what was done.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from patchcl.core.errors import UserError
from patchcl.core.parallel import Report, in_parallel
from patchcl.data.dataset import Case
from patchcl.data.duplicates import BLOCKS, signature
from patchcl.data.formats.base import Bands, demand_file
from patchcl.data.geometry import Grid
from patchcl.data.ignored import demand_annotated
from patchcl.data.preprocessing.plan import BATCH, Normalise, Plan
from patchcl.data.scan import Scan, demand_varied, image_bands, mask_bands, read_grid, read_image, read_mask
from patchcl.runs.folder import write_json, write_whole

RECIPE = 2
"""Raise it when this file prepares differently, so that no cache made before is used."""
DETACHED = (".mhd", ".nhdr")
"""Endings of headers whose voxels lie in a file beside them."""


class PreparedCase(NamedTuple):
    """A scan ready for the network, in files that can be memory-mapped."""

    name: str
    patient: str
    image: Path  # .npy (N, C, *S) float32: N slices, or 1 volume
    mask: Path | None  # .npy (N, *S) uint8, IGNORED where nobody annotated

    @property
    def signature(self) -> Path:
        """What the scan looks like from afar, .npy, see `duplicates.signature`; made with the image."""
        return self.image.with_name(self.image.name.replace(".image-", ".signature-"))


class _Geometry(NamedTuple):
    """Steps between a scan and the network: full -> scaled -> padded lengths of the network axes."""

    full: tuple[int, ...]
    scaled: tuple[int, ...]
    before: tuple[int, ...]  # padding in front of each axis
    padded: tuple[int, ...]


def to_network_grid(scan: Scan, plan: Plan) -> np.ndarray:
    """What the network sees of `scan`: (N, C, *S) float32, S = `plan.size`, or larger on some axes for `crop`.

    Raises:
        UserError: The scan has other channels or fewer axes than the plan, or colours beyond its full colour.
    """
    geometry = _geometry(scan.grid, plan)
    slices = np.moveaxis(_to_slices(_normalised_channels(scan.voxels, plan), scan.grid, plan), 0, 1)
    scaled = {"linear": _scaled_linear, "nearest": _scaled_nearest}[plan.resample]
    return _padded(scaled(slices, geometry.scaled), geometry)


def network_bands(paths: Sequence[Path], plan: Plan) -> Bands | None:
    """What `to_network_grid` gives, (C, rows, columns), some rows at a time, of a picture too large to be held.

    None of any other, and where a pixel depends on others: by resampling, padding, or the statistics of its picture.

    Raises:
        UserError: As for `to_network_grid`, also while bands are read.
    """
    bands = _image_bands(paths, plan)
    if bands is None:
        return None
    read = bands.read
    return bands._replace(read=lambda start, stop: _normalised_channels(read(start, stop), plan))


def mask_to_network_grid(mask: np.ndarray, grid: Grid, plan: Plan) -> np.ndarray:
    """The classes `mask` (*shape) where the network sees them: (N, *S) uint8, by nearest neighbour."""
    geometry = _geometry(grid, plan)
    slices = _to_slices(mask[None], grid, plan)[0]
    return _padded(_scaled_nearest(slices[:, None], geometry.scaled)[:, 0], geometry)


def to_scan_grid(probs: np.ndarray, grid: Grid, plan: Plan) -> np.ndarray:
    """Class probabilities `probs` (N, K, *S) back on the grid of the scan: (K, *shape) float32.

    With `plan.restore` nearest they become those of the winning class alone, 0 or 1.
    """
    geometry = _geometry(grid, plan)
    inner = tuple(slice(start, start + length) for start, length in zip(geometry.before, geometry.scaled, strict=True))
    seen = probs[(slice(None), slice(None), *inner)]
    if plan.restore == "nearest":
        winner = _scaled_nearest(seen.argmax(axis=1)[:, None].astype(np.uint8), geometry.full)
        restored = (winner == np.arange(probs.shape[1]).reshape(1, -1, *[1] * plan.dimensions)).astype(np.float32)
    else:
        restored = _scaled_linear(seen, geometry.full)
    return _from_slices(np.moveaxis(restored, 1, 0), grid, plan)


def prepared_bytes(grid: Grid, plan: Plan) -> int:
    """How large the image and the mask of a scan are once they are prepared."""
    slices = grid.shape[plan.slice_axis] if len(grid.shape) > plan.dimensions else 1
    return slices * math.prod(_geometry(grid, plan).padded) * (4 * len(plan.channels) + 1)


def prepare(cases: Sequence[Case], plan: Plan, cache: Path, report: Report | None = None) -> tuple[PreparedCase, ...]:
    """Prepare `cases`, keeping the outcome below `cache` so that only what has changed is done again.

    A mask is read only if its case has one, and is kept apart from the image: a cache shared with a run that had more
    masks gives none away. Two processes may prepare at once. `report` is told how many cases of all are done.

    Raises:
        UserError: A file cannot be read or does not fit, or `cache` cannot be written to.
    """
    try:
        folder = cache / _key(plan)
        return tuple(in_parallel(cases, lambda case: _prepare_case(case, plan, folder), report))
    except OSError as error:
        raise UserError(
            f"Prepared scans cannot be kept in {cache}: {error}. Make room, or set cache: FOLDER."
        ) from error


def _prepare_case(case: Case, plan: Plan, folder: Path) -> PreparedCase:
    hashes = _hashes(case, folder / f"{case.name}.json")
    image = folder / f"{case.name}.image-{_joined(hashes[: len(case.images)])}.npy"
    prepared = PreparedCase(case.name, case.patient, image, None)
    if not (image.exists() and prepared.signature.exists()):
        bands = _image_bands(case.images, plan)
        if bands is None:
            _prepare_image(case, plan, prepared)
        else:
            _prepare_bands(case, plan, prepared, bands)
    if case.mask is None:
        return prepared
    mask = folder / f"{case.name}.mask-{_joined(hashes)}.npy"
    if not mask.exists():
        _prepare_mask(case.mask, read_grid(case.images[0]), plan, mask)
    return prepared._replace(mask=mask)


def _prepare_image(case: Case, plan: Plan, prepared: PreparedCase) -> None:
    scan = read_image(case.images)
    for path, channels in zip(case.images, np.array_split(scan.voxels, len(case.images)), strict=True):
        demand_varied(channels, path)
    _save(prepared.signature, signature(scan.voxels))
    try:
        _save(prepared.image, to_network_grid(scan, plan))
    except UserError as error:
        raise UserError(f"{case.images[0]}: {error}") from error


def _prepare_bands(case: Case, plan: Plan, prepared: PreparedCase, bands: Bands) -> None:
    """As `_prepare_image`, with all that has to be known of the whole picture gathered on the way."""
    means = _BlockMeans(bands.shape)
    extremes: list[tuple[float, float]] = []

    def seen() -> Iterator[tuple[int, np.ndarray]]:
        for start, band in bands.all():
            means.add(start, band)
            extremes.append((float(band.min()), float(band.max())))
            yield start, _normalised_channels(band, plan)
        demand_varied(np.array(extremes), case.images[0])

    try:
        _save_bands(prepared.image, bands.shape, np.float32, seen())
    except UserError as error:
        raise UserError(f"{case.images[0]}: {error}") from error
    _save(prepared.signature, signature(means.blocks()))


def _prepare_mask(path: Path, grid: Grid, plan: Plan, prepared: Path) -> None:
    bands = mask_bands(path, plan.classes, grid, plan.ignore) if _pixel_by_pixel(grid, plan) else None
    if bands is None:
        classes = read_mask(path, plan.classes, grid, plan.ignore)
        demand_annotated(classes, path)
        _save(prepared, mask_to_network_grid(classes, grid, plan))
        return
    annotated: list[int] = []

    def seen() -> Iterator[tuple[int, np.ndarray]]:
        for start, band in bands.all():
            annotated.append(int(band.min()))
            yield start, band
        demand_annotated(np.array(annotated), path)

    _save_bands(prepared, bands.shape, np.uint8, seen())


def _hashes(case: Case, manifest: Path) -> list[str]:
    """The sha256 of every file of `case`; a file whose size and time are those in `manifest` is not read again."""
    known = _read_manifest(manifest)
    files = [*case.images, *([case.mask] if case.mask is not None else [])]
    entries = {str(file.absolute()): _entry(file, known.get(str(file.absolute()))) for file in files}
    if any(known.get(file) != entry for file, entry in entries.items()):
        write_json(manifest, known | entries)
    return [entry["sha256"] for entry in entries.values()]


def _read_manifest(path: Path) -> dict[str, dict[str, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _entry(file: Path, known: dict[str, Any] | None) -> dict[str, Any]:
    try:
        parts = _parts(file)
        stats = [part.stat() for part in parts]
        size, modified = sum(stat.st_size for stat in stats), max((stat.st_mtime_ns for stat in stats), default=0)
        if known is not None and (known["bytes"], known["modified_ns"]) == (size, modified):
            return known
        digest = hashlib.sha256()
        for part in parts:
            demand_file(part, "a scan or mask")
            with part.open("rb") as content:
                while piece := content.read(2**20):  # files may be larger than memory
                    digest.update(piece)
    except OSError as error:
        raise UserError(f"{file} cannot be opened: {error.strerror}. Restore it, or remove the scan.") from error
    return {"bytes": size, "modified_ns": modified, "sha256": digest.hexdigest()}


def _parts(file: Path) -> list[Path]:
    """What `file` is made of: the files in the folder of a DICOM series, or a header and the voxels beside it."""
    if file.is_dir():
        return sorted(part for part in file.iterdir() if part.is_file())
    if file.suffix.lower() in DETACHED:
        return sorted({file, *(other for other in file.parent.iterdir() if other.name.startswith(f"{file.stem}."))})
    return [file]


def _joined(hashes: Sequence[str]) -> str:
    return hashlib.sha256("".join(hashes).encode()).hexdigest()[:16]


def _key(plan: Plan) -> str:
    """The name of everything in `plan` that decides what prepared files hold."""
    unused = {"ignore"} if plan.ignore is None else set()  # as in caches made before there was such a value
    deciding = plan.model_dump(mode="json", exclude={"restore", "reasons", "channels", "patch_share", *BATCH} | unused)
    return hashlib.sha256(json.dumps([RECIPE, deciding], sort_keys=True).encode()).hexdigest()[:16]


def _save(path: Path, array: np.ndarray) -> None:
    write_whole(path, lambda unfinished: np.save(unfinished, np.ascontiguousarray(array)))


def _save_bands(
    path: Path, shape: tuple[int, int], kind: type[np.generic], bands: Iterator[tuple[int, np.ndarray]]
) -> None:
    """What `_save` would write of all `bands` together, byte for byte: (1, C, *shape), or (1, *shape) of classes.

    Each is written to its place; a memory-mapped array would fill the memory with what has been written.
    """

    def write(unfinished: Path) -> None:
        with unfinished.open("wb") as file:
            first = 0
            for start, band in bands:
                band = band.astype(kind, copy=False)
                channels = len(band)
                if not first:
                    whole = (1, *([channels] if kind is np.float32 else []), *shape)
                    header = {"descr": np.dtype(kind).str, "fortran_order": False, "shape": whole}
                    np.lib.format.write_array_header_1_0(file, header)
                    first = file.tell()
                for channel, plane in enumerate(band):
                    file.seek(first + (channel * shape[0] + start) * shape[1] * band.itemsize)
                    file.write(np.ascontiguousarray(plane).data)

    write_whole(path, write)


class _BlockMeans:
    """Means of BLOCKS x BLOCKS blocks of a picture that comes in bands, as torch's adaptive_avg_pool has them."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self._shape = shape
        self._edges = [
            [(place * length // BLOCKS, -(-(place + 1) * length // BLOCKS)) for place in range(BLOCKS)]
            for length in shape
        ]
        self._sums: np.ndarray | None = None  # (C, BLOCKS, columns)

    def add(self, start: int, band: np.ndarray) -> None:
        """The rows (C, rows, columns) from `start` on."""
        if self._sums is None:
            self._sums = np.zeros((len(band), BLOCKS, self._shape[1]))
        for place, (low, high) in enumerate(self._edges[0]):
            rows = band[:, max(0, low - start) : max(0, high - start)]
            self._sums[:, place] += rows.sum(axis=1, dtype=np.float64)

    def blocks(self) -> np.ndarray:
        """(C, BLOCKS, BLOCKS)."""
        assert self._sums is not None
        sums = np.stack([self._sums[..., low:high].mean(axis=-1) for low, high in self._edges[1]], axis=-1)
        heights = np.array([high - low for low, high in self._edges[0]])
        return np.asarray(sums / heights[:, None], np.float32)


def _image_bands(paths: Sequence[Path], plan: Plan) -> Bands | None:
    """`image_bands` where they can be prepared one by one, else None."""
    bands = image_bands(paths) if plan.fit == "crop" and plan.dimensions == 2 else None
    return bands if bands is None or _pixel_by_pixel(read_grid(paths[0]), plan) else None


def _pixel_by_pixel(grid: Grid, plan: Plan) -> bool:
    """Whether each pixel of a picture is prepared by itself, and stays where it is."""
    if plan.fit != "crop" or not plan.dimensions == len(grid.shape) == 2:
        return False
    geometry = _geometry(grid, plan)
    return geometry.full == geometry.scaled == geometry.padded and {"ct", "rgb"} >= set(plan.normalise_channels)


def _geometry(grid: Grid, plan: Plan) -> _Geometry:
    axes = _network_axes(grid, plan)
    full = tuple(grid.shape[axis] for axis in axes)
    if plan.fit == "resize" or plan.spacing_mm is None:
        return _Geometry(full, plan.size, (0,) * len(axes), plan.size)
    lengths_mm = [grid.shape[axis] * grid.spacing_mm[axis] for axis in axes]
    scaled = tuple(max(1, round(mm / target)) for mm, target in zip(lengths_mm, plan.spacing_mm, strict=True))
    padded = tuple(max(length, least) for length, least in zip(scaled, plan.size, strict=True))
    before = tuple((outer - length) // 2 for outer, length in zip(padded, scaled, strict=True))
    return _Geometry(full, scaled, before, padded)


def _network_axes(grid: Grid, plan: Plan) -> tuple[int, ...]:
    if plan.dimensions > len(grid.shape):
        raise UserError(f"A scan of size {grid.shape} is a slice, but the plan is for volumes. Give it volumes only.")
    sliced = plan.dimensions == 2 and len(grid.shape) == 3
    return tuple(axis for axis in range(len(grid.shape)) if not (sliced and axis == plan.slice_axis))


def _to_slices(voxels: np.ndarray, grid: Grid, plan: Plan) -> np.ndarray:
    """(C, *shape) -> (C, N, *network axes)."""
    if plan.dimensions == len(grid.shape):
        return voxels[:, None]
    return np.moveaxis(voxels, 1 + plan.slice_axis, 1)


def _from_slices(slices: np.ndarray, grid: Grid, plan: Plan) -> np.ndarray:
    """(K, N, *network axes) -> (K, *shape)."""
    if plan.dimensions == len(grid.shape):
        return np.ascontiguousarray(slices[:, 0])
    return np.ascontiguousarray(np.moveaxis(slices, 1, 1 + plan.slice_axis))


def _normalised_channels(voxels: np.ndarray, plan: Plan) -> np.ndarray:
    """The channels (C, *shape) of a scan, or of a band, each as `plan` says."""
    if len(voxels) != len(plan.channels):
        raise UserError(f"A scan of {len(voxels)} channels cannot be prepared for {', '.join(plan.channels)}.")
    normalised = np.empty(voxels.shape, np.float32)
    for place, how in enumerate(plan.normalise_channels):
        normalised[place] = _normalised(voxels[place], how, plan.window)
    return normalised


def _normalised(channel: np.ndarray, how: Normalise, window: tuple[float, float]) -> np.ndarray:
    """One channel of a whole scan, in [0, 1], or with mean 0 and deviation 1 for `z_score`."""
    if how == "z_score":
        return np.asarray((channel - channel.mean()) / max(float(channel.std()), 1e-8))
    if how in ("ct", "rgb"):
        low, high = window
        if how == "rgb" and channel.max() > high:
            raise UserError(
                f"A colour has the value {channel.max():g}, but full colour is {high:g} by the plan. "
                "Convert the picture, or set plan.window for all."
            )
    elif how == "percentile":
        low, high = np.percentile(channel, [0.5, 99.5])
    else:
        low, high = channel.min(), channel.max()
    width = max(np.float32(high) - np.float32(low), np.float32(1e-8))
    return np.asarray(np.clip((channel - np.float32(low)) / width, 0, 1))


def _scaled_linear(batch: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """(N, C, *S) -> (N, C, *size), linearly; what shrinks is smoothed first, so nothing aliases."""
    if batch.shape[2:] == size:
        return batch.astype(np.float32, copy=False)
    if len(size) == 3:  # torch smooths along two axes at most: first the last two, then the one before them
        images, channels, length = batch.shape[:3]
        planes = _scaled_linear(batch.reshape(images, channels * length, *batch.shape[3:]), size[1:])
        lines = planes.reshape(images, channels, length, size[1] * size[2])
        return _scaled_linear(lines, (size[0], size[1] * size[2])).reshape(images, channels, *size)
    if size[-1] == 1 < size[0] and len(size) == 2:  # torch gets smoothed pictures of a single column wrong
        return _scaled_linear(batch.swapaxes(2, 3), size[::-1]).swapaxes(2, 3)
    tensor = torch.from_numpy(np.ascontiguousarray(batch, dtype=np.float32))
    scaled = F.interpolate(tensor, size, mode="bilinear", align_corners=False, antialias=True)
    return np.asarray(scaled.numpy())


def _scaled_nearest(batch: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """(N, C, *S) -> (N, C, *size), each voxel from the one at its centre."""
    scaled = F.interpolate(torch.from_numpy(np.ascontiguousarray(batch)), size, mode="nearest-exact")
    return np.asarray(scaled.numpy())


def _padded(batch: np.ndarray, geometry: _Geometry) -> np.ndarray:
    """Zeros around the last axes, in equal parts; `batch` itself where none are needed."""
    if geometry.padded == geometry.scaled:
        return batch
    widths = [
        (before, outer - before - length)
        for before, outer, length in zip(geometry.before, geometry.padded, geometry.scaled, strict=True)
    ]
    return np.pad(batch, [(0, 0)] * (batch.ndim - len(widths)) + widths)
