"""How far a student is from a teacher on images that nobody annotated."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def squared_difference(logits: Float[Tensor, "B K *S"], target_probs: Float[Tensor, "B K *S"]) -> Float[Tensor, ""]:
    """Mean squared difference between the student's probabilities and the teacher's.

    Source: Tarvainen & Valpola, 2017, https://arxiv.org/abs/1703.01780, section 3; SSL4MIS `train_mean_teacher_2D.py`.
    """
    return F.mse_loss(logits.float().softmax(dim=1), target_probs)


def soft_cross_entropy(logits: Float[Tensor, "B K *S"], target_probs: Float[Tensor, "B K *S"]) -> Float[Tensor, ""]:
    """Mean over pixels of the cross-entropy of the student under the teacher's probabilities.

    Source: our reading of `consistency_cost`, which the PatchCL authors' code calls but does not hold.
    """
    return -(target_probs * logits.float().log_softmax(dim=1)).sum(dim=1).mean()
