"""Symmetries of the grid, done and undone: the same for a batch, or one for every image."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from patchcl.augment.geometry import Symmetry


def applied(image: Tensor, symmetry: Symmetry) -> Tensor:
    """Images (B, C, *S), turned and then mirrored."""
    turned = torch.rot90(image, symmetry.turns, (2, 3)) if symmetry.turns else image
    return turned.flip(_axes(symmetry)) if symmetry.mirrored else turned


def undone(image: Tensor, symmetry: Symmetry) -> Tensor:
    """What `applied` made, as it was."""
    turned = image.flip(_axes(symmetry)) if symmetry.mirrored else image
    return torch.rot90(turned, -symmetry.turns, (2, 3)) if symmetry.turns else turned


def for_each(
    move: Callable[[Tensor, Symmetry], Tensor], image: Tensor, symmetries: Sequence[Symmetry], chosen: Tensor
) -> Tensor:
    """Images (B, C, *S), each moved by the one of the `symmetries` that has its number in `chosen`, (B,).

    All of them are made, which is nothing beside a network's work, so that nobody has to know which were chosen.
    """
    number = chosen.view(-1, *[1] * (image.ndim - 1))
    moved = move(image, symmetries[0])
    for place, symmetry in enumerate(symmetries[1:], start=1):
        moved = torch.where(number == place, move(image, symmetry), moved)
    return moved


def _axes(symmetry: Symmetry) -> list[int]:
    """The mirrored axes of a tensor, behind batch and channels."""
    return [2 + axis for axis in symmetry.mirrored]
