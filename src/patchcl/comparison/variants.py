"""What a comparison trains under which name: methods as they are, and named variants with settings of their own.

A file of variants is YAML, a mapping of names to settings as `--config` takes them, nested or with dots:

    plain: &plain {method: patchcl, training.steps: 3000}
    no contrast: {<<: *plain, method.contrast.weight: 0}
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from patchcl.config import Settings, load_settings
from patchcl.core.documents import DocumentError, parse_yaml
from patchcl.core.errors import UserError
from patchcl.core.settings import differing_keys, flatten
from patchcl.methods import method_names

CONTRAST = "method.contrast.weight=0.1"
"""The setting that NAME+contrast adds to method NAME."""
NAME = r"\w[\w .+-]{0,59}(?<![ .])"
"""Names of variants are parts of paths and stand in tables."""
SHARED = ("data", "cache", "split", "training.seed")
"""What variants must have in common: only runs on the same patients can be paired."""


def named_settings(
    methods: Sequence[str], variants: Path | None, config: Path | None, overrides: Sequence[str]
) -> tuple[dict[str, Settings], Settings]:
    """The settings of every name, methods first; and those that all have in common, whose method tells nothing.

    Args:
        methods: NAME, or NAME+contrast for the same with PatchCL's contrast.
        variants: A file of variants.
        config: Settings in YAML, for all.
        overrides: Single settings such as `training.steps=2000`, for all.

    Raises:
        UserError: A name, a method or a setting is unknown or out of range, or the file cannot be read.
    """
    require_known(methods, variants)
    own = {method: _of_method(method) for method in methods}
    named = {} if variants is None else read_variants(variants, own)
    own |= named
    first = next(iter(own.values()))[:1]  # its method, without which some settings for all would be unknown
    called = {name: f"{variants}, variant {name}" if name in named else name for name in own}
    settings = {name: _load(called[name], config, [*overrides, *changes]) for name, changes in own.items()}
    return settings, load_settings(config, [*overrides, *first])


def read_variants(file: Path, taken: Sequence[str] | dict[str, list[str]] = ()) -> dict[str, list[str]]:
    """By the name of each variant its settings as KEY=VALUE, the name of its method first.

    Raises:
        UserError: The file cannot be read or holds something else, a name cannot be one or is among those `taken`, or
            a variant sets what all must have in common.
    """
    try:
        tree = parse_yaml(file.read_bytes())
    except OSError as error:
        raise UserError(f"Cannot read the variants {file}: {error.strerror}. Give an existing YAML file.") from error
    except DocumentError as error:
        raise UserError(f"{file} is not valid YAML: {error}. Fix it and try again.") from error
    if not isinstance(tree, dict) or not tree or not all(isinstance(own, dict) for own in tree.values()):
        raise UserError(
            f"{file} holds no variants; expected names with settings, such as `plain: {{method: patchcl}}`."
        )
    for place, name in enumerate(tree):
        problem = _problem(name, taken, list(tree)[:place])
        if problem:
            raise UserError(
                f"{file}: variant {name!r} {problem}. Give it another name: letters, digits, blanks and _+-."
            )
    return {name: list(_overrides(file, name, own)) for name, own in tree.items()}


def _problem(name: object, taken: Sequence[str] | dict[str, list[str]], before: Sequence[str]) -> str | None:
    """Why the runs of a variant cannot lie in a folder of that name."""
    if not isinstance(name, str) or not re.fullmatch(NAME, name):
        return "cannot be the name of a folder"
    if name in taken:
        return "is taken by --methods"
    alike = [other for other in (*taken, *before) if other.casefold() == name.casefold()]
    return f"and {alike[0]!r} are one folder where case is not told apart" if alike else None


def changes(own: Settings, common: Mapping[str, Any]) -> dict[str, Any]:
    """By key what a name sets otherwise than `common`, the settings of all, and than the defaults of its method.

    Args:
        own: All settings of the name.
        common: The settings of all, without a method.
    """
    method = {"name": own.method.name}
    before = Settings.model_validate({**common, "method": method}).model_dump(mode="json")
    after = own.model_dump(mode="json")
    return {key: flatten(after).get(key) for key in differing_keys(before, after)}


def _overrides(file: Path, name: str, own: dict[str, Any]) -> Iterator[str]:
    settings: dict[str, Any] = {}
    for group, content in own.items():
        for key, value in flatten({str(group): content}).items():
            key = "method.name" if key == "method" else key
            if key in settings:
                raise UserError(f"{file}: variant {name} gives {key} twice. Leave one of them.")
            settings[key] = value
    shared = [key for key in settings if any(f"{key}.".startswith(f"{common}.") for common in SHARED)]
    if shared:
        raise UserError(
            f"{file}: variant {name} sets {', '.join(shared)}, which all must have in common, or their runs could not "
            "be paired. Give it to compare itself."
        )
    yield f"method.name={settings.pop('method.name', 'patchcl')}"
    yield from (f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in settings.items())


def _of_method(method: str) -> list[str]:
    name = method.removesuffix("+contrast")
    return [f"method.name={name}", *([CONTRAST] if name != method else [])]


def require_known(methods: Sequence[str], variants: Path | None) -> None:
    """Refuse names of methods that there are not, and none at all where no file of variants is given.

    Raises:
        UserError: There is such a name, or none.
    """
    known = method_names()
    unknown = [method for method in methods if method.removesuffix("+contrast") not in known]
    if unknown or (not methods and variants is None):
        raise UserError(
            f"--methods names {', '.join(map(repr, unknown)) or 'none'}; choose from {', '.join(sorted(known))}, "
            "each also as NAME+contrast."
        )


def _load(name: str, config: Path | None, overrides: Sequence[str]) -> Settings:
    try:
        return load_settings(config, overrides)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
