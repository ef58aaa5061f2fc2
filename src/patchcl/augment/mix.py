"""CutMix: boxes of one image in another, with what is known of their pixels."""

from typing import NamedTuple

import torch
from torch import Tensor


class Shown(NamedTuple):
    """Images, and what a student is told of each of their pixels: by masks, or by pseudo-labels."""

    image: Tensor  # (B, C, *S)
    mask: Tensor  # (B, *S) class of every pixel; IGNORE where nothing is told
    probs: Tensor  # (B, K, *S) how likely every class is
    annotated: Tensor  # (B, *S) bool, whether a mask says so
    weight: Tensor | None = None  # (B, *S) in [0, 1], how much each pixel counts; None: all alike

    def dealt(self, count: int) -> "Shown":
        """One image for each of `count`: the first, the second, and so on, and again from the first."""
        order = torch.arange(count, device=self.mask.device) % len(self.mask)
        return Shown._make(part if part is None else part[order] for part in self)

    def after(self) -> "Shown":
        """In the place of each image the one before it in the batch."""
        return Shown._make(part if part is None else part.roll(1, dims=0) for part in self)


def joined(one: Shown, *others: Shown) -> Shown:
    """Several batches as one."""
    parts = zip(one, *others, strict=True)
    return Shown._make(None if part[0] is None else torch.cat(part) for part in parts)


def mix_shown(base: Shown, other: Shown, box: Tensor) -> Shown:
    """`mix` of images and of all that is told of them alike; `box` is (B, 1, *S), or (B, 1, 1, ...): all or nothing."""
    pairs = zip(base, other, strict=True)
    return Shown._make(None if one is None or two is None else mix(one, two, box) for one, two in pairs)


def random_boxes(image: Tensor, smallest: float = 0.2, largest: float = 0.6, probability: float = 0.5) -> Tensor:
    """A random box in each image of (B, C, *S), (B, 1, *S) bool; an empty one with probability 1 - `probability`.

    Its side is between `smallest` and `largest` of the image's, drawn for every axis. The global generator decides.

    Source: the boxes of Yun et al., 2019, https://arxiv.org/abs/1905.04899, without their bond of height and width.
    """
    batch, size = len(image), image.shape[2:]
    box = torch.rand(batch, 1, *[1] * len(size), device=image.device) < probability
    for axis, length in enumerate(size):
        shape = [-1, 1, *[1] * len(size)]
        side = smallest + (largest - smallest) * torch.rand(batch, device=image.device)
        start = torch.rand(batch, device=image.device) * (1 - side)
        along = [1, 1, *[1] * len(size)]
        along[axis + 2] = length
        centre = (torch.arange(length, device=image.device).view(along) + 0.5) / length
        box = box & (centre >= start.view(shape)) & (centre < (start + side).view(shape))
    return box


def mix(base: Tensor, other: Tensor, box: Tensor) -> Tensor:
    """`base` with the inside of `box` taken from `other`; both (B, C, *S), or both (B, *S) as masks are."""
    return torch.where(box if base.ndim == box.ndim else box.squeeze(1), other, base)


def cut_mix(image: Tensor, mask: Tensor, probability: float) -> tuple[Tensor, Tensor]:
    """CutMix: each image (B, C, *S) with a box of the one before it in the batch, and masks (B, *S) mixed alike.

    Source: Yun et al., 2019, https://arxiv.org/abs/1905.04899; for pseudo-masks French et al., 2020,
    https://arxiv.org/abs/1906.01916.
    """
    box = random_boxes(image, probability=probability)
    return mix(image, image.roll(1, dims=0), box), mix(mask, mask.roll(1, dims=0), box)


def mixed_up(unlabeled: Shown, labeled: Shown, box: Tensor, labeled_probability: float) -> Shown:
    """Unlabeled images with a `box` each, of a labeled image with that probability and else of the one before it."""
    image = unlabeled.image
    pasted = torch.rand(len(image), device=image.device) < labeled_probability
    chosen = pasted.view(-1, *[1] * (image.ndim - 1))
    return mix_shown(unlabeled, mix_shown(unlabeled.after(), labeled.dealt(len(image)), chosen), box)
