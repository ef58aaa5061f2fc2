"""Settings of version 0.1 that have other names now, or that it did not have and did not do."""

from collections.abc import Iterator, Mapping
from typing import Any

RENAMED_SETTINGS = {
    "method.warm_up_share": "method.warm_up_fraction",
    "method.ramp_share": "method.ramp_fraction",
    "method.pretrain_share": "method.pretrain_fraction",
    "method.box_share": "method.box_fraction",
    "method.mix_chance": "method.mix_probability",
    "method.paste_chance": "method.labeled_mix_probability",
    "method.contrast.weight_left": "method.contrast.final_weight_fraction",
    "method.contrast.patch_share": "method.contrast.patch_fraction",
    "method.contrast.memory_least": "method.contrast.memory_min_size",
    "method.contrast.spread_weight": "method.contrast.covariance_weight",
    "method.contrast.spread_ramp_share": "method.contrast.covariance_ramp_fraction",
    "method.contrast.negatives": "method.contrast.num_negatives",
    "augment.quarter_turns": "augment.rotate_90",
    "augment.one_at_a_time": "augment.ssl4mis_policy",
    "plan.resample": "plan.input_interpolation",
    "plan.restore": "plan.output_interpolation",
    "plan.patch_share": "plan.patch_fraction",
    "split.validation_share": "split.validation_fraction",
}
"""Dotted key that version 0.1 knew -> the key of the same setting now, for all sections of the settings tree."""
NOT_DONE = {"network.deep_supervision": False}
"""What version 0.1 had no setting for and did not do, while the default of today does."""


def old_settings(tree: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Every key in a settings tree that has another name now, with that name; both dotted."""
    for old, new in RENAMED_SETTINGS.items():
        if _section(tree, old) is not None:
            yield old, new


def brought_up_to_date(tree: dict[str, Any]) -> dict[str, Any]:
    """A settings tree that version 0.1 saved, in the names of today, and what it did; `tree` stays."""
    tree = _copied(tree)
    for old, new in RENAMED_SETTINGS.items():
        section = _section(tree, old)
        if section is not None:
            section[_leaf(new)] = section.pop(_leaf(old))
    for key, value in NOT_DONE.items():
        section = tree.get(key.partition(".")[0])
        if isinstance(section, dict):
            section.setdefault(_leaf(key), value)
    return tree


def _section(tree: Any, key: str) -> dict[str, Any] | None:  # noqa: ANN401 - whatever YAML can hold
    """The group of settings in which `key` is set; None where it is not."""
    for parent in key.split(".")[:-1]:
        tree = tree.get(parent) if isinstance(tree, dict) else None
    return tree if isinstance(tree, dict) and _leaf(key) in tree else None


def _leaf(key: str) -> str:
    return key.rpartition(".")[2]


def _copied(tree: dict[str, Any]) -> dict[str, Any]:
    return {key: _copied(below) if isinstance(below, dict) else below for key, below in tree.items()}
