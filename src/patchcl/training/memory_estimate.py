"""Memory estimate: what training takes on this machine, and the largest batch that it has room for.

It decides nothing by itself: a batch that followed the machine would give every machine another result. Only who saves
a plan with it and trains by that plan has asked for it.
"""

import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from rich.table import Table
from torch import Tensor

from patchcl.config import Settings, TrainingSettings
from patchcl.contrast.class_maps import CLASSES_PER_STEP
from patchcl.contrast.patch_contrast import PatchContrast
from patchcl.core.batch import LabeledBatch, TrainingBatch, UnlabeledBatch
from patchcl.core.devices import best_device
from patchcl.data.geometry import Grid
from patchcl.data.preprocessing.plan import BATCH, Plan
from patchcl.data.preprocessing.transforms import prepared_bytes
from patchcl.methods.base import Method

GIB = 2**30
PEAK = 1.4
"""How much more than what a step keeps for its backward pass it holds at its height; measured, a little rounded up."""
PARAMETER = 20
"""Bytes that a weight takes with its gradient, AdamW's two averages and its copy in the teacher."""
FRACTION = {"cuda": 0.9, "mps": 0.8, "cpu": 0.5}
"""Of a device's memory that training may have."""


class MemoryModel(NamedTuple):
    """Bytes that training takes."""

    labeled: float  # of one labeled image in a step
    unlabeled: float  # of one unlabeled image; 0 where the method does without
    fixed: float  # of all networks, and of crops that contrast compares, however many images there are

    def of_batch(self, labeled: int, unlabeled: int) -> float:
        """Bytes of a step at its height."""
        return self.fixed + self.labeled * labeled + self.unlabeled * unlabeled


class MemoryEstimate(NamedTuple):
    """What a plan means on this machine."""

    patch: tuple[int, ...] | None  # side of the patches that contrast compares, in pixels; None without contrast
    memory_model: MemoryModel
    batch: tuple[int, int]  # labeled and unlabeled images of a step, as the settings say
    chosen: tuple[bool, bool]  # which of the two the user has set
    images: int  # bytes of prepared images that lie on the device, test scans counted as well
    device: str
    available_bytes: float | None  # bytes that training may have; None if the machine does not tell
    parts: int = 1  # of a batch, of which the device holds one at a time


class Batch(NamedTuple):
    """Labeled and unlabeled images of a step for this machine."""

    counts: tuple[int, int]
    why: str


def estimate_memory(settings: Settings, plan: Plan, grids: Sequence[Grid]) -> MemoryEstimate:
    """What training by `plan` on scans that lie on `grids` takes."""
    method = _method_of(settings, plan, plan.size)
    device = device_kind(settings)
    prepared = sum(prepared_bytes(grid, plan) for grid in grids)
    return MemoryEstimate(
        patch=None if method.contrast is None else method.contrast.side,
        memory_model=memory_model(settings, plan),
        batch=(settings.training.labeled_per_batch, settings.training.unlabeled_per_batch * method.needs_unlabeled),
        chosen=(BATCH[0] in settings.training.model_fields_set, BATCH[1] in settings.training.model_fields_set),
        images=prepared if prepared <= settings.training.memory_gib * GIB else 0,
        device=device,
        available_bytes=_available_bytes(device),
        parts=_parts(settings.training, device),
    )


def _parts(training: TrainingSettings, device: str) -> int:
    """In how many parts a batch is taken, by devices that have memory of their own and one after the other."""
    return training.batch_shares * training.nodes * (training.devices if device == "cuda" else 1)


def memory_model(settings: Settings, plan: Plan) -> MemoryModel:
    """Bytes that the method takes, from what its last step keeps of images that are as small as its network allows.

    What is kept grows with the number of pixels and of images. Of the contrast only two things are large: crops, which
    are taken for as many labeled pixels, and the weights that pool fine features.
    """
    full = _method_of(settings, plan, plan.size)
    reduction = full.student.reduction
    minimum = (2 * reduction[0], *reduction[1:])  # two of the deepest features, which is the least for instance norm
    small = tuple(min(length, by) for length, by in zip(plan.size, minimum, strict=True))
    method = _method_of(settings, plan, small)
    method.contrast = None
    size, step = (len(plan.channels), *small), settings.training.steps - 1
    both, more_labeled, more_unlabeled = (
        _kept_bytes(method, size, labeled, unlabeled, step) for labeled, unlabeled in ((2, 2), (4, 2), (2, 4))
    )
    scale = PEAK * math.prod(plan.size) / math.prod(small) / 2
    if _half_precision(settings):
        scale /= 2
    weights = sum(parameter.numel() for parameter in full.parameters() if parameter.requires_grad)
    pooling = _pooling(full.contrast, plan)
    labeled = (more_labeled - both) * scale + pooling
    unlabeled = (more_unlabeled - both) * scale + pooling * full.needs_unlabeled
    return MemoryModel(labeled, unlabeled, PARAMETER * weights + labeled * _crops(full.contrast, plan))


def device_kind(settings: Settings) -> str:
    """The kind of device; one that is named need not be here."""
    return best_device("auto").type if settings.training.device == "auto" else settings.training.device


def _half_precision(settings: Settings) -> bool:
    """Whether networks compute with 16 bits; `auto` does on any card that is not very old."""
    precision = settings.training.precision
    return device_kind(settings) == "cuda" if precision == "auto" else precision != "32-true"


def _crops(contrast: PatchContrast | None, plan: Plan) -> float:
    """How many images have as many pixels as the crops of a step."""
    if contrast is None or contrast.settings.embed == "features":
        return 0.0
    patches = contrast.classes * contrast.settings.patches_per_class
    return patches * math.prod(contrast.side) / math.prod(plan.size)


def _pooling(contrast: PatchContrast | None, plan: Plan) -> float:
    """Bytes, for one image, of a weight for every patch and place of features finer than the deepest, which are few."""
    if contrast is None or contrast.settings.embed == "crops" or contrast.settings.levels == (0,):
        return 0.0
    patches = min(contrast.classes, CLASSES_PER_STEP) * contrast.settings.patches_per_class
    places: float = math.prod(plan.size) / math.prod(contrast.reduction)
    return 4 * patches * places


def largest_batch(
    estimate: MemoryEstimate, available_bytes: float, kept: tuple[bool, bool] = (False, False)
) -> tuple[int, int] | None:
    """The largest batch in the proportion of that of the settings that `available_bytes` hold; None if not even 1 + 1.

    Counts that are `kept` stay as they are; at least one must not be.
    """
    fixed, wanted = _parted(estimate.batch, kept)
    most = max(wanted)
    free = max(available_bytes - taken(estimate, fixed), 0.0)
    factor = free / (estimate.memory_model.of_batch(*wanted) - estimate.memory_model.fixed)
    for images in range(
        int(most * factor * estimate.parts), -1, -1
    ):  # one step mostly; more where a count is rounded up to 1
        labeled, unlabeled = (_shared(count * images // most, min(count, 1), estimate.parts) for count in wanted)
        batch = (fixed[0] + labeled, fixed[1] + unlabeled)
        if taken(estimate, batch) <= available_bytes:
            return batch
    return None


def _shared(images: int, least: int, parts: int) -> int:
    """So many images or a little fewer, which make equal parts; `least` in each of them at the least."""
    return max(images // parts, least) * parts


def fitting_batch(estimate: MemoryEstimate) -> Batch:
    """The batch of the settings if there is room for it; else the largest in its proportion, but for what is set."""
    available_bytes, (fixed, wanted) = estimate.available_bytes, _parted(estimate.batch, estimate.chosen)
    if available_bytes is None or taken(estimate, estimate.batch) <= available_bytes or not any(wanted):
        return Batch(estimate.batch, _why_settings(estimate))
    largest = largest_batch(estimate, available_bytes, estimate.chosen)
    if largest is None:
        minimum = (fixed[0] + min(wanted[0], 1), fixed[1] + min(wanted[1], 1))
        gib = available_bytes / GIB
        why = f"the least, and still too much for {gib:.1f} GiB: make plan.size or network.features smaller."
        return Batch(minimum, why)
    needed = f"{batch_words(estimate.batch)} would take {taken(estimate, estimate.batch) / GIB:.1f} GiB"
    most = f"the most that {available_bytes / GIB:.1f} GiB hold"
    why = f"{most}. {needed}, and train takes that unless told otherwise or by a plan."
    return Batch(largest, why)


def _parted(batch: tuple[int, int], kept: tuple[bool, bool]) -> tuple[tuple[int, int], tuple[int, int]]:
    """The counts of `batch` that are kept, and those that are not; 0 where a count is one of the others."""
    labeled, unlabeled = (count * keep for count, keep in zip(batch, kept, strict=True))
    return (labeled, unlabeled), (batch[0] - labeled, batch[1] - unlabeled)


def with_batch(plan: Plan, estimate: MemoryEstimate) -> Plan:
    """`plan` with the batch for this machine, for training that is given the plan."""
    batch = fitting_batch(estimate)
    counts = {key: count for key, count in zip(BATCH, batch.counts, strict=True) if count}
    return plan.model_copy(update={**counts, "reasons": plan.reasons | dict.fromkeys(counts, batch.why)})


def taken(estimate: MemoryEstimate, batch: tuple[int, int]) -> float:
    """Bytes on the device of training with that batch, of which it holds a part at a time."""
    labeled, unlabeled = (math.ceil(count / estimate.parts) for count in batch)
    return estimate.memory_model.of_batch(labeled, unlabeled) + estimate.images


def memory_table(settings: Settings, estimate: MemoryEstimate) -> Table:
    """`estimate` as people read it."""
    batch = fitting_batch(estimate)
    table = Table("what", "value", "why", title=f"On this machine ({estimate.device})", title_justify="left")
    if estimate.patch is not None:
        step = tuple(max(1, side // 2) for side in estimate.patch)
        table.add_row(
            "patches",
            f"{times(estimate.patch)}, one every {times(step)}",
            "what the contrast compares, in pixels: patch_fraction, in whole features of the network.",
        )
    table.add_row("batch", batch_words(batch.counts), f"labeled and unlabeled images; {batch.why}")
    table.add_row("memory", f"about {taken(estimate, batch.counts) / GIB:.1f} GiB", _why_memory(settings, estimate))
    table.add_row("room", *_available_row(estimate))
    return table


def _why_memory(settings: Settings, estimate: MemoryEstimate) -> str:
    where = "on the device" if estimate.images else "on disk, and are read as needed"
    return f"a step of {settings.method.name} with that batch; prepared images lie {where}."


def _available_row(estimate: MemoryEstimate) -> tuple[str, str]:
    if estimate.available_bytes is None:
        return "unknown", "this machine does not tell how much memory it has."
    available_bytes, largest = (
        f"{estimate.available_bytes / GIB:.1f} GiB",
        largest_batch(estimate, estimate.available_bytes),
    )
    if largest is None:
        return available_bytes, "too little even for 1 + 1: make plan.size or network.features smaller."
    return available_bytes, f"enough for a batch of {batch_words(largest)}."


def _why_settings(estimate: MemoryEstimate) -> str:
    """The batch is that of the settings."""
    source = "as set or planned" if any(estimate.chosen) else "the default"
    if estimate.available_bytes is None:
        return f"{source}, since this machine does not tell how much memory it has."
    fits = taken(estimate, estimate.batch) <= estimate.available_bytes
    return f"{source}, and it fits." if fits else f"{source}, though there is no room for it."


def batch_words(batch: tuple[int, int]) -> str:
    """Such as 12 + 12."""
    return " + ".join(map(str, batch))


def times(lengths: Sequence[int]) -> str:
    """Such as 128 × 128."""
    return " × ".join(map(str, lengths))


def _method_of(settings: Settings, plan: Plan, size: tuple[int, ...]) -> Method[Any]:
    """The method for images of `size`, with the network for those of the plan."""
    with torch.random.fork_rng(devices=[]):
        return settings.build_method(plan, size).train()


def _kept_bytes(method: Method[Any], size: tuple[int, ...], labeled: int, unlabeled: int, step: int) -> int:
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


def _available_bytes(device: str) -> float | None:
    total = total_memory(device)
    return None if total is None else total * FRACTION[device]


def total_memory(device: str) -> int | None:
    """Bytes of memory of the device; None where nothing tells."""
    if device == "cuda":
        return int(torch.cuda.get_device_properties(0).total_memory) if torch.cuda.is_available() else None
    if device == "mps":
        return int(torch.mps.recommended_max_memory()) if torch.backends.mps.is_available() else None
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf
        return None
