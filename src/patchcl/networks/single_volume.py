"""Convolutions that are as fast for one volume as for several on a CPU.

There torch leaves oneDNN aside for one volume, where a layer has few channels or slices, and a network takes 1.3 to 5
times as long for it. Only inference is changed: what is trained stays bit for bit.
"""

from typing import cast

import torch
from torch import Tensor, nn


class _Conv3d(nn.Conv3d):
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        strange = isinstance(self.padding, str) or self.padding_mode != "zeros" or max(self.kernel_size) == 1
        if strange or not left_aside(input):
            out: Tensor = super()._conv_forward(input, weight, bias)
            return out
        padding = cast(tuple[int, ...], self.padding)
        return torch.mkldnn_convolution(input, weight, bias, padding, self.stride, self.dilation, self.groups)


def quick_for_one(network: nn.Module) -> None:
    """Has the convolutions of `network`, whose blocks are of others' making, be quick for one volume; weights stay."""
    for module in network.modules():
        if type(module) is nn.Conv3d:
            module.__class__ = _Conv3d


def left_aside(image: Tensor) -> bool:
    """Whether torch might not use oneDNN for `image` (B, C, *S), though it is there, and nothing is trained."""
    alone = len(image) == 1 and image.device.type == "cpu" and image.dtype == torch.float32
    return (
        alone
        and torch.is_inference_mode_enabled()
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and not torch.is_autocast_enabled("cpu")
    )
