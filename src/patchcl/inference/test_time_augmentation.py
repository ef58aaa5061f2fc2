"""Probabilities averaged over the symmetries of the grid that the network was trained on, and over no other."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from patchcl.augment import AugmentSettings
from patchcl.augment.geometry import IDENTITY, Symmetry, drawn_symmetries
from patchcl.data.preprocessing.plan import Plan

ONE_PASS = (IDENTITY,)
"""What validation while training looks at, and `--fast`."""


def symmetries_of(augment: AugmentSettings, plan: Plan) -> tuple[Symmetry, ...]:
    """The symmetries that training with these settings drew from, the identity first."""
    return drawn_symmetries(plan.size, augment, plan.spacing_mm)


def average_probs(network: nn.Module, image: Tensor, symmetries: Sequence[Symmetry] = ONE_PASS) -> Tensor:
    """Probabilities (B, K, *S) of images (B, C, *S), the mean over views of them that `symmetries` give.

    Every view of the batch passes through the network as a batch, and is put back before it is averaged.
    """
    first, *others = symmetries
    probs = _probs_of_view(network, image, first)
    for symmetry in others:
        probs = probs + _probs_of_view(network, image, symmetry)
    return probs / len(symmetries) if others else probs


def applied(image: Tensor, symmetry: Symmetry) -> Tensor:
    """Images (B, C, *S), turned and then mirrored."""
    turned = torch.rot90(image, symmetry.turns, (2, 3)) if symmetry.turns else image
    return turned.flip(_axes(symmetry)) if symmetry.mirrored else turned


def undone(image: Tensor, symmetry: Symmetry) -> Tensor:
    """What `applied` made, as it was."""
    turned = image.flip(_axes(symmetry)) if symmetry.mirrored else image
    return torch.rot90(turned, -symmetry.turns, (2, 3)) if symmetry.turns else turned


def _probs_of_view(network: nn.Module, image: Tensor, symmetry: Symmetry) -> Tensor:
    return undone(network(applied(image, symmetry)).float().softmax(dim=1), symmetry)


def _axes(symmetry: Symmetry) -> list[int]:
    """The mirrored axes of a tensor, behind batch and channels."""
    return [2 + axis for axis in symmetry.mirrored]
