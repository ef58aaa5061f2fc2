"""A memory of what the teacher has seen of every class, and the shape of each class in it."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class ClassMemory(nn.Module):
    """A ring buffer of embeddings for every class: the newest `length` of each are kept.

    All of it is a buffer, so checkpoints carry it. Nothing here reads a value back to the host.

    Source: Basak & Yin, CVPR 2023, authors' code `utils/queues.py`, as one tensor instead of Python lists.
    """

    def __init__(self, classes: int, length: int, dimensions: int) -> None:
        super().__init__()
        self.classes, self.length = classes, length
        # One more row than the classes need: what has no class is written there, so that shapes never vary.
        self.rows: Tensor
        self.pushed: Tensor
        self.register_buffer("rows", torch.zeros(classes * length + 1, dimensions))
        self.register_buffer("pushed", torch.zeros(classes, dtype=torch.int64))

    @property
    def embedding(self) -> Tensor:
        """(K, M, E) what is remembered of each class; rows not yet written are 0."""
        return self.rows[:-1].view(self.classes, self.length, -1)

    @property
    def filled(self) -> Tensor:
        """(K,) how many rows of each class have been written."""
        return self.pushed.clamp(max=self.length)

    @torch.no_grad()
    def push(self, embedding: Float[Tensor, "P E"], label: Int[Tensor, "P"]) -> None:
        """Remember each embedding under its label, over the oldest of that class; the label IGNORE is left out.

        At most `length` embeddings of a class may come at once.
        """
        member = label.unsqueeze(1) == torch.arange(self.classes, device=label.device)
        order = ((member.cumsum(dim=0) - 1) * member).sum(dim=1)
        known = label.clamp(min=0)
        slot = (self.pushed[known] + order) % self.length
        row = torch.where(label >= 0, known * self.length + slot, self.classes * self.length)
        self.rows.index_copy_(0, row, embedding.to(self.rows.dtype))
        self.pushed += member.sum(dim=0)

    def statistics(self, least: int) -> "ClassStatistics":
        """Mean and centred members of every class. A class with fewer than `least` members is not ready."""
        filled = self.filled
        written = torch.arange(self.length, device=filled.device) < filled.unsqueeze(1)
        share = written / filled.clamp(min=1).unsqueeze(1)
        mean = (share.unsqueeze(2) * self.embedding).sum(dim=1)  # no product of matrices, which autocast would round
        deviation = (self.embedding - mean.unsqueeze(1)) * share.sqrt().unsqueeze(2)
        return ClassStatistics(mean, deviation, filled >= least)


class ClassStatistics(NamedTuple):
    """The Gaussian that each class's embeddings are taken for."""

    mean: Tensor  # (K, E)
    deviation: (
        Tensor  # (K, M, E) members less their mean, over the root of their number: covariance = deviationᵀ deviation
    )
    ready: Tensor  # (K,) bool, whether the class is known well enough to count

    def spread(self, embedding: Float[Tensor, "P E"]) -> Float[Tensor, "P K"]:
        """The variance of every class along every embedding, qᵀ Σ q, without ever forming Σ."""
        return torch.einsum("pe,kme->pkm", embedding, self.deviation).square().sum(dim=2)
