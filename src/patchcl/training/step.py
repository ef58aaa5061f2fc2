"""One step of training: all that the device does for it, from images as they are loaded to weights that have moved."""

from collections.abc import Callable, Sequence
from typing import Any

from lightning.fabric import Fabric
from lightning.fabric.wrappers import _FabricModule, _FabricOptimizer

from patchcl.core.batch import StepResult, TrainingBatch
from patchcl.core.schedule import scheduled
from patchcl.training.ranks import ALONE, Ranks
from patchcl.training.rescue import FiniteWatch, TrainingState
from patchcl.training.shares import InShares

Augment = Callable[[Any], TrainingBatch | Sequence[TrainingBatch]]
"""Makes the batch of a step, or the shares of it, of what was loaded for it."""


def can_capture(fabric: Fabric, ranks: Ranks = ALONE, shares: int = 1) -> bool:
    """Whether steps are captured: on CUDA, by a process alone that takes batches whole and does not scale the loss."""
    return fabric.device.type == "cuda" and ranks.count == shares == 1 and not scales_loss(fabric)


def scales_loss(fabric: Fabric) -> bool:
    """Whether the loss is scaled, as with float16, so that small gradients do not vanish."""
    return getattr(fabric.strategy.precision, "scaler", None) is not None


class TrainingStep:
    """Augmentation, loss, gradient, optimizer and moving averages; nothing in it is read or written by the host.

    So it can be captured as it is, see `CapturedStep`.
    """

    def __init__(
        self,
        augment: Augment,
        wrapped: _FabricModule,
        stepper: _FabricOptimizer,
        fabric: Fabric,
        state: TrainingState,
        ranks: Ranks = ALONE,
        in_shares: InShares | None = None,
    ) -> None:
        """`wrapped` and `stepper` are the method and the optimizer of `state` as Fabric set them up.

        With `in_shares` a batch is a list of shares.
        """
        self.augment, self.wrapped, self.stepper, self.fabric, self.state = augment, wrapped, stepper, fabric, state
        self.ranks, self.in_shares = ranks, in_shares
        self.watch = FiniteWatch(state.method, fabric.device, scaled=scales_loss(fabric))

    def __call__(self, loaded: Any, step: int) -> StepResult:  # noqa: ANN401 - what `augment` takes
        """Takes step number `step` with the images that were loaded for it."""
        result = self._with_gradients(self.augment(loaded), step)
        self.ranks.average(self.state.method)  # before they are unscaled, so that all see what overflows in one
        result = self.ranks.mean(result)
        self.fabric.strategy.precision.unscale_gradients(self.state.optimizer)
        self.watch.before_step(clip=bool(self.state.rescues))
        self.stepper.step()
        if self.watch.scaled:  # a step that was left out is one for the schedule all the same
            self.state.optimizer._opt_called = True  # type: ignore[attr-defined]
        self.stepper.zero_grad()
        self.state.method.after_step(step)
        self.watch.after_step(result.loss, scheduled(step, lambda at: at + 1))
        return result

    def _with_gradients(self, batch: Any, step: int) -> StepResult:  # noqa: ANN401 - a batch, or its shares
        if self.in_shares is not None:
            return self.in_shares(batch, step, self.fabric.backward)
        result: StepResult = self.wrapped(batch, step)
        self.fabric.backward(result.loss)
        return result

    def kind(self, step: int) -> tuple[str, bool] | None:
        """What tells the operations of `step` from those of others; None if these may be different every time."""
        phase = self.state.method.phase(step)
        return None if phase is None else (phase, bool(self.state.rescues))
