"""Image store: prepared images during training, on the device when they fit, else on disk and read as needed."""

from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path
from types import EllipsisType
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from patchcl.core.batch import IGNORE
from patchcl.core.errors import UserError
from patchcl.data.loading.foreground import Foreground
from patchcl.data.preprocessing.cache import PreparedCase
from patchcl.data.preprocessing.plan import Plan
from patchcl.data.scan import IGNORED

NOTHING_ANNOTATED = (
    "No labeled scan has an annotated pixel left at the size that the network sees. Annotate more, or raise plan.size "
    "or lower plan.spacing_mm."
)
NOTHING_UNLABELED = (
    "There is nothing unlabeled to learn from: no scan without a mask, and no pixel in a labeled one that nobody "
    "annotated. Add scans to imagesUn, hide masks with --labeled N, or use --method supervised."
)
Window = tuple[EllipsisType | slice, ...]


class _Item(NamedTuple):
    """One slice or volume of a prepared case."""

    case: PreparedCase
    place: int  # along the first axis of its files
    shape: tuple[int, ...]  # spatial


class _OnDisk:
    """Items that stay in their files. Files are opened anew for each item, as thousands cannot stay open."""

    def __init__(self, places: Sequence[tuple[Path, int]]) -> None:
        self._places = places

    def __getitem__(self, item: int) -> Tensor:
        file, place = self._places[item]
        return torch.from_numpy(np.load(file, mmap_mode="c")[place])


class ImageStore:
    """All items (slices or volumes) of some prepared cases, ready to be gathered into batches.

    It is `resident` when images and masks fit `budget_bytes`: they then lie on `device`, and a batch is put together
    there without anything of the host's.
    Masks are handed out only if every case has one. A store of `unlabeled` items hands out none.

    Of a case with a mask only those items are there of which something is annotated, or, in a store of `unlabeled`
    items, of which something is not.

    Raises:
        UserError: There are cases, but no such item.
    """

    def __init__(
        self,
        cases: Sequence[PreparedCase],
        plan: Plan,
        device: torch.device,
        budget_bytes: int,
        unlabeled: bool = False,
    ) -> None:
        self.device = device
        self._size = plan.size
        masked = not unlabeled and all(case.mask is not None for case in cases)
        self._items = [item for case in cases for item in _items_of(case, plan, unlabeled)]
        if cases and not self._items:
            raise UserError(NOTHING_UNLABELED if unlabeled else NOTHING_ANNOTATED)
        voxels = sum(int(np.prod(item.shape)) for item in self._items)
        self.resident = voxels * (4 * len(plan.channels) + masked) <= budget_bytes
        self._images = self._store([item.case.image for item in self._items])
        self._masks = self._store([cast(Path, item.case.mask) for item in self._items]) if masked else None

    def __len__(self) -> int:
        return len(self._items)

    def item_case(self, item: int) -> str:
        """The name of the case that `item` belongs to."""
        return self._items[item].case.name

    @cached_property
    def foreground(self) -> Foreground:
        """Where the structures are, in a store that hands out masks; these are read for it."""
        return Foreground(np.load(cast(Path, item.case.mask), mmap_mode="r")[item.place] for item in self._items)

    def load(
        self, indices: Sequence[int], generator: torch.Generator, on_structure: Collection[int] = ()
    ) -> tuple[Tensor, Tensor | None]:
        """The batch of items `indices`: image (B, C, *size) float32 and mask (B, *size) int64 or None, on the device.

        Of items larger than the network input a piece is taken, at a corner drawn from the CPU `generator`; in those
        places of the batch that are `on_structure` around a voxel of the foreground, or as near as the edge lets it.
        """
        windows = []
        for place, index in enumerate(indices):
            centre = self.foreground.voxel(index, generator) if place in on_structure else None
            windows.append(_window(self._items[index].shape, self._size, generator, centre))
        images = self._gather(self._images, indices, windows)
        return images, None if self._masks is None else classes_of(self._gather(self._masks, indices, windows))

    def _store(self, files: Sequence[Path]) -> Tensor | list[Tensor] | _OnDisk:
        """One file per item -> all items as one tensor if they have the network's size, else one each, or on disk."""
        if not self.resident:
            return _OnDisk([(file, item.place) for file, item in zip(files, self._items, strict=True)])
        places: dict[Path, list[int]] = {}
        for file, item in zip(files, self._items, strict=True):
            places.setdefault(file, []).append(item.place)
        arrays = [torch.from_numpy(np.load(file)[kept]).to(self.device) for file, kept in places.items()]
        if arrays and all(item.shape == self._size for item in self._items):
            return torch.cat(arrays)
        return [item for array in arrays for item in array]

    def _gather(
        self, store: Tensor | list[Tensor] | _OnDisk, indices: Sequence[int], windows: Sequence[Window]
    ) -> Tensor:
        pieces = [store[index][window] for index, window in zip(indices, windows, strict=True)]
        return torch.stack(pieces).to(self.device)


def classes_of(prepared: Tensor) -> Tensor:
    """The classes, int64, of a prepared mask, uint8; IGNORE where nobody annotated."""
    return prepared.long().masked_fill(prepared == IGNORED, IGNORE)


def _items_of(case: PreparedCase, plan: Plan, unlabeled: bool) -> list[_Item]:
    shape = np.load(case.image, mmap_mode="r").shape
    places: Sequence[int] = range(shape[0])
    if case.mask is not None and (unlabeled or plan.ignore is not None):
        ignored = (np.load(case.mask) == IGNORED).reshape(shape[0], -1)
        places = np.flatnonzero(ignored.any(axis=1) if unlabeled else ~ignored.all(axis=1)).tolist()
    spatial = shape[-plan.dimensions :]  # one tuple for all
    return [_Item(case, place, spatial) for place in places]


def _window(
    shape: tuple[int, ...], size: tuple[int, ...], generator: torch.Generator, centre: tuple[int, ...] | None = None
) -> Window:
    """Where a piece of `size` lies within `shape`; without a `centre`, axes with room draw a number."""
    spare = [length - wanted for length, wanted in zip(shape, size, strict=True)]
    if centre is None:
        corner = [int(torch.randint(extra + 1, (), generator=generator)) if extra > 0 else 0 for extra in spare]
    else:
        middle = [place - wanted // 2 for place, wanted in zip(centre, size, strict=True)]
        corner = [max(0, min(start, extra)) for start, extra in zip(middle, spare, strict=True)]
    return (..., *(slice(start, start + wanted) for start, wanted in zip(corner, size, strict=True)))
