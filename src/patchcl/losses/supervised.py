"""Supervised losses: how far a prediction is from a mask."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from patchcl.core.batch import IGNORE

SMOOTH = 1e-5


def dice_and_cross_entropy(
    logits: Float[Tensor, "B K *S"], mask: Int[Tensor, "B *S"], weight: Float[Tensor, "B *S"] | None = None
) -> Float[Tensor, ""]:
    """Dice and cross-entropy loss, at least 0: their mean over the pixels whose class is known.

    With `weight` each pixel counts as so much of one, in both.

    Source: SSL4MIS, `train_fully_supervised_2D.py`, loss = 0.5 * (dice + cross-entropy). Added: IGNORE.
    """
    logits = logits.float()
    return 0.5 * (soft_dice_loss(logits.softmax(dim=1), mask, weight) + cross_entropy(logits, mask, weight))


def over_levels(
    loss: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    logits: Float[Tensor, "B K *S"],
    lower_logits: Sequence[Tensor],
    mask: Int[Tensor, "B *S"],
    weight: Float[Tensor, "B *S"] | None = None,
) -> Float[Tensor, ""]:
    """Deep supervision: the weighted mean of `loss` over levels, each of which weighs half of the one above.

    `lower_logits`, (B, K, *s) each, are compared with the mask at their size, where pixels count with the `weight` that
    they have there. Without any it is `loss` itself.

    Source: nnU-Net, `nnUNetTrainer._build_loss`; Isensee et al., 2021, https://arxiv.org/abs/1904.08128.
    """
    total, share, shares = loss(logits, mask, weight), 1.0, 1.0
    for lower in lower_logits:
        size = lower.shape[2:]
        share /= 2
        shares += share
        total = total + share * loss(lower, shrunk(mask, size), None if weight is None else shrunk(weight, size))
    return total / shares if lower_logits else total


def shrunk(mask: Tensor, size: Sequence[int]) -> Tensor:
    """A mask (B, *S), or the weights of its pixels, at another size, (B, *size): every pixel is the nearest one."""
    return F.interpolate(mask.unsqueeze(1).float(), size=tuple(size), mode="nearest-exact")[:, 0].to(mask.dtype)


def soft_dice_loss(
    probs: Float[Tensor, "B K *S"], mask: Int[Tensor, "B *S"], weight: Float[Tensor, "B *S"] | None = None
) -> Float[Tensor, ""]:
    """Soft Dice loss: one minus the soft Dice of every class over the whole batch, averaged over classes; in [0, 1].

    The denominator holds squares. A class that is absent from the batch, in prediction and mask, costs nothing.
    Pixels of class IGNORE take no part; with `weight` w the sums are Σ w p y, Σ w p² and Σ w y.

    Source: SSL4MIS, `utils/losses.py`, `DiceLoss`. Added: IGNORE, weights.
    """
    known = (mask != IGNORE).unsqueeze(1)
    target = one_hot(mask, probs.shape[1])
    probs = probs * known
    counted, true = (probs, target) if weight is None else (part * weight.unsqueeze(1) for part in (probs, target))
    pixels = [0, *range(2, probs.ndim)]
    overlap = (counted * target).sum(dim=pixels)
    size = (counted * probs).sum(dim=pixels) + true.sum(dim=pixels)
    return (1 - (2 * overlap + SMOOTH) / (size + SMOOTH)).mean()


def cross_entropy(
    logits: Float[Tensor, "B K *S"], mask: Int[Tensor, "B *S"], weight: Float[Tensor, "B *S"] | None = None
) -> Float[Tensor, ""]:
    """Cross-entropy: mean negative log-probability of the true class over the known pixels; 0 if there are none.

    With `weight` w it is Σ w · that / Σ w over these, at least one pixel's worth of them.
    """
    log_probs = logits.log_softmax(dim=1).movedim(1, -1).flatten(0, -2)  # for maps CUDA has no deterministic kernel
    known = mask != IGNORE
    if weight is None:
        total = F.nll_loss(log_probs, mask.flatten(), ignore_index=IGNORE, reduction="sum")
        return total / known.sum().clamp(min=1)
    surprise = F.nll_loss(log_probs, mask.flatten(), ignore_index=IGNORE, reduction="none")
    return (surprise * weight.flatten()).sum() / (weight * known).sum().clamp(min=1)


def one_hot(mask: Int[Tensor, "B *S"], classes: int) -> Float[Tensor, "B K *S"]:
    """One-hot maps: 1 in the channel of each pixel's class, 0 in the others; all 0 where the class is IGNORE."""
    indices = torch.arange(classes, device=mask.device).view(1, -1, *[1] * (mask.ndim - 1))
    return (mask.unsqueeze(1) == indices).float()
