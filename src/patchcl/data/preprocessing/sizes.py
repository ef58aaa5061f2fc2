"""Sizes: what the network sees at once, and of volumes how many a step has memory for.

The memory is a fixed target and not that of the machine at hand, so that a plan is the same wherever it is made.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

CAP = 256
"""Most pixels along a side of a slice."""
MULTIPLE = {2: 32, 3: 16}
VOXEL_BYTES = 1350.0
"""What a step takes for each voxel of a volume, with the default network, in 32 bits; see `memory_estimate`."""
LEAST_BATCH, MOST = 2, 12
"""Labeled volumes of a step, and as many unlabeled ones."""


def network_size(
    shapes: np.ndarray, spacings: np.ndarray, plan: dict[str, Any], memory_gib: float
) -> tuple[tuple[int, ...], str]:
    """The size of the network's input, and why.

    Args:
        shapes: (scans, D) voxels along the axes that the network sees.
        spacings: (scans, D) in mm.
        plan: What is decided already.
        memory_gib: Of a step with volumes.
    """
    multiple = MULTIPLE[plan["dimensions"]]
    voxel_mm = np.median(spacings, axis=0)
    if plan["fit"] == "crop" and len(plan["spacing_mm"]) == plan["dimensions"]:
        voxel_mm = np.array(plan["spacing_mm"])
        shapes = shapes * spacings / voxel_mm
    lengths = np.maximum(np.round(np.median(shapes, axis=0) / multiple) * multiple, multiple)
    if plan["dimensions"] == 2:
        return _whole(np.minimum(lengths, CAP)), f"the median size in multiples of {multiple}, {CAP} at most."
    reason = f"the median size in multiples of {multiple}, as far as {memory_gib:g} GiB hold {LEAST_BATCH} of each."
    return _within(lengths, voxel_mm, _most_voxels(LEAST_BATCH, memory_gib), multiple), reason


def seen_whole(shapes: np.ndarray, memory_gib: float) -> bool:
    """Whether a step has memory for volumes of the median of these shapes (scans, 3) as they are."""
    lengths = np.round(np.median(shapes, axis=0) / MULTIPLE[3]) * MULTIPLE[3]
    return bool(math.prod(lengths.tolist()) <= _most_voxels(LEAST_BATCH, memory_gib))


def batch_of_volumes(size: Sequence[int], memory_gib: float) -> tuple[int | None, str]:
    """How many labeled volumes of `size` a step takes, and as many unlabeled ones, and why; None: it need not be said.

    That is so where there is room for the default batch.
    """
    count = int(_most_voxels(1, memory_gib) / math.prod(size))
    if count >= MOST:
        return None, ""
    reason = f"about the most that {memory_gib:g} GiB (plan.memory_gib) hold of this size, with the default network."
    return max(count, 1), reason


def _most_voxels(batch: int, memory_gib: float) -> float:
    """Of each of `batch` labeled and as many unlabeled volumes."""
    return memory_gib * 2**30 / VOXEL_BYTES / 2 / batch


def _within(lengths: np.ndarray, voxel_mm: np.ndarray, most: float, multiple: int) -> tuple[int, ...]:
    """`lengths`, the side that is longest in mm made shorter until there are at most so many voxels.

    Source: the patches of nnU-Net, Isensee et al., 2021, tend to be as long along every axis in the same way.
    """
    lengths = lengths.copy()
    while math.prod(lengths) > most and lengths.max() > multiple:
        sides = np.where(lengths > multiple, lengths * voxel_mm, 0)
        lengths[int(sides.argmax())] -= multiple
    return _whole(lengths)


def _whole(lengths: np.ndarray) -> tuple[int, ...]:
    return tuple(int(length) for length in lengths)
