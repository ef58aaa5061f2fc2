"""Cache of prepared scans: normalised, brought to one size or spacing, and kept on disk.

Network axes of a slice are the two axes that slices are not taken along; of a volume all three. They have the order of
the file, or of `plan.orientation`. Padding and resizing follow from grid and plan alone, so `to_scan_grid` undoes
exactly what was done.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from patchcl.core.errors import UserError
from patchcl.core.files import atomic_write
from patchcl.core.lock import locked
from patchcl.core.parallel import ProgressCallback, in_parallel
from patchcl.data.dataset import Case
from patchcl.data.duplicates import signature
from patchcl.data.formats.base import RowBlocks
from patchcl.data.geometry import Grid
from patchcl.data.preprocessing.manifest import Entry, file_hashes, intact, known_hashes, read_manifest, seal
from patchcl.data.preprocessing.plan import BATCH, Plan
from patchcl.data.preprocessing.row_blocks import _BlockMeans, _image_row_blocks, _pixel_by_pixel, _save_row_blocks
from patchcl.data.preprocessing.transforms import _normalised_channels, mask_to_network_grid, to_network_grid
from patchcl.data.scan import (
    mask_row_blocks,
    read_grid,
    read_image,
    read_mask,
    require_annotated,
    require_varied,
)

RECIPE = 2
"""Raise it when this file prepares differently, so that no cache made before is used."""
CLAIMS = "preparing"
"""The folder beside prepared files with a lock for each scan that somebody prepares."""
WAIT_SECONDS = 0.5
"""Between two looks at the scans that others prepare."""


class PreparedCase(NamedTuple):
    """A scan ready for the network, in files that can be memory-mapped."""

    name: str
    patient: str
    image: Path  # .npy (N, C, *S) float32: N slices, or 1 volume
    mask: Path | None  # .npy (N, *S) uint8, IGNORED where nobody annotated
    sources: tuple[tuple[str, str], ...] = ()  # folder and name of every file that was prepared, and its sha256

    @property
    def signature(self) -> Path:
        """Signature of the scan, .npy, see `duplicates.signature`; made with the image."""
        return self.image.with_name(self.image.name.replace(".image-", ".signature-"))


def prepare(
    cases: Sequence[Case],
    plan: Plan,
    cache: Path,
    on_progress: ProgressCallback | None = None,
    on_damage: Callable[[Path], object] = lambda _: None,
) -> tuple[PreparedCase, ...]:
    """Prepare `cases`, keeping the outcome below `cache` so that only what has changed is done again.

    A mask is read only if its case has one, and is kept apart from the image: a cache shared with a run that had more
    masks gives none away. Several processes and machines may prepare at once: each scan is read by one of them, and
    by another if that one has died. Whatever was kept is compared with its checksum, and prepared anew if damaged.

    Args:
        cases: Scans, with a mask where it is to be prepared too.
        plan: How.
        cache: The folder that keeps the outcome.
        on_progress: Told how many cases of all are done.
        on_damage: Told, from any thread, of a prepared file that does not hold what it did; it is made anew.

    Raises:
        UserError: A file cannot be read or does not fit, or `cache` cannot be written to.
    """
    try:
        folder = cache / _key(plan)
        ready = in_parallel(cases, lambda case: _prepare_case(case, plan, folder, on_damage), on_progress)
        while others := [place for place, done in enumerate(ready) if done is None]:
            time.sleep(WAIT_SECONDS)
            again = in_parallel(others, lambda place: _prepare_case(cases[place], plan, folder, on_damage))
            for place, done in zip(others, again, strict=True):
                ready[place] = done
        return tuple(case for case in ready if case is not None)
    except OSError as error:
        raise UserError(
            f"Prepared scans cannot be kept in {cache}: {error}. Make room, or set cache: FOLDER."
        ) from error


def _prepare_case(case: Case, plan: Plan, folder: Path, on_damage: Callable[[Path], object]) -> PreparedCase | None:
    """None while somebody else prepares it."""
    manifest = manifest_in(folder, case.name)
    hashes = known_hashes(_files_of(case), manifest)
    ready = None if hashes is None else _named(case, folder, hashes)
    if ready is not None and not _lacking(ready, read_manifest(manifest)):
        return ready
    with locked(folder / CLAIMS / case.name, lambda: None) as mine:  # who takes over writes the same
        return _prepare_claimed(case, plan, folder, on_damage) if mine else None


def _prepare_claimed(case: Case, plan: Plan, folder: Path, on_damage: Callable[[Path], object]) -> PreparedCase:
    manifest = manifest_in(folder, case.name)
    prepared = _named(case, folder, file_hashes(_files_of(case), manifest))
    image, mask, drawn = prepared.image, prepared.mask, prepared.signature
    lacking = _lacking(prepared, read_manifest(manifest), on_damage)
    if {image, drawn} & lacking:
        _prepare_image(case, plan, prepared)
    if case.mask is not None and mask is not None and mask in lacking:
        _prepare_mask(case.mask, read_grid(case.images[0]), plan, mask)
    if lacking:
        seal([image, drawn, *([mask] if mask is not None else [])], manifest)
    return prepared


def manifest_in(folder: Path, case: str) -> Path:
    """The file with the hashes of all that belongs to a case, beside its prepared files."""
    return folder / f"{case}.json"


def _files_of(case: Case) -> list[Path]:
    return [*case.images, *([case.mask] if case.mask is not None else [])]


def _named(case: Case, folder: Path, hashes: Sequence[str]) -> PreparedCase:
    """The names that prepared files have by the `hashes` of what they are made from."""
    image = folder / f"{case.name}.image-{_joined(hashes[: len(case.images)])}.npy"
    mask = None if case.mask is None else folder / f"{case.name}.mask-{_joined(hashes)}.npy"
    names = (f"{file.parent.name}/{file.name}" for file in _files_of(case))
    return PreparedCase(case.name, case.patient, image, mask, tuple(zip(names, hashes, strict=True)))


def _lacking(
    prepared: PreparedCase, sealed: dict[str, Entry], on_damage: Callable[[Path], object] = lambda _: None
) -> set[Path]:
    """The files of a case that are to be prepared: none there yet, without checksum as version 0.1 left it, damaged."""
    files = [file for file in (prepared.image, prepared.signature, prepared.mask) if file is not None]
    lacking = {file for file in files if not intact(file, sealed)}
    for file in lacking:
        if file.name in sealed and file.exists():
            on_damage(file)
    return lacking


def _prepare_image(case: Case, plan: Plan, prepared: PreparedCase) -> None:
    blocks = _image_row_blocks(case.images, plan)
    if blocks is None:
        _prepare_whole_image(case, plan, prepared)
    else:
        _prepare_row_blocks(case, plan, prepared, blocks)


def _prepare_whole_image(case: Case, plan: Plan, prepared: PreparedCase) -> None:
    scan = read_image(case.images)
    for path, channels in zip(case.images, np.array_split(scan.voxels, len(case.images)), strict=True):
        require_varied(channels, path)
    _save(prepared.signature, signature(scan.voxels))
    try:
        _save(prepared.image, to_network_grid(scan, plan))
    except UserError as error:
        raise UserError(f"{case.images[0]}: {error}") from error


def _prepare_row_blocks(case: Case, plan: Plan, prepared: PreparedCase, blocks: RowBlocks) -> None:
    """As `_prepare_whole_image`, with all that has to be known of the whole picture gathered on the way."""
    means = _BlockMeans(blocks.shape)
    extremes: list[tuple[float, float]] = []

    def seen() -> Iterator[tuple[int, np.ndarray]]:
        for start, block in blocks.all():
            means.add(start, block)
            extremes.append((float(block.min()), float(block.max())))
            yield start, _normalised_channels(block, plan)
        require_varied(np.array(extremes), case.images[0])

    try:
        _save_row_blocks(prepared.image, blocks.shape, np.float32, seen())
    except UserError as error:
        raise UserError(f"{case.images[0]}: {error}") from error
    _save(prepared.signature, signature(means.blocks()))


def _prepare_mask(path: Path, grid: Grid, plan: Plan, prepared: Path) -> None:
    blocks = mask_row_blocks(path, plan.classes, grid, plan.ignore) if _pixel_by_pixel(grid, plan) else None
    if blocks is None:
        classes = read_mask(path, plan.classes, grid, plan.ignore)
        require_annotated(classes, path)
        _save(prepared, mask_to_network_grid(classes, grid, plan))
        return
    annotated: list[int] = []

    def seen() -> Iterator[tuple[int, np.ndarray]]:
        for start, block in blocks.all():
            annotated.append(int(block.min()))
            yield start, block
        require_annotated(np.array(annotated), path)

    _save_row_blocks(prepared, blocks.shape, np.uint8, seen())


def _joined(hashes: Sequence[str]) -> str:
    return hashlib.sha256("".join(hashes).encode()).hexdigest()[:16]


def _key(plan: Plan) -> str:
    """The name of everything in `plan` that decides what prepared files hold."""
    unused = {"output_interpolation", "window_stride", "reasons", "channels", "patch_fraction", "regions", *BATCH}
    unused |= {"ignore"} if plan.ignore is None else set()  # as in caches made before there was such a value
    unused |= {"orientation"} if plan.orientation is None else set()
    unused |= {"background"} if plan.background == "counted" else set()
    deciding = plan.model_dump(mode="json", exclude=unused)
    return hashlib.sha256(json.dumps([RECIPE, deciding], sort_keys=True).encode()).hexdigest()[:16]


def _save(path: Path, array: np.ndarray) -> None:
    atomic_write(path, lambda unfinished: np.save(unfinished, np.ascontiguousarray(array)))
