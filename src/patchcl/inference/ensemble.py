"""Ensemble: several networks whose probabilities are averaged, used like one."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Ensemble(nn.Module):
    """Of `networks` that take the same images to the same classes."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, K, *S) of an image (B, C, *S) whose softmax is the mean of the networks' probabilities."""
        probs = torch.stack([network(image).float().softmax(dim=1) for network in self.networks]).mean(dim=0)
        return probs.clamp(min=torch.finfo(probs.dtype).tiny).log()
