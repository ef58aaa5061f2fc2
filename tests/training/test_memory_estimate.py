"""Whether the memory that is foretold is what a step keeps, for every method, and what is made of it."""

import io

import numpy as np
import pytest
import torch
from rich.console import Console

from patchcl.config import Settings, load_settings
from patchcl.data.geometry import Grid
from patchcl.data.preprocessing.plan import Plan
from patchcl.methods import method_names
from patchcl.training import memory_estimate as module
from patchcl.training.memory_estimate import (
    GIB,
    PEAK,
    MemoryEstimate,
    MemoryModel,
    estimate_memory,
    fitting_batch,
    largest_batch,
    memory_model,
    memory_table,
    with_batch,
)

SMALL = ("network.features=[8, 16]", "training.steps=10", "training.device=cpu")


def plan_of(*size: int) -> Plan:
    return Plan(
        dimensions=len(size),
        fit="resize",
        size=size,
        normalise="percentile",
        channels=("MRI",),
        classes=("0", "A", "B"),
    )


def settings_of(*overrides: str) -> Settings:
    return load_settings(None, [*SMALL, *overrides])


def shown(settings: Settings, estimate: MemoryEstimate) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(memory_table(settings, estimate))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("method", method_names())
def test_small_images_foretell_large_ones(method: str) -> None:
    """What a step with images of the full size keeps, counted, is what was reckoned from the small ones."""
    settings, plan = settings_of(f"method.name={method}"), plan_of(32, 48)
    foretold = memory_model(settings, plan)
    full = module._method_of(settings, plan, plan.size)
    full.contrast = None
    less, more = (module._kept_bytes(full, (1, 32, 48), count, count, 9) for count in (2, 4))
    assert foretold.labeled + foretold.unlabeled == pytest.approx(PEAK * (more - less) / 2, rel=0.1)
    assert foretold.labeled > 0
    assert (foretold.unlabeled > 0) == full.needs_unlabeled


def test_a_square_keeps_what_its_gradient_needs() -> None:
    """y = (w x)² keeps x and w x for every pixel: eight bytes."""

    class Square(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, batch: module.TrainingBatch, step: int) -> torch.Tensor:
            return ((self.weight * batch.labeled.image) ** 2).sum()

    assert module._kept_bytes(Square(), (1, 4, 5), 3, 1, 0) == 3 * 4 * 5 * 8


def test_random_numbers_are_left_as_they_were() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    memory_model(settings_of(), plan_of(32, 32))
    assert torch.equal(torch.rand(1), expected)


def test_crops_count_as_pixels() -> None:
    """A step compares 3 classes x 4 crops of 16 x 16 pixels, three images of 32 x 32."""
    crops = ("method.contrast.embed=crops", "method.contrast.patches_per_class=4", "method.contrast.patch_fraction=0.5")
    features, with_crops = (memory_model(settings_of(*overrides), plan_of(32, 32)) for overrides in ((), crops))
    assert with_crops.fixed - features.fixed == pytest.approx(3 * with_crops.labeled)


@pytest.mark.parametrize(("method", "unlabeled"), [("patchcl", 1), ("supervised", 0)])
def test_the_weights_that_pool_fine_features_count_for_every_image(method: str, unlabeled: int) -> None:
    """4 bytes for each of 3 classes x 16 patches and 32 x 32 places."""
    level = "method.contrast.levels="
    common = (f"method.name={method}", "method.contrast.weight=0.1")
    deepest, finest = (memory_model(settings_of(*common, f"{level}[{at}]"), plan_of(32, 32)) for at in (0, 1))
    added = 4 * 3 * 16 * 32 * 32
    assert (finest.labeled - deepest.labeled, finest.unlabeled - deepest.unlabeled) == (added, unlabeled * added)


def test_half_precision_and_larger_images_count() -> None:
    plain = memory_model(settings_of("method.name=supervised"), plan_of(32, 32))
    half = memory_model(settings_of("method.name=supervised", "training.precision=bf16-mixed"), plan_of(32, 32))
    large = memory_model(settings_of("method.name=supervised"), plan_of(64, 96))
    assert (2 * half.labeled, large.labeled) == pytest.approx((plain.labeled, 6 * plain.labeled))


def estimate_of(
    available_gib: float | None,
    batch: tuple[int, int] = (12, 6),
    images_gib: float = 1,
    chosen: tuple[bool, bool] = (False, False),
) -> MemoryEstimate:
    """Of a network of 1 GiB, with 0.5 GiB for a labeled image and 1 GiB for an unlabeled one."""
    available_bytes = None if available_gib is None else available_gib * GIB
    return MemoryEstimate(
        (16, 16), MemoryModel(0.5 * GIB, GIB, GIB), batch, chosen, int(images_gib * GIB), "cuda", available_bytes
    )


@pytest.mark.parametrize(
    ("available_gib", "batch", "expected"),
    [
        (14, (12, 6), (12, 6)),
        (8, (12, 6), (6, 3)),
        (26, (12, 6), (24, 12)),
        (3.9, (12, 6), (1, 1)),
        (3.5, (12, 1), (1, 1)),
        (3.4, (12, 6), None),
        (4.1, (12, 6), (2, 1)),
        (2.6, (12, 0), (1, 0)),
        (2.4, (12, 0), None),
        (1, (12, 6), None),
    ],
)
def test_the_largest_batch_fills_what_is_left(
    available_gib: float, batch: tuple[int, int], expected: tuple[int, int] | None
) -> None:
    """Two GiB are for the network and the prepared images; a whole batch of 12 + 6 takes twelve."""
    assert largest_batch(estimate_of(available_gib, batch), available_gib * GIB) == expected


@pytest.mark.parametrize(
    ("available_gib", "batch", "taken", "said"),
    [
        (26, "12 + 6", 14, "enough for a batch of 24 + 12."),
        (26, "12 + 6", 14, "the default, and it fits."),
        (8, "6 + 3", 8, "the most that 8.0 GiB hold. 12 + 6 would take 14.0 GiB, and train takes that unless"),
        (2, "1 + 1", 3.5, "too little even for 1 + 1: make plan.size or network.features smaller."),
        (2, "1 + 1", 3.5, "the least, and still too much for 2.0 GiB"),
        (None, "12 + 6", 14, "this machine does not tell how much memory it has."),
    ],
)
def test_what_is_said_follows_from_the_room(available_gib: float | None, batch: str, taken: float, said: str) -> None:
    text = shown(settings_of(), estimate_of(available_gib))
    assert said in text
    assert f"{batch} " in text
    assert f"about {taken:.1f} GiB" in text
    assert "16 × 16, one every 8 × 8" in text


@pytest.mark.parametrize(
    ("available_gib", "batch", "chosen", "expected"),
    [
        (14, (12, 6), (False, False), (12, 6)),
        (13.9, (12, 6), (False, False), (11, 5)),
        (26, (12, 6), (False, False), (12, 6)),
        (8, (12, 6), (False, False), (6, 3)),
        (8, (12, 6), (True, True), (12, 6)),
        (11, (12, 6), (True, False), (12, 3)),
        (11, (12, 6), (False, True), (6, 6)),
        (7, (12, 6), (True, False), (12, 1)),
        (9.6, (12, 6), (True, False), (12, 1)),
        (6, (24, 1), (False, False), (6, 1)),
        (5, (12, 0), (False, False), (6, 0)),
        (5, (12, 0), (True, False), (12, 0)),
        (2, (12, 0), (False, False), (1, 0)),
        (None, (12, 6), (False, False), (12, 6)),
    ],
)
def test_the_batch_follows_the_memory_but_for_what_is_set(
    available_gib: float | None, batch: tuple[int, int], chosen: tuple[bool, bool], expected: tuple[int, int]
) -> None:
    """Two GiB are for the network and the prepared images; a labeled image takes half of one, an unlabeled one all."""
    estimate = estimate_of(available_gib, batch, chosen=chosen)
    assert fitting_batch(estimate).counts == expected
    plan = with_batch(plan_of(32, 32), estimate)
    assert (plan.labeled_per_batch, plan.unlabeled_per_batch) == (expected[0], expected[1] or None)
    assert plan.reasons["labeled_per_batch"] == fitting_batch(estimate).why
    assert ("unlabeled_per_batch" in plan.reasons) == (expected[1] > 0)


def test_what_is_foreseen_for_a_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "total_memory", {"cpu": 16 * GIB}.get)
    grids = [Grid((40, 40, depth), np.eye(4), (1.0, 1.0, 8.0)) for depth in (5, 7)]
    batch = ("training.labeled_per_batch=3", "training.unlabeled_per_batch=2")
    seen = estimate_memory(settings_of(*batch), plan_of(32, 32), grids)
    assert (seen.patch, seen.batch, seen.chosen) == ((8, 8), (3, 2), (True, True))
    assert seen.images == 12 * 32 * 32 * 5
    assert (seen.device, seen.available_bytes) == ("cpu", 8 * GIB)
    alone = estimate_memory(
        settings_of(*batch, "method.name=supervised", "training.memory_gib=0"), plan_of(32, 32), grids
    )
    assert (alone.patch, alone.batch, alone.images) == (None, (3, 0), 0)
    assert "on disk" in shown(settings_of(), alone)
    assert estimate_memory(settings_of(batch[0]), plan_of(32, 32), grids).chosen == (True, False)


def test_this_machine_tells_its_memory() -> None:
    assert module.total_memory("cpu") is None or module.total_memory("cpu") > GIB / 4
    assert module.total_memory("cuda") is None or torch.cuda.is_available()
