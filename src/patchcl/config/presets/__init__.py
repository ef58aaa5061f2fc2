"""Presets: settings that belong together under one name, each a YAML file in this folder."""

from collections.abc import Mapping
from importlib.resources import files
from typing import Any, get_args

from patchcl.core.choices import Preset
from patchcl.core.documents import parse_yaml


def with_preset(tree: Mapping[str, Any]) -> dict[str, Any]:
    """`tree`, as YAML has it, with what its `preset` sets where it sets nothing itself; a wrong name stays for others.

    Args:
        tree: What a file and single settings say.
    """
    name = tree.get("preset")
    return dict(tree) if name not in get_args(Preset) else _merged(preset(str(name)), tree)


def preset(name: str) -> dict[str, Any]:
    """What the preset called `name` sets."""
    content = parse_yaml((files(__package__) / f"{name}.yaml").read_bytes())
    assert isinstance(content, dict)  # the tests read all of them
    return content


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Both, group by group; what is `above` has the last word, but a group without anything in it says nothing."""
    joined = dict(below) | dict(above)
    for key, group in below.items():
        if isinstance(group, dict) and isinstance(above.get(key) or {}, dict):
            joined[key] = _merged(group, above.get(key) or {})
    return joined
