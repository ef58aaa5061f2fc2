"""The batch of a step is a pure function of the step, whatever came before it and wherever images lie."""

from collections import Counter

import numpy as np
import pytest
import torch

from patchcl.augment import AugmentSettings
from patchcl.data.loading.image_store import ImageStore
from patchcl.data.loading.loader import BatchLoader, BatchStream, draws_at
from patchcl.data.preprocessing.cache import PreparedCase
from patchcl.data.preprocessing.plan import Plan

CPU = torch.device("cpu")
STILL = AugmentSettings(
    flip=False, rotate_90=False, rotate_degrees=0, scale=0, shift=0, labeled_intensity=0, strong_intensity=0
)


@pytest.fixture
def cases(tmp_path):
    """Three cases of four slices; a slice holds its own number, its mask the parity of that."""
    made = []
    for case in range(3):
        numbers = np.arange(4 * case, 4 * case + 4).reshape(4, 1, 1)
        np.save(tmp_path / f"{case}.npy", np.broadcast_to(numbers[:, None], (4, 1, 8, 8)).astype(np.float32))
        np.save(tmp_path / f"{case}_mask.npy", np.broadcast_to(numbers % 2, (4, 8, 8)).astype(np.uint8))
        made.append(PreparedCase(f"c{case}", f"p{case}", tmp_path / f"{case}.npy", tmp_path / f"{case}_mask.npy"))
    return made


def make(cases, augment=AugmentSettings(), budget=10**9, strong_views=1, **stream):  # noqa: B008 - frozen
    plan = Plan(
        dimensions=2, fit="resize", size=(8, 8), normalise="min_max", channels=("MR",), classes=("background", "odd")
    )
    hidden = [case._replace(mask=None) for case in cases]
    labeled = BatchStream(ImageStore(cases, plan, CPU, budget), 3, "labeled", **({"seed": 0} | stream))
    stream.pop("foreground_fraction", None)
    unlabeled = BatchStream(ImageStore(hidden, plan, CPU, budget), 2, "unlabeled", **({"seed": 0} | stream))
    return BatchLoader(labeled, unlabeled, augment, strong_views)


def test_thick_slices_are_turned_in_their_plane(tmp_path):
    """Every slice of the volume holds its own number, and no other number may turn up in it."""
    numbers = np.broadcast_to(np.arange(1, 7), (1, 12, 12, 6))
    np.save(tmp_path / "image.npy", numbers[:, None].astype(np.float32))
    np.save(tmp_path / "mask.npy", numbers.astype(np.uint8))
    plan = Plan(
        dimensions=3, fit="resize", size=(12, 12, 6), normalise="min_max", channels=("MR",), classes=("background", "a")
    )
    store = ImageStore([PreparedCase("c", "p", tmp_path / "image.npy", tmp_path / "mask.npy")], plan, CPU, 10**9)
    turned = STILL.model_copy(update={"rotate_degrees": 45.0})
    for spacing_mm, mixed in (((1.0, 1.0, 8.0), False), (None, True)):
        batches = BatchLoader(BatchStream(store, 1, "labeled", 0), None, turned, spacing_mm=spacing_mm)
        inside = batches.at(0).labeled.mask[0, 3:9, 3:9]
        assert (inside != torch.arange(1, 7)).any().item() == mixed


def items_at(*where):
    return [draw.item for draw in draws_at(*where)]


def tensors(batch):
    return [view for view in (*batch.labeled, *batch.unlabeled) if view is not None]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(tensors(one), tensors(other), strict=True))


@pytest.mark.parametrize("budget", [10**9, 0], ids=["resident", "streamed"])
def test_a_batch_does_not_depend_on_the_ones_before_it(cases, budget):
    walked, jumped = make(cases, budget=budget), make(cases, budget=budget)
    batches = [walked.at(step) for step in range(5)]
    assert same(batches[4], jumped.at(4))
    assert same(batches[1], jumped.at(1))
    assert not same(batches[3], batches[4])
    walked.close()
    jumped.close()


def test_streamed_and_resident_images_give_the_same_batches(cases):
    resident, streamed = make(cases), make(cases, budget=0)
    assert all(same(resident.at(step), streamed.at(step)) for step in range(6))
    streamed.close()


@pytest.mark.parametrize("other", [{"seed": 1}, {"rank": 1, "ranks": 2}])
def test_seed_and_rank_change_the_batch(cases, other):
    assert not same(make(cases).at(0), make(cases, **other).at(0))


def test_two_ranks_together_see_what_one_sees_in_two_steps(cases):
    one = make(cases, STILL)
    two = [make(cases, STILL, rank=rank, ranks=2) for rank in range(2)]
    for step in range(3):
        for rank in range(2):
            assert torch.equal(two[rank].at(step).labeled.image, one.at(2 * step + rank).labeled.image)


def test_image_and_mask_belong_together_and_a_pass_sees_every_slice_once(cases):
    batches = make(cases, STILL)
    seen = []
    for step in range(4):
        image, mask = batches.at(step).labeled
        assert torch.equal(image[:, 0].long() % 2, mask)
        seen += image[:, 0, 0, 0].tolist()
    assert sorted(seen) == list(range(12))


def test_weak_and_strong_views_share_their_geometry(cases):
    batches = make(cases, STILL.model_copy(update={"flip": True, "rotate_degrees": 20.0}))
    for step in range(3):
        weak, strong, _ = batches.at(step).unlabeled
        assert torch.equal(weak, strong)
    weak, strong, _ = make(cases, STILL.model_copy(update={"strong_intensity": 1.0})).at(0).unlabeled
    assert weak.shape == strong.shape == (2, 1, 8, 8)


def test_a_second_strong_view_is_drawn_on_request_and_changes_nothing_else(cases):
    one, two = make(cases), make(cases, strong_views=2)
    for step in range(3):
        alone, both = one.at(step), two.at(step)
        assert alone.unlabeled.second_strong is None
        assert all(torch.equal(a, b) for a, b in zip(tensors(alone), tensors(both), strict=False))
        assert both.unlabeled.second_strong.shape == (2, 1, 8, 8)
        assert not torch.equal(both.unlabeled.strong, both.unlabeled.second_strong)
    weak, _, second_strong = make(cases, STILL.model_copy(update={"flip": True}), strong_views=2).at(0).unlabeled
    assert torch.equal(weak, second_strong), "it shares the geometry too"


def test_without_any_strong_view_no_intensity_is_changed(cases):
    given, still = make(cases, strong_views=0).at(0), make(cases, AugmentSettings(labeled_intensity=0.0)).at(0)
    assert torch.equal(given.unlabeled.weak, given.unlabeled.strong)
    assert torch.equal(given.labeled.image, still.labeled.image)
    assert not torch.equal(given.labeled.image, make(cases).at(0).labeled.image)


def test_labeled_and_unlabeled_streams_draw_apart(cases):
    """Else the unlabeled images would be the labeled ones, step by step."""
    batches = make(cases, STILL)
    pairs = [batches.at(step) for step in range(6)]
    assert any(pair.labeled.image[:2, 0, 0, 0].tolist() != pair.unlabeled.weak[:, 0, 0, 0].tolist() for pair in pairs)


@pytest.mark.parametrize(("size", "batch"), [(12, 4), (10, 3), (3, 7), (1, 2)])
def test_every_pass_shows_every_item_once(size: int, batch: int) -> None:
    seen = [item for step in range(2 * size) for item in items_at(step, size, batch, 5)]
    passes = [seen[start : start + size] for start in range(0, len(seen) - size + 1, size)]
    assert all(sorted(one) == list(range(size)) for one in passes)
    if size > 9:
        assert len({tuple(one) for one in passes}) == len(passes)


@pytest.mark.parametrize(("fraction", "ranks"), [(1 / 3, 1), (0.4, 2), (1.0, 1)])
def test_a_share_of_all_places_is_for_the_foreground_and_the_others_pass_over_all(fraction, ranks) -> None:
    """Of 60 places of batches of 4, whatever the number of processes; every item as often as another of its kind."""
    draws = [
        draw
        for step in range(15 // ranks)
        for rank in range(ranks)
        for draw in draws_at(step, 10, 4, 5, rank, ranks, (2, 3, 7), fraction)
    ]
    draws += draws_at(15 // ranks, 10, 4, 5, 0, ranks, (2, 3, 7), fraction) if ranks == 2 else []
    shown, others = ([draw.item for draw in draws if draw.on_structure is kind] for kind in (True, False))
    assert abs(len(shown) - 60 * fraction) < 1
    assert set(Counter(shown)) == {2, 3, 7}
    for items, every in ((shown, (2, 3, 7)), (others, range(10))):
        counts = [Counter(items)[item] for item in every]
        assert max(counts) - min(counts) <= 1
    assert fraction == 1.0 or any(draw.on_structure for draw in draws[:4])


def test_without_a_share_for_it_the_foreground_changes_nothing() -> None:
    assert draws_at(3, 10, 4, 5) == draws_at(3, 10, 4, 5, foreground=(2, 3, 7))
    assert not any(draw.on_structure for draw in draws_at(3, 10, 4, 5))


@pytest.mark.parametrize("budget", [10**9, 0], ids=["resident", "streamed"])
def test_slices_that_show_a_structure_are_favoured_as_the_step_alone_says(cases, budget):
    """Odd slices show one: all of the batch do where the fraction is 1; unlabeled images are those of before."""
    plain, walked, jumped = (make(cases, STILL, budget, foreground_fraction=share) for share in (0.0, 1.0, 1.0))
    batches = [walked.at(step) for step in range(4)]
    assert all((batch.labeled.mask == 1).all() for batch in batches)
    assert same(batches[3], jumped.at(3))
    assert any((plain.at(step).labeled.mask == 0).any() for step in range(4))
    for step, batch in enumerate(batches):
        assert torch.equal(batch.unlabeled.weak, plain.at(step).unlabeled.weak)
    for stream in (plain, walked, jumped):
        stream.close()


def test_a_step_depends_on_nothing_but_its_arguments() -> None:
    forward = [items_at(step, 50, 4, 1) for step in range(40)]
    backward = [items_at(step, 50, 4, 1) for step in reversed(range(40))]
    assert forward == backward[::-1]
    assert forward != [items_at(step, 50, 4, 2) for step in range(40)]


def test_a_seed_does_not_repeat_the_passes_of_its_neighbour() -> None:
    assert items_at(1, 50, 50, 0) != items_at(0, 50, 50, 1)


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_processes_share_the_batch_of_one(ranks: int) -> None:
    for step in range(8):
        together = [item for rank in range(ranks) for item in items_at(step, 30, 8 // ranks, 0, rank, ranks)]
        assert together == items_at(step, 30, 8, 0)


def test_items_are_shown_equally_often() -> None:
    counts = Counter(item for step in range(30) for item in items_at(step, 10, 4, 0))
    assert set(counts.values()) == {12}
