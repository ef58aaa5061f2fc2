"""What settings leave to the machine, settled when a run starts and kept with it, so that it goes on as it began."""

import os
import shutil
from importlib.util import find_spec

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
