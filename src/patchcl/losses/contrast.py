"""The pseudo-label guided contrastive loss: a class draws together, classes move apart."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from patchcl.memory import ClassStatistics


def pseudo_label_guided_contrast(
    embedding: Float[Tensor, "P E"],
    label: Int[Tensor, "P"],
    statistics: ClassStatistics,
    temperature: float,
    spread_weight: float,
    negatives: float,
) -> Float[Tensor, ""]:
    """The expected contrastive loss of student embeddings against Gaussian positives and Gaussian negatives.

    For an embedding q of class k, with a_j = qᵀμ_j / τ, v_j = λ qᵀΣ_j q / 2τ² and C classes that are ready,

        ℓ(q, k) = -a_k + log( exp(a_k + v_k) + Σ_{j≠k} (ψ / C) exp(a_j + v_j) ).

    The mean is taken over the embeddings whose class is ready. It is 0, with a gradient of 0, when there are none or
    when fewer than two classes are ready.

    Args:
        embedding: Of unit length.
        label: Class of each embedding; IGNORE for places that hold no patch.
        statistics: Of the teacher's embeddings.
        temperature: τ > 0.
        spread_weight: λ >= 0; 1 makes the expectation exact for Gaussians, 0 leaves the means alone.
        negatives: ψ > 0, how many negatives all classes stand for.

    Source: Basak & Yin, CVPR 2023, authors' code `utils/plg_loss.py`; the bound is eq. 8 of Cai et al., 2020,
    https://arxiv.org/abs/2009.14776. Written here with a log-sum-exp, and over whole batches.
    """
    with torch.autocast(embedding.device.type, enabled=False):  # exponents need the full precision
        embedding = embedding.to(statistics.mean.dtype)
        similarity = embedding @ statistics.mean.T / temperature
        exponent = similarity + spread_weight / (2 * temperature**2) * statistics.spread(embedding)

    ready = statistics.ready
    own = label.unsqueeze(1) == torch.arange(len(ready), device=label.device)
    share = torch.log(negatives / ready.sum().clamp(min=1).to(exponent.dtype))
    exponent = torch.where(own, exponent, exponent + share).masked_fill(~ready, float("-inf"))

    counted = (own & ready).any(dim=1) & (ready.sum() > 1)
    # Rows that do not count are given a finite stand-in first: a gradient of infinity times zero is not a number.
    exponent = torch.where(counted.unsqueeze(1), exponent, 0.0)
    loss = exponent.logsumexp(dim=1) - (similarity * own).sum(dim=1)
    return torch.where(counted, loss, 0.0).sum() / counted.sum().clamp(min=1)


def collapse_value(ready: Bool[Tensor, "K"], negatives: float) -> Float[Tensor, ""]:
    """The contrastive loss when the embeddings of all classes coincide, log(1 + ψ (C - 1) / C); 0 for no classes.

    A loss that stays here has learned nothing.
    """
    count = ready.sum().clamp(min=1)
    return torch.log(1 + negatives * (count - 1) / count)
