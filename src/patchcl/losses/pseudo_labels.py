"""Pseudo-labels: a teacher's probabilities, the class it would choose, and its confidence."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patchcl.core.batch import IGNORE


class PseudoLabels(NamedTuple):
    """Pseudo-labels of a batch of images."""

    probs: Tensor  # (B, K, *S) sums to one over K
    mask: Tensor  # (B, *S) int64, the most probable class
    confidence: Tensor  # (B, *S) its probability, in [1 / K, 1]
    entropy: Tensor  # (B, *S) of the probabilities over the log of K, in [0, 1]


def pseudo_labels(logits: Float[Tensor, "B K *S"]) -> PseudoLabels:
    """The pseudo-labels that a teacher's logits stand for."""
    return labels_of(logits.float().softmax(dim=1))


def labels_of(probs: Float[Tensor, "B K *S"]) -> PseudoLabels:
    """The pseudo-labels of a teacher's probabilities, such as a mean over several views."""
    confidence, mask = probs.max(dim=1)
    entropy = -torch.xlogy(probs, probs).sum(dim=1) / math.log(probs.shape[1])
    return PseudoLabels(probs, mask, confidence, entropy)


def accepted_mask(pseudo: PseudoLabels, threshold: float) -> Int[Tensor, "B *S"]:
    """The pseudo-mask where the teacher's confidence reaches `threshold`, IGNORE elsewhere."""
    return pseudo.mask.masked_fill(pseudo.confidence < threshold, IGNORE)


def confidence_above_chance(confidence: Float[Tensor, "B *S"], classes: int) -> Float[Tensor, "B *S"]:
    """How much more than chance is known of each pixel: 0 where all `classes` are as likely, 1 where one is certain.

    With confidence c of K classes it is (K c - 1) / (K - 1).
    """
    return (classes * confidence - 1) / (classes - 1)
