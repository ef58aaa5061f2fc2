"""Checkpoints: everything that a run needs to go on, and the weights that predict."""

import pickle
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from patchcl.config import read_settings
from patchcl.core.devices import CPU
from patchcl.core.errors import UserError
from patchcl.data.preprocessing.plan import Plan, load_plan
from patchcl.networks import build_network
from patchcl.runs.folder import RunFolder

Weights = Literal["teacher", "student"]


def load_network(
    run: RunFolder, checkpoint: str = "last", weights: Weights = "teacher", device: torch.device = CPU
) -> tuple[nn.Module, Plan]:
    """The trained network of a run, ready to predict, and the plan its images were prepared by.

    Args:
        run: The run.
        checkpoint: `last` or `best`.
        weights: `teacher`, the moving average, which falls back to the student where there is none; or `student`.
        device: Where the network shall live.

    Raises:
        UserError: The checkpoint is missing, damaged, or was made with other settings.
    """
    plan = load_plan(run.plan)
    settings = read_settings(run.settings)
    network = build_network(settings.network, len(plan.channels), len(plan.classes), plan.size, plan.spacing_mm)
    state = read_checkpoint(run, checkpoint)["method"]
    try:
        network.load_state_dict(_part(state, weights_used(state, weights)))
    except RuntimeError as error:
        raise UserError(
            f"{run.checkpoint(checkpoint)} does not fit the network that {run.settings} and {run.plan} describe. "
            "Put these files back as training wrote them, or train anew."
        ) from error
    return network.to(device).eval(), plan


def read_checkpoint(run: RunFolder, checkpoint: str) -> dict[str, Any]:
    """Everything in a checkpoint: `method` holds the weights, `step` how long they were trained.

    Raises:
        UserError: There is no such checkpoint, or the file is damaged.
    """
    path = run.checkpoint(checkpoint)
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise UserError(
            f"{path} cannot be read: the file is damaged. Take another checkpoint or train anew."
        ) from error
    return content


def weights_used(state: Mapping[str, Tensor], wanted: Weights) -> Weights:
    """`wanted`, or the student where a teacher is wanted but the method has none."""
    return wanted if any(key.startswith(f"{wanted}.") for key in state) else "student"


def _part(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The weights of the sub-module `name`."""
    return {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
