"""Hard negatives, those that are easily mistaken for the class they are compared with: four ways to stress them.

`neighbour_weights` stresses whole classes. Each of the others gives, for every embedding q, the moments of its
similarity to every class *as a negative*; the class of q itself is left to the caller. Nothing here carries a gradient
but q.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from patchcl.contrast.loss import Moments, even_weights, mean_and_covariance, moments

SHARPNESS = 5.0
"""`reweight`: the weight of a negative z is proportional to exp(SHARPNESS · q·z)."""
HARDEST = 32
"""`mix`: how many negatives of each class, nearest to q, are mixed."""
DRAWN, KEPT = 512, 64
"""`slab`: samples of each class, and how many of them stay, with as many mixes of these."""
SHRINKAGE = 0.1
"""`slab`: fraction of the average variance in each class's covariance, which has fewer rows than it needs."""


def touching(probs: Float[Tensor, "B K *S"]) -> Float[Tensor, "K K"]:
    """How often two classes are side by side: pairs of neighbouring pixels, each as far as it is of its class."""
    pairs = probs.new_zeros(probs.shape[1], probs.shape[1])
    for axis in range(2, probs.ndim):
        count = probs.shape[axis] - 1
        one, next_one = (probs.narrow(axis, first, count).transpose(0, 1).flatten(1) for first in (0, 1))
        pairs = pairs + one @ next_one.T
    return pairs + pairs.T


def neighbour_weights(pairs: Float[Tensor, "K K"], ready: Bool[Tensor, "K"]) -> Float[Tensor, "K K"]:
    """Weight that each class (second axis) has among the negatives of a class (first axis), for which 1 is even.

    Half of it is even, the other half goes with how often the two touch, `pairs`. Over the classes that are ready the
    weights of the others sum to their number, as if all were even, so the collapse value of the loss stays. A class
    that touches none of them has even ones.
    """
    other = ready & ~torch.eye(len(pairs), dtype=torch.bool, device=pairs.device)
    shared = pairs * other
    total = shared.sum(dim=1, keepdim=True)
    part = shared / total.clamp(min=1e-6) * other.sum(dim=1, keepdim=True)
    return torch.where(other & (total > 0), (1 + part) / 2, 1.0)


def reweighted(similarity: Float[Tensor, "P K M"], written: Bool[Tensor, "K M"]) -> Moments:
    """Reweighted negatives: all that are remembered, the more similar to q the heavier; moments (P, K).

    Source: Robinson et al., 2021, https://arxiv.org/abs/2010.04592, eq. 4, without the correction for false negatives.
    """
    logit = (SHARPNESS * similarity.detach()).masked_fill(~written, float("-inf"))
    return moments(similarity, torch.nan_to_num(logit.softmax(dim=2)))


def mixed(
    embedding: Float[Tensor, "P E"],
    similarity: Float[Tensor, "P K M"],
    memory: Float[Tensor, "K M E"],
    written: Bool[Tensor, "K M"],
) -> Moments:
    """Mixed negatives: convex combinations of those most similar to q, on the unit sphere; moments (P, K).

    Source: Kalantidis et al., 2020, https://arxiv.org/abs/2010.01028, section 4.2. They add the mixes to all negatives;
    here the mixes stand for the class.
    """
    ranked = similarity.detach().masked_fill(~written, float("-inf"))
    top, nearest = ranked.topk(min(HARDEST, ranked.shape[2]), dim=2)
    classes = torch.arange(len(memory), device=memory.device).view(1, -1, 1)
    hard = mixes(memory[classes, nearest])
    valid = top > float("-inf")
    weight = valid / valid.sum(dim=2, keepdim=True).clamp(min=1)
    return moments(torch.einsum("pe,pkme->pkm", embedding, hard), weight)


def slab(
    embedding: Float[Tensor, "P E"],
    label: Int[Tensor, "P"],
    memory: Float[Tensor, "K M E"],
    written: Bool[Tensor, "K M"],
) -> Moments:
    """Slab negatives: samples of each class's Gaussian between it and the class of q, mixes among them; moments (P, K).

    For a class k and another j: the anchors are the remembered member of j nearest to class k and the one of k nearest
    to j, by Mahalanobis distance. Samples of N(μ_j, Σ_j) in the slab between the two planes through the anchors, across
    the line that joins them, are ranked by their distance to class k; the nearest stay.

    Source: intent of the PatchCL authors' `utils/hard_neg_mining.py`. There the samples nearest to their *own* mean
    stay, the disqualified are not removed, an inverse of a singular matrix measures distances, and sampling has no end.
    Deviations: a fixed number of samples; both anchors come from the memory; the disqualified are all but the nearest,
    since a sample is hardly ever nearer than the nearest member.
    """
    hard = slab_samples(memory, written)
    known = hard[label.clamp(min=0)]
    return moments(
        torch.einsum("pe,pkse->pks", embedding, known), known.new_full((known.shape[2],), 1 / known.shape[2])
    )


@torch.no_grad()
def slab_samples(memory: Float[Tensor, "K M E"], written: Bool[Tensor, "K M"]) -> Float[Tensor, "K K S E"]:
    """Hard negatives, of unit length, that class j (second axis) has for class k (first axis); S = 2 KEPT."""
    mean, root = gaussians(memory, written)
    between = distance(memory, mean, root).masked_fill(~written, float("inf"))  # from class k to member m of j
    nearest = between.argmin(dim=2)  # (K, K): of class j, seen from class k
    classes = torch.arange(len(memory), device=memory.device)
    theirs = memory[classes, nearest]  # (k, j, E)
    ours = theirs.transpose(0, 1)  # of class k, seen from class j

    noise = torch.randn(len(memory), DRAWN, memory.shape[2], device=memory.device, dtype=memory.dtype)
    samples = mean.unsqueeze(1) + noise @ root.transpose(1, 2)
    line = theirs - ours
    along = torch.einsum("kje,jse->kjs", line, samples)
    low, high = ((line * end).sum(dim=2, keepdim=True) for end in (ours, theirs))
    outside = (along < low) | (along > high)

    rank = distance(samples, mean, root) + torch.where(outside, 1e6, 0.0)  # those outside come last
    lowest = rank.topk(KEPT, dim=2, largest=False).indices
    kept = F.normalize(samples[classes.view(1, -1, 1), lowest], dim=3)
    return torch.cat([kept, mixes(kept)], dim=2)


def gaussians(
    memory: Float[Tensor, "K M E"], written: Bool[Tensor, "K M"]
) -> tuple[Float[Tensor, "K E"], Float[Tensor, "K E E"]]:
    """Mean of each class, and the Cholesky factor of its covariance, shrunk towards a multiple of the identity."""
    mean, covariance = mean_and_covariance(memory, even_weights(written))
    average = covariance.diagonal(dim1=1, dim2=2).mean(dim=1).clamp(min=1e-6)
    identity = torch.eye(memory.shape[2], device=memory.device, dtype=memory.dtype)
    shrunk = (1 - SHRINKAGE) * covariance + SHRINKAGE * average.view(-1, 1, 1) * identity
    root: Tensor = torch.linalg.cholesky_ex(shrunk).L
    return mean, root


def distance(
    points: Float[Tensor, "J S E"], mean: Float[Tensor, "K E"], root: Float[Tensor, "K E E"]
) -> Float[Tensor, "K J S"]:
    """Squared Mahalanobis distance from every class to every point."""
    apart = points.flatten(0, 1).unsqueeze(0) - mean.unsqueeze(1)
    white: Tensor = torch.linalg.solve_triangular(root, apart.transpose(1, 2), upper=False)
    return white.square().sum(dim=1).view(len(mean), *points.shape[:2])


def mixes(negatives: Float[Tensor, "*A S E"]) -> Float[Tensor, "*A S E"]:
    """Each negative mixed with a random other of its set, by a fraction between 0.3 and 0.7, on the unit sphere."""
    count = negatives.shape[-2]
    shift = torch.randint(1, max(2, count), (), device=negatives.device)
    partner = (torch.arange(count, device=negatives.device) + shift) % count
    fraction = 0.3 + 0.4 * torch.rand(*negatives.shape[:-1], 1, device=negatives.device)
    between: Tensor = F.normalize(fraction * negatives + (1 - fraction) * negatives.index_select(-2, partner), dim=-1)
    return between
