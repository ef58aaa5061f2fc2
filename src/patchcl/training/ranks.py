"""Ranks: the processes that train one network. Each takes its share of every batch, and the first alone writes.

After the backward pass the gradients are averaged, as are the running statistics of batch norm, so that all processes
take the same step and stay the same. Lightning's DDP wrapper is not used: it knows one forward pass a step, and methods
take several, of teachers too. Whatever else a method keeps from step to step must be the same for all: what is learned
from the images of a step is gathered first, as the memory bank does.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from patchcl.config import TrainingSettings
from patchcl.core.batch import StepResult
from patchcl.core.signals import StopRequest
from patchcl.runs.checkpoint import CheckpointWriter, Content
from patchcl.runs.folder import RunFolder
from patchcl.runs.log import Row, RunLog
from patchcl.training.rescue import TrainingState, checkpoints_of, rescue

Item = TypeVar("Item")


class Ranks:
    """All processes of a run, seen from the one with number `rank`; one that is alone has nothing to agree upon.

    Every method that is not said to be of one process is called by all at the same point of the run.
    """

    def __init__(self, rank: int = 0, count: int = 1, local: int = 0) -> None:
        """`local` is the number of the device on this machine."""
        self.rank, self.count, self.local = rank, count, local

    @property
    def first(self) -> bool:
        """Whether this process writes the run."""
        return self.rank == 0

    def share(self, images: int) -> int:
        """How many of the `images` of a batch are this process's."""
        return images // self.count

    @torch.no_grad()
    def average(self, method: nn.Module) -> None:
        """Means over all processes of the gradients, and of the running statistics that this step has moved.

        Which parameters have a gradient depends on the step alone, never on what its images show.
        """
        if self.count == 1:
            return
        gradients = [weight.grad for weight in method.parameters() if weight.grad is not None]
        tensors = [*gradients, *running_statistics(method)]
        means = self._mean(torch.cat([tensor.reshape(-1) for tensor in tensors]))
        for tensor, mean in zip(tensors, torch.split(means, [tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))

    def mean(self, result: StepResult) -> StepResult:
        """Loss and terms of a step, for the log."""
        if self.count == 1:
            return result
        loss, *terms = self._mean(torch.stack([result.loss.detach(), *result.terms.values()]).float()).unbind()
        return StepResult(loss, dict(zip(result.terms, terms, strict=True)))

    def agreed(self, stop: StopRequest) -> bool:
        """Whether any process was asked to stop; then all are."""
        if self.count > 1:
            number = torch.tensor(stop.signal or 0)
            dist.all_reduce(number, dist.ReduceOp.MAX)
            stop.signal = int(number) or None
        return bool(stop)

    def from_first(self, value: Item | None) -> Item:
        """What the first process has as `value`; the others wait for it."""
        values = [value]
        if self.count > 1:
            dist.broadcast_object_list(values, src=0)
        assert values[0] is not None  # the first process always has something
        return values[0]

    def gathered(self, items: Sequence[Item]) -> list[Item]:
        """The items of all processes, those of the first first."""
        if self.count == 1:
            return list(items)
        parts: list[list[Item]] = [[] for _ in range(self.count)]
        dist.all_gather_object(parts, list(items))
        return [item for part in parts for item in part]

    def follow(self, state: TrainingState) -> None:
        """Everybody goes on from the state of the first process."""
        if self.count == 1:
            return
        content = self.from_first(_packed(state.content()) if self.first else None)
        if not self.first:
            state.load(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))

    def _mean(self, values: Tensor) -> Tensor:
        dist.all_reduce(values)
        return values.div_(self.count)


ALONE = Ranks()
"""A run in one process."""


class Unwritten:
    """What stands for log and checkpoints in a process that writes neither."""

    due = False
    rows: tuple[Row, ...] = ()

    def add(self, result: StepResult) -> None:
        """Nothing is summed."""

    def flush(self, step: int, extra: Row) -> Row:
        """The row, without losses."""
        return self.write(step, extra)

    def write(self, step: int, values: Row) -> Row:
        """The row that the first process writes."""
        return {"step": step, **values}

    def rewind(self, step: int) -> None:
        """Nothing is to be forgotten."""

    def save(self, content: Content, validated: bool, best: bool = False) -> None:
        """Nothing is saved."""


Records = tuple[CheckpointWriter, RunLog] | tuple[Unwritten, Unwritten]


@contextmanager
def records_of(
    run: RunFolder, state: TrainingState, settings: TrainingSettings, ranks: Ranks, notice: Callable[[str], None]
) -> Iterator[Records]:
    """Checkpoints and log of a run, with `state` as its newest checkpoint has it; of the first process alone."""
    if not ranks.first:
        ranks.follow(state)
        yield Unwritten(), Unwritten()
        return
    with checkpoints_of(run, state, settings, notice) as checkpoints:
        ranks.follow(state)
        with closing(RunLog(run, state.step, settings.loggers)) as log:
            yield checkpoints, log


def rescue_all(
    ranks: Ranks,
    state: TrainingState,
    checkpoints: CheckpointWriter | Unwritten,
    diverged_at: int,
    settings: TrainingSettings,
) -> str:
    """`rescue` by the process that has the checkpoints; the others go back with it."""
    said = "" if isinstance(checkpoints, Unwritten) else rescue(state, checkpoints, diverged_at, settings)
    ranks.follow(state)
    return said


def running_statistics(method: nn.Module) -> list[Tensor]:
    """Of the batch-norm layers that learn; a teacher's follow."""
    layers = [layer for layer in method.modules() if isinstance(layer, _BatchNorm) and layer.training]
    kept: list[Any] = [moment for layer in layers for moment in (layer.running_mean, layer.running_var)]
    return [moment for moment in kept if moment is not None]


def _packed(content: Content) -> bytes:
    packed = io.BytesIO()
    torch.save(content, packed)
    return packed.getvalue()
