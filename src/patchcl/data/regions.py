"""Regions: structures that join several values of a mask, as nnU-Net's regions_class_order has it.

The values that masks hold are the classes that are learned; each voxel has one. Regions are scored and written as
unions of them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from patchcl.core.errors import UserError

ORDER = "regions_class_order"
"""The key in dataset.json: for each region, the value that masks hold where it is the last in this order."""
Regions = Mapping[str, tuple[int, ...]]
"""Name of a region -> the values that it joins."""


def stored_classes(
    path: Path, labels: Mapping[str, Any], order: object, ignore: str
) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """The classes that masks hold, by name, and the regions that join them; of `labels` without regions no region.

    A class is called like the region that is it alone, or else by its value: `label 2`.

    Args:
        path: The dataset.json, for messages.
        labels: Name -> value or values.
        order: What dataset.json says of `ORDER`.
        ignore: The name of the label that is no class.

    Raises:
        UserError: The regions cannot be understood.
    """
    joined = [name for name, value in labels.items() if isinstance(value, list)]
    if not joined:
        return dict(labels), {}
    others = {name: labels[name] for name in labels if name == ignore or labels[name] in (0, [0])}
    regions = {name: _values_of(labels[name]) for name in labels if name not in others}
    held = sorted({value for values in regions.values() for value in values})
    listed: list[object] = order if isinstance(order, list) else []
    if len(listed) != len(regions) or not all(value in held for value in listed) or not all(regions.values()):
        raise UserError(
            f"{path}: labels names regions that join several values ({', '.join(joined)}), and {ORDER} is {order}; "
            f'expected lists of whole numbers from 1 on, and in "{ORDER}" one of these numbers for each region.'
        )
    alone = {values[0]: name for name, values in regions.items() if len(values) == 1}
    background = {name: 0 for name in others if name != ignore}
    classes = background | {alone.get(value, f"label {value}"): value for value in held}
    return classes | {name: others[name] for name in others if name == ignore}, regions


def region_masks(mask: np.ndarray, regions: Regions) -> dict[str, np.ndarray]:
    """Where each region is, (*shape) uint8, of the classes `mask`."""
    return {name: np.isin(mask, values).astype(np.uint8) for name, values in regions.items()}


def views(
    predicted: np.ndarray, reference: np.ndarray, classes: Sequence[str], regions: Regions
) -> list[tuple[np.ndarray, np.ndarray, tuple[str, ...]]]:
    """Two masks of classes as they are scored: as they are, or once for each region, with the names of their values.

    Where the reference holds no class nobody annotated; it holds no region there either.
    """
    if not regions:
        return [(predicted, reference, tuple(classes))]
    found, right = region_masks(predicted, regions), region_masks(reference, regions)
    return [(found[name], right[name], (classes[0], name)) for name in regions]


def region_probs(probs: np.ndarray, regions: Regions) -> dict[str, np.ndarray]:
    """The probability (*shape) of each region, of those (K, *shape) of classes."""
    return {name: probs[list(values)].sum(axis=0) for name, values in regions.items()}


def _values_of(label: object) -> tuple[int, ...]:
    """The values of a region; none of what cannot be values."""
    listed = label if isinstance(label, list) else [label]
    values = {value for value in listed if type(value) is int and value > 0}
    return tuple(sorted(values)) if len(values) == len(listed) else ()
