"""Cache of prepared scans: normalised, brought to one size or spacing, and kept on disk.

Network axes of a slice are the two axes of the file that slices are not taken along, in file order; of a volume all
three. Padding and resizing follow from grid and plan alone, so `to_scan_grid` undoes exactly what was done.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from patchcl.core.errors import UserError
from patchcl.core.files import atomic_write, write_json
from patchcl.core.parallel import ProgressCallback, in_parallel
from patchcl.data.dataset import Case
from patchcl.data.duplicates import signature
from patchcl.data.formats.base import RowBlocks, require_file
from patchcl.data.geometry import Grid
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
        """Signature of the scan, .npy, see `duplicates.signature`; made with the image."""
        return self.image.with_name(self.image.name.replace(".image-", ".signature-"))


def prepare(
    cases: Sequence[Case], plan: Plan, cache: Path, on_progress: ProgressCallback | None = None
) -> tuple[PreparedCase, ...]:
    """Prepare `cases`, keeping the outcome below `cache` so that only what has changed is done again.

    A mask is read only if its case has one, and is kept apart from the image: a cache shared with a run that had more
    masks gives none away. Two processes may prepare at once. `on_progress` is told how many cases of all are done.

    Raises:
        UserError: A file cannot be read or does not fit, or `cache` cannot be written to.
    """
    try:
        folder = cache / _key(plan)
        return tuple(in_parallel(cases, lambda case: _prepare_case(case, plan, folder), on_progress))
    except OSError as error:
        raise UserError(
            f"Prepared scans cannot be kept in {cache}: {error}. Make room, or set cache: FOLDER."
        ) from error


def _prepare_case(case: Case, plan: Plan, folder: Path) -> PreparedCase:
    hashes = _hashes(case, folder / f"{case.name}.json")
    image = folder / f"{case.name}.image-{_joined(hashes[: len(case.images)])}.npy"
    prepared = PreparedCase(case.name, case.patient, image, None)
    if not (image.exists() and prepared.signature.exists()):
        blocks = _image_row_blocks(case.images, plan)
        if blocks is None:
            _prepare_image(case, plan, prepared)
        else:
            _prepare_row_blocks(case, plan, prepared, blocks)
    if case.mask is None:
        return prepared
    mask = folder / f"{case.name}.mask-{_joined(hashes)}.npy"
    if not mask.exists():
        _prepare_mask(case.mask, read_grid(case.images[0]), plan, mask)
    return prepared._replace(mask=mask)


def _prepare_image(case: Case, plan: Plan, prepared: PreparedCase) -> None:
    scan = read_image(case.images)
    for path, channels in zip(case.images, np.array_split(scan.voxels, len(case.images)), strict=True):
        require_varied(channels, path)
    _save(prepared.signature, signature(scan.voxels))
    try:
        _save(prepared.image, to_network_grid(scan, plan))
    except UserError as error:
        raise UserError(f"{case.images[0]}: {error}") from error


def _prepare_row_blocks(case: Case, plan: Plan, prepared: PreparedCase, blocks: RowBlocks) -> None:
    """As `_prepare_image`, with all that has to be known of the whole picture gathered on the way."""
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
            require_file(part, "a scan or mask")
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
    deciding = plan.model_dump(
        mode="json", exclude={"output_interpolation", "reasons", "channels", "patch_fraction", *BATCH} | unused
    )
    return hashlib.sha256(json.dumps([RECIPE, deciding], sort_keys=True).encode()).hexdigest()[:16]


def _save(path: Path, array: np.ndarray) -> None:
    atomic_write(path, lambda unfinished: np.save(unfinished, np.ascontiguousarray(array)))
