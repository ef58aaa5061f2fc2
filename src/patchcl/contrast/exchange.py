"""What those who take shares of one batch exchange within a step, so that what they remember stays the same."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor

_instead: list[Callable[[Tensor], Tensor]] = []


def gathered(tensor: Shaped[Tensor, "P *A"]) -> Shaped[Tensor, "Q *A"]:
    """All-gather: the tensors of all shares along the first axis; the tensor itself where there is one."""
    return _instead[-1](tensor) if _instead else of_all_processes(tensor)


def of_all_processes(tensor: Shaped[Tensor, "P *A"]) -> Shaped[Tensor, "Q *A"]:
    """The tensors of all processes along the first axis; the tensor itself where there is one process."""
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


@contextmanager
def exchanging(exchange: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Inside, `gathered` gives what `exchange` does: for a process that takes several shares one after the other."""
    _instead.append(exchange)
    try:
        yield
    finally:
        _instead.pop()
