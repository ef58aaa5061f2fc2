"""What settings leave to the machine, settled when a run starts and kept with it, so that it goes on as it began."""

import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from patchcl.config import TrainingSettings
from patchcl.core.devices import best_precision
from patchcl.networks.unet import UNet

LONG_RUN = 10_000
"""Steps from which it pays to compile: that takes a minute or so, and saves some milliseconds a step."""


def settled(training: TrainingSettings, device: torch.device) -> TrainingSettings:
    """`training` with nothing `auto` that decides over weights."""
    precision, compiled = best_precision(training.precision, device), training.compile
    if compiled == "auto":
        captured = device.type == "cuda" and precision != "16-mixed"
        compiled = captured and training.steps >= LONG_RUN and can_compile()
    return training.model_copy(update={"precision": precision, "compile": compiled})


def can_compile() -> bool:
    """Whether torch.compile finds here what it needs for a CUDA device."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    return compiler is not None and find_spec("triton") is not None


def compile_for_training(network: UNet) -> None:
    """Compiles what a step does with `network`; validation, whose batches have many sizes, goes by the plain one."""
    plain, compiled = network.segment, torch.compile(network.segment, dynamic=False)

    def segment(image: Tensor, feature_dropout: float = 0.0) -> tuple[Tensor, Tensor]:
        return (plain if torch.is_inference_mode_enabled() else compiled)(image, feature_dropout)

    network.segment = segment  # type: ignore[method-assign]


@contextmanager
def deterministic(training: TrainingSettings, device: torch.device) -> Iterator[None]:
    """Inside, kernels of a CUDA device add in one order, if settings ask for it; elsewhere they do so anyway.

    torch warns of any that cannot. Of these it takes the backward pass of `max_pool3d` for one; our windows do not
    overlap, so that nothing is added there.
    """
    if not training.deterministic or device.type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when the first matrices are multiplied
    modes = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    cudnn, fill = torch.backends.cudnn.deterministic, memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.deterministic, memory.fill_uninitialized_memory = True, False
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="max_pool3d.* does not have a deterministic implementation")
            yield
    finally:
        torch.use_deterministic_algorithms(modes[0], warn_only=modes[1])
        torch.backends.cudnn.deterministic, memory.fill_uninitialized_memory = cudnn, fill
