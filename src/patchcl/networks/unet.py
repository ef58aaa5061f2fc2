"""U-Net out of MONAI's blocks that offers its encoder beside its logits."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from monai.networks.nets.basic_unet import TwoConv
from torch import Tensor, nn

from patchcl.core.errors import UserError
from patchcl.networks import GROUPS

MIN_SIZE = 4
"""Positions along every axis of the deepest features, as far as the image has them."""

NORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "batch": ("batch", {}),
    "instance": ("instance", {"affine": True}),
    "group": ("group", {"num_groups": GROUPS}),
}


class UNet(nn.Module):
    """Encoder and decoder with skip connections, one level for every entry of `features`.

    `factors` say how much each level after the first shrinks every spatial axis.

    Source: Ronneberger et al., 2015, https://arxiv.org/abs/1505.04597; levels and widths as in SSL4MIS.
    """

    def __init__(
        self,
        factors: Sequence[tuple[int, ...]],
        channels: int,
        classes: int,
        features: Sequence[int],
        norm: Literal["batch", "instance", "group"] = "batch",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        leaky = ("LeakyReLU", {"negative_slope": 0.01, "inplace": True})
        levels = list(zip(factors, pairwise(features), strict=True))
        dimensions = len(factors[0])
        self.factors, self.features = tuple(factors), tuple(features)
        self.encoded_channels = features[-1]
        self.reduction = tuple(math.prod(along) for along in zip(*factors, strict=True))
        self.encoded_reduction = self.reduction
        self.encoded_levels: tuple[int, ...] = (0,)
        self.inlet = TwoConv(dimensions, channels, features[0], leaky, NORMS[norm], True, dropout)
        self.down = nn.ModuleList(
            Down(factor, wide, deep, leaky, NORMS[norm], dropout) for factor, (wide, deep) in levels
        )
        self.up = nn.ModuleList(
            Up(factor, deep, wide, leaky, NORMS[norm], dropout) for factor, (wide, deep) in reversed(levels)
        )
        self.classify = getattr(nn, f"Conv{dimensions}d")(features[0], classes, kernel_size=1)
        layout = torch.channels_last if dimensions == 2 else torch.channels_last_3d  # convolutions are faster so
        self.to(memory_format=layout)  # type: ignore[call-overload]

    def embed_at(self, levels: tuple[int, ...]) -> None:
        """From now on encoded features are those after so many levels of the decoder each, and not the deepest (0).

        Raises:
            UserError: The decoder has fewer levels.
        """
        if max(levels) > len(self.up):
            raise UserError(
                f"method.contrast.levels is {list(levels)}, but the decoder has {len(self.up)} levels, one less than "
                f"network.features. Choose from 0, the deepest features, to {len(self.up)}, those that segment."
            )
        left = self.factors[: len(self.factors) - max(levels)]
        self.encoded_levels = levels
        self.encoded_channels = sum(self.features[-1 - level] for level in levels)
        self.encoded_reduction = tuple(math.prod(by[axis] for by in left) for axis in range(len(self.reduction)))

    def encode(self, image: Tensor) -> Tensor:
        """The features to embed, (B, F, *S / encoded_reduction), of an image (B, C, *S): the deepest by default."""
        *skips, deepest = self._levels(image)
        decoded = [deepest]
        for up, skip in list(zip(self.up, reversed(skips), strict=True))[: max(self.encoded_levels)]:
            decoded.append(up(decoded[-1], skip))
        return self._encoded(decoded)

    def forward(self, image: Tensor, feature_dropout: float = 0.0) -> Tensor:
        """Logits (B, K, *S) of an image (B, C, *S).

        With `feature_dropout` the decoder is given perturbed features: of what every level of the encoder hands over,
        that fraction of the channels is zeroed at random, image by image, and the others grow to make up for it.
        """
        return self.segment(image, feature_dropout)[0]

    def segment(self, image: Tensor, feature_dropout: float = 0.0) -> tuple[Tensor, Tensor]:
        """What `forward` and `encode` give, in one pass."""
        levels = self._levels(image)
        if feature_dropout > 0:
            levels = [torch.feature_dropout(level, feature_dropout, train=True) for level in levels]
        *skips, deepest = levels
        decoded = [deepest]
        for up, skip in zip(self.up, reversed(skips), strict=True):
            decoded.append(up(decoded[-1], skip))
        return self.classify(decoded[-1]), self._encoded(decoded)

    def _encoded(self, decoded: list[Tensor]) -> Tensor:
        """Of features that passed 0, 1, 2, ... levels of the decoder, those to embed, at the size of the finest."""
        chosen = [decoded[level] for level in self.encoded_levels]
        size = decoded[max(self.encoded_levels)].shape[2:]
        same = [level if level.shape[2:] == size else F.interpolate(level, size=size) for level in chosen]
        return same[0] if len(same) == 1 else torch.cat(same, dim=1)

    def _levels(self, image: Tensor) -> list[Tensor]:
        levels: list[Tensor] = [self.inlet(image)]
        for down in self.down:
            levels.append(down(levels[-1]))
        return levels


def halvings(size: Sequence[int], spacing_mm: Sequence[float] | None, levels: int) -> list[tuple[int, ...]]:
    """By how much each of `levels` shrinks every axis of images of `size`: 2, or 1 for an axis that waits.

    An axis waits for the others while its voxels are at least twice as wide as theirs, and for good where half of it
    would be less than MIN_SIZE. Without `spacing_mm` all axes are equally fine.

    Source: Isensee et al., 2021, https://arxiv.org/abs/1904.08128, for the rule.
    """
    lengths, widths, factors = list(size), list(spacing_mm or [1.0] * len(size)), []
    for _ in range(levels):
        able = [length >= 2 * MIN_SIZE for length in lengths]
        finest = min((width for width, may in zip(widths, able, strict=True) if may), default=0.0)
        factor = tuple(2 if may and width < 2 * finest else 1 for width, may in zip(widths, able, strict=True))
        lengths = [length // by for length, by in zip(lengths, factor, strict=True)]
        widths = [width * by for width, by in zip(widths, factor, strict=True)]
        factors.append(factor)
    return factors


class Down(nn.Module):
    """Shrinks features by the largest of each group of neighbours, then looks at them.

    MONAI's `Down` does the same, but halves every axis.
    """

    def __init__(
        self, factor: tuple[int, ...], wide: int, deep: int, act: tuple[str, Any], norm: tuple[str, Any], dropout: float
    ) -> None:
        super().__init__()
        self.shrink = getattr(nn, f"MaxPool{len(factor)}d")(factor)
        self.convs = TwoConv(len(factor), wide, deep, act, norm, True, dropout)

    def forward(self, features: Tensor) -> Tensor:
        """(B, G, *S) to (B, F, *S / factor)."""
        seen: Tensor = self.convs(self.shrink(features))
        return seen


class Up(nn.Module):
    """Undoes the shrinking of deep features and merges them with those of the encoder.

    MONAI's `UpCat` does the same, but cannot be compiled in one piece.
    """

    def __init__(
        self, factor: tuple[int, ...], deep: int, wide: int, act: tuple[str, Any], norm: tuple[str, Any], dropout: float
    ) -> None:
        super().__init__()
        self.enlarge = getattr(nn, f"ConvTranspose{len(factor)}d")(deep, wide, kernel_size=factor, stride=factor)
        self.merge = TwoConv(len(factor), 2 * wide, wide, act, norm, True, dropout)

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        """Deep features (B, F, *s) and skipped ones (B, G, *S), with s = S // factor, to (B, G, *S)."""
        enlarged = self.enlarge(deep)
        missing = [want - have for want, have in zip(skip.shape[2:], enlarged.shape[2:], strict=True)]
        if any(missing):  # the encoder halved an odd length
            enlarged = F.pad(enlarged, [end for want in reversed(missing) for end in (0, want)], mode="replicate")
        merged: Tensor = self.merge(torch.cat([skip, enlarged], dim=1))
        return merged
