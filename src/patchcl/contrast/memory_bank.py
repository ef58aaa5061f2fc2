"""The memory bank: a queue of teacher embeddings for every class."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from patchcl.contrast.exchange import gathered


class ClassMemory(nn.Module):
    """Memory bank: a ring buffer of embeddings (E,) for every class, of which the newest `length` are kept.

    All of it is a buffer, so checkpoints carry it. Nothing here reads a value back to the host, but for the two figures
    at the end that describe the memory to people.

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
        """Remembered embeddings (K, M, E), M = `length`; rows not yet written are 0."""
        return self.rows[:-1].view(self.classes, self.length, -1)

    @property
    def filled(self) -> Tensor:
        """Number of rows written of each class, (K,), up to `length`."""
        return self.pushed.clamp(max=self.length)

    @property
    def written(self) -> Tensor:
        """Which rows have been written, (K, M) bool."""
        return torch.arange(self.length, device=self.rows.device) < self.filled.unsqueeze(1)

    def ready(self, min_size: int) -> Bool[Tensor, "K"]:
        """Which classes have enough embeddings to count: at least `min_size`."""
        return self.filled >= min_size

    @torch.no_grad()
    def push(self, embedding: Float[Tensor, "P E"], label: Int[Tensor, "P"]) -> None:
        """Enqueue each embedding under its label, over the oldest of that class; the label IGNORE is left out.

        At most `length` embeddings of a class may come at once. Where several processes train together, each remembers
        what all have seen, in the order of their ranks, so that their memories stay the same.
        """
        embedding, label = gathered(embedding), gathered(label)
        member = label.unsqueeze(1) == torch.arange(self.classes, device=label.device)
        order = ((member.cumsum(dim=0) - 1) * member).sum(dim=1)
        known = label.clamp(min=0)
        slot = (self.pushed[known] + order) % self.length
        row = torch.where(label >= 0, known * self.length + slot, self.classes * self.length)
        self.rows.index_copy_(0, row, embedding.to(self.rows.dtype))
        self.pushed += member.sum(dim=0)

    def separability(self) -> float:
        """Fisher's ratio: variance between the means of the classes over that within them, summed over dimensions.

        0 says that the classes coincide; above 1 they stand further apart than they are wide. 0 for an empty memory.
        """
        weight = self.written.double() / self.filled.clamp(min=1).unsqueeze(1)
        mean = (weight.unsqueeze(2) * self.embedding).sum(dim=1)
        within = (weight.unsqueeze(2) * (self.embedding - mean.unsqueeze(1)).square()).sum(dim=(1, 2))
        seen = self.filled > 0
        if not seen.any():
            return 0.0
        between = (mean[seen] - mean[seen].mean(dim=0)).square().sum(dim=1).mean()
        return float(between / within[seen].mean().clamp(min=1e-12))

    def effective_rank(self) -> float:
        """Effective rank of the embeddings' covariance: exp of the entropy of its spectrum.

        From 1, all on one line through their mean, to the number of dimensions. 0 for an empty memory, and where
        training has diverged and embeddings are no numbers.

        Source: Roy & Vetterli, 2007, "The effective rank", with eigenvalues of the covariance for singular values.
        """
        rows = self.embedding[self.written].double()
        if len(rows) == 0 or not rows.isfinite().all():
            return 0.0
        spectrum = torch.linalg.eigvalsh(torch.cov(rows.T, correction=0)).clamp(min=0)
        part = spectrum / spectrum.sum().clamp(min=1e-12)
        return float(torch.exp(-torch.xlogy(part, part).sum()))
