"""Room: what this machine cannot hold is refused before the first step, or told when it is full, with what it can."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from patchcl.config import Settings
from patchcl.core.errors import UserError
from patchcl.data.preprocessing.plan import BATCH, Plan
from patchcl.data.preprocessing.sizes import MULTIPLE, VOXEL_BYTES
from patchcl.training.memory_estimate import (
    GIB,
    MemoryEstimate,
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
SAFE = 0.8
"""Of what a step was thought to take, and of the memory that it filled, what the next one may be thought to take."""


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
    if needed > total:
        raise UserError(
            f"A step with {_images(estimate, plan)} takes about {needed / GIB:.1f} GiB, and the {device} here has "
            f"{total / GIB:.1f}. Set {_remedies(settings, plan, estimate, total)}."
        )


@contextmanager
def full_memory_as_message(settings: Settings, plan: Plan, device: torch.device) -> Iterator[None]:
    """Turn a lack of memory into a message that says what fits.

    Raises:
        UserError: It says which batch, how many shares of the batch, and which size would do.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        estimate = estimate_memory(settings, plan, ())
        room = SAFE * min(taken(estimate, estimate.batch), total_memory(device.type) or math.inf)
        raise UserError(
            f"The memory of {device} is full, in a run whose steps have {_images(estimate, plan)}; other programs may "
            f"use it, too. Set {_remedies(settings, plan, estimate, room)}."
        ) from error


def _images(estimate: MemoryEstimate, plan: Plan) -> str:
    parts = f" in {estimate.parts} parts" if estimate.parts > 1 else ""
    return f"{batch_words(estimate.batch)} images of {times(plan.size)}{parts}"


def _remedies(settings: Settings, plan: Plan, estimate: MemoryEstimate, available: float) -> str:
    """Settings under which a step takes no more than what is `available`."""
    largest, shares = largest_batch(estimate, available), _shares(estimate, available)
    counts = [f"training.{key}={count}" for key, count in zip(BATCH, largest or (), strict=False) if count]
    smaller = _size_with_room(plan, available / taken(estimate, estimate.batch))
    remedies = [f"a batch of {' and '.join(counts)}"] * bool(counts)
    if shares is not None:
        asked = settings.training.batch_shares * shares
        remedies.append(f"training.batch_shares={asked}, which takes the batch in shares, one after the other")
    remedies.append(f"plan.size={list(smaller)} with the batch as it is" if counts else f"plan.size={list(smaller)}")
    return ", or ".join(remedies)


def _shares(estimate: MemoryEstimate, available: float) -> int | None:
    """In how many times as many equal parts there is room for the batch; None: in none."""
    for more in range(2, max(estimate.batch) + 1):
        parts = more * estimate.parts
        even = all(count % parts == 0 for count in estimate.batch)
        if even and taken(estimate._replace(parts=parts), estimate.batch) <= available:
            return more
    return None


def _size_with_room(plan: Plan, share: float) -> tuple[int, ...]:
    """The size of the plan, less along every axis, so that it takes that share of the memory."""
    multiple, factor = MULTIPLE[plan.dimensions], share ** (1 / plan.dimensions)
    return tuple(max(int(length * factor / multiple) * multiple, min(length, multiple)) for length in plan.size)
