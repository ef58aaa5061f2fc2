"""Probabilities averaged over the symmetries of the grid that the network was trained on, and over no other."""

from collections.abc import Sequence

from torch import Tensor, nn

from patchcl.augment import AugmentSettings
from patchcl.augment.geometry import IDENTITY, Symmetry, drawn_symmetries
from patchcl.augment.symmetries import applied, undone
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


def _probs_of_view(network: nn.Module, image: Tensor, symmetry: Symmetry) -> Tensor:
    return undone(network(applied(image, symmetry)).float().softmax(dim=1), symmetry)
