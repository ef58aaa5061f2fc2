"""The EMA teacher: a frozen copy of the student that follows it as an exponential moving average."""

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


def frozen_copy(student: Network) -> Network:
    """A copy with the same weights that no optimizer will ever move, in evaluation mode."""
    return copy.deepcopy(student).requires_grad_(False).eval()


@torch.no_grad()
def ema_update(teacher: nn.Module, student: nn.Module, decay: float | Tensor) -> None:
    """EMA update, in place: teacher <- decay * teacher + (1 - decay) * student.

    The running statistics of normalisation layers are averaged like the weights they belong to; counters are copied.

    Source: Tarvainen & Valpola, 2017, https://arxiv.org/abs/1703.01780, eq. 1.
    """
    slow = [*teacher.parameters(), *teacher.buffers()]
    fast = [*student.parameters(), *student.buffers()]
    averaged = [pair for pair in zip(slow, fast, strict=True) if pair[0].is_floating_point()]
    behind_all, ahead_all = ([pair[place] for pair in averaged] for place in (0, 1))
    if isinstance(decay, Tensor):  # a weight for all in one tensor: `_foreach_lerp_` has no such kernel
        apart = torch._foreach_sub(ahead_all, behind_all)
        torch._foreach_mul_(apart, 1 - decay)
        torch._foreach_add_(behind_all, apart)
    else:
        torch._foreach_lerp_(behind_all, ahead_all, 1 - decay)
    for behind, ahead in zip(slow, fast, strict=True):
        if not behind.is_floating_point():
            behind.copy_(ahead)


def ema_decay_at(decay: float, step: int) -> float:
    """EMA decay at a step: it starts small, and the teacher averages the newest tenth of the steps until `decay`.

    Source: the `num_updates` rule of TensorFlow's ExponentialMovingAverage. A plain average at the start, as in
    SSL4MIS, keeps the first random weights for hundreds of steps.
    """
    return min(decay, (1 + step) / (10 + step))
