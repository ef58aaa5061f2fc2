"""Scans and masks, read and written in any format: voxels and the grid they lie on.

Axes stay in the order of the file (x, y, z for NIfTI) and are never flipped or reoriented, so whatever is written on
a grid lies exactly where the scan did.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from patchcl.core.errors import UserError
from patchcl.data.formats import format_of, nifti
from patchcl.data.formats.base import RowBlocks
from patchcl.data.formats.dicom import segmentation as dicom_seg
from patchcl.data.formats.dicom.writing import write_segmentation
from patchcl.data.geometry import Grid, require_same_grid

IGNORED = 255
"""What a mask holds where nobody knows the class."""
WHITE = 255
"""The second of two classes in pictures in black and white."""


class Scan(NamedTuple):
    """An image and its grid."""

    voxels: np.ndarray  # (C, *shape) float32, axes in file order
    grid: Grid


def read_grid(path: Path) -> Grid:
    """The grid of the file at `path`, from its header alone.

    Raises:
        UserError: The file is missing, cannot be read, or is neither a slice nor a volume.
    """
    return format_of(path).read_grid(path)


def read_image(paths: Sequence[Path]) -> Scan:
    """One image from its files; each holds one channel, or all of a colour picture.

    Raises:
        UserError: A file cannot be read, holds NaN or infinite voxels, or lies on another grid than the first.
    """
    grid = read_grid(paths[0])
    for path in paths[1:]:
        require_same_grid(read_grid(path), grid, path, paths[0].name)
    return Scan(np.concatenate([_read_channels(path) for path in paths]), grid)


def image_row_blocks(paths: Sequence[Path]) -> RowBlocks | None:
    """Row blocks of the voxels that `read_image` gives, of a single picture too large to be held; else None.

    Raises:
        UserError: As for `read_image`, also while row blocks are read.
    """
    of_format = format_of(paths[0]).value_row_blocks
    blocks = of_format(paths[0]) if len(paths) == 1 and of_format is not None else None
    if blocks is None:
        return None
    read = blocks.read

    def read_finite(start: int, stop: int) -> np.ndarray:
        voxels = read(start, stop).astype(np.float32)
        require_finite(voxels, paths[0])
        return voxels

    return blocks._replace(read=read_finite)


def require_finite(voxels: np.ndarray, path: Path) -> None:
    """Refuse an image that no network can learn from.

    Raises:
        UserError: Some voxels are NaN or infinite.
    """
    bad = int(voxels.size - np.isfinite(voxels).sum())
    if bad:
        raise UserError(
            f"{path} holds {bad} voxels that are NaN or infinite, and no network can learn from those. "
            "Replace them, for example by the value of air, or remove the scan."
        )


def require_varied(voxels: np.ndarray, path: Path) -> None:
    """Refuse an image with nothing to see.

    Raises:
        UserError: All of the `voxels` of the file at `path` are the same.
    """
    if voxels.min() == voxels.max():
        raise UserError(f"{path} holds {voxels.min():g} in every voxel. Export it again, or remove the scan.")


def read_mask(
    path: Path, classes: int | Sequence[str], grid: Grid | None = None, ignore: int | None = None
) -> np.ndarray:
    """The class of every voxel, (*shape) uint8.

    Args:
        path: The mask.
        classes: How many there are, or their names, background first. DICOM-SEG tells classes by name.
        grid: That of the image, on which the mask must lie.
        ignore: What the file holds where nobody knows the class; it becomes `IGNORED`.

    Raises:
        UserError: The file cannot be read, holds a value that is no class, or does not lie on `grid`.
    """
    values = _class_values(path, () if isinstance(classes, int) else classes, grid)
    count = classes if isinstance(classes, int) else len(classes)
    if count == 2 and ignore != WHITE and np.isin(values, (0, WHITE)).all():  # known of a whole mask alone
        values = values == WHITE
    return _classes(values, path, count, ignore)


def mask_row_blocks(path: Path, classes: Sequence[str], grid: Grid, ignore: int | None = None) -> RowBlocks | None:
    """Row blocks (1, rows, columns) of the classes that `read_mask` gives, of a mask too large to be held.

    None of any other.

    Raises:
        UserError: As for `read_mask`, also while row blocks are read.
    """
    of_format = format_of(path).class_row_blocks
    blocks = None if of_format is None else of_format(path)
    if blocks is None:
        return None
    require_same_grid(read_grid(path), grid, path, "its image")
    read = blocks.read
    return blocks._replace(read=lambda start, stop: _classes(read(start, stop), path, len(classes), ignore))


def _classes(values: np.ndarray, path: Path, count: int, ignore: int | None) -> np.ndarray:
    """`values` of a mask as classes, uint8."""
    values = _whole(values)
    ignored = values == ignore if ignore is not None else np.zeros(values.shape, bool)
    with np.errstate(invalid="ignore"):
        wrong = ~((values >= 0) & (values < count) & (values == np.floor(values)) | ignored)
    if wrong.any():
        raise UserError(_unknown_values(path, np.unique(values[wrong]), count))
    return np.where(ignored, IGNORED, values).astype(np.uint8)


def _whole(values: np.ndarray) -> np.ndarray:
    """`values` with what lies within `nifti.ROUNDING` of a whole number rounded to it."""
    if values.dtype.kind != "f":
        return values
    with np.errstate(invalid="ignore"):
        nearest = np.rint(values)
        return np.where(np.abs(values - nearest) <= nifti.ROUNDING, nearest, values)


def read_ids(path: Path, grid: Grid) -> np.ndarray:
    """The object that every voxel belongs to, (*shape) int64, 0 for none.

    Raises:
        UserError: The file cannot be read, holds anything but whole numbers from 0 on, or does not lie on `grid`.
    """
    values = _whole(_class_values(path, (), grid))
    with np.errstate(invalid="ignore"):
        wrong = ~((values >= 0) & (values == np.floor(values)))
    if wrong.any():
        raise UserError(
            f"{path} holds {_shown(values[wrong].flat[0])}, but ids of objects are whole numbers from 0 on."
        )
    return values.astype(np.int64)


def write_mask(path: Path, mask: np.ndarray, like: Path, classes: Sequence[str] = ()) -> None:
    """Write the classes `mask` (*shape) as uint8 on the very grid of the scan `like`.

    Where both are of one format, what the header of `like` says of the grid is kept bit for bit.

    Args:
        path: What to write, in the format its name asks for: that of `like`, NIfTI, or DICOM-SEG for a DICOM series.
        mask: The classes.
        like: A file, or the folder of a DICOM series.
        classes: Their names, background first, which DICOM-SEG holds.

    Raises:
        UserError: `like` cannot be read.
    """
    if format_of(path) is dicom_seg.FORMAT:
        write_segmentation(path, mask.astype(np.uint8), like, classes)
    else:
        _write(path, mask.astype(np.uint8), like)


def write_ids(path: Path, ids: np.ndarray, like: Path) -> None:
    """Write the object that every voxel belongs to, (*shape) from 0 to 65535, on the very grid of `like`.

    Raises:
        UserError: `like` cannot be read.
    """
    _write(path, ids.astype(np.uint8 if ids.max(initial=0) <= WHITE else np.uint16), like)


def write_map(path: Path, values: np.ndarray, like: Path) -> None:
    """Write real numbers (*shape), a probability or an uncertainty, as float32 on the very grid of the file `like`.

    Raises:
        UserError: `like` cannot be read.
    """
    _write(path, values.astype(np.float32), like)


def _read_channels(path: Path) -> np.ndarray:
    """The voxels (C, *shape) float32 of one file."""
    with np.errstate(over="ignore"):
        voxels = format_of(path).read_values(path).astype(np.float32)
    require_finite(voxels, path)
    return voxels


def _class_values(path: Path, classes: Sequence[str], grid: Grid | None) -> np.ndarray:
    """What a mask holds, (*shape), which must be that of `grid`."""
    known = format_of(path)
    if grid is not None and classes and known.read_onto is not None:
        return known.read_onto(path, grid, classes)
    if grid is not None:
        require_same_grid(known.read_grid(path), grid, path, "its image")
    if known.read_classes is not None:
        return known.read_classes(path)
    values = known.read_values(path)
    if len(values) > 1:
        raise UserError(f"{path} holds {len(values)} numbers per voxel; a mask has one, its class. Convert it.")
    return np.asarray(values[0])


def _unknown_values(path: Path, values: np.ndarray, classes: int) -> str:
    shown = ", ".join(_shown(value) for value in values[:5]) + (", ..." if len(values) > 5 else "")
    return (
        f"{path} holds the value{'s' if len(values) > 1 else ''} {shown}, but a mask may only hold whole numbers from "
        f"0 to {classes - 1}, one per class in dataset.json. {_way_out(values, classes)}"
    )


def _way_out(values: np.ndarray, classes: int) -> str:
    """What to do about unknown values: running numbers are those of objects, such as cells, and greys have edges."""
    if classes > IGNORED:  # of an import, where nobody has said yet what classes there are
        return (
            "Correct the mask; one structure with grey edges is imported with --threshold VALUE, masks that number "
            "objects, such as cells, with --objects."
        )
    if len(values) > 1 and (values == np.floor(values)).all() and values.min() > 0:
        return (
            "If these number objects, such as cells, put the file into instancesTr (for a test scan instancesTs), and "
            "a mask with the class of every object into labelsTr; patchcl import --objects does both. If not, correct "
            "the mask, or add the classes to dataset.json."
        )
    return "Correct the mask, or add the class to dataset.json."


def _shown(value: np.generic) -> str:
    """A number of a mask with all of its digits."""
    return str(value).removesuffix(".0")


def _write(path: Path, values: np.ndarray, like: Path) -> None:
    """Write in the format that the name `path` asks for: that of `like`, or NIfTI."""
    known = format_of(path)
    if known is nifti.FORMAT and format_of(like) is not known:
        nifti.write_on(path, values, read_grid(like))
    else:
        known.write_like(path, values, like)


def require_annotated(mask: np.ndarray, path: Path) -> None:
    """Refuse a mask, as `read_mask` gives it, that says nothing at all.

    Raises:
        UserError: Every voxel is ignored.
    """
    if (mask == IGNORED).all():
        raise UserError(
            f"{path} says of every voxel that nobody annotated it (ignore), so nothing can be learned from it or "
            "scored on it. Annotate some of it, or remove the file: a scan without a mask is unlabeled."
        )
