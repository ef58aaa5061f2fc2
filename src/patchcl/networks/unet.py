"""U-Net out of MONAI's blocks that offers its encoder beside its logits."""

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from monai.networks.nets.basic_unet import TwoConv
from torch import Tensor, nn

from patchcl.core.errors import UserError
from patchcl.networks import GROUPS
from patchcl.networks.blocks import Layer, encoder_block
from patchcl.networks.single_volume import quick_for_one

MIN_SIZE = 4
"""Positions along every axis of the deepest features, as far as the image has them."""

LEAKY: Layer = ("LeakyReLU", {"negative_slope": 0.01, "inplace": True})
NORMS: dict[str, Layer] = {
    "batch": ("batch", {}),
    "instance": ("instance", {"affine": True}),
    "group": ("group", {"num_groups": GROUPS}),
}


class UNet(nn.Module):
    """Encoder and decoder with skip connections, one level for every entry of `features`.

    `factors` say how much each level after the first shrinks every spatial axis. `encoder_dropout` has a rate for every
    level, or none. With `deep_supervision` a pass that is trained on leaves `lower_logits` behind.

    Source: Ronneberger et al., 2015, https://arxiv.org/abs/1505.04597; levels and widths as in SSL4MIS.
    """

    lower_logits: tuple[Tensor, ...] = ()
    """(B, K, *s) of the last pass with a gradient and nothing perturbed, from the second level of the decoder down.

    The lowest has none. Source: nnU-Net, `nnUNetTrainer._build_loss`.
    """

    def __init__(
        self,
        factors: Sequence[tuple[int, ...]],
        channels: int,
        classes: int,
        features: Sequence[int],
        norm: Literal["batch", "instance", "group"] = "batch",
        dropout: float = 0.0,
        encoder_dropout: Sequence[float] = (),
        residual_encoder: bool = False,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        dimensions = len(factors[0])
        self.factors, self.features = tuple(factors), tuple(features)
        self.encoded_channels = features[-1]
        self.reduction = tuple(math.prod(along) for along in zip(*factors, strict=True))
        self.encoded_reduction = self.reduction
        self.encoded_levels: tuple[int, ...] = (0,)
        between = encoder_dropout or [0.0] * len(features)
        self.inlet, *deeper = (
            encoder_block(dimensions, wide, deep, LEAKY, NORMS[norm], dropout, rate, residual_encoder)
            for (wide, deep), rate in zip(pairwise([channels, *features]), between, strict=True)
        )
        self.down = nn.ModuleList(Down(factor, block) for factor, block in zip(factors, deeper, strict=True))
        levels = list(zip(factors, pairwise(features), strict=True))
        self.up = nn.ModuleList(
            Up(factor, deep, wide, LEAKY, NORMS[norm], dropout) for factor, (wide, deep) in reversed(levels)
        )
        to_classes = partial(getattr(nn, f"Conv{dimensions}d"), out_channels=classes, kernel_size=1)
        self.classify = to_classes(features[0])
        self.classify_lower = nn.ModuleList(to_classes(width) for width in features[1:-2] if deep_supervision)
        layout = torch.channels_last if dimensions == 2 else torch.channels_last_3d  # convolutions are faster so
        self.to(memory_format=layout)  # type: ignore[call-overload]
        quick_for_one(self)

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
        learning = self.training and torch.is_grad_enabled() and feature_dropout == 0
        *skips, deepest = levels
        decoded = [deepest]
        lower: tuple[Tensor, ...] = ()
        for up, skip, classify in zip(self.up, reversed(skips), self._lower_classifiers(), strict=True):
            decoded.append(up(decoded[-1], skip))
            if learning and classify is not None:
                lower = (classify(decoded[-1]), *lower)
        if lower:
            self.lower_logits = lower
        return self.classify(decoded[-1]), self._encoded(decoded)

    def _encoded(self, decoded: list[Tensor]) -> Tensor:
        """Of features that passed 0, 1, 2, ... levels of the decoder, those to embed, at the size of the finest."""
        chosen = [decoded[level] for level in self.encoded_levels]
        size = decoded[max(self.encoded_levels)].shape[2:]
        same = [level if level.shape[2:] == size else F.interpolate(level, size=size) for level in chosen]
        return same[0] if len(same) == 1 else torch.cat(same, dim=1)

    def _lower_classifiers(self) -> list[nn.Module | None]:
        """What gives `lower_logits`, for every level of the decoder from the lowest up."""
        lower = list(self.classify_lower)
        return [None] * (len(self.up) - 1 - len(lower)) + lower[::-1] + [None]

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

    def __init__(self, factor: tuple[int, ...], convs: nn.Module) -> None:
        super().__init__()
        self.shrink = getattr(nn, f"MaxPool{len(factor)}d")(factor)
        self.convs = convs

    def forward(self, features: Tensor) -> Tensor:
        """(B, G, *S) to (B, F, *S / factor)."""
        seen: Tensor = self.convs(self.shrink(features))
        return seen


class Up(nn.Module):
    """Undoes the shrinking of deep features and merges them with those of the encoder.

    MONAI's `UpCat` does the same, but cannot be compiled in one piece.
    """

    def __init__(self, factor: tuple[int, ...], deep: int, wide: int, act: Layer, norm: Layer, dropout: float) -> None:
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
