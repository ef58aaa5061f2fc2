"""The captured step: on a CUDA device a step is recorded once, as a CUDA graph, and replayed from then on.

A step of a small network is over a thousand kernels, and the host takes longer to launch them one by one than the
device to run them. A graph launches all of them at once. It repeats them on the same memory with the same numbers, so
all that changes from step to step lies in static memory that is filled before: images, learning rates, scheduled
numbers. Random draws follow the seeds of their generators, which the loop sets for every step, replayed or not.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves, tree_map

from patchcl.core.batch import StepResult
from patchcl.core.schedule import StaticNumbers, StaticStep

WARM_UP = 3
"""Steps of each kind that are taken one kernel at a time before it is captured, as libraries set themselves up then."""

Take = Callable[[Any, int], StepResult]


class StaticInputs:
    """All that changes from step to step, in memory that stays where it is."""

    def __init__(self, loaded: Any, optimizer: Optimizer, device: torch.device) -> None:  # noqa: ANN401 - any tuples
        """`loaded` shows what images of a step look like."""
        self.loaded = tree_map(torch.clone, loaded)
        self.numbers = StaticNumbers(device)
        self._groups = optimizer.param_groups
        self._rates = [torch.tensor(group["lr"], dtype=torch.float32, device=device) for group in self._groups]

    def fill(self, loaded: Any, step: int) -> None:  # noqa: ANN401 - as above
        """Brings everything to what it is at `step`; nothing waits."""
        for still, image in zip(tree_leaves(self.loaded), tree_leaves(loaded), strict=True):
            if isinstance(still, Tensor):
                still.copy_(image)
        for rate, group in zip(self._rates, self._groups, strict=True):
            rate.fill_(group["lr"])
        self.numbers.fill(step)

    def take(self, take: Take, step: int) -> StepResult:
        """The step of which `fill` was told, on the static memory; its loss without a graph of gradients."""
        with self._rates_in_tensors():
            result = take(self.loaded, StaticStep(step, self.numbers))
        return result._replace(loss=result.loss.detach())

    @contextmanager
    def _rates_in_tensors(self) -> Iterator[None]:
        """Inside, the optimizer reads its learning rates on the device; outside they are numbers, for the schedule."""
        numbers = [group["lr"] for group in self._groups]
        for group, rate in zip(self._groups, self._rates, strict=True):
            group["lr"] = rate
        try:
            yield
        finally:
            for group, number in zip(self._groups, numbers, strict=True):
                group["lr"] = number


class _Graph(NamedTuple):
    graph: torch.cuda.CUDAGraph
    result: StepResult  # which every replay fills


class CapturedStep:
    """Takes steps with `take`: as they come, or, where `captures`, as one CUDA graph for each kind of step."""

    def __init__(
        self,
        take: Take,
        kind: Callable[[int], object],
        optimizer: Optimizer,
        device: torch.device,
        generators: Sequence[Generator] = (),
        captures: bool = False,
    ) -> None:
        """`kind` names what steps of one graph have in common, or says None of a step that is not to be captured.

        `generators` are those that a step draws from, beside the global one.
        """
        self._take, self._kind, self._optimizer, self._device = take, kind, optimizer, device
        self._generators, self.captures = generators, captures
        self._stream = torch.cuda.Stream(device) if captures else None  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle() if captures else None
        self.forget()

    def __call__(self, loaded: Any, step: int) -> StepResult:  # noqa: ANN401 - any tuples of tensors
        """Takes the step, and gives what it gave; that is valid until the next one."""
        kind = self._kind(step) if self.captures else None
        if kind is None:
            return self._take(loaded, step)
        if kind not in self._inputs:
            self._inputs[kind], self._taken[kind] = StaticInputs(loaded, self._optimizer, self._device), 0
        inputs = self._inputs[kind]
        inputs.fill(loaded, step)
        self._taken[kind] += 1
        if self._taken[kind] <= WARM_UP:
            return self._aside(inputs, step)
        if kind not in self._graphs:
            self._graphs[kind] = self._captured(inputs, step)
        self._graphs[kind].graph.replay()
        return self._graphs[kind].result

    def forget(self) -> None:
        """Drops all graphs: a graph knows the memory of the optimizer, which has changed."""
        self._inputs: dict[object, StaticInputs] = {}
        self._taken: dict[object, int] = {}
        self._graphs: dict[object, _Graph] = {}

    def _aside(self, inputs: StaticInputs, step: int) -> StepResult:
        """A step on the stream that captures, as one that is captured has to be taken there before."""
        now = torch.cuda.current_stream(self._device)
        assert self._stream is not None
        self._stream.wait_stream(now)
        with torch.cuda.stream(self._stream), _without_autocast_cache():
            result = inputs.take(self._take, step)
        now.wait_stream(self._stream)
        return result

    def _captured(self, inputs: StaticInputs, step: int) -> _Graph:
        graph = torch.cuda.CUDAGraph()
        for generator in self._generators:
            graph.register_generator_state(generator)
        # other threads read images and write checkpoints meanwhile, which is no business of the capture
        capture = torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local")
        with _without_autocast_cache(), capture:
            result = inputs.take(self._take, step)
        return _Graph(graph, result)


@contextmanager
def _without_autocast_cache() -> Iterator[None]:
    """Weights that autocast keeps in another type would be those of the step that was captured, for ever."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)
