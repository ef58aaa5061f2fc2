"""Room: a plan that this machine cannot hold is refused before the first step, with what it can."""

import math

from patchcl.config import Settings
from patchcl.core.errors import UserError
from patchcl.data.preprocessing.plan import BATCH, Plan
from patchcl.data.preprocessing.sizes import MULTIPLE, VOXEL_BYTES
from patchcl.training.memory_estimate import (
    GIB,
    batch_words,
    device_kind,
    estimate_memory,
    largest_batch,
    taken,
    times,
    total_memory,
)

SURELY = 4
"""A step for which there is so many times room by the roughest guess is not looked at more closely."""


def require_room(settings: Settings, plan: Plan) -> None:
    """Refuse a step that the memory of this machine cannot hold, before it is taken.

    Raises:
        UserError: It says which batch and which size would do.
    """
    device = device_kind(settings)
    total = total_memory(device)
    batch = settings.training.labeled_per_batch + settings.training.unlabeled_per_batch
    if total is None or SURELY * VOXEL_BYTES * math.prod(plan.size) * batch < total:
        return
    estimate = estimate_memory(settings, plan, ())
    needed = taken(estimate, estimate.batch)
    if needed <= total:
        return
    largest = largest_batch(estimate, total)
    counts = [f"training.{key}={count}" for key, count in zip(BATCH, largest or (), strict=False) if count]
    smaller = _size_with_room(plan, total / needed)
    remedies = [f"a batch of {' and '.join(counts)}"] * bool(counts)
    remedies.append(f"plan.size={list(smaller)} with the batch as it is" if counts else f"plan.size={list(smaller)}")
    raise UserError(
        f"A step with {batch_words(estimate.batch)} images of {times(plan.size)} takes about {needed / GIB:.1f} GiB, "
        f"and the {device} here has {total / GIB:.1f}. Set {', or '.join(remedies)}."
    )


def _size_with_room(plan: Plan, share: float) -> tuple[int, ...]:
    """The size of the plan, less along every axis, so that it takes that share of the memory."""
    multiple, factor = MULTIPLE[plan.dimensions], share ** (1 / plan.dimensions)
    return tuple(max(int(length * factor / multiple) * multiple, min(length, multiple)) for length in plan.size)
