"""How far student and teacher agree on images that nobody annotated: what says whether pseudo-labels can be learned."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from patchcl.losses.supervised import SMOOTH, one_hot

KEPT = 0.95
"""Fraction of what was counted before that each step keeps."""


class Agreement(nn.Module):
    """The Dice of two masks over the last steps, averaged over all structures.

    Overlaps and sizes are averaged over steps before they are divided, so the first step counts like any other, and a
    structure that some images do not show costs nothing. One that neither mask has ever shown counts as 0: a teacher
    that finds nothing is no good one, however much its student agrees. What is counted is a buffer, so checkpoints
    carry it.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.counted: Tensor
        self.register_buffer("counted", torch.zeros(2, classes))

    @torch.no_grad()
    def add(self, counts: Float[Tensor, "2 K"]) -> None:
        """Takes in the `overlap_and_size` of a step."""
        self.counted.lerp_(counts, 1 - KEPT)

    @property
    def dice(self) -> Float[Tensor, ""]:
        """The agreement, in [0, 1], the last step included."""
        overlap, size = self.counted[:, 1:]
        dice: Tensor = 2 * overlap / size.clamp(min=SMOOTH)
        return dice.mean()


def overlap_and_size(
    one: Int[Tensor, "B *S"], other: Int[Tensor, "B *S"], where: Bool[Tensor, "B *S"], classes: int
) -> Float[Tensor, "2 K"]:
    """Pixels of every class in both masks, and those in one plus those in the other, of the pixels `where` says so."""
    first, second = (one_hot(mask, classes) * where.unsqueeze(1) for mask in (one, other))
    pixels = [0, *range(2, first.ndim)]
    return torch.stack([(first * second).sum(dim=pixels), first.sum(dim=pixels) + second.sum(dim=pixels)])
