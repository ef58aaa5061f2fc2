"""Batch norm with frozen running statistics, so that patches pass through a network and leave these as they are."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def running_statistics_untouched(network: nn.Module) -> Iterator[None]:
    """Inside, batch-norm layers normalise by the batch at hand and leave their running statistics alone.

    Class-attended patches are mostly zeros. Passed through in training mode they drag the running statistics away
    from whole images, and the network fails on these in evaluation mode; passed through in evaluation mode they meet
    statistics that do not fit them.
    """
    layers = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    before = [(layer.training, layer.track_running_stats) for layer in layers]
    for layer in layers:
        layer.training, layer.track_running_stats = True, False
    try:
        yield
    finally:
        for layer, (training, tracking) in zip(layers, before, strict=True):
            layer.training, layer.track_running_stats = training, tracking
