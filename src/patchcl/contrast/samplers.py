"""Samplers of patches: four ways to choose which ones are contrasted, the same number for every class."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from patchcl.contrast import Sampler
from patchcl.contrast.patches import ChosenPatches, PatchGrid
from patchcl.core.batch import IGNORE

FAINTEST = 0.01
"""A patch whose mean confidence in a class is below this does not show the class, whatever the other patches show."""
TARGET = 0.8
"""Fraction of the patches that show a class which the coverage threshold lets through in the long run."""
GAIN, FADE = 0.5, 0.6
"""The n-th update of that threshold, from 0, has the step GAIN / (n + 1) ** FADE."""


class PatchSampler(nn.Module):
    """Chooses up to `per_class` patches of every class without replacement.

    A patch is a candidate for class k when its mean confidence c̄ᵏ is at least `min_ratio` times that of the best patch
    of the class in the batch, so that thin structures that never fill a patch still have candidates. Among these,

    - `entropy` draws with probabilities that go with the guidance of the average patch entropy,
    - `topk` takes those with the most guidance, ties by chance,
    - `uniform` draws all alike,
    - `coverage` draws alike among the patches of which the class covers more than its adaptive threshold; the
      candidates above do not matter then.

    At the `border` all of that is weighted by 4 c̄ᵏ (1 - c̄ᵏ), which is 1 where the class fills half of a patch, and 0
    where it fills all of it.

    Source: Basak & Yin, CVPR 2023, section 3.1, for the idea; docs/method.md, part 5, says what is ours.
    """

    def __init__(
        self, kind: Sampler, classes: int, per_class: int, min_ratio: float, overlap: float = 1.0, border: bool = False
    ) -> None:
        """`min_ratio` is in (0, 1]; `overlap` is the largest shared part of two patches of one class in one image."""
        super().__init__()
        self.kind, self.per_class, self.min_ratio, self.overlap = kind, per_class, min_ratio, overlap
        self.border = border
        self.threshold = CoverageThreshold(classes)

    def forward(self, grid: PatchGrid, side: Sequence[int], classes: Tensor | None = None) -> ChosenPatches:
        """The patches of a step; P = K * min(per_class, N), in the order of their classes.

        Where the grid is of a sample of the `classes` alone, a label is a place in that sample.
        """
        score = self._score(grid).masked_fill(~self._candidates(grid, classes), float("-inf"))
        count = min(self.per_class, score.shape[1])
        top, index = best_apart(score, grid, side, count, self.overlap) if self.overlap < 1 else score.topk(count)
        place = torch.arange(len(score), device=score.device).unsqueeze(1).expand_as(index)
        label = torch.where(top > float("-inf"), place, IGNORE).flatten()
        entropy = grid.entropy.gather(1, index).flatten()
        return ChosenPatches(grid.image[index.flatten()], grid.corner[index.flatten()], label, entropy)

    def _score(self, grid: PatchGrid) -> Tensor:
        """(K, N) what to rank by. Adding Gumbel noise to log weights makes a ranking a draw (Gumbel top-k)."""
        uniform = torch.rand_like(grid.guidance)
        weight = grid.guidance if self.kind in ("entropy", "topk") else torch.ones_like(grid.guidance)
        if self.border:
            weight = weight * 4 * grid.confidence * (1 - grid.confidence)
        if self.kind == "topk":
            return weight + 1e-4 * uniform
        gumbel = -torch.log(-torch.log(uniform.clamp(1e-9, 1 - 1e-7)))
        return torch.log(weight.clamp(min=1e-6)) + gumbel

    def _candidates(self, grid: PatchGrid, classes: Tensor | None) -> Tensor:
        if self.kind == "coverage":
            qualified: Tensor = self.threshold(grid.coverage, classes)
            return qualified
        best = grid.confidence.amax(dim=1, keepdim=True)
        return grid.confidence >= (self.min_ratio * best).clamp(min=FAINTEST)


class CoverageThreshold(nn.Module):
    """Adaptive threshold of every class: the coverage that `TARGET` of its patches exceed, by stochastic approximation.

    With r the coverage of the N patches that show the class at all, a step is

        q = (1/N) Σ 1[r > θ]        θ <- clip(θ + a (q - target), 0, 1)

    so θ rises while too many patches pass and falls while too few do: it settles at the (1 - target) quantile of r.

    Source: Robbins & Monro, 1951; intent and target of the PatchCL authors' `utils/stochastic_approx.py`, whose filter
    and sign are both the wrong way round, and whose step grows with the number of patches.
    """

    def __init__(self, classes: int, start: float = 0.5) -> None:
        super().__init__()
        self.value: Tensor
        self.updates: Tensor
        self.register_buffer("value", torch.full((classes,), start))
        self.register_buffer("updates", torch.zeros(classes))

    @torch.no_grad()
    def forward(self, coverage: Float[Tensor, "K N"], classes: Int[Tensor, "K"] | None = None) -> Bool[Tensor, "K N"]:
        """Which patches qualify by the threshold as it stands; then the threshold moves, but not of an absent class.

        Without `classes`, which say what the rows are of, they are of all.
        """
        if classes is None:
            classes = torch.arange(len(self.value), device=coverage.device)
        value, updates = self.value[classes], self.updates[classes]
        shown = coverage > 0
        qualified = shown & (coverage > value.unsqueeze(1))
        count = shown.sum(dim=1)
        fraction = qualified.sum(dim=1) / count.clamp(min=1)
        step = GAIN / (updates + 1) ** FADE
        value = torch.where(count > 0, value + step * (fraction - TARGET), value).clamp(0, 1)
        self.value.index_copy_(0, classes, value)
        self.updates.index_copy_(0, classes, updates + (count > 0))
        return qualified


def best_apart(
    score: Float[Tensor, "K N"], grid: PatchGrid, side: Sequence[int], count: int, overlap: float
) -> tuple[Float[Tensor, "K n"], Int[Tensor, "K n"]]:
    """Non-maximum suppression: the best scores of every class and their indices, n = `count`.

    None has more than `overlap` of a patch in common with a better one. Patches of different images, and of different
    classes, never compete.

    Source: greedy non-maximum suppression, as in the PatchCL authors' `utils/nms_utils.py`, which forgets the images.
    """
    tops, indices = [], []
    for _ in range(count):
        top, index = score.max(dim=1)
        tops.append(top)
        indices.append(index)
        same = grid.image[index].unsqueeze(1) == grid.image
        shared = shared_parts(grid.corner[index].unsqueeze(1), grid.corner, side)
        taken = torch.zeros_like(same).scatter_(1, index.unsqueeze(1), torch.ones_like(same[:, :1]))
        score = score.masked_fill(taken | (same & (shared > overlap)), float("-inf"))
    return torch.stack(tops, dim=1), torch.stack(indices, dim=1)


def shared_parts(corner: Tensor, others: Tensor, side: Sequence[int]) -> Tensor:
    """(K, N) fraction of a patch that those at `corner` (K, 1, D) have in common with each of `others` (N, D)."""
    parts = []
    for axis, length in enumerate(side):
        apart = (corner[..., axis] - others[..., axis]).abs()
        parts.append((length - apart).clamp(min=0) / length)
    return torch.stack(parts).prod(dim=0)
