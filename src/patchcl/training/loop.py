"""The training loop. One loop for every method; read top to bottom, it is the whole story of a run."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning.fabric import Fabric
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import PolynomialLR

from patchcl.config import TrainingSettings
from patchcl.core.batch import TrainingBatch
from patchcl.core.files import atomic_write
from patchcl.core.seeds import seed_for
from patchcl.methods.base import Method
from patchcl.runs.folder import RunFolder
from patchcl.runs.log import Row, RunLog
from patchcl.training.diagnostics import new_warnings, warnings
from patchcl.training.signals import StopRequest


class Progress(Protocol):
    """Progress display of a run."""

    def advance(self, step: int) -> None:
        """`step` steps are done."""

    def report(self, row: Row, seconds_per_step: float, new_warnings: Sequence[str]) -> None:
        """A validation is done; these are its figures, and this is what has begun to go wrong."""


def train(
    method: Method[Any],
    batch_at: Callable[[int], TrainingBatch],
    validate: Callable[[Method[Any], int], Row],
    settings: TrainingSettings,
    run: RunFolder,
    fabric: Fabric,
    progress: Progress,
    stop: StopRequest,
) -> int:
    """Trains `method`, keeps `last.ckpt` and `best.ckpt` in `run`, and returns how many steps are done.

    Continues from `last.ckpt` when there is one. Stops early, with all saved, when `stop` is asked for.

    Args:
        method: Its parameters that require a gradient are optimized.
        batch_at: The batch of a step, counted from 0.
        validate: Figures of a method after so many steps; `validation_dice` among them chooses the best checkpoint.
        settings: Steps, optimizer and intervals.
        run: Where the log and the checkpoints go.
        fabric: Device and precision.
        progress: Told after every step and every validation.
        stop: Looked at after every step.
    """
    optimizer = build_optimizer(method, settings)
    scheduler = PolynomialLR(optimizer, settings.steps, power=settings.power)
    wrapped, optimizer = fabric.setup(method, optimizer)
    state: dict[str, Any] = {"method": wrapped, "optimizer": optimizer, "scheduler": scheduler, "step": 0, "best": -1.0}
    if run.last.exists():
        fabric.load(run.last, state, weights_only=True)

    log = RunLog(run, state["step"], settings.loggers)
    started, first = time.perf_counter(), state["step"]
    wrapped.train()
    for step in range(first, settings.steps):
        batch = batch_at(step)
        torch.manual_seed(seed_for(settings.seed, step, fabric.global_rank, "method"))
        result = wrapped(batch, step)
        fabric.backward(result.loss)
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        method.after_step(step)

        log.add(result)
        done = state["step"] = step + 1
        ending = done == settings.steps or bool(stop)
        validating = done % settings.validate_every == 0 or done == settings.steps
        if done % settings.log_every == 0 or validating or ending:
            pace = (time.perf_counter() - started) / (done - first)
            log.flush(done, {"learning_rate": float(scheduler.get_last_lr()[0]), "seconds_per_step": pace})
        if validating:
            figures = validate(method, done)
            standing = warnings([*log.rows, figures], method.settings)
            row = log.write(done, figures | {"warnings": len(standing)})
            progress.report(row, pace, new_warnings(log.rows, method.settings))
            if row["validation_dice"] > state["best"]:
                state["best"] = row["validation_dice"]
                save(fabric, run.best, state)
        if validating or ending:
            save(fabric, run.last, state)
        progress.advance(done)
        if ending:  # and not `stop`, which may have come after the last save
            break
    log.close()
    return int(state["step"])


def build_optimizer(method: Method[Any], settings: TrainingSettings) -> Optimizer:
    """AdamW or SGD over all parameters of `method` that require a gradient."""
    weights = [weight for weight in method.parameters() if weight.requires_grad]
    if settings.optimizer == "adamw":
        return AdamW(weights, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    return SGD(weights, lr=settings.learning_rate, momentum=settings.momentum, weight_decay=settings.weight_decay)


def save(fabric: Fabric, path: Path, state: dict[str, Any]) -> None:
    """A checkpoint of the whole state, in place at once."""
    atomic_write(path, lambda unfinished: fabric.save(unfinished, state))
