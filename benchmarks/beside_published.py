"""How long does patch contrast take: here, in the authors' way, and as a share of a whole training step?

For `speed.py --published`. What the authors' way is, and what is left out in its favour, says published.py. A step is
forward, backward, optimizer and teacher of the method patchcl after its warm-up, its images at hand, so that the share
of contrast is an upper bound. All that contrast adds counts: sampling, cutting, both embeddings, memory, loss, their
backward pass, and the teacher's head.
"""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

import published
from patchcl.config import TrainingSettings
from patchcl.contrast import ContrastSettings, HardNegatives
from patchcl.contrast.memory_bank import ClassMemory
from patchcl.contrast.patch_contrast import PatchContrast
from patchcl.contrast.patches import class_attended_patches, flip_at_random, patch_grid
from patchcl.contrast.samplers import PatchSampler
from patchcl.core.batch import LabeledBatch, TrainingBatch, UnlabeledBatch
from patchcl.core.files import write_json, write_text
from patchcl.methods import build_method
from patchcl.methods.base import Task
from patchcl.methods.settings import PatchCLSettings
from patchcl.networks import NetworkSettings, build_network
from patchcl.runs.provenance import provenance
from patchcl.training.loop import build_optimizer
from timing import Call, Rounds, alternate, fraction, ratio, shown, table

CLASSES, DIMENSIONS, PER_CLASS = 4, 128, 32
"""Per step 4 x 32 = 128 patches, as in the authors' code."""
LENGTHS = (256, 1024, 4096)
"""Embeddings that the memory keeps of every class."""
IMAGES, SIDE = 24, 256
"""What patches are drawn from: 12 labeled and 12 unlabeled images, as on ACDC in the literature."""
AUTHORS, UNMINED = "published", "published, nothing mined"
OFF = "off"
PATCHES = (8, 16)
"""Per class and step; 16 is the default."""
STEPS, STEP = 1000, 500
"""Length of the run that is imagined, and the step of it that is timed."""


class Scale(NamedTuple):
    """How large a training step is."""

    name: str
    side: int
    images: int  # labeled, and as many unlabeled
    features: tuple[int, ...]
    seconds: float  # that rounds go on being started
    warm_up: bool  # too long at the last scale, where a cold start matters least


SCALES = (
    Scale("demo", 64, 4, (16, 32, 64, 128), 12, True),
    Scale("middle", 128, 4, (16, 32, 64, 128, 256), 20, True),
    Scale("published", 256, 12, (16, 32, 64, 128, 256), 40, False),
)


def write(device: torch.device, folder: Path) -> str:
    """Measure one device, keep what is known of others, and give the tables of all."""
    path = folder / "contrast_speed.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    known[device.type] = measured(device, LENGTHS, SCALES, patience=1)
    write_json(path, known)
    write_text(path.with_suffix(".md"), markdown(known))
    return markdown(known)


def quick(device: torch.device) -> str:
    """The tables of the small cases only; nothing is written."""
    return markdown({device.type: measured(device, LENGTHS[:1], SCALES[:1], patience=0.2)})


def measured(
    device: torch.device, lengths: tuple[int, ...], scales: tuple[Scale, ...], patience: float
) -> dict[str, Any]:
    """All that this script knows about one device; `patience` scales for how long rounds go on."""
    origin, started = provenance(device), time.perf_counter()

    def rounds(what: str, ways: Mapping[str, Call], seconds: float, warm_up: bool = True) -> Rounds:
        print(f"{what} ...", file=sys.stderr, flush=True)
        return alternate(ways, device, patience * seconds, warm_up)

    parts = {
        "sampling": {str(SIDE): rounds("patches", sampling(device), 6)},
        "memory": {str(n): rounds(f"memory of {n}", pushing(n, device), 1) for n in lengths},
        "loss": {str(n): rounds(f"loss, memory of {n}", losses(n, device), 12, n == min(lengths)) for n in lengths},
        "steps": {
            described(each): rounds(described(each), steps(each, device), each.seconds, each.warm_up) for each in scales
        },
    }
    del origin["steps_per_second"]
    origin |= {"threads": torch.get_num_threads(), "seconds": round(time.perf_counter() - started)}
    return {"provenance": origin} | parts


def sampling(device: torch.device) -> dict[str, Call]:
    """From images and masks, or probabilities, to the patches of a step."""
    image, mask = hearts(IMAGES, SIDE)
    side = SIDE // 4
    pixels, classes = image.numpy(), mask.numpy()
    weak, strong = image.to(device), (image + 0.05).to(device)
    probs = torch.softmax(4 * F.one_hot(mask, CLASSES) + torch.rand(*mask.shape, CLASSES), dim=3).movedim(3, 1)
    probs = probs.contiguous().to(device)
    sampler = PatchSampler("entropy", CLASSES, PER_CLASS, min_ratio=0.5).to(device)

    def ours() -> tuple[Tensor, Tensor]:
        chosen = sampler(patch_grid(weak, probs, (side, side), "confidence"), (side, side))
        views = (class_attended_patches(view, probs, chosen, (side, side)) for view in (weak, strong))
        return flip_at_random(next(views)), next(views)

    return {AUTHORS: lambda: published.draw_patches(pixels, classes, CLASSES, side, PER_CLASS), "patchcl": ours}


def pushing(length: int, device: torch.device) -> dict[str, Call]:
    """One step's embeddings into a full memory."""
    queues, memory = filled(length, device)
    embedding, label = unit_vectors(PER_CLASS).flatten(0, 1), torch.arange(CLASSES).repeat_interleave(PER_CLASS)
    new, known = embedding.to(device), label.to(device)
    return {AUTHORS: lambda: queues.push(embedding, label), "patchcl": lambda: memory.push(new, known)}


def losses(length: int, device: torch.device) -> dict[str, Call]:
    """The loss of one step's embeddings against a full memory, and its gradient."""
    queues, memory = filled(length, device)
    embedding, label = unit_vectors(PER_CLASS).flatten(0, 1), torch.arange(CLASSES).repeat_interleave(PER_CLASS)
    leaf, known = embedding.clone().to(device).requires_grad_(), label.to(device)
    embedding.requires_grad_()

    def theirs(mine: bool) -> Call:
        return lambda: gradient(published.guided_contrast(embedding, label, queues, mine), embedding)

    def ours(kind: HardNegatives) -> Call:
        compare = contrast(length, memory, kind).to(device).compare
        return lambda: gradient(compare(leaf, known, STEPS)[0], leaf)

    authors = {AUTHORS: theirs(mine=True), UNMINED: theirs(mine=False)}
    return authors | {f"patchcl, {kind}": ours(kind) for kind in get_args(HardNegatives)}


def gradient(loss: Tensor, embedding: Tensor) -> Tensor:
    """Of the loss with respect to the embeddings."""
    return torch.autograd.grad(loss, embedding)[0]


def contrast(length: int, memory: ClassMemory, kind: HardNegatives) -> PatchContrast:
    """The contrast of the package with a memory that is already full."""
    settings = ContrastSettings(
        memory_length=length,
        patches_per_class=PER_CLASS,
        covariance_weight=published.COVARIANCE_WEIGHT,
        hard_negatives=kind,
    )
    network = build_network(NetworkSettings(features=SCALES[0].features), 1, CLASSES, (SCALES[0].side,) * 2)
    whole = PatchContrast(settings, network, CLASSES, (SIDE, SIDE), STEPS)
    whole.memory = memory
    return whole


def filled(length: int, device: torch.device) -> tuple[published.Queues, ClassMemory]:
    """The same embeddings in both kinds of memory."""
    queues, memory = published.Queues(CLASSES, length), ClassMemory(CLASSES, length, DIMENSIONS)
    embedding, label = unit_vectors(length).flatten(0, 1), torch.arange(CLASSES).repeat_interleave(length)
    queues.push(embedding, label)
    memory.push(embedding, label)
    return queues, memory.to(device)


def unit_vectors(count: int) -> Tensor:
    """(K, count, E) embeddings in clusters whose means are 0.9 long."""
    generator = torch.Generator().manual_seed(0)
    centre = F.normalize(torch.randn(CLASSES, 1, DIMENSIONS, generator=generator), dim=2)
    spread = 0.5 / DIMENSIONS**0.5
    return F.normalize(centre + spread * torch.randn(CLASSES, count, DIMENSIONS, generator=generator), dim=2)


def described(scale: Scale) -> str:
    """A scale in words."""
    return f"{scale.name}: {scale.side}², {scale.images} labeled + {scale.images} unlabeled"


def steps(scale: Scale, device: torch.device) -> dict[str, Call]:
    """A whole training step without contrast, and with it."""
    contrasts = {OFF: ContrastSettings(weight=0)}
    contrasts |= {f"{count} patches per class": ContrastSettings(patches_per_class=count) for count in PATCHES}
    return {name: training_step(scale, settings, device) for name, settings in contrasts.items()}


def training_step(scale: Scale, settings: ContrastSettings, device: torch.device) -> Call:
    """A step of the method patchcl as `patchcl.training.loop.train` does it."""
    torch.manual_seed(0)
    network = NetworkSettings(features=scale.features)
    task = Task(lambda: build_network(network, 1, CLASSES, (scale.side,) * 2), CLASSES, (scale.side, scale.side), STEPS)
    method = build_method(PatchCLSettings(warm_up_fraction=0, contrast=settings), task).to(device).train()
    optimizer = build_optimizer(method, TrainingSettings())
    image, mask = (part.to(device) for part in hearts(2 * scale.images, scale.side))
    weak, strong = image[scale.images :], (image[scale.images :] + 0.05).clamp(0, 1)
    batch = TrainingBatch(LabeledBatch(image[: scale.images], mask[: scale.images]), UnlabeledBatch(weak, strong))

    def step() -> None:
        method(batch, STEP).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(STEP)

    return step


def hearts(count: int, side: int) -> tuple[Tensor, Tensor]:
    """Images (count, 1, side, side) in [0, 1] with a ring, what it encloses and a disc beside it, and their masks."""
    generator = torch.Generator().manual_seed(0)
    along = torch.linspace(-1, 1, side)
    centre = 0.4 * torch.rand(2, count, 1, 1, generator=generator) - 0.2
    y, x = along.view(1, -1, 1) - centre[0], along.view(1, 1, -1) - centre[1]
    mask = torch.zeros(count, side, side, dtype=torch.int64)
    mask[torch.hypot(y, x + 0.45) < 0.25] = 1
    mask[torch.hypot(y, x) < 0.3] = 2
    mask[torch.hypot(y, x) < 0.2] = 3
    noise = 0.1 * torch.rand(count, 1, side, side, generator=generator)
    return torch.tensor([0.2, 0.7, 0.4, 0.8])[mask].unsqueeze(1) + noise, mask


def markdown(results: Mapping[str, Any]) -> str:
    """All tables, a section for every device."""
    return "\n".join(section(device, found) for device, found in results.items())


def section(device: str, found: Mapping[str, Any]) -> str:
    """What was found on one device, and where."""
    origin = found["provenance"]
    where = f"{origin['hardware']}, {origin['threads']} CPU thread(s), torch {origin['torch']}, {origin['commit']}"
    tables = (parts_table(found), loss_table(found["loss"]), steps_table(found["steps"]))
    legend = "Figures are medians of so many rounds; ratios and shares are medians, smallest and largest over rounds."
    return "\n".join([f"## {device}", "", where, "", legend, "", *tables])


def parts_table(found: Mapping[str, Any]) -> str:
    """Sampling and memory."""
    rows = [
        [f"{part} {size}", shown(ways[AUTHORS]), shown(ways["patchcl"]), ratio(ways[AUTHORS], ways["patchcl"])]
        for part, key in ((f"patches, {IMAGES} images of side", "sampling"), ("push into a memory of", "memory"))
        for size, ways in found[key].items()
    ]
    return table(["ms per step (rounds)", AUTHORS, "patchcl", f"{AUTHORS} / patchcl"], rows)


def loss_table(lengths: Mapping[str, Rounds]) -> str:
    """The loss by length of the memory."""
    rows = [
        [
            length,
            way,
            shown(times),
            f"{times['peak_mb']:.0f}",
            *(ratio(ways[base], times) for base in (AUTHORS, UNMINED)),
        ]
        for length, ways in lengths.items()
        for way, times in ways.items()
    ]
    headings = [
        "memory per class",
        "loss and gradient",
        "ms (rounds)",
        "peak MB",
        f"{AUTHORS} / this",
        f"{UNMINED} / this",
    ]
    return table(headings, rows)


def steps_table(scales: Mapping[str, Rounds]) -> str:
    """The share of contrast by scale."""
    rows = [
        [scale, way, shown(times), f"{times['peak_mb']:.0f}", fraction(ways[OFF], times)]
        for scale, ways in scales.items()
        for way, times in ways.items()
    ]
    return table(["training step", "contrast", "ms (rounds)", "peak MB", "share of contrast"], rows)
