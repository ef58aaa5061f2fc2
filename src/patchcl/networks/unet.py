"""A U-Net out of MONAI's blocks that offers its encoder beside its logits."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from monai.networks.nets.basic_unet import Down, TwoConv
from torch import Tensor, nn

GROUPS = 8

NORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "batch": ("batch", {}),
    "instance": ("instance", {"affine": True}),
    "group": ("group", {"num_groups": GROUPS}),
}


class UNet(nn.Module):
    """Encoder and decoder with skip connections, one level for every entry of `features`.

    Source: Ronneberger et al., 2015, https://arxiv.org/abs/1505.04597; levels and widths as in SSL4MIS.
    """

    def __init__(
        self,
        dimensions: int,
        channels: int,
        classes: int,
        features: Sequence[int],
        norm: Literal["batch", "instance", "group"] = "batch",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        leaky = ("LeakyReLU", {"negative_slope": 0.01, "inplace": True})
        self.encoded_channels = features[-1]
        self.reduction = 2 ** (len(features) - 1)
        self.inlet = TwoConv(dimensions, channels, features[0], leaky, NORMS[norm], True, dropout)
        self.down = nn.ModuleList(
            Down(dimensions, wide, deep, leaky, NORMS[norm], True, dropout) for wide, deep in pairwise(features)
        )
        self.up = nn.ModuleList(
            Up(dimensions, deep, wide, leaky, NORMS[norm], dropout)
            for wide, deep in zip(reversed(features[:-1]), reversed(features[1:]), strict=True)
        )
        self.classify = getattr(nn, f"Conv{dimensions}d")(features[0], classes, kernel_size=1)

    def encode(self, image: Tensor) -> Tensor:
        """The deepest features, (B, F, *S / 2**levels), of an image (B, C, *S)."""
        return self._levels(image)[-1]

    def forward(self, image: Tensor, feature_dropout: float = 0.0) -> Tensor:
        """Logits (B, K, *S) of an image (B, C, *S).

        With `feature_dropout` the decoder is given perturbed features: of what every level of the encoder hands over,
        that share of the channels is zeroed at random, image by image, and the others grow to make up for it.
        """
        return self.segment(image, feature_dropout)[0]

    def segment(self, image: Tensor, feature_dropout: float = 0.0) -> tuple[Tensor, Tensor]:
        """What `forward` and `encode` give, in one pass."""
        levels = self._levels(image)
        if feature_dropout > 0:
            levels = [torch.feature_dropout(level, feature_dropout, train=True) for level in levels]
        *skips, deepest = levels
        decoded = deepest
        for up, skip in zip(self.up, reversed(skips), strict=True):
            decoded = up(decoded, skip)
        return self.classify(decoded), deepest

    def _levels(self, image: Tensor) -> list[Tensor]:
        levels: list[Tensor] = [self.inlet(image)]
        for down in self.down:
            levels.append(down(levels[-1]))
        return levels


class Up(nn.Module):
    """Doubles the resolution of deep features and merges them with those of the encoder.

    MONAI's `UpCat` does the same, but cannot be compiled in one piece.
    """

    def __init__(
        self, dimensions: int, deep: int, wide: int, act: tuple[str, Any], norm: tuple[str, Any], dropout: float
    ) -> None:
        super().__init__()
        self.enlarge = getattr(nn, f"ConvTranspose{dimensions}d")(deep, wide, kernel_size=2, stride=2)
        self.merge = TwoConv(dimensions, 2 * wide, wide, act, norm, True, dropout)

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        """Deep features (B, F, *s) and skipped ones (B, G, *S), with S = 2s or 2s + 1, to (B, G, *S)."""
        enlarged = self.enlarge(deep)
        missing = [want - have for want, have in zip(skip.shape[2:], enlarged.shape[2:], strict=True)]
        if any(missing):  # the encoder halved an odd length
            enlarged = F.pad(enlarged, [end for want in reversed(missing) for end in (0, want)], mode="replicate")
        merged: Tensor = self.merge(torch.cat([skip, enlarged], dim=1))
        return merged
