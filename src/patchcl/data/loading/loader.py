"""Data loader: the batch of a step is a pure function of (seed, step, rank), so resuming needs no saved state."""

import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from torch import Generator, Tensor

from patchcl.augment import AugmentSettings
from patchcl.augment.geometry import draw_transforms, warp
from patchcl.augment.intensity import change_intensity
from patchcl.core.batch import LabeledBatch, TrainingBatch, UnlabeledBatch
from patchcl.core.seeds import seed_for
from patchcl.data.loading.image_store import ImageStore

Loaded = tuple[Tensor, Tensor | None]


class LoadedBatch(NamedTuple):
    """The images of a step, not yet augmented."""

    image: Tensor  # (B, C, *S) labeled
    mask: Tensor  # (B, *S) of them
    unlabeled: Tensor | None  # (B, C, *S)


class BatchStream:
    """Endless stream of images from an image store; the next step's are fetched while this one's are used.

    `foreground_fraction` of them show a structure, of which the store must hand out the masks.
    """

    def __init__(
        self,
        store: ImageStore,
        batch_size: int,
        name: str,
        seed: int,
        rank: int = 0,
        ranks: int = 1,
        foreground_fraction: float = 0.0,
    ) -> None:
        self.store, self.batch_size, self.name = store, batch_size, name
        self.seed, self.rank, self.ranks, self.foreground_fraction = seed, rank, ranks, foreground_fraction
        self.foreground = store.foreground.items if foreground_fraction > 0 else ()
        self._fetcher = None if store.resident else ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._ahead: dict[int, Future[Loaded]] = {}
        self.generator = Generator(store.device)  # what augmentation draws from

    def images_at(self, step: int) -> Loaded:
        """Image (B, C, *S) and mask (B, *S) or None on the training device, and `generator` ready to augment them."""
        self.generator.manual_seed(seed_for(self.seed, step, self.rank, self.name, "augment"))
        if self._fetcher is None:
            return self._load(step)
        current = self._ahead.pop(step, None) or self._fetcher.submit(self._load, step)
        self._ahead = {step + 1: self._fetcher.submit(self._load, step + 1)}
        return current.result()

    def close(self) -> None:
        """Stops fetching ahead."""
        if self._fetcher is not None:
            self._fetcher.shutdown(cancel_futures=True)

    def _load(self, step: int) -> Loaded:
        seed, size = seed_for(self.seed, self.name), len(self.store)
        share = (self.rank, self.ranks, self.foreground, self.foreground_fraction)
        drawn = draws_at(step, size, self.batch_size, seed, *share)
        corners = Generator().manual_seed(seed_for(self.seed, step, self.rank, self.name, "crop"))
        on_structure = [place for place, draw in enumerate(drawn) if draw.on_structure]
        return self.store.load([draw.item for draw in drawn], corners, on_structure)


class BatchLoader:
    """Data loader of labeled and unlabeled images, augmented on the device, a whole batch at once."""

    def __init__(
        self,
        labeled: BatchStream,
        unlabeled: BatchStream | None,
        augment: AugmentSettings,
        strong_views: int = 1,
        spacing_mm: tuple[float, ...] | None = None,
    ) -> None:
        """Without any strong view no intensity is changed, not of labeled images either, and weak stands for strong."""
        self.labeled, self.unlabeled, self.augment = labeled, unlabeled, augment
        self.strong_views, self.spacing_mm = strong_views, spacing_mm

    @property
    def generators(self) -> tuple[Generator, ...]:
        """What augmentation draws from; `load` sets their seeds."""
        return tuple(stream.generator for stream in (self.labeled, self.unlabeled) if stream is not None)

    def at(self, step: int) -> TrainingBatch:
        """The batch of `step`."""
        return self.augmented(self.load(step))

    def load(self, step: int) -> LoadedBatch:
        """The images of `step`, not yet augmented, and all generators with its seeds."""
        image, mask = self.labeled.images_at(step)
        assert mask is not None  # the store of labeled images was opened with masks
        return LoadedBatch(image, mask, None if self.unlabeled is None else self.unlabeled.images_at(step)[0])

    def augmented(self, loaded: LoadedBatch) -> TrainingBatch:
        """The batch that is made of what `load` gave: operations on the device alone, which draw from `generators`."""
        unlabeled = None if loaded.unlabeled is None else self._unlabeled(loaded.unlabeled)
        return TrainingBatch(self._labeled(loaded.image, loaded.mask), unlabeled)

    def close(self) -> None:
        """Stops fetching ahead."""
        for stream in (self.labeled, self.unlabeled):
            if stream is not None:
                stream.close()

    def _labeled(self, image: Tensor, mask: Tensor) -> LabeledBatch:
        generator = self.labeled.generator
        transforms = draw_transforms(len(image), tuple(image.shape[2:]), self.augment, generator, self.spacing_mm)
        image, warped_mask = warp(image, mask, transforms)
        assert warped_mask is not None
        strength = self.augment.labeled_intensity if self.strong_views else 0.0
        return LabeledBatch(change_intensity(image, strength, generator), warped_mask)

    def _unlabeled(self, image: Tensor) -> UnlabeledBatch:
        assert self.unlabeled is not None
        generator = self.unlabeled.generator
        transforms = draw_transforms(len(image), tuple(image.shape[2:]), self.augment, generator, self.spacing_mm)
        weak, _ = warp(image, None, transforms)
        strength = self.augment.strong_intensity
        strong = [change_intensity(weak, strength, generator) for _ in range(self.strong_views)]
        return UnlabeledBatch(weak, *(strong or [weak]))


class Draw(NamedTuple):
    """One item of a batch."""

    item: int
    on_structure: bool = False  # whether it is there for a structure that it shows


def draws_at(
    step: int,
    size: int,
    batch: int,
    seed: int,
    rank: int = 0,
    ranks: int = 1,
    foreground: Sequence[int] = (),
    foreground_fraction: float = 0.0,
) -> list[Draw]:
    """The `batch` items, out of `size`, that process `rank` of `ranks` sees at `step`.

    All steps and ranks together walk through endless passes over the items, each pass in a fresh order; and at
    `foreground_fraction` of all places, evenly spread, through such passes over the items of the `foreground`.
    """
    start = (step * ranks + rank) * batch
    return [_draw_at(position, size, seed, foreground, foreground_fraction) for position in range(start, start + batch)]


def _draw_at(position: int, size: int, seed: int, foreground: Sequence[int], fraction: float) -> Draw:
    before = math.floor(position * fraction)  # places that the foreground has had
    if math.floor((position + 1) * fraction) > before:
        place = _item_at(before, len(foreground), seed_for(seed, "foreground"))
        return Draw(foreground[place], on_structure=True)
    return Draw(_item_at(position - before, size, seed))


def _item_at(position: int, size: int, seed: int) -> int:
    lap, place = divmod(position, size)
    return int(_order(size, seed, lap)[place])


@lru_cache(maxsize=16)
def _order(size: int, seed: int, lap: int) -> np.ndarray:
    return np.random.default_rng([seed, lap]).permutation(size)
