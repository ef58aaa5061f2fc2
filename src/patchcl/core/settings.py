"""Settings: what every part of the settings tree has in common."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict


class FrozenSettings(BaseModel):
    """A frozen group of settings that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every setting of a nested tree by its dotted key, such as `training.steps`.

    Args:
        tree: As `model_dump` gives it.
        prefix: Stands before every key, such as `method.`.
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def differing_keys(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """The dotted keys whose values differ between two trees, or that one of them lacks; in their order."""
    before, after = flatten(first), flatten(second)
    missing = object()
    return [key for key in before | after if before.get(key, missing) != after.get(key, missing)]
