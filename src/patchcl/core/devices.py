"""Devices: where to compute."""

import torch

from patchcl.core.errors import UserError
from patchcl.core.settings import Device

CPU = torch.device("cpu")


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
