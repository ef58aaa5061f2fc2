"""Contrastive losses, which draw a class together and move classes apart: pseudo-label guided, and InfoNCE.

Both compare student embeddings q with remembered teacher embeddings z by their similarity q·z, (P, K, M).
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

FEW_CLASSES = 4
"""Up to so many classes their moments are taken of the similarities themselves, beyond from mean and covariance."""


class Moments(NamedTuple):
    """The Gaussian that the similarities of an embedding to each class are taken for.

    If the class is N(μ, Σ), the similarity q·z has the mean qᵀμ and the variance qᵀΣq: neither needs Σ itself.
    """

    mean: Tensor  # (P, K)
    variance: Tensor  # (P, K)


class Emphasis(NamedTuple):
    """What counts more than the rest; None: all alike."""

    patch: Tensor | None = None  # (P,) weight of each embedding in the mean over them
    negative: Tensor | None = None  # (P, K) weight > 0 of each class among the negatives of an embedding


class Positive(NamedTuple):
    """What stands for the class of an embedding itself, where something does instead of its memory."""

    moments: Moments  # (P, 1) each
    found: Tensor  # (P, 1) bool


EVEN = Emphasis()


def moments(similarity: Float[Tensor, "P K M"], weight: Float[Tensor, "... M"]) -> Moments:
    """Mean and variance (P, K), weighted, of the similarities to each class.

    The weights of a class sum to one, or are all 0.
    """
    mean = (weight * similarity).sum(dim=-1)
    variance = (weight * (similarity - mean.unsqueeze(-1)).square()).sum(dim=-1)
    return Moments(mean, variance)


def with_positive(classes: Moments, positive: Positive, label: Int[Tensor, "P"]) -> Moments:
    """`classes` with what stands for the own class of each embedding in its place, where there is any."""
    own = label.unsqueeze(1) == torch.arange(classes.mean.shape[1], device=label.device)
    own = own & positive.found
    return Moments(*(torch.where(own, *pair) for pair in zip(positive.moments, classes, strict=True)))


def memory_moments(
    embedding: Float[Tensor, "P E"], memory: Float[Tensor, "K M E"], written: Bool[Tensor, "K M"]
) -> Moments:
    """Moments (P, K) of the similarity of each embedding to all that is remembered of each class.

    Of more than FEW_CLASSES the mean μ and covariance Σ are taken once, and from them qᵀμ and qᵀΣq for every q: the
    same but for rounding, without anything of the size P x K x M.
    """
    weight = even_weights(written)
    if len(memory) <= FEW_CLASSES:
        return moments(torch.einsum("pe,kme->pkm", embedding, memory), weight)
    mean, covariance = mean_and_covariance(memory, weight)
    return Moments(embedding @ mean.T, (embedding @ covariance * embedding).sum(dim=2).T)


def mean_and_covariance(
    memory: Float[Tensor, "K M E"], weight: Float[Tensor, "K M"]
) -> tuple[Float[Tensor, "K E"], Float[Tensor, "K E E"]]:
    """Of each class, weighted; the weights of a class sum to one, or are all 0."""
    weight = weight.unsqueeze(2)
    mean = (weight * memory).sum(dim=1)
    deviation = (memory - mean.unsqueeze(1)) * weight.sqrt()
    return mean, deviation.transpose(1, 2) @ deviation


def even_weights(written: Bool[Tensor, "K M"]) -> Float[Tensor, "K M"]:
    """Weights of a plain mean over the remembered embeddings of each class; all 0 for a class without any."""
    return written / written.sum(dim=1, keepdim=True).clamp(min=1)


def pseudo_label_guided_contrast(
    classes: Moments,
    label: Int[Tensor, "P"],
    ready: Bool[Tensor, "K"],
    temperature: float,
    covariance_weight: float | Tensor,
    num_negatives: float,
    standing: Float[Tensor, ""] | None = None,
    emphasis: Emphasis = EVEN,
) -> Float[Tensor, ""]:
    """The expected contrastive loss of student embeddings against Gaussian positives and Gaussian negatives.

    For an embedding q of class k, with a_j = qᵀμ_j / τ, v_j = λ qᵀΣ_j q / 2τ² and C classes that are ready,

        ℓ(q, k) = -a_k + log( exp(a_k + v_k) + Σ_{j≠k} (ψ / C) exp(a_j + v_j) ).

    The mean is taken over the embeddings whose class is ready. It is 0, with a gradient of 0, when there are none or
    when fewer than two classes are ready. When all classes coincide it is log(1 + ψ (C - 1) / C).

    Args:
        classes: Mean and variance of q·z of each embedding, of unit length, for each class.
        label: Class of each embedding; IGNORE for rows that hold no patch.
        ready: Classes with enough remembered embeddings to count.
        temperature: τ > 0.
        covariance_weight: λ >= 0; 1 makes the expectation exact for Gaussians, 0 leaves the means alone.
        num_negatives: ψ > 0, how many negatives all classes stand for.
        standing: Where `classes` are a sample, how many classes each of the others stands for: `stand_ins`. Then the
            sum over all j ≠ k is estimated by theirs, without bias.
        emphasis: Embeddings that count more in the mean, and classes that count more in the sum over j ≠ k.

    Source: Basak & Yin, CVPR 2023, authors' code `utils/plg_loss.py`; the bound is eq. 8 of Cai et al., 2020,
    https://arxiv.org/abs/2009.14776. Written here with a log-sum-exp, and over whole batches.
    """
    exponent = classes.mean / temperature + covariance_weight / (2 * temperature**2) * classes.variance
    own = _own(label, ready)
    log_count = torch.log(num_negatives / _stood_for(ready, standing).to(exponent.dtype))
    if standing is not None:
        log_count = log_count + standing.log()
    if emphasis.negative is not None:
        log_count = log_count + emphasis.negative.log()
    exponent = torch.where(own, exponent, exponent + log_count).masked_fill(~ready, float("-inf"))

    counted = _counted(own, ready)
    # Rows that do not count are given a finite stand-in first: a gradient of infinity times zero is not a number.
    exponent = torch.where(counted.unsqueeze(1), exponent, 0.0)
    loss = exponent.logsumexp(dim=1) - (classes.mean * own).sum(dim=1) / temperature
    return _mean_over(counted, loss, emphasis.patch)


def info_nce(
    similarity: Float[Tensor, "P K M"],
    written: Bool[Tensor, "K M"],
    label: Int[Tensor, "P"],
    ready: Bool[Tensor, "K"],
    temperature: float,
    standing: Float[Tensor, ""] | None = None,
    emphasis: Emphasis = EVEN,
) -> Float[Tensor, ""]:
    """The contrastive loss against the remembered embeddings themselves, averaged over the positives of each q.

        ℓ(q, z⁺) = -log( exp(q·z⁺/τ) / (exp(q·z⁺/τ) + Σ_n exp(q·n/τ)) )   over all n of the other classes.

    It is 0, with a gradient of 0, where nothing counts, and takes samples of the classes and an emphasis, all as in
    `pseudo_label_guided_contrast`.

    Source: van den Oord et al., 2018, https://arxiv.org/abs/1807.03748, eq. 4, with all positives of a class as in
    eq. 2 of Khosla et al., 2020, https://arxiv.org/abs/2004.11362.
    """
    own = _own(label, ready)
    counted = _counted(own, ready)
    positive = own.unsqueeze(2) & written
    negative = (~own & ready).unsqueeze(2) & written & counted.view(-1, 1, 1)
    exponent = similarity / temperature
    weighted = exponent if emphasis.negative is None else exponent + emphasis.negative.log().unsqueeze(2)
    rest = torch.where(negative, weighted, float("-inf")).flatten(1)
    rest = torch.where(counted.unsqueeze(1), rest, 0.0).logsumexp(dim=1)
    rest = rest if standing is None else rest + standing.log()
    losses = torch.logaddexp(exponent, rest.view(-1, 1, 1)) - exponent
    loss = (losses * positive).sum(dim=(1, 2)) / positive.sum(dim=(1, 2)).clamp(min=1)
    return _mean_over(counted, loss, emphasis.patch)


def stand_ins(ready: Bool[Tensor, "k"], all_ready: Bool[Tensor, "K"]) -> Float[Tensor, ""]:
    """How many ready classes other than the own each one in a sample stands for; `ready` are those of the sample."""
    return (all_ready.sum() - 1).clamp(min=1) / (ready.sum() - 1).clamp(min=1)


def _stood_for(ready: Tensor, standing: Tensor | None) -> Tensor:
    """Number of classes that are ready, those outside the sample with them; at least 1."""
    if standing is None:
        return ready.sum().clamp(min=1)
    return 1 + (ready.sum() - 1).clamp(min=0) * standing


def _own(label: Tensor, ready: Tensor) -> Tensor:
    """(P, K) bool, which class each embedding belongs to."""
    return label.unsqueeze(1) == torch.arange(len(ready), device=label.device)


def _counted(own: Tensor, ready: Tensor) -> Tensor:
    """(P,) bool, the embeddings that have a class to come near to and another to keep away from."""
    return (own & ready).any(dim=1) & (ready.sum() > 1)


def _mean_over(counted: Tensor, loss: Tensor, weight: Tensor | None) -> Tensor:
    if weight is None:
        return torch.where(counted, loss, 0.0).sum() / counted.sum().clamp(min=1)
    return torch.where(counted, weight * loss, 0.0).sum() / (weight * counted).sum().clamp(min=1e-6)
