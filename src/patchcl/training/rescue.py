"""What happens when training diverges: it is seen, the run goes back to its last good checkpoint and tries a remedy.

Seen is a loss, a gradient or a weight that is not finite: noted on the device at every step, read at every log row. A
run that was rescued says so in its log, its provenance, its evaluation and its report, for it was not trained by its
settings alone.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.fabric.plugins.precision import Precision
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from patchcl.config import TrainingSettings
from patchcl.core.errors import UserError
from patchcl.methods.base import Method
from patchcl.runs.checkpoint import CheckpointWriter, Content, all_finite, read_content, read_newest
from patchcl.runs.folder import RunFolder
from patchcl.runs.log import REMEDIES, Row

CLIP_NORM = 1.0
"""Norm of all gradients together that they are clipped to in a run that was rescued."""
NEVER = 2**62


class DivergedError(UserError):
    """Every remedy was tried, and training diverged all the same."""

    exit_code = 1


class TrainingState:
    """All that a run goes on from: weights, optimizer, learning rate, and how far it is."""

    def __init__(
        self, method: Method[Any], optimizer: Optimizer, scheduler: LRScheduler, precision: Precision | None = None
    ) -> None:
        """`precision` is Fabric's, which may scale the loss; None: 32 bits."""
        self.method, self.optimizer, self.scheduler = method, optimizer, scheduler
        self.precision = precision or Precision()
        self.step = 0
        self.best = -1.0  # validation Dice
        self.rescues: list[int] = []  # the steps at which the run diverged; what was tried follows from their number

    @property
    def marks(self) -> Row:
        """What stands in the log rows of a run that was rescued."""
        return {"rescues": len(self.rescues)} if self.rescues else {}

    def content(self) -> Content:
        """What a checkpoint holds."""
        scaler = {"scaler": scaled} if (scaled := self.precision.state_dict()) else {}
        return scaler | {
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "step": self.step,
            "best": self.best,
            "rescues": list(self.rescues),
        }

    def load(self, content: Content) -> None:
        """Goes back to `content`, which version 0.1 may have written.

        Raises:
            UserError: It is of another network or optimizer.
        """
        try:
            if ("betas" in content["optimizer"]["param_groups"][0]) != ("betas" in self.optimizer.param_groups[0]):
                raise ValueError("the optimizers differ")
            self.method.load_state_dict(content["method"])
            self.optimizer.load_state_dict(_of_this_device(content["optimizer"], self.optimizer))
            self.scheduler.load_state_dict(content["scheduler"])
            if "scaler" in content:
                self.precision.load_state_dict(content["scaler"])
            self.step, self.best = int(content["step"]), float(content["best"])
            self.rescues = list(content.get("rescues", ()))
        except (RuntimeError, ValueError, LookupError, TypeError) as error:
            raise UserError(
                "The checkpoint does not fit the network, the method or the optimizer that the settings of this run "
                "describe. Put settings.yaml and plan.yaml back as training wrote them, or train anew."
            ) from error


def _of_this_device(saved: dict[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """The state of an optimizer, `saved` perhaps on another device, with the kernels of this one."""
    groups = [
        group | {key: own[key] for key in ("fused", "foreach", "capturable") if key in own}
        for group, own in zip(saved["param_groups"], optimizer.param_groups, strict=True)
    ]
    return saved | {"param_groups": groups}


class FiniteWatch:
    """Whether losses, gradients and weights stay finite. Notes are taken on the device, and the host asks seldom."""

    def __init__(self, method: Method[Any], device: torch.device, scaled: bool = False) -> None:
        """Where losses are `scaled`, gradients that overflow are no matter: their step is left out."""
        self.method, self.scaled = method, scaled
        self._weights = [weight for weight in method.parameters() if weight.requires_grad]
        self._first = torch.tensor(NEVER, device=device)
        self._gradient_norm = torch.tensor(0.0, device=device)

    def before_step(self, clip: bool) -> None:
        """Looks at the gradients; clips them to `CLIP_NORM` if asked."""
        gradients = [weight.grad for weight in self._weights if weight.grad is not None]
        self._gradient_norm = get_total_norm(gradients)
        if clip:
            clip_grads_with_norm_(self._weights, CLIP_NORM, self._gradient_norm)
        if self.scaled:
            self._gradient_norm = torch.zeros_like(self._gradient_norm)

    @torch.no_grad()
    def after_step(self, loss: Tensor, done: float | Tensor) -> None:
        """Looks at the loss and the weights of the step after which `done` are done, a number or a scalar."""
        finite = torch.isfinite(loss.detach() + self._gradient_norm + get_total_norm(self._weights))
        self._first.copy_(torch.where(finite, self._first, self._first.clamp(max=done)))  # in place: see `captured`

    def diverged_at(self, done: int) -> int | None:
        """The first step at which something was not finite, of `done`; None if all is well. The host waits."""
        first = int(self._first)
        if first == NEVER and all_finite(self.method.state_dict().values()):
            return None
        self._first.fill_(NEVER)
        return min(first, done)


@contextmanager
def checkpoints_of(
    run: RunFolder, state: TrainingState, settings: TrainingSettings, notice: Callable[[str], None]
) -> Iterator[CheckpointWriter]:
    """Brings `state` to where `run` is, and gives what writes its checkpoints; `notice` is told if one is damaged.

    Raises:
        UserError: There are checkpoints, but none that can be used.
    """
    usable = run.last.is_file()
    if usable:
        content, problem = read_newest(run, min_step=0)
        state.load(content)
        if problem:
            usable = False
            notice(problem)
    elif run.previous.is_file():
        state.load(read_content(run.previous))
    validated = usable and state.step % settings.validate_every == 0
    with CheckpointWriter(run, settings.checkpoint_minutes, validated) as writer:
        if not run.previous.is_file():
            writer.keep_last() if usable else writer.save_start(state.content())
        yield writer


def rescue(state: TrainingState, writer: CheckpointWriter, diverged_at: int, settings: TrainingSettings) -> str:
    """Brings `state` back to the last good checkpoint with the next remedy, and says so.

    Raises:
        DivergedError: No remedy is left.
    """
    rescues = [*state.rescues, diverged_at]
    writer.finish()
    state.load(read_content(writer.validated))
    if len(rescues) > len(REMEDIES):
        raise DivergedError(
            f"Training diverged: at step {diverged_at} a loss, a gradient or a weight was not finite, with "
            f"{REMEDIES[-1]} too. The last good step is {state.step}; its weights are kept. Train anew with a lower "
            f"training.learning_rate (now {settings.learning_rate:g}) or training.weight_decay (now "
            f"{settings.weight_decay:g}), and look for images with extreme values."
        )
    state.rescues = rescues
    if len(rescues) == len(REMEDIES):
        for group in state.optimizer.param_groups:
            group["lr"] *= 0.5
    return (
        f"training diverged at step {diverged_at}: a loss, a gradient or a weight was not finite. Going on from step "
        f"{state.step} with {REMEDIES[len(rescues) - 1]}."
    )
