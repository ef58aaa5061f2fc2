"""Checkpoints: everything that a run needs to go on, and the weights that predict."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from patchcl.core.errors import UserError
from patchcl.runs.folder import RunFolder

Weights = Literal["teacher", "student"]


def read_checkpoint(run: RunFolder, checkpoint: str) -> dict[str, Any]:
    """Everything in a checkpoint: `method` holds the weights, `step` how long they were trained.

    Raises:
        UserError: There is no such checkpoint, or the file is damaged.
    """
    path = run.checkpoint(checkpoint)
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a damaged file fails in as many ways as there are
        raise UserError(
            f"{path} cannot be read: the file is damaged. Take another checkpoint or train anew."
        ) from error
    return content


def weights_used(state: Mapping[str, Tensor], wanted: Weights) -> Weights:
    """`wanted`, or the student where a teacher is wanted but the method has none."""
    return wanted if any(key.startswith(f"{wanted}.") for key in state) else "student"


def weights_of(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The weights of the sub-module `name`."""
    return {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
