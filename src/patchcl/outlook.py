"""What training by a plan takes on the machine at hand: patches in pixels, and how many images memory has room for.

It advises and decides nothing: a plan and a batch that followed the machine would give every machine another result.
"""

import math
import os
from collections.abc import Sequence
from typing import NamedTuple

import torch
from rich.table import Table
from torch import Tensor

from patchcl.batch import LabeledBatch, TrainingBatch, UnlabeledBatch
from patchcl.config import Settings, TrainingSettings
from patchcl.data.geometry import Grid
from patchcl.data.plan import Plan
from patchcl.data.prepare import prepared_bytes
from patchcl.methods import build_method
from patchcl.methods.base import Method, Task
from patchcl.networks import build_network
from patchcl.patch_contrast import PatchContrast

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
    images: int  # bytes of prepared images that lie on the device, test scans counted as well
    device: str
    room: float | None  # bytes that training may have; None if the machine does not tell


def foresee(settings: Settings, plan: Plan, grids: Sequence[Grid]) -> Outlook:
    """What training by `plan` on scans that lie on `grids` takes."""
    method = _method_of(settings, plan, plan.size)
    device = _device(settings.training)
    prepared = sum(prepared_bytes(grid, plan) for grid in grids)
    return Outlook(
        patch=None if method.contrast is None else method.contrast.side,
        footprint=footprint(settings, plan),
        batch=(settings.training.labeled_per_batch, settings.training.unlabeled_per_batch * method.needs_unlabeled),
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


def largest_batch(outlook: Outlook, room: float) -> tuple[int, int] | None:
    """The largest batch in the proportion of that of the settings that `room` bytes hold; None if not even 1 + 1."""
    free = room - outlook.images - outlook.footprint.fixed
    factor = free / (outlook.footprint.of_batch(*outlook.batch) - outlook.footprint.fixed)
    labeled, unlabeled = (int(count * factor) for count in outlook.batch)
    return (labeled, unlabeled) if labeled >= 1 and (unlabeled >= 1 or outlook.batch[1] == 0) else None


def outlook_table(settings: Settings, outlook: Outlook) -> Table:
    """`outlook` as people read it."""
    taken = (outlook.footprint.of_batch(*outlook.batch) + outlook.images) / GIB
    table = Table("what", "value", "why", title=f"On this machine ({outlook.device})", title_justify="left")
    if outlook.patch is not None:
        step = tuple(max(1, side // 2) for side in outlook.patch)
        table.add_row(
            "patches", f"{_times(outlook.patch)}, one every {_times(step)}", "what the contrast compares, in pixels."
        )
    table.add_row("batch", " + ".join(map(str, outlook.batch)), "labeled and unlabeled images, as the settings say.")
    table.add_row("memory", f"about {taken:.1f} GiB", _why_memory(settings, outlook))
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
    enough = f"enough for a batch of {largest[0]} + {largest[1]}"
    if largest >= outlook.batch:
        return room, f"{enough}."
    advice = f"--set training.labeled_per_batch={largest[0]} --set training.unlabeled_per_batch={largest[1]}"
    return room, f"only {enough}: {advice}"


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
