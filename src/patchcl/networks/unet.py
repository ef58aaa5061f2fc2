"""A U-Net out of MONAI's blocks that offers its encoder beside its logits."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

from monai.networks.nets.basic_unet import Down, TwoConv, UpCat
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
            UpCat(dimensions, deep, wide, wide, leaky, NORMS[norm], True, dropout)
            for wide, deep in zip(reversed(features[:-1]), reversed(features[1:]), strict=True)
        )
        self.classify = getattr(nn, f"Conv{dimensions}d")(features[0], classes, kernel_size=1)

    def encode(self, image: Tensor) -> Tensor:
        """The deepest features, (B, F, *S / 2**levels), of an image (B, C, *S)."""
        return self._levels(image)[-1]

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, K, *S) of an image (B, C, *S)."""
        *skips, deepest = self._levels(image)
        for up, skip in zip(self.up, reversed(skips), strict=True):
            deepest = up(deepest, skip)
        logits: Tensor = self.classify(deepest)
        return logits

    def _levels(self, image: Tensor) -> list[Tensor]:
        levels: list[Tensor] = [self.inlet(image)]
        for down in self.down:
            levels.append(down(levels[-1]))
        return levels
