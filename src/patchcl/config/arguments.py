"""What a call of the command line or the Python face may say of the settings, and the tree that it means."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack

from patchcl.config.files import load_settings
from patchcl.config.settings import Settings
from patchcl.core.choices import Device, Preset

PathLike = str | Path


class SharedArguments(TypedDict, total=False):
    """What a call may say of the settings of one run or many; what is named later here has the last word."""

    preset: Preset | None
    """`published` or `matched`: what is set before all else, see `config/presets`."""
    config: PathLike | None
    """A YAML file with parts of the tree."""
    settings: Mapping[str, Any] | Sequence[str] | None
    """Single settings: {"training.steps": 2000} or, as the command line has them, ["training.steps=2000"]."""
    method: str | None
    """`patchcl` by default; `supervised` learns from masks alone."""
    split: PathLike | None
    """A JSON file that divides the patients."""
    plan: PathLike | None
    """A saved plan."""
    steps: int | None
    """Optimizer steps."""
    seed: int | None
    """Of weights, order and augmentation."""
    device: Device | None
    """Where to compute; by default the fastest there is."""
    precision: str | None
    """`auto`, `32-true`, `bf16-mixed` or `16-mixed`."""
    scratch: str | None
    """A folder on a node's own disk for a copy of prepared images; `$TMPDIR` and the like are filled in there."""


class SettingsArguments(SharedArguments, total=False):
    """What a call may say of the settings of one run."""

    labeled: int | Sequence[str] | None
    """Pretend that only so many training patients, or these, have masks."""
    devices: int | None
    """Devices of each node to train on, which share every batch."""
    nodes: int | None
    """Machines to train on; srun or torchrun starts the processes of several."""


SHORT = {"method": "method.name", "labeled": "split.labeled", "split": "split.file", "plan": "plan.file"}
SHORT |= {"preset": "preset"}
SHORT |= {name: f"training.{name}" for name in ("steps", "seed", "device", "precision", "devices", "nodes", "scratch")}
"""Arguments that are short for one setting."""


def make_settings(**arguments: Unpack[SettingsArguments]) -> Settings:
    """The settings tree that `arguments` describe.

    Raises:
        UserError: A file cannot be read, or a setting is unknown, of the wrong type or out of range.
    """
    config = arguments.pop("config", None)
    return load_settings(None if config is None else Path(config), overrides_of(**arguments))


def overrides_of(**arguments: Unpack[SettingsArguments]) -> list[str]:
    """All of `arguments` but the file, as KEY=VALUE, the value in YAML."""
    given = arguments.get("settings") or ()
    single = [f"{key}={_yaml(value)}" for key, value in given.items()] if isinstance(given, Mapping) else list(given)
    values = {SHORT[name]: value for name, value in arguments.items() if name in SHORT and value is not None}
    files = {key: str(Path(str(values[key])).absolute()) for key in ("split.file", "plan.file") if key in values}
    return [*single, *(f"{key}={_yaml(value)}" for key, value in (values | files).items())]


def _yaml(value: object) -> str:
    """`value` in YAML, of which JSON is a part."""
    return json.dumps(list(value) if isinstance(value, tuple) else value, default=str, ensure_ascii=False)
