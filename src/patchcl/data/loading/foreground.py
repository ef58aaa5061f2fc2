"""Foreground: which items show a structure, and where, so that training may look there more often."""

from collections.abc import Iterable

import numpy as np
import torch

from patchcl.core.errors import UserError
from patchcl.data.scan import IGNORED

VOXELS = 256
"""Of each structure of an item, at most, that a piece may be centred on; evenly spread over all that it has."""
NOTHING_SHOWN = (
    "training.foreground_fraction: no labeled scan shows a structure at the size that the network sees. Raise "
    "plan.size or lower plan.spacing_mm, or set it to 0."
)


class Foreground:
    """The structures of items, given the mask (*S) of each as it was prepared; background and IGNORED are none.

    Raises:
        UserError: No item shows one.
    """

    def __init__(self, masks: Iterable[np.ndarray]) -> None:
        self._shapes: dict[int, tuple[int, ...]] = {}
        self._structures: dict[int, list[np.ndarray]] = {}
        for item, mask in enumerate(masks):
            if structures := _structures_of(mask):
                self._shapes[item], self._structures[item] = mask.shape, structures
        self.items = tuple(self._structures)
        """Those that show a structure."""
        if not self.items:
            raise UserError(NOTHING_SHOWN)

    def voxel(self, item: int, generator: torch.Generator) -> tuple[int, ...]:
        """A voxel of a structure in `item`: each of its structures is as likely as another, however small.

        Source: nnU-Net, `nnUNetDataLoader.get_bbox`, which draws the structure and then the voxel in the same way.
        """
        structures = self._structures[item]
        voxels = structures[_drawn(len(structures), generator)]
        return tuple(map(int, np.unravel_index(voxels[_drawn(len(voxels), generator)], self._shapes[item])))


def _structures_of(mask: np.ndarray) -> list[np.ndarray]:
    """Flat places of some voxels of each structure in a mask."""
    flat = mask.ravel()
    shown = np.flatnonzero((flat != 0) & (flat != IGNORED))
    classes = flat[shown]
    return [_spread(shown[classes == one]) for one in np.unique(classes)]


def _spread(places: np.ndarray) -> np.ndarray:
    chosen: np.ndarray = places[np.linspace(0, len(places) - 1, min(len(places), VOXELS)).astype(int)]
    return chosen


def _drawn(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=generator))
