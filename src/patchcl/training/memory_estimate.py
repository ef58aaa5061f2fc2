"""What training by a plan takes on the machine at hand: patches in pixels, and how many images memory has room for.

It decides nothing by itself: a batch that followed the machine would give every machine another result. Only who saves
a plan with it and trains by that plan has asked for it.
"""

import math
import os
from collections.abc import Sequence
from typing import NamedTuple

import torch
from rich.table import Table
from torch import Tensor

from patchcl.config import Settings, TrainingSettings
from patchcl.contrast.patch_contrast import PatchContrast
from patchcl.core.batch import LabeledBatch, TrainingBatch, UnlabeledBatch
from patchcl.data.geometry import Grid
from patchcl.data.preprocessing.plan import BATCH, Plan
from patchcl.data.preprocessing.transforms import prepared_bytes
from patchcl.methods import build_method
from patchcl.methods.base import Method, Task
from patchcl.networks import build_network

GIB = 2**30
PEAK = 1.4
"""How much more than what a step keeps for its backward pass it holds at its height; measured, a little rounded up."""
PARAMETER = 20
"""Bytes that a weight takes with its gradient, AdamW's two averages and its copy in the teacher."""
SHARE = {"cuda": 0.9, "mps": 0.8, "cpu": 0.5}
"""Of a device's memory that training may have."""


class Footprint(NamedTuple):
    """Bytes that training takes."""

    labeled: float  # of one labeled image in a step
    unlabeled: float  # of one unlabeled image; 0 where the method does without
    fixed: float  # of all networks, and of crops that contrast compares, however many images there are

    def of_batch(self, labeled: int, unlabeled: int) -> float:
        """Bytes of a step at its height."""
        return self.fixed + self.labeled * labeled + self.unlabeled * unlabeled


class Outlook(NamedTuple):
    """What a plan means on this machine."""

    patch: tuple[int, ...] | None  # side of the patches that contrast compares, in pixels; None without contrast
    footprint: Footprint
    batch: tuple[int, int]  # labeled and unlabeled images of a step, as the settings say
    chosen: tuple[bool, bool]  # which of the two the user has set
    images: int  # bytes of prepared images that lie on the device, test scans counted as well
    device: str
    room: float | None  # bytes that training may have; None if the machine does not tell


class Batch(NamedTuple):
    """Labeled and unlabeled images of a step for this machine."""

    counts: tuple[int, int]
    why: str


def foresee(settings: Settings, plan: Plan, grids: Sequence[Grid]) -> Outlook:
    """What training by `plan` on scans that lie on `grids` takes."""
    method = _method_of(settings, plan, plan.size)
    device = _device(settings.training)
    prepared = sum(prepared_bytes(grid, plan) for grid in grids)
    return Outlook(
        patch=None if method.contrast is None else method.contrast.side,
        footprint=footprint(settings, plan),
        batch=(settings.training.labeled_per_batch, settings.training.unlabeled_per_batch * method.needs_unlabeled),
        chosen=(BATCH[0] in settings.training.model_fields_set, BATCH[1] in settings.training.model_fields_set),
        images=prepared if prepared <= settings.training.memory_gib * GIB else 0,
        device=device,
        room=_room(device),
    )


def footprint(settings: Settings, plan: Plan) -> Footprint:
    """Bytes that the method takes, from what its last step keeps of images that are as small as its network allows.

    What is kept grows with the number of pixels and of images. Contrast does not; of it only crops are large, and they
    are taken for as many labeled pixels.
    """
    full = _method_of(settings, plan, plan.size)
    reduction = full.student.reduction
    least = (2 * reduction[0], *reduction[1:])  # two of the deepest features, which is the least for instance norm
    small = tuple(min(length, by) for length, by in zip(plan.size, least, strict=True))
    method = _method_of(settings, plan, small)
    method.contrast = None
    size, step = (len(plan.channels), *small), settings.training.steps - 1
    both, more_labeled, more_unlabeled = (
        _kept_bytes(method, size, labeled, unlabeled, step) for labeled, unlabeled in ((2, 2), (4, 2), (2, 4))
    )
    scale = PEAK * math.prod(plan.size) / math.prod(small) / 2
    if settings.training.precision == "bf16-mixed":
        scale /= 2
    weights = sum(parameter.numel() for parameter in full.parameters() if parameter.requires_grad)
    labeled, unlabeled = (more_labeled - both) * scale, (more_unlabeled - both) * scale
    return Footprint(labeled, unlabeled, PARAMETER * weights + labeled * _crops(full.contrast, plan))


def _crops(contrast: PatchContrast | None, plan: Plan) -> float:
    """How many images have as many pixels as the crops of a step."""
    if contrast is None or contrast.settings.embed == "features":
        return 0.0
    patches = contrast.classes * contrast.settings.patches_per_class
    return patches * math.prod(contrast.side) / math.prod(plan.size)


def largest_batch(outlook: Outlook, room: float, kept: tuple[bool, bool] = (False, False)) -> tuple[int, int] | None:
    """The largest batch in the proportion of that of the settings that `room` bytes hold; None if not even 1 + 1.

    Counts that are `kept` stay as they are; at least one must not be.
    """
    fixed, wanted = _parted(outlook.batch, kept)
    most = max(wanted)
    free = max(room - taken(outlook, fixed), 0.0)
    factor = free / (outlook.footprint.of_batch(*wanted) - outlook.footprint.fixed)
    for images in range(int(most * factor), -1, -1):  # one step mostly; more where a count is rounded up to 1
        labeled, unlabeled = (max(count * images // most, min(count, 1)) for count in wanted)
        batch = (fixed[0] + labeled, fixed[1] + unlabeled)
        if taken(outlook, batch) <= room:
            return batch
    return None


def fitting_batch(outlook: Outlook) -> Batch:
    """The batch of the settings if there is room for it; else the largest in its proportion, but for what is set."""
    room, (fixed, wanted) = outlook.room, _parted(outlook.batch, outlook.chosen)
    if room is None or taken(outlook, outlook.batch) <= room or not any(wanted):
        return Batch(outlook.batch, _why_settings(outlook))
    largest = largest_batch(outlook, room, outlook.chosen)
    if largest is None:
        least = (fixed[0] + min(wanted[0], 1), fixed[1] + min(wanted[1], 1))
        why = f"the least, and still too much for {room / GIB:.1f} GiB: make plan.size or network.features smaller."
        return Batch(least, why)
    needed = f"{_batch_words(outlook.batch)} would take {taken(outlook, outlook.batch) / GIB:.1f} GiB"
    why = f"the most that {room / GIB:.1f} GiB hold. {needed}, and train takes that unless told otherwise or by a plan."
    return Batch(largest, why)


def _parted(batch: tuple[int, int], kept: tuple[bool, bool]) -> tuple[tuple[int, int], tuple[int, int]]:
    """The counts of `batch` that are kept, and those that are not; 0 where a count is one of the others."""
    labeled, unlabeled = (count * keep for count, keep in zip(batch, kept, strict=True))
    return (labeled, unlabeled), (batch[0] - labeled, batch[1] - unlabeled)


def with_batch(plan: Plan, outlook: Outlook) -> Plan:
    """`plan` with the batch for this machine, for training that is given the plan."""
    batch = fitting_batch(outlook)
    counts = {key: count for key, count in zip(BATCH, batch.counts, strict=True) if count}
    return plan.model_copy(update={**counts, "reasons": plan.reasons | dict.fromkeys(counts, batch.why)})


def taken(outlook: Outlook, batch: tuple[int, int]) -> float:
    """Bytes on the device of training with that batch."""
    return outlook.footprint.of_batch(*batch) + outlook.images


def outlook_table(settings: Settings, outlook: Outlook) -> Table:
    """`outlook` as people read it."""
    batch = fitting_batch(outlook)
    table = Table("what", "value", "why", title=f"On this machine ({outlook.device})", title_justify="left")
    if outlook.patch is not None:
        step = tuple(max(1, side // 2) for side in outlook.patch)
        table.add_row(
            "patches",
            f"{_times(outlook.patch)}, one every {_times(step)}",
            "what the contrast compares, in pixels: patch_share, in whole features of the network.",
        )
    table.add_row("batch", _batch_words(batch.counts), f"labeled and unlabeled images; {batch.why}")
    table.add_row("memory", f"about {taken(outlook, batch.counts) / GIB:.1f} GiB", _why_memory(settings, outlook))
    table.add_row("room", *_room_row(outlook))
    return table


def _why_memory(settings: Settings, outlook: Outlook) -> str:
    where = "on the device" if outlook.images else "on disk, and are read as needed"
    return f"a step of {settings.method.name} with that batch; prepared images lie {where}."


def _room_row(outlook: Outlook) -> tuple[str, str]:
    if outlook.room is None:
        return "unknown", "this machine does not tell how much memory it has."
    room, largest = f"{outlook.room / GIB:.1f} GiB", largest_batch(outlook, outlook.room)
    if largest is None:
        return room, "too little even for 1 + 1: make plan.size or network.features smaller."
    return room, f"enough for a batch of {_batch_words(largest)}."


def _why_settings(outlook: Outlook) -> str:
    """The batch is that of the settings."""
    source = "as set" if any(outlook.chosen) else "the default"
    if outlook.room is None:
        return f"{source}, since this machine does not tell how much memory it has."
    fits = taken(outlook, outlook.batch) <= outlook.room
    return f"{source}, and it fits." if fits else f"{source}, though there is no room for it."


def _batch_words(batch: tuple[int, int]) -> str:
    return " + ".join(map(str, batch))


def _times(lengths: Sequence[int]) -> str:
    return " × ".join(map(str, lengths))


def _method_of(settings: Settings, plan: Plan, size: tuple[int, ...]) -> Method:
    """The method for images of `size`, with the network for those of the plan."""
    with torch.random.fork_rng(devices=[]):
        return build_method(
            settings.method,
            Task(
                build_network=lambda: build_network(
                    settings.network, len(plan.channels), len(plan.classes), plan.size, plan.spacing_mm
                ),
                classes=len(plan.classes),
                size=size,
                steps=settings.training.steps,
            ),
        ).train()


def _kept_bytes(method: Method, size: tuple[int, ...], labeled: int, unlabeled: int, step: int) -> int:
    """Bytes that autograd keeps between forward and backward pass of one step, weights aside."""
    own = {weight.untyped_storage().data_ptr() for weight in method.parameters()}
    kept: dict[int, Tensor] = {}  # tensors stay alive, so that no address is given twice

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.random.fork_rng(devices=[]), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = method(_batch(size, labeled, unlabeled), step)
    del result
    return sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own)


def _batch(size: tuple[int, ...], labeled: int, unlabeled: int) -> TrainingBatch:
    views = (torch.rand(unlabeled, *size) for _ in UnlabeledBatch._fields)
    mask = torch.zeros(labeled, *size[1:], dtype=torch.int64)
    return TrainingBatch(LabeledBatch(torch.rand(labeled, *size), mask), UnlabeledBatch(*views))


def _device(training: TrainingSettings) -> str:
    if training.device != "auto":
        return training.device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _room(device: str) -> float | None:
    total = _total_memory(device)
    return None if total is None else total * SHARE[device]


def _total_memory(device: str) -> int | None:
    """Bytes of memory of the device; None where nothing tells."""
    if device == "cuda":
        return int(torch.cuda.get_device_properties(0).total_memory) if torch.cuda.is_available() else None
    if device == "mps":
        return int(torch.mps.recommended_max_memory()) if torch.backends.mps.is_available() else None
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf
        return None
