"""Masks of a DICOM series that are pictures: a folder of them, one for each slice."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from patchcl.core.errors import UserError
from patchcl.data.formats import ending_of, nifti
from patchcl.data.formats import images as pictures
from patchcl.data.formats.dicom.series import Series, strangers_in
from patchcl.data.formats.dicom.stack import Stack
from patchcl.data.scan import read_mask

LOSSY = (".jpg", ".jpeg")
"""Endings of pictures that are never masks."""


class PictureMask(NamedTuple):
    """The pictures that are the mask of a series."""

    folder: Path
    slices: dict[Path, Path]  # file of the series -> its picture

    @property
    def note(self) -> str:
        """Which picture was taken for which slice."""
        file, picture = next(iter(self.slices.items()))
        return f"Pictures became masks of slices by the order of names, such as {picture} of {file.name}."


def pictures_of(folder: Path, image: Series, beside: Path | None = None) -> PictureMask | None:
    """The mask of the series `image`, if there is a folder of pictures in its `folder`, in `beside`, or below.

    A picture belongs to the file of its name; where none has the name of any, pictures and files go by the numbers in
    their names, which must be the order of the InstanceNumber, too.

    Raises:
        UserError: There are several such folders, more or fewer pictures than slices, or the orders differ.
    """
    found: dict[Path, list[Path]] = {}
    places = [place for place in (folder, beside) if place is not None and place.is_dir()]
    for path in (stranger for place in places for stranger in strangers_in(place, below=True)):
        if ending_of(path.name) in pictures.FORMAT.endings and ending_of(path.name) not in LOSSY:
            found.setdefault(path.parent, []).append(path)
    several = {place: files for place, files in found.items() if len(files) > 1 or len(image.files) == 1}
    if not several:
        return None
    wrong = [f"{len(files)} pictures in {place}" for place, files in several.items()]
    if len(several) > 1 or len(next(iter(several.values()))) != len(image.files):
        raise UserError(
            f"{folder} holds {' and '.join(wrong)}, and a series of {len(image.files)} files. Expected one folder "
            "with a mask for each file, also where nothing is drawn. Move other pictures elsewhere."
        )
    ((place, masks),) = several.items()
    return PictureMask(place, _paired(image.files, masks, place))


def transfer_pictures(mask: PictureMask, stack: Stack, target: Path) -> set[int]:
    """Write the mask of the series `stack` as NIfTI beside the name `target`; returns the values in it.

    Raises:
        UserError: A picture cannot be read, is in colour, or has another size than its slice.
    """
    planes = []
    for frame in stack.frames:
        picture = mask.slices[frame.path]
        plane = read_mask(picture, 256)
        if plane.T.shape != frame.size:
            shown, expected = (" × ".join(map(str, size)) for size in (plane.T.shape, frame.size))
            raise UserError(f"{picture} has {shown} pixels, but {frame.name} has {expected}. Expected the same.")
        planes.append(plane.T)
    values = np.stack(planes, axis=-1).reshape(stack.grid.shape)
    nifti.write_on(target.with_suffix(".nii.gz"), values, stack.grid)
    return set(np.unique(values).tolist())


def _paired(files: Mapping[Path, Any], masks: Sequence[Path], place: Path) -> dict[Path, Path]:
    """File of a series -> its mask."""
    stems = {mask.stem: mask for mask in masks}
    if stems.keys() == {file.stem for file in files} and len(stems) == len(masks):
        return {file: stems[file.stem] for file in files}
    by_name = sorted(files, key=_numbers)
    numbers = [int(files[file].get("InstanceNumber") or 0) for file in by_name]
    if any(numbers) and numbers != sorted(set(numbers)):
        raise UserError(
            f"{place}: the pictures are not called like the files of their series, and the names of these are not in "
            "the order of their InstanceNumber, so nobody can tell which is whose. Call each picture like its slice."
        )
    return dict(zip(by_name, sorted(masks, key=_numbers), strict=True))


def _numbers(path: Path) -> list[tuple[int, str]]:
    """What `path` is sorted by: numbers by their value."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"([0-9]+)", path.stem)]
