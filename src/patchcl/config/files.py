"""Settings from a YAML file and single overrides; those of a run are kept beside it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from patchcl.config.mistakes import below, checked
from patchcl.config.presets import with_preset
from patchcl.config.settings import Settings
from patchcl.core.documents import DocumentError, parse_yaml
from patchcl.core.errors import UserError
from patchcl.core.renamed import brought_up_to_date, old_settings
from patchcl.data.preprocessing.plan import BATCH, load_plan
from patchcl.methods.settings import PatchCLSettings


def load_settings(file: Path | None = None, overrides: Sequence[str] = ()) -> Settings:
    """The defaults, changed by a preset if one is named, a YAML `file`, and `overrides` such as `training.steps=2000`.

    The batch of a saved plan that the settings name stands where they set none.

    Raises:
        UserError: A file cannot be read, or a setting is unknown, of the wrong type or out of range.
    """
    tree = _nested(_read_yaml(file), file) if file else {}
    for override in overrides:
        _set(tree, override)
    source = "the settings" if file is None else f"{file} and the settings given beside it" if overrides else str(file)
    _refuse_old_names(tree, source)
    settings = checked(with_preset(tree), source)
    _require_lower_levels(settings, source)
    return _with_plan_file(settings)


def read_settings(path: Path) -> Settings:
    """The settings that were written beside a run.

    Raises:
        UserError: They cannot be read, or belong to another version of patchcl.
    """
    return checked(brought_up_to_date(_read_yaml(path)), str(path))


def settings_yaml(settings: Settings) -> str:
    """The whole tree, with every default spelled out."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _with_plan_file(settings: Settings) -> Settings:
    """While it is known what the user has set: that decides over a plan, whether saved or made from the data."""
    contrast, plan, training = settings.method.contrast, settings.plan, settings.training
    if contrast is not None and "patch_fraction" in contrast.model_fields_set and plan.patch_fraction is None:
        plan = plan.model_copy(update={"patch_fraction": contrast.patch_fraction})
    if plan.file is not None:
        batch = load_plan(plan.file).model_dump(include=set(BATCH) - training.model_fields_set, exclude_none=True)
        training = training.model_copy(update=batch)
    batch = training.model_dump(include=set(BATCH) & training.model_fields_set)
    plan = plan.model_copy(update={key: count for key, count in batch.items() if getattr(plan, key) is None})
    return settings.model_copy(update={"plan": plan, "training": training})


def _require_lower_levels(settings: Settings, source: str) -> None:
    """Where a run begins; those from before there was such a rule can be used."""
    taught = isinstance(settings.method, PatchCLSettings) and settings.method.deep_consistency
    if taught and not (settings.network.deep_supervision and len(settings.network.features) > 3):
        raise UserError(
            f"In {source}:\n  method.deep_consistency teaches lower levels of the decoder, which it has with "
            "network.deep_supervision=true and four network.features or more."
        )


def _nested(tree: dict[str, Any], file: Path) -> dict[str, Any]:
    """`tree` with each `a.b: c` below its heading."""
    nested = {key: value for key, value in tree.items() if "." not in str(key)}
    for key in tree.keys() - nested.keys():
        place, leaf = _place(nested, key, f"{file}, {key}")
        if leaf in place:
            raise UserError(f"{file} gives {key} twice. Leave one of them.")
        place[leaf] = tree[key]
    return nested


def _refuse_old_names(tree: dict[str, Any], source: str) -> None:
    lines = [f"  {old} is called {new} now; its meaning is the same." for old, new in old_settings(tree)]
    if lines:
        raise UserError("\n".join([f"In {source}:", *lines]))


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = parse_yaml(path.read_bytes()) or {}
    except OSError as error:
        raise UserError(
            f"Cannot read the settings file {path}: {error.strerror}. Give an existing YAML file."
        ) from error
    except DocumentError as error:
        raise UserError(f"{path} is not valid YAML: {error}. Fix it and try again.") from error
    if not isinstance(tree, dict):
        raise UserError(f"{path} holds a {type(tree).__name__}; expected settings such as `method: {{name: patchcl}}`.")
    return tree


def _set(tree: dict[str, Any], override: str) -> None:
    """Puts the value of one `a.b=c` into the tree."""
    dotted, equals, value = override.partition("=")
    if not equals or not dotted:
        raise UserError(f"--set {override!r}: expected KEY=VALUE, for example --set training.steps=2000.")
    place, leaf = _place(tree, dotted.strip(), f"--set {override!r}")
    try:
        place[leaf] = parse_yaml(value)
    except DocumentError as error:
        raise UserError(f"--set {override!r}: {value!r} is not a valid YAML value.") from error


def _place(tree: dict[str, Any], dotted: str, source: str) -> tuple[dict[str, Any], str]:
    """The group in `tree` that a dotted key belongs to, which is made where there is none, and its name there."""
    *parents, leaf = dotted.split(".")
    for parent in parents:
        group = below(tree, parent)
        if not isinstance(group, dict):
            raise UserError(f"{source}: {parent} is a single setting and holds nothing below it.")
        tree[parent] = tree = group
    return tree, leaf
