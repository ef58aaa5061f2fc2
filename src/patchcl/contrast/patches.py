"""From images and class probabilities to patches: a grid over the batch, what each patch shows, and how it is cut.

Works on whole batches, in 2-D and 3-D, with shapes that never depend on the data.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from patchcl.contrast import EntropySource
from patchcl.core.batch import IGNORE
from patchcl.losses.supervised import one_hot


class PatchGrid(NamedTuple):
    """Every patch of a batch, scored for every class. N = images x patches of each; neighbours overlap by half."""

    image: Tensor  # (N,) index of the image in the batch
    corner: Tensor  # (N, D) first pixel along every spatial axis
    confidence: Tensor  # (K, N) mean probability of the class, in [0, 1]
    coverage: Tensor  # (K, N) fraction of the pixels of which it is the most probable class, in [0, 1]
    entropy: Tensor  # (K, N) average patch entropy, bits, in [0, 1]
    guidance: Tensor  # (K, N) weight that this entropy gives the patch when patches are drawn, in [0, 1]


class ChosenPatches(NamedTuple):
    """The patches of a step: image and corner of each, and its class."""

    image: Tensor  # (P,) index of the image in the batch
    corner: Tensor  # (P, D) first pixel along every spatial axis
    label: Tensor  # (P,) class; IGNORE where a class has too few patches to fill its rows
    entropy: Tensor  # (P,) average patch entropy of that class, bits, in [0, 1]


def patch_grid(
    image: Float[Tensor, "B C *S"],
    probs: Float[Tensor, "B K *S"],
    side: Sequence[int],
    source: EntropySource,
    others: Bool[Tensor, "B *S"] | None = None,
) -> PatchGrid:
    """Confidence, coverage and entropy of every patch of a grid whose step is half a patch.

    Args:
        image: In [0, 1].
        probs: One-hot masks or a teacher's probabilities; all 0 where nobody annotated, which shows no class.
        side: Side of a patch along every spatial axis, at most that of the image.
        source: What the average patch entropy is taken of, and with it which way it guides. `confidence`: the map of
            the class; little entropy means that the teacher is sure, so guidance is 1 - Ē. `attended`: the image
            times that map; it is 0 where the class is not, so much entropy means tissue of the class: guidance is Ē.
        others: Pixels whose most probable class is not among those of `probs`.

    Source: Boserup & Selvan, 2022, https://arxiv.org/abs/2208.10779, for `confidence`; eq. 1 of
    https://arxiv.org/abs/2410.10366, taken for that of Basak & Yin, CVPR 2023, for `attended`. docs/method.md, part 4.
    """
    if source == "confidence":
        entropy = _by_class(grid_mean(binary_entropy(probs), side))
        guidance = 1 - entropy
    else:
        entropy = _by_class(grid_mean(binary_entropy(probs * image.mean(dim=1, keepdim=True).clamp(0, 1)), side))
        guidance = entropy
    confidence = _by_class(grid_mean(probs, side))
    highest, winner = probs.max(dim=1)  # several times faster than argmax on a CPU
    winner = winner.masked_fill(highest == 0 if others is None else (highest == 0) | others, IGNORE)
    coverage = _by_class(grid_mean(one_hot(winner, probs.shape[1]), side))
    index = torch.arange(confidence.shape[1], device=probs.device)
    return PatchGrid(*_located(index, probs.shape[2:], side), confidence, coverage, entropy, guidance)


def binary_entropy(probs: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Binary entropy, in bits, of "this class or not"; of probabilities and in [0, 1] both.

    Source: Boserup & Selvan, 2022, https://arxiv.org/abs/2208.10779, `EntropySampler`.
    """
    tiny, other = torch.finfo(probs.dtype).tiny, 1 - probs  # 0 log 0 is 0, and xlogy is slow
    return -(probs * probs.clamp(min=tiny).log2() + other * other.clamp(min=tiny).log2())


def grid_mean(maps: Float[Tensor, "B K *S"], side: Sequence[int]) -> Float[Tensor, "B K *G"]:
    """Average pooling: the mean of each map over every patch of a grid whose step is half a patch.

    A patch of an even side is two tiles along each axis, and its mean that of theirs, so every pixel is read once.
    """
    if any(length % 2 for length in side):
        pool = F.avg_pool2d if maps.ndim == 4 else F.avg_pool3d
        pooled: Tensor = pool(maps, tuple(side), tuple(max(1, length // 2) for length in side))
        return pooled
    for axis in reversed(range(2, maps.ndim)):
        maps = _means_of_neighbours(_means_of_tiles(maps, axis, side[axis - 2] // 2), axis)
    return maps


def class_attended_patches(
    image: Float[Tensor, "B C *S"], probs: Float[Tensor, "B K *S"], chosen: ChosenPatches, side: Sequence[int]
) -> Float[Tensor, "P C *p"]:
    """Crops of the class-attended images xᵏ = Cᵏ ⊙ x, (P, C, *p): all that is not the class goes dark.

    Source: Basak & Yin, CVPR 2023, section 3.1, as read in https://arxiv.org/abs/2410.10366.
    """
    pixels = _crop(image.movedim(1, -1), chosen, side)
    return (pixels * _attention(probs, chosen, side)).movedim(-1, 1)


def patch_confidence(probs: Float[Tensor, "B K *S"], chosen: ChosenPatches, side: Sequence[int]) -> Float[Tensor, "P"]:
    """The mean confidence in the class of each chosen patch, over its pixels of that class: Σ (Cᵏ)² / Σ Cᵏ.

    1 wherever a mask names the class, however little of the patch it fills; 0 where the patch shows nothing of it.
    """
    attention = _attention(probs, chosen, side).flatten(1)
    return attention.square().sum(dim=1) / attention.sum(dim=1).clamp(min=1e-6)


def class_attended_features(
    features: Float[Tensor, "B F *s"],
    probs: Float[Tensor, "B K *S"],
    chosen: ChosenPatches,
    side: Sequence[int],
    reduction: Sequence[int],
) -> Float[Tensor, "P F"]:
    """The mean feature of each chosen patch, weighted at every position by the confidence in the patch's class.

    Args:
        features: Of whole images.
        probs: At the resolution of the images.
        chosen: With corners in pixels of the images.
        side: Of a patch in pixels of the images: an even multiple of `reduction`, or the whole image.
        reduction: Pixels of an image along one position of the features, on every spatial axis.
    """
    size, patches = features.shape[2:], torch.arange(len(chosen.label), device=features.device)
    small = F.interpolate(probs, size=size, mode="area")
    attention = small[chosen.image, chosen.label.clamp(min=0)]  # (P, *s)
    for axis, by in enumerate(reduction):
        along, first = torch.arange(size[axis], device=features.device), chosen.corner[:, axis, None] // by
        within = (along >= first) & (along < first + max(1, side[axis] // by))
        attention = attention * within.view(-1, *(length if other == axis else 1 for other, length in enumerate(size)))
    weight = attention.new_zeros(len(patches), *features.shape[:1], *size)
    weight[patches, chosen.image] = attention
    # one product of matrices: the gradient of patches cut out one by one is summed in an order that threads decide
    pooled = weight.flatten(1) @ features.movedim(1, -1).flatten(0, -2)
    return pooled / weight.flatten(1).sum(dim=1, keepdim=True).clamp(min=1e-6)


def flip_at_random(patches: Float[Tensor, "P C *p"]) -> Float[Tensor, "P C *p"]:
    """Random flips of every patch, along every axis with probability one half."""
    for axis in range(2, patches.ndim):
        mirrored = torch.rand(len(patches), *[1] * (patches.ndim - 1), device=patches.device) < 0.5
        patches = torch.where(mirrored, patches.flip(axis), patches)
    return patches


def _means_of_tiles(maps: Tensor, axis: int, length: int) -> Tensor:
    """Of tiles of that length along one axis; what is left over at its end takes no part."""
    count = maps.shape[axis] // length
    tiles = maps.narrow(axis, 0, count * length).view(*maps.shape[:axis], count, length, *maps.shape[axis + 1 :])
    return tiles.mean(dim=axis + 1)


def _means_of_neighbours(tiles: Tensor, axis: int) -> Tensor:
    count = tiles.shape[axis] - 1
    return (tiles.narrow(axis, 0, count) + tiles.narrow(axis, 1, count)) / 2


def _by_class(pooled: Tensor) -> Tensor:
    """(B, K, *G) to (K, B * G)."""
    return pooled.transpose(0, 1).flatten(1)


def _located(index: Tensor, size: Sequence[int], side: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Image (N,) and corner (N, D) of each index into the flattened (B, *G) grid."""
    corners = []
    for length, patch in reversed(list(zip(size, side, strict=True))):
        step = max(1, patch // 2)
        along = (length - patch) // step + 1
        corners.append(index % along * step)
        index = index // along
    return index, torch.stack(corners[::-1], dim=1)


def _attention(probs: Tensor, chosen: ChosenPatches, side: Sequence[int]) -> Tensor:
    """The map of each patch's class in that patch, (P, *p, 1)."""
    maps = _crop(probs.movedim(1, -1), chosen, side)
    known = chosen.label.clamp(min=0).view(-1, *[1] * len(side), 1).expand(*maps.shape[:-1], 1)
    return maps.gather(-1, known)


def _crop(maps: Tensor, chosen: ChosenPatches, side: Sequence[int]) -> Tensor:
    """(B, *S, C) to (P, *p, C)."""
    index = [chosen.image.view(-1, *[1] * len(side))]
    for axis, length in enumerate(side):
        along = torch.arange(length, device=maps.device).view(
            [-1 if other == axis else 1 for other in range(len(side))]
        )
        index.append(chosen.corner[:, axis].view(-1, *[1] * len(side)) + along)
    return maps[tuple(index)]
