"""The training loop. One loop for every method; read top to bottom, it is the whole story of a run."""

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from lightning.fabric import Fabric
from torch import Generator
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import PolynomialLR

from patchcl.config import TrainingSettings
from patchcl.core.devices import CPU
from patchcl.core.seeds import seed_for
from patchcl.core.signals import StopRequest
from patchcl.methods.base import Method
from patchcl.runs.folder import RunFolder
from patchcl.runs.log import Row, RunLog
from patchcl.training.captured import CapturedStep
from patchcl.training.diagnostics import new_warnings, warnings
from patchcl.training.ranks import ALONE, Ranks, Unwritten, records_of, rescue_all
from patchcl.training.rescue import TrainingState
from patchcl.training.shares import InShares
from patchcl.training.step import Augment, TrainingStep, can_capture


class Progress(Protocol):
    """Progress display of a run."""

    def advance(self, step: int) -> None:
        """`step` steps are done."""

    def report(self, row: Row, seconds_per_step: float, new_warnings: Sequence[str]) -> None:
        """A validation is done; these are its figures, and this is what has begun to go wrong."""

    def notice(self, line: str) -> None:
        """Something happened to the run that who watches it must know."""


def train(
    method: Method[Any],
    load: Callable[[int], Any],
    validate: Callable[[Method[Any], int], Row],
    settings: TrainingSettings,
    run: RunFolder,
    fabric: Fabric,
    progress: Progress,
    stop: StopRequest,
    augment: Augment = lambda batch: batch,
    generators: Sequence[Generator] = (),
    ranks: Ranks = ALONE,
) -> int:
    """Trains `method`, keeps checkpoints in `run`, and returns how many steps are done.

    Continues from the last checkpoint when there is one. Stops early, with all saved, when `stop` is asked for. A run
    that diverges goes back to its last good checkpoint and tries again, see `rescue`.

    Args:
        method: Its parameters that require a gradient are optimized.
        load: What a step, counted from 0, is given: its batch, or what `augment` makes one of.
        validate: Figures of a method after so many steps; `validation_dice` among them chooses the best checkpoint.
            Without it that is the last.
        settings: Steps, optimizer and intervals.
        run: Where the log and the checkpoints go.
        fabric: Device and precision.
        progress: Told after every step and every validation.
        stop: Looked at after every step.
        augment: Makes the batch on the device; drawn from `generators`, which `load` has given the seeds of the step.
        generators: Those of `augment`.
        ranks: The processes that train together; `load` gives the share of this one.

    Raises:
        DivergedError: It did so again with every remedy.
        UserError: The checkpoints of the run cannot be used.
    """
    optimizer = build_optimizer(method, settings, fabric.device)
    scheduler = PolynomialLR(optimizer, settings.steps, power=settings.power)
    state = TrainingState(method, optimizer, scheduler, fabric.strategy.precision)
    wrapped, stepper = fabric.setup(method, optimizer)
    with records_of(run, state, settings, ranks, progress.notice) as (checkpoints, log):
        shares = settings.batch_shares
        in_shares = InShares(wrapped, method, settings.seed, ranks) if shares > 1 else None
        training_step = TrainingStep(augment, wrapped, stepper, fabric, state, ranks, in_shares)
        captures = can_capture(fabric, ranks, shares)
        take = CapturedStep(training_step, training_step.kind, optimizer, fabric.device, generators, captures)
        watch, first, started = training_step.watch, state.step, time.perf_counter()
        wrapped.train()
        while state.step < settings.steps:
            step = state.step
            loaded = load(step)
            torch.manual_seed(seed_for(settings.seed, step, ranks.rank, "method"))
            log.add(take(loaded, step))
            scheduler.step()

            done = state.step = step + 1
            stopping = ranks.agreed(stop)
            ending = stopping or done == settings.steps
            validating = done % settings.validate_every == 0 or done == settings.steps
            logging = done % settings.log_every == 0 or validating or ending
            if logging and (diverged_at := watch.diverged_at(done)) is not None:
                progress.notice(rescue_all(ranks, state, checkpoints, diverged_at, settings))
                log.rewind(state.step)
                take.forget()
                first, started, ending = state.step, time.perf_counter(), stopping
            elif logging:
                pace = (time.perf_counter() - started) / (done - first)
                log.flush(done, {"learning_rate": float(scheduler.get_last_lr()[0]), "seconds_per_step": pace})
                best = validating and _validate(validate, state, log, pace, progress)
                if validating or ending or checkpoints.due:
                    checkpoints.save(state.content(), validating, best)
            progress.advance(state.step)
            if ending:  # and not `stop`, which may have come after the last save
                break
    return state.step


def _validate(
    validate: Callable[[Method[Any], int], Row],
    state: TrainingState,
    log: RunLog | Unwritten,
    pace: float,
    progress: Progress,
) -> bool:
    """Logs and reports the figures of a validation; true if its Dice is the best so far, or if nobody is held out."""
    settings = state.method.settings
    figures = validate(state.method, state.step) | state.marks
    standing = warnings([*log.rows, figures], settings)
    row = log.write(state.step, figures | {"warnings": len(standing)})
    progress.report(row, pace, new_warnings(log.rows, settings))
    if "validation_dice" not in row:
        return True
    better = row["validation_dice"] > state.best
    if better:
        state.best = row["validation_dice"]
    return better


def build_optimizer(method: Method[Any], settings: TrainingSettings, device: torch.device = CPU) -> Optimizer:
    """AdamW or SGD over all parameters of `method` that require a gradient; one that can be captured on CUDA."""
    weights = [weight for weight in method.parameters() if weight.requires_grad]
    rate, decay = settings.learning_rate, settings.weight_decay
    fused = (device.type == "cuda" and settings.precision != "16-mixed") or None  # fused ones cannot be clipped there
    if settings.optimizer == "adamw":
        return AdamW(weights, lr=rate, weight_decay=decay, fused=fused, capturable=bool(fused))
    return SGD(weights, lr=rate, momentum=settings.momentum, weight_decay=decay, fused=fused)
