"""From images and class probabilities to the patches worth contrasting.

Class-attended images, a grid of patches, average patch entropy and a guided choice: for whole batches, in 2-D and 3-D,
with shapes that never depend on the data.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from patchcl.batch import IGNORE

FAINTEST = 0.01
"""A patch whose mean confidence in a class is below this does not show the class, whatever the other patches show."""


class ChosenPatches(NamedTuple):
    """Where the patches of a step lie, and what they are taken for."""

    image: Tensor  # (P,) index of the image in the batch
    corner: Tensor  # (P, D) first pixel along every spatial axis
    label: Tensor  # (P,) class; IGNORE where a class has too few patches to fill its places
    entropy: Tensor  # (P,) average patch entropy of that class, bits, in [0, 1]


def binary_entropy(probs: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Entropy in bits of "this class or not", in [0, 1].

    Source: Boserup & Selvan, 2022, https://arxiv.org/abs/2208.10779, `EntropySampler`.
    """
    other = 1 - probs
    return -(torch.xlogy(probs, probs) + torch.xlogy(other, other)) / math.log(2)


def grid_mean(maps: Float[Tensor, "B K *S"], side: Sequence[int]) -> Float[Tensor, "B K *G"]:
    """The mean of each map over every patch of a grid whose step is half a patch."""
    pool = F.avg_pool2d if maps.ndim == 4 else F.avg_pool3d
    pooled: Tensor = pool(maps, tuple(side), tuple(max(1, length // 2) for length in side))
    return pooled


def choose_patches(
    probs: Float[Tensor, "B K *S"], side: Sequence[int], per_class: int, coverage: float, sharpness: float = 1.0
) -> ChosenPatches:
    """Draws up to `per_class` patches of every class without replacement, sure ones more often than unsure ones.

    A patch is a candidate for class k when its mean confidence c̄ᵏ is at least `coverage` times that of the batch's
    best patch of the class, so that thin structures that never fill a patch still have candidates. Candidates are drawn
    with weights (1 - Ēᵏ) ** sharpness, with Ēᵏ the average patch entropy of the class (Gumbel top-k).

    Args:
        probs: One-hot masks or a teacher's probabilities.
        side: Side of a patch along every spatial axis, at most that of the image.
        per_class: Places for each class; P = K * min(per_class, patches in the batch).
        coverage: In (0, 1].
        sharpness: >= 0; 0 draws all candidates alike.

    Source: Basak & Yin, CVPR 2023, section 3.1, for the idea; docs/method.md, Guided sampling, says what is ours.
    """
    confidence = _by_class(grid_mean(probs, side))
    entropy = _by_class(grid_mean(binary_entropy(probs), side))
    best = confidence.amax(dim=1, keepdim=True)
    candidate = confidence >= (coverage * best).clamp(min=FAINTEST)

    gumbel = -torch.log(-torch.log(torch.rand_like(confidence).clamp(1e-9, 1 - 1e-7)))
    score = sharpness * torch.log((1 - entropy).clamp(min=1e-6)) + gumbel
    score = score.masked_fill(~candidate, float("-inf"))
    top, place = score.topk(min(per_class, score.shape[1]), dim=1)

    classes = torch.arange(len(score), device=score.device).unsqueeze(1).expand_as(place)
    label = torch.where(top > float("-inf"), classes, IGNORE).flatten()
    image, corner = _located(place.flatten(), probs.shape[2:], side)
    return ChosenPatches(image, corner, label, entropy.gather(1, place).flatten())


def class_attended_patches(
    image: Float[Tensor, "B C *S"], probs: Float[Tensor, "B K *S"], chosen: ChosenPatches, side: Sequence[int]
) -> Float[Tensor, "P C *p"]:
    """Cuts the chosen patches out of the class-attended images xᵏ = Cᵏ ⊙ x: all that is not the class goes dark.

    Source: Basak & Yin, CVPR 2023, section 3.1, as read in https://arxiv.org/abs/2410.10366.
    """
    pixels = _crop(image.movedim(1, -1), chosen, side)
    attention = _crop(probs.movedim(1, -1), chosen, side)
    known = chosen.label.clamp(min=0).view(-1, *[1] * len(side), 1).expand(*attention.shape[:-1], 1)
    return (pixels * attention.gather(-1, known)).movedim(-1, 1)


def flip_at_random(patches: Float[Tensor, "P C *p"]) -> Float[Tensor, "P C *p"]:
    """Mirrors every patch along every axis, or not, with even chances: another look at the same tissue."""
    for axis in range(2, patches.ndim):
        mirrored = torch.rand(len(patches), *[1] * (patches.ndim - 1), device=patches.device) < 0.5
        patches = torch.where(mirrored, patches.flip(axis), patches)
    return patches


def _by_class(pooled: Tensor) -> Tensor:
    """(B, K, *G) to (K, B * G)."""
    return pooled.transpose(0, 1).flatten(1)


def _located(place: Tensor, size: Sequence[int], side: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Image and corner of each place in the flattened (B, *G) grid."""
    corners = []
    for length, patch in reversed(list(zip(size, side, strict=True))):
        step = max(1, patch // 2)
        along = (length - patch) // step + 1
        corners.append(place % along * step)
        place = place // along
    return place, torch.stack(corners[::-1], dim=1)


def _crop(maps: Tensor, chosen: ChosenPatches, side: Sequence[int]) -> Tensor:
    """(B, *S, C) to (P, *p, C)."""
    index = [chosen.image.view(-1, *[1] * len(side))]
    for axis, length in enumerate(side):
        along = torch.arange(length, device=maps.device).view(
            [-1 if other == axis else 1 for other in range(len(side))]
        )
        index.append(chosen.corner[:, axis].view(-1, *[1] * len(side)) + along)
    return maps[tuple(index)]
