"""Provenance: the code, versions, machine and command that a result comes from."""

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from patchcl.core.version import __version__


def origin(device: torch.device) -> dict[str, str | None]:
    """The code, the versions, the machine and the command that a result comes from."""
    return {
        "patchcl": __version__,
        "commit": commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "hardware": hardware(device),
        "device": str(device),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def provenance(device: torch.device) -> dict[str, Any]:
    """What somebody must know to make a run again, but for the settings; its duration is filled in at the end."""
    return {
        **origin(device),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": None,
        "steps_per_second": None,
    }


def hardware(device: torch.device) -> str:
    """The processor or the card, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {os.cpu_count()} cores"


def commit() -> str | None:
    """The commit of the checkout that this code runs from, marked if it was changed since; None outside a checkout."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():  # installed, perhaps inside a checkout of something else
        return None
    try:
        described = subprocess.run(
            ["git", "-C", root, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()


def _processor() -> str:
    """Its name as Linux gives it, else as Python does."""
    information = Path("/proc/cpuinfo")
    names = (
        [line for line in information.read_text().splitlines() if "model name" in line] if information.exists() else []
    )
    return names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()
