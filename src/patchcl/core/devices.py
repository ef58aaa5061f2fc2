"""Devices: where to compute."""

from typing import Literal

import torch

from patchcl.core.choices import Device, Precision
from patchcl.core.errors import UserError

CPU = torch.device("cpu")
TENSOR_CORES = (7, 0)
"""Compute capability from which a card is faster with numbers of 16 bits."""


def best_device(name: Device = "auto") -> torch.device:
    """The device called `name`; the fastest one here for `auto`.

    Raises:
        UserError: There is no such device here.
    """
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(device for device, available in here.items() if available))
    if not here[name]:
        raise UserError(f"torch finds no {name.upper()} device here. Use --device auto or cpu.")
    return torch.device(name)


def best_precision(name: Precision | Literal["auto"], device: torch.device) -> Precision:
    """The precision called `name`; for `auto` bfloat16 where the card has it, float16 where it has only that.

    With 32-true, cards that have TF32 use it in convolutions, and not for products of matrices, of which there are few:
    both as torch does by default.
    """
    if name != "auto":
        return name
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < TENSOR_CORES:
        return "32-true"
    return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
