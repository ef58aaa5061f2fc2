"""Consistency losses: how far a student is from a teacher on images that nobody annotated."""

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def squared_difference(logits: Float[Tensor, "B K *S"], target_probs: Float[Tensor, "B K *S"]) -> Float[Tensor, ""]:
    """Mean squared difference, in [0, 1], between the student's probabilities and the teacher's.

    Source: Tarvainen & Valpola, 2017, https://arxiv.org/abs/1703.01780, section 3; SSL4MIS `train_mean_teacher_2D.py`.
    """
    return F.mse_loss(logits.float().softmax(dim=1), target_probs)


def squared_difference_where(
    logits: Float[Tensor, "B K *S"], target_probs: Float[Tensor, "B K *S"], counted: Bool[Tensor, "B *S"]
) -> Float[Tensor, ""]:
    """`squared_difference` over the pixels that are `counted`; 0, with a gradient of 0, if there are none.

    Source: Yu et al., 2019, https://arxiv.org/abs/1907.07034, eq. 3, whose sum over classes is a mean here.
    """
    difference = (logits.float().softmax(dim=1) - target_probs).square().mean(dim=1)
    return (difference * counted).sum() / counted.sum().clamp(min=1)
