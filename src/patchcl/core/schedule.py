"""Numbers that change from step to step, such as ramps: plain ones, or tensors that every step fills anew.

A CUDA graph repeats the kernels that were captured, with the numbers that these were given then. Only what lies in a
tensor can be another one when the graph is replayed, so a step that may be captured takes from `scheduled` whatever
depends on its number.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Schedule = Callable[[int], float]


class StaticNumbers:
    """The scheduled numbers of one kind of step: scalars on the device, in the order in which a step asks for them."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._kept: list[tuple[Schedule, Tensor]] = []
        self._asked = 0

    def fill(self, step: int) -> None:
        """Sets all numbers to what they are at `step`, in place, from the host's values and without waiting for it."""
        for schedule, number in self._kept:
            number.fill_(schedule(step))
        self._asked = 0

    def next(self, schedule: Schedule, step: int) -> Tensor:
        """The number that a step asks for, () float32; the first step of its kind makes it."""
        if self._asked == len(self._kept):
            self._kept.append((schedule, torch.tensor(schedule(step), dtype=torch.float32, device=self._device)))
        self._asked += 1
        return self._kept[self._asked - 1][1]


class StaticStep(int):
    """The number of a step that may be captured: `scheduled` gives tensors for it."""

    numbers: StaticNumbers

    def __new__(cls, step: int, numbers: StaticNumbers) -> "StaticStep":
        """Step number `step`, whose `numbers` are filled."""
        made = super().__new__(cls, step)
        made.numbers = numbers
        return made


def scheduled(step: int, schedule: Schedule) -> float | Tensor:
    """What `schedule` says of `step`: a number, or a scalar tensor that each replay of a captured step finds filled."""
    return step.numbers.next(schedule, int(step)) if isinstance(step, StaticStep) else schedule(step)
