"""Provenance: the code, versions, machine and command that a result comes from."""

import math
import os
import platform
import shlex
import subprocess  # nosec B404  # for git, without a shell
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from patchcl.core.documents import DocumentError, parse_json
from patchcl.core.files import write_json
from patchcl.core.version import __version__

ACCEPTED = "accepted_changes"
"""The key under which a run keeps what had changed when it went on nevertheless, a line for each."""

MOVES = "went_on"
"""The key under which a run keeps that it went on with its data in another folder, or on another device."""

TEXTS = ("patchcl", "commit", "python", "torch", "hardware", "device", "command", "started")


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


def read_provenance(path: Path) -> dict[str, Any]:
    """What a run says about itself in the file `path`; of a damaged or missing file, what can be understood of it."""
    try:
        content = parse_json(path.read_bytes())
    except (OSError, DocumentError):
        return {}
    return {key: value for key, value in content.items() if _fits(key, value)} if isinstance(content, dict) else {}


def note(path: Path, facts: Mapping[str, Any], device: torch.device) -> None:
    """Add `facts` to the provenance of a run; what is damaged there is written anew."""
    notes = read_provenance(path)
    if "started" not in notes:
        notes = provenance(device) | notes | {"rebuilt": True}
    write_json(path, notes | dict(facts))


def note_time(path: Path, seconds: float, steps: int, rescues: int, device: torch.device) -> None:
    """Add the `seconds` that a run took up to `steps` to its provenance, and how often it was rescued, if ever."""
    total = round((read_provenance(path).get("seconds") or 0.0) + seconds, 1)
    marks = {"rescues": rescues} if rescues else {}
    note(path, {"seconds": total, "steps_per_second": round(steps / max(total, 0.1), 3)} | marks, device)


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
        described = subprocess.run(  # nosec B603 B607  # constant words; the user's own git, wherever PATH has it
            ["git", "-C", root, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()


def _fits(key: str, value: object) -> bool:
    """Whether a fact has the type that readers of provenance rely on."""
    if key in ("seconds", "steps_per_second"):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return value is None or (number and 0 <= float(str(value)) < math.inf)
    if key in (ACCEPTED, MOVES):
        return isinstance(value, list) and all(isinstance(line, str) for line in value)
    if key in TEXTS:
        return value is None or isinstance(value, str)
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return not any(isinstance(part, dict | list) for part in inside)


def _processor() -> str:
    """Its name as Linux gives it, else as Python does."""
    information = Path("/proc/cpuinfo")
    names = (
        [line for line in information.read_text().splitlines() if "model name" in line] if information.exists() else []
    )
    return names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()
