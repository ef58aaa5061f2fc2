"""Blocks: the convolutions that look at the features of one level of an encoder."""

from collections import OrderedDict
from typing import Any

from monai.networks.blocks.convolutions import Convolution
from monai.networks.layers.utils import get_act_layer
from torch import Tensor, nn

Layer = tuple[str, dict[str, Any]]
"""Its name, as MONAI knows it, and its arguments."""


def encoder_block(
    dimensions: int,
    wide: int,
    deep: int,
    act: Layer,
    norm: Layer,
    dropout: float = 0.0,
    dropout_between: float = 0.0,
    residual: bool = False,
) -> nn.Module:
    """Two convolutions from (B, `wide`, *S) to (B, `deep`, *S), each with norm and activation, or a residual block.

    `dropout` is that of each convolution, `dropout_between` of what the first one hands to the second.

    Source: MONAI's TwoConv; SSL4MIS, `networks/unet.py`, ConvBlock, for `dropout_between`.
    """
    first = Convolution(dimensions, wide, deep, act=act, norm=norm, dropout=dropout, padding=1)
    layers: list[tuple[str, nn.Module]] = [("conv_0", first)]
    if dropout_between > 0:
        layers.append(("dropout", nn.Dropout(dropout_between)))
    last = None if residual else act
    layers.append(("conv_1", Convolution(dimensions, deep, deep, act=last, norm=norm, dropout=dropout, padding=1)))
    convs = nn.Sequential(OrderedDict(layers))
    return ResidualBlock(dimensions, wide, deep, act, norm, convs) if residual else convs


class ResidualBlock(nn.Module):
    """Adds what `convs` find to the features that they were given, which a convolution of single voxels widens.

    Source: He et al., 2015, https://arxiv.org/abs/1512.03385; nnU-Net, `BasicBlockD`, whose skip has a norm too.
    """

    def __init__(self, dimensions: int, wide: int, deep: int, act: Layer, norm: Layer, convs: nn.Module) -> None:
        super().__init__()
        self.convs = convs
        self.skip = nn.Identity() if wide == deep else Convolution(dimensions, wide, deep, 1, 1, act=None, norm=norm)
        self.act = get_act_layer(act)

    def forward(self, features: Tensor) -> Tensor:
        """(B, G, *S) to (B, F, *S)."""
        found: Tensor = self.act(self.convs(features) + self.skip(features))
        return found
