"""Colour maps of masks: a mask holds indices, which mean the same in two files only if their maps agree."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from patchcl.core.errors import UserError
from patchcl.data.formats import ending_of, images


def require_one_colour_map(masks: Sequence[Path]) -> None:
    """Refuse masks in which a colour has two indices, or an index two colours, as when files are quantised one by one.

    Only indices that occur count. What cannot be read is passed over, and told where it is read for its classes.

    Raises:
        UserError: Names two masks that differ.
    """
    maps = {path: found for path in masks if (found := _colour_map(path)) is not None}
    if len({found.tobytes() for found in maps.values()}) < 2:
        return
    colours: dict[int, tuple[tuple[int, ...], Path]] = {}
    indices: dict[tuple[int, ...], tuple[int, Path]] = {}
    for path, found in maps.items():
        for index in _indices(path):
            colour = tuple(found[index].tolist())
            first, where = colours.setdefault(index, (colour, path))
            if first != colour:
                _refuse(f"index {index} is the colour {first} in {where}, but {colour} in {path}")
            other, where = indices.setdefault(colour, (index, path))
            if other != index:
                _refuse(f"the colour {colour} has the index {other} in {where}, but {index} in {path}")


def _colour_map(path: Path) -> np.ndarray | None:
    try:
        return images.colour_map(path) if ending_of(path.name) in images.FORMAT.endings else None
    except UserError:
        return None


def _indices(path: Path) -> Iterator[int]:
    try:
        yield from np.unique(images.read_classes(path)).tolist()
    except UserError:
        return


def _refuse(difference: str) -> None:
    raise UserError(
        f"Masks have colour maps that differ: {difference}. A mask holds indices, so these would become other classes. "
        "Save all masks with one colour map, or as grey values."
    )
