"""Stacks: volumes whose slices are pictures, a folder for each case, with their masks in it or in one like it."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from patchcl.core.errors import UserError
from patchcl.data.dataset import preview
from patchcl.data.formats import ending_of, without_ending
from patchcl.data.formats import images as pictures
from patchcl.data.formats.base import is_litter
from patchcl.data.importers.image_mask_folders import IMAGES, MASKS, folders_called
from patchcl.data.importers.registry import NO_OPTIONS, Importer, ImportOptions
from patchcl.data.importers.scan_files import SUFFIX, channel_names
from patchcl.data.importers.transfer import Spacing, note_on_spacing, read_grey_mask, write_array, write_classes
from patchcl.data.importers.writer import SourceDataset, SourceScan
from patchcl.data.scan import require_finite

SIDES = re.compile(r"(train|val|test|valid)(ing|ation)?", re.IGNORECASE)
"""Folders that are called so hold pictures of many patients."""
Slices = dict[int, Path]  # number of a slice -> its file, in the order of the numbers


class _Case(NamedTuple):
    """The slices of one volume and those of its mask, if it has one."""

    name: str
    images: Slices
    masks: Slices


def detect(folder: Path) -> bool:
    """Whether there are folders of pictures in a folder of images beside one of masks, or folders of both."""
    images, masks = folders_called(folder, IMAGES), folders_called(folder, MASKS)
    if len(images) == len(masks) == 1:
        return _holds_cases(images[0]) and _holds_cases(masks[0])
    return any(not SIDES.fullmatch(path.name) and _split(_pictures(path))[1] for path in _folders(folder))


def convert(source: Path, options: ImportOptions = NO_OPTIONS) -> SourceDataset:
    """The cases in the folder `source`: images/CASE/*.png beside masks/CASE/*.png, or CASE/000.png and 000_mask.png.

    Slices are put in the order of the one number in which their names differ, none may be missing, and the slices of a
    mask have the numbers of its image. A case without a mask is unlabeled. Axes are columns, rows and slices.
    """
    cases = list(_cases(source, options))
    if not cases:
        raise UserError(
            f"{source} holds no folders of slices. Expected images/CASE/000.png beside masks/CASE/000.png, or "
            "CASE/000.png beside CASE/000_mask.png."
        )
    channels = channel_names([next(iter(cases[0].images.values()))])
    scans = [_scan(case, len(channels), options) for case in cases]
    note = f"Pictures became slices of {len(cases)} volumes, such as {cases[0].name} with {len(cases[0].images)}."
    notes = (note, *note_on_spacing(options.spacing, 3))
    return SourceDataset(source.resolve().name, channels, tuple(scans), notes=notes)


def numbered(files: Sequence[Path], folder: Path) -> Slices:
    """Number of the slice -> file, from the one number in which the names of `files` in `folder` differ.

    Raises:
        UserError: They differ in more, or have no number; a number is there twice, or is missing.
    """
    parts = {path: re.split(r"([0-9]+)", without_ending(path.name)) for path in files}
    numbers = {path: [int(number) for number in part[1::2]] for path, part in parts.items()}
    alike = len({tuple(part[::2]) for part in parts.values()}) == 1
    columns = list(zip(*numbers.values(), strict=True)) if alike else []
    differing = [index for index, column in enumerate(columns) if len(set(column)) > 1]
    if not columns or len(differing) > 1:
        raise UserError(
            f"{folder} holds {preview([path.name for path in files])}; expected the slices of one volume, whose names "
            "differ in one number alone, that of the slice. Pictures that are no volume: --layout plain or table."
        )
    slices: Slices = {}
    for path in files:
        other = slices.setdefault(numbers[path][(differing or [-1])[0]], path)
        if other is not path:
            raise UserError(f"{folder} holds the same slice twice, as {other.name} and {path.name}. Remove one.")
    between = (number for number in range(min(slices), max(slices)) if number not in slices)
    missing = [str(number) for number in islice(between, 10)]
    if missing:
        raise UserError(
            f"{folder} lacks slice {', '.join(missing)} between {slices[min(slices)].name} and "
            f"{slices[max(slices)].name}. Add what is missing, or number the slices without gaps."
        )
    return dict(sorted(slices.items()))


def _cases(source: Path, options: ImportOptions) -> Iterator[_Case]:
    images, masks = (
        [source / named] if named is not None else folders_called(source, usual)
        for named, usual in ((options.images, IMAGES), (options.masks, MASKS))
    )
    if len(images) != 1 or len(masks) != 1:
        pairs = {path: _split(_pictures(path)) for path in _folders(source)}
        found = {path: (*pair, path) for path, pair in pairs.items()}
    else:
        found = {p: (_pictures(p), _pictures(masks[0] / p.name), masks[0] / p.name) for p in _folders(images[0])}
        _require_images(images[0], masks[0])
    for folder, (own, drawn, where) in found.items():
        if own:
            _require_case(folder)
            yield _case(folder.name, numbered(own, folder), numbered(drawn, where) if drawn else {}, where)


def _case(name: str, images: Slices, masks: Slices, where: Path) -> _Case:
    apart = [str(number) for number in sorted(images.keys() ^ masks.keys())]
    if masks and apart:
        raise UserError(
            f"{where} has not the slices of the image {name}: {preview(apart)} is in one of them alone. A mask has a "
            "slice for each of its image, also where nothing is drawn."
        )
    return _Case(name, images, masks)


def _require_images(images: Path, masks: Path) -> None:
    alone = [path.name for path in _folders(masks) if _pictures(path) and not _pictures(images / path.name)]
    if alone:
        raise UserError(f"{masks} has folders without one of that name in {images}: {preview(alone)}. Rename them.")


def _require_case(folder: Path) -> None:
    if SIDES.fullmatch(folder.name):
        raise UserError(
            f"{folder} is called like a side of a split, but each folder must hold the slices of one volume. For "
            f"pictures by themselves: --layout plain --images DIR/{folder.name} --masks DIR/{folder.name}."
        )


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not is_litter(path.name))


def _pictures(folder: Path) -> list[Path]:
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in paths if ending_of(path.name) in pictures.FORMAT.endings and not is_litter(path.name)]


def _holds_cases(folder: Path) -> bool:
    return any(_pictures(path) for path in _folders(folder) if not SIDES.fullmatch(path.name))


def _split(files: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """The images among `files`, and the masks, which have the name of an image and a word such as `_mask`."""
    stems = {without_ending(path.name) for path in files}
    bare = {path: re.sub(SUFFIX + "$", "", without_ending(path.name), flags=re.IGNORECASE) for path in files}
    masks = [path for path in files if bare[path] != without_ending(path.name) and bare[path] in stems]
    return [path for path in files if path not in masks], masks


def _scan(case: _Case, channels: int, options: ImportOptions) -> SourceScan:
    images = tuple(
        partial(_write_image, case.images, channel, channels, options.spacing) for channel in range(channels)
    )
    mask = partial(_write_mask, case, options) if case.masks else None
    drawn = tuple(case.masks.values())
    mapped = drawn if options.threshold is None else ()
    return SourceScan(case.name, "train", images, mask, files=(*case.images.values(), *drawn), mask_files=mapped)


def _write_image(slices: Slices, channel: int, channels: int, spacing: Spacing, target: Path) -> None:
    planes: dict[Path, np.ndarray] = {}
    for path in slices.values():
        values = pictures.read_values(path)
        if len(values) != channels:
            raise UserError(f"{path} has {len(values)} channels, but other slices have {channels}. Convert it.")
        planes[path] = values[channel]
    volume = _stacked(planes)
    whole = volume.dtype in (np.uint8, np.uint16, np.int16)
    require_finite(volume, next(iter(planes)))
    write_array(target, volume if whole else volume.astype(np.float32), spacing, next(iter(planes)))


def _write_mask(case: _Case, options: ImportOptions, target: Path) -> set[int]:
    planes = {path: read_grey_mask(path, case.images[number], options.threshold) for number, path in case.masks.items()}
    return write_classes(target, _stacked(planes), options.spacing, next(iter(planes)))


def _stacked(planes: Mapping[Path, np.ndarray]) -> np.ndarray:
    """The slices as one array: columns, rows, slices."""
    first, expected = next((path.name, plane.shape) for path, plane in planes.items())
    for path, plane in planes.items():
        if plane.ndim != 2 or plane.shape != expected:
            raise UserError(
                f"{path} has the shape {plane.shape}, but {first} has {expected}; expected slices of one size, rows "
                "and columns alone. Pictures that are no volume: --layout plain or table."
            )
    return np.stack([plane.T for plane in planes.values()], axis=-1)


DESCRIPTION = "folders of slices: images/CASE/000.png beside masks/CASE/000.png, or CASE/000.png and 000_mask.png"
OPTIONS = ("images", "masks", "spacing", "threshold")
IMPORTER = Importer("stacks", DESCRIPTION, detect, convert, options=OPTIONS)
