"""Arrays: volumes or slices in HDF5 or NumPy files, each with an image and its mask.

Source: LA2018 as https://github.com/yulequan/UA-MT and https://github.com/HiLab-git/DTC have it: folders
CASE/mri_norm2.h5 with the arrays image and label, slices along the last axis, beside train.list and test.list.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from patchcl.core.errors import UserError
from patchcl.data.dataset import preview
from patchcl.data.formats.base import DEFLATE_RATIO, is_litter, library, reading, require_content
from patchcl.data.importers.registry import NO_OPTIONS, Importer, ImportOptions
from patchcl.data.importers.scan_files import files_by_name
from patchcl.data.importers.transfer import Spacing, note_on_spacing, write_array, write_classes
from patchcl.data.importers.writer import SourceDataset, SourceScan, Subset
from patchcl.data.scan import require_finite

KIND = "HDF5 or NumPy with the arrays image and label"
ENDINGS = (".h5", ".hdf5", ".npz")
IMAGES, MASKS = ("image", "img", "data"), ("label", "mask", "seg")
"""What the two arrays may be called."""
LISTS: dict[str, Subset] = {"train.list": "train", "val.list": "validation", "test.list": "test"}
DEEPEST = 3
"""How far below a data set its files are looked for: data, data set, case."""


def detect(folder: Path) -> bool:
    """Whether files with such an ending lie in `folder` or not far below."""
    return folder.is_dir() and next(_files(folder), None) is not None


def convert(source: Path, options: ImportOptions = NO_OPTIONS) -> SourceDataset:
    """The volumes or slices in the folder `source` and in the folders below.

    A file that lies alone in a folder is called like this folder, others by their own names. Axes are x, y and slices.
    A file without a mask is unlabeled. Where there are lists (train.list, val.list, test.list), they tell who is on
    which side, and in which order; who is in none takes no part.
    """
    files = sorted(_files(source))
    if not files:
        raise UserError(f"{source} holds no files that end in {', '.join(ENDINGS)}. Name the folder with the arrays.")
    folders = [path.parent for path in files]
    alone = {path for path in files if folders.count(path.parent) == 1 and path.parent != source}
    named = files_by_name(files, lambda path: path.parent.name if path in alone else path.stem)
    lists = tuple(source / name for name in LISTS if (source / name).is_file())
    sides = _sides(lists, named) if lists else dict.fromkeys(named, LISTS["train.list"])
    scans = [_scan(name, side, named[name], options.spacing) for name, side in sides.items()]
    return SourceDataset(
        source.resolve().name, ("image",), tuple(scans), lists=lists, notes=_notes(scans[0].files[0], options.spacing)
    )


def _files(folder: Path) -> Iterator[Path]:
    levels = ("*/" * depth + "*" for depth in range(DEEPEST + 1))
    paths = (path for level in levels for path in folder.glob(level) if path.suffix.lower() in ENDINGS)
    return (path for path in paths if not any(is_litter(part) for part in path.relative_to(folder).parts))


def _sides(lists: Sequence[Path], named: Mapping[str, Path]) -> dict[str, Subset]:
    """Scan -> its side, in the order of the lists."""
    sides: dict[str, Subset] = {}
    for path in lists:
        with reading(path, "a list of scans"):
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        names = [line if line in named else Path(line.split("/")[0]).stem for line in lines]
        strange = [line for line, name in zip(lines, names, strict=True) if name not in named or name in sides]
        if strange or len(set(names)) < len(names):
            raise UserError(
                f"{path} names {preview(strange) or 'a scan twice'}; expected scans that are there, each in one list, "
                f"once: {preview(list(named))}. Correct the list, or take the lists away."
            )
        sides |= dict.fromkeys(names, LISTS[path.name])
    return sides


def _scan(name: str, side: Subset, path: Path, spacing: Spacing) -> SourceScan:
    with _opened(path) as arrays:
        masked = _keys(path, arrays)[1] is not None
    images = (partial(_write_image, path, spacing),)
    return SourceScan(name, side, images, partial(_write_mask, path, spacing) if masked else None, files=(path,))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The arrays in a file, still on disk, by their names."""
    with reading(path, KIND):
        if path.suffix.lower() == ".npz":
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                yield arrays
        else:
            with library("h5py", path, "HDF5", "hdf5").File(path, "r") as arrays:
                yield arrays


def _keys(path: Path, arrays: Any) -> tuple[str, str | None]:  # noqa: ANN401 - of h5py or NumPy
    """The names of the image and of the mask, if there is one."""
    images, masks = ([key for key in usual if key in arrays] for usual in (IMAGES, MASKS))
    if len(images) != 1 or len(masks) > 1:
        raise UserError(
            f"{path} holds the arrays {preview(sorted(arrays)) or '-'}; expected one image, called "
            f"{' or '.join(IMAGES)}, and at most one mask, called {' or '.join(MASKS)}. Rename or remove the others."
        )
    return images[0], next(iter(masks), None)


def _read(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """The image and the mask, of one size, with two or three axes."""
    with _opened(path) as arrays:
        image, mask = (None if key is None else _array(path, arrays, key) for key in _keys(path, arrays))
    assert image is not None
    sizes = f"image {image.shape}" + ("" if mask is None else f" and mask {mask.shape}")
    if image.ndim not in (2, 3) or not image.size or (mask is not None and mask.shape != image.shape):
        raise UserError(
            f"{path} holds {sizes}; expected x and y, or x, y and slices, the same for both. Save each channel and "
            "time point in a file of its own."
        )
    return image, mask


def _array(path: Path, arrays: Any, key: str) -> np.ndarray:  # noqa: ANN401 - of h5py or NumPy
    require_content(path, _claimed(path, arrays, key), DEFLATE_RATIO)
    array = np.asarray(arrays[key])
    if array.dtype.kind not in "buif":
        raise UserError(f"{path} holds an array of {array.dtype}; expected one real number for each voxel. Convert it.")
    return array


def _claimed(path: Path, arrays: Any, key: str) -> int:  # noqa: ANN401 - of h5py or NumPy
    """How many bytes the array `key` has by its header, which may lie."""
    if path.suffix.lower() != ".npz":
        return int(getattr(arrays[key], "nbytes", 0))  # a group has none
    if f"{key}.npy" not in arrays.zip.namelist():  # no array, as the type of what is read will tell
        return 0
    with arrays.zip.open(f"{key}.npy") as member:
        first = np.lib.format.read_magic(member) == (1, 0)
        read_header = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(member)
    return math.prod(shape) * dtype.itemsize


def _write_image(path: Path, spacing: Spacing, target: Path) -> None:
    with np.errstate(over="ignore"):
        image = _read(path)[0].astype(np.float32)
    require_finite(image, path)
    write_array(target, image, spacing, path)


def _write_mask(path: Path, spacing: Spacing, target: Path) -> set[int]:
    mask = _read(path)[1]
    assert mask is not None
    return write_classes(target, mask, spacing, path)


def _notes(first: Path, spacing: Spacing) -> tuple[str, ...]:
    """What a user should know of a data set whose `first` file this is."""
    shape = _read(first)[0].shape
    notes = note_on_spacing(spacing, len(shape))
    if len(shape) == 3 and 2 * shape[0] < min(shape[1:]):
        notes += (
            f"{first} has shape {shape}: slices are taken along the last axis, but may lie along the first. Turn the "
            "arrays round if they do.",
        )
    return notes


DESCRIPTION = "files .h5 or .npz with the arrays image and label, such as CASE/mri_norm2.h5"
IMPORTER = Importer("arrays", DESCRIPTION, detect, convert, options=("spacing",), certainty=0)
