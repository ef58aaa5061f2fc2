"""A batch in shares, one after the other, for a device whose memory does not hold a step of the whole batch.

What is computed is what as many processes would, see `Ranks`: every share begins where the step began, with its own
random numbers, gradients and running statistics are averaged, and the memory of the contrast takes in what all shares
show. So Dice, batch norm and the patches of the contrast look at a share. As the contrast of a share compares with what
the others show as well, all shares are looked at once before, without gradients, where there is contrast.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from patchcl.contrast.exchange import exchanging, of_all_processes
from patchcl.core.batch import StepResult, TrainingBatch
from patchcl.core.seeds import seed_for
from patchcl.data.loading.loader import BatchLoader, LoadedBatch
from patchcl.methods.base import Method
from patchcl.training.ranks import Ranks, running_statistics


class LoaderOfShares:
    """The loaders of all shares of one process, as one."""

    def __init__(self, loaders: Sequence[BatchLoader]) -> None:
        self.loaders = loaders

    @property
    def generators(self) -> tuple[Generator, ...]:
        """What augmentation draws from, of every share."""
        return tuple(generator for loader in self.loaders for generator in loader.generators)

    def load(self, step: int) -> list[LoadedBatch]:
        """The images of every share, not yet augmented."""
        return [loader.load(step) for loader in self.loaders]

    def augmented(self, loaded: Sequence[LoadedBatch]) -> list[TrainingBatch]:
        """The batch of every share."""
        return [loader.augmented(share) for loader, share in zip(self.loaders, loaded, strict=True)]

    def close(self) -> None:
        """Stops fetching ahead."""
        for loader in self.loaders:
            loader.close()


class InShares:
    """Gradients of a batch whose shares are taken one after the other; the buffers of the method move once."""

    def __init__(self, forward: Callable[..., StepResult], method: Method[Any], seed: int, ranks: Ranks) -> None:
        """`forward` is that of `method`, as Fabric wraps it; `seed` is that of the run."""
        self.forward, self.method, self.seed, self.ranks = forward, method, seed, ranks

    def __call__(self, batches: Sequence[TrainingBatch], step: int, backward: Callable[[Tensor], None]) -> StepResult:
        """Mean of loss and terms over the shares; `backward` adds the gradient of what it is given."""
        start = {name: buffer.clone() for name, buffer in self.method.named_buffers()}
        shown = [] if self.method.contrast is None else self._shown(batches, step, start)
        statistics, moved, results = running_statistics(self.method), [], []
        for share, batch in enumerate(batches):
            self._begin(share, len(batches), step, start)
            told = iter(shown)
            with exchanging(lambda _, told=told: next(told)):  # type: ignore[misc]
                result = self.forward(batch, step)
            backward(result.loss / len(batches))
            results.append(StepResult(result.loss.detach(), result.terms))
            moved.append([statistic.clone() for statistic in statistics])
        for statistic, ends in zip(statistics, zip(*moved, strict=True), strict=True):
            statistic.copy_(torch.stack(ends).mean(dim=0))
        return _mean(results)

    @torch.no_grad()
    def _shown(self, batches: Sequence[TrainingBatch], step: int, start: dict[str, Tensor]) -> list[Tensor]:
        """What the memory is to take in, of all shares of all processes."""
        taken: list[list[Tensor]] = []
        for share, batch in enumerate(batches):
            own: list[Tensor] = []
            self._begin(share, len(batches), step, start)
            with exchanging(lambda tensor, own=own: own.append(tensor) or tensor):  # type: ignore[misc]
                self.forward(batch, step)
            taken.append(own)
        return [of_all_processes(torch.cat(parts)) for parts in zip(*taken, strict=True)]

    def _begin(self, share: int, shares: int, step: int, start: dict[str, Tensor]) -> None:
        """Everything is as it was when the step began, and random numbers are those of the share."""
        for name, buffer in self.method.named_buffers():
            buffer.copy_(start[name])
        torch.manual_seed(seed_for(self.seed, step, self.ranks.rank * shares + share, "method"))


def _mean(results: Sequence[StepResult]) -> StepResult:
    def mean(values: Iterator[Tensor]) -> Tensor:
        return torch.stack([value.float() for value in values]).mean()

    terms = {name: mean(result.terms[name] for result in results) for name in results[0].terms}
    return StepResult(mean(result.loss for result in results), terms)
