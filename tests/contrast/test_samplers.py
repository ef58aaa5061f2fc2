"""How patches are chosen: candidates, counted draws, thresholds that settle, patches kept apart."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from patchcl.contrast.patches import ChosenPatches, PatchGrid, binary_entropy, patch_grid
from patchcl.contrast.samplers import TARGET, CoverageThreshold, PatchSampler, best_apart, shared_parts
from patchcl.core.batch import IGNORE
from patchcl.losses.supervised import one_hot

KINDS = ("entropy", "topk", "uniform", "coverage")


def choose(
    probs, side, per_class, min_ratio=0.5, kind="entropy", overlap=1.0, image=None, source="confidence", border=False
):
    image = torch.ones(len(probs), 1, *probs.shape[2:]) if image is None else image
    sampler = PatchSampler(kind, probs.shape[1], per_class, min_ratio, overlap, border)
    return sampler(patch_grid(image, probs, side, source), side)


def places(chosen: ChosenPatches, label: int) -> list[tuple[int, ...]]:
    every = torch.cat([chosen.image[:, None], chosen.corner], dim=1)
    return [tuple(place) for place in every[chosen.label == label].tolist()]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(16, 16), (13, 22), (8, 9, 11)])
def test_patches_lie_inside_the_image_and_show_the_class_they_claim(size, kind):
    generator, side = torch.Generator().manual_seed(0), (5, 4, 3)[: len(size)]
    mask = torch.randint(0, 3, (4, *size), generator=generator)
    chosen = choose(one_hot(mask, 3), side, per_class=9, kind=kind)
    assert (chosen.label >= 0).any()
    for place, corner, label in zip(chosen.image, chosen.corner.tolist(), chosen.label, strict=True):
        assert all(start + length <= full for start, length, full in zip(corner, side, size, strict=True))
        window = tuple(slice(start, start + length) for start, length in zip(corner, side, strict=True))
        assert label == IGNORE or (mask[(place, *window)] == label).any()


def test_a_thin_structure_has_candidates_though_it_never_fills_a_patch():
    mask = torch.zeros(2, 16, 16, dtype=torch.int64)
    mask[0, 7, 2:14] = 1
    chosen = choose(one_hot(mask, 2), (8, 8), per_class=3)
    assert (chosen.label == 1).sum() == 3
    assert (chosen.image[chosen.label == 1] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("overlap", [1.0, 0.4])
def test_a_class_that_is_absent_or_scarce_leaves_its_places_empty_and_shapes_stay(kind, overlap):
    mask = torch.zeros(1, 16, 16, dtype=torch.int64)
    mask[0, 1:3, 1:3] = 2
    chosen = choose(one_hot(mask, 4), (4, 4), per_class=6, min_ratio=0.9, kind=kind, overlap=overlap)
    assert chosen.label.shape == (24,)
    counts = [(chosen.label == k).sum().item() for k in range(4)]
    assert counts[0] == 6
    assert counts[1] == counts[3] == 0
    assert counts[2] < 6
    assert kind == "coverage" or counts[2] >= 1
    assert (chosen.label == IGNORE).sum() == 24 - sum(counts)


@pytest.mark.parametrize("kind", KINDS)
def test_draws_are_without_replacement(kind):
    probs = torch.rand(2, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    chosen = choose(probs, (4, 4), per_class=20, min_ratio=0.01, kind=kind)
    for k in range(2):
        found = places(chosen, k)
        assert len(found) == len(set(found))
        assert kind == "coverage" or len(found) == 20


def drawn_once(confidence: torch.Tensor, **options) -> np.ndarray:
    """How often each of four patches side by side was drawn for two thousand classes with the same maps."""
    torch.manual_seed(0)
    chosen = choose(confidence.expand(1, 2000, 2, 4), (2, 1), per_class=1, **options)
    return np.bincount(chosen.corner[:, 1].numpy(), minlength=4)


def test_entropy_draws_follow_one_minus_entropy_of_the_confidence():
    confidence = torch.tensor([0.95, 0.9, 0.8, 0.7])
    weights = 1 - binary_entropy(confidence.double()).numpy()
    assert chisquare(drawn_once(confidence), weights / weights.sum() * 2000).pvalue > 1e-3


def test_entropy_draws_follow_the_entropy_of_the_attended_image():
    """The other way round: with full confidence, mid-grey tissue is drawn most and black is not drawn."""
    grey = torch.tensor([0.5, 0.2, 0.9, 0.0])
    weights = binary_entropy(grey.double()).numpy()
    found = drawn_once(torch.ones(4), image=grey.expand(1, 1, 2, 4), source="attended")
    assert found[3] == 0
    assert chisquare(found[:3], weights[:3] / weights[:3].sum() * 2000).pvalue > 1e-3


def test_uniform_draws_do_not_look_at_the_entropy():
    found = drawn_once(torch.tensor([0.95, 0.9, 0.8, 0.7]), kind="uniform")
    assert chisquare(found).pvalue > 1e-3


def test_topk_takes_the_surest_and_breaks_ties_by_chance():
    assert drawn_once(torch.tensor([0.8, 0.95, 0.9, 0.7]), kind="topk").tolist() == [0, 2000, 0, 0]
    assert chisquare(drawn_once(torch.ones(4), kind="topk")).pvalue > 1e-3


def test_labeled_patches_are_always_sure():
    mask = torch.randint(0, 3, (2, 16, 16), generator=torch.Generator().manual_seed(0))
    assert choose(one_hot(mask, 3), (4, 4), 5, min_ratio=0.3).entropy.abs().max() == 0


def test_shapes_never_depend_on_data():
    shapes = {
        tuple(field.shape for field in choose(one_hot(mask, 3), (4, 4), 5))
        for mask in (torch.zeros(2, 12, 12, dtype=torch.int64), torch.randint(0, 3, (2, 12, 12)))
    }
    assert len(shapes) == 1


@pytest.mark.parametrize("start", [0.0, 1.0], ids=["from below", "from above"])
@pytest.mark.parametrize("power", [1.0, 3.0])
def test_the_coverage_threshold_settles_at_the_quantile_from_both_sides(start, power):
    """Coverage u ** power with u uniform has the (1 - target) quantile (1 - target) ** power."""
    threshold = CoverageThreshold(2, start)
    generator = torch.Generator().manual_seed(0)
    for _ in range(400):
        coverage = torch.rand(2, 50, generator=generator) ** power
        coverage[1] = 0  # a class that is never there
        threshold(coverage)
    assert float(threshold.value[0]) == pytest.approx((1 - TARGET) ** power, abs=0.05)
    assert threshold.value[1] == start
    assert threshold.updates.tolist() == [400, 0]


def test_the_coverage_threshold_does_not_depend_on_how_many_patches_there_are():
    few, many = CoverageThreshold(1), CoverageThreshold(1)
    coverage = torch.tensor([[0.2, 0.4, 0.6, 0.8]])
    few(coverage)
    many(coverage.repeat(1, 100))
    assert torch.equal(few.value, many.value)
    assert few.value.item() == pytest.approx(0.5 + 0.5 * (2 / 4 - TARGET))


def test_those_that_cover_more_than_the_threshold_qualify():
    """The authors' filter removes exactly these."""
    qualified = CoverageThreshold(1, start=0.5)(torch.tensor([[0.0, 0.4, 0.5, 0.6, 1.0]]))
    assert qualified.tolist() == [[False, False, False, True, True]]


def line_of_patches(images: list[int], corners: list[int]) -> PatchGrid:
    count = len(corners)
    corner = torch.tensor(corners).unsqueeze(1)
    return PatchGrid(torch.tensor(images), corner, *torch.ones(4, 1, count))


def test_a_patch_near_a_better_one_gives_way_but_only_in_the_same_image():
    grid = line_of_patches([0, 0, 0, 1], [0, 2, 4, 2])
    score = torch.tensor([[1.0, 3.0, 2.0, 0.5]])
    top, place = best_apart(score, grid, (4,), count=4, overlap=0.4)
    assert place[0, :2].tolist() == [1, 3]
    assert top[0].tolist() == [3.0, 0.5, float("-inf"), float("-inf")]
    top, place = best_apart(score, grid, (4,), count=4, overlap=0.5)
    assert place[0].tolist() == [1, 2, 0, 3]


def test_patches_share_what_lies_in_both():
    corner, others = torch.tensor([[[4, 4]]]), torch.tensor([[4, 4], [2, 4], [5, 1], [8, 4], [4, 20]])
    assert shared_parts(corner, others, (4, 4)).tolist() == [[1.0, 0.5, 0.75 * 0.25, 0.0, 0.0]]


def test_suppression_holds_for_every_pair_that_is_chosen():
    generator = torch.Generator().manual_seed(0)
    probs = torch.rand(3, 2, 24, 24, generator=generator)
    chosen = choose(probs, (8, 8), per_class=12, min_ratio=0.01, overlap=0.3)
    for k in range(2):
        found = places(chosen, k)
        assert len(found) == 12
        for number, (image, *corner) in enumerate(found):
            for other, *beside in found[number + 1 :]:
                shared = np.prod([max(0, 8 - abs(a - b)) / 8 for a, b in zip(corner, beside, strict=True)])
                assert other != image or shared <= 0.3


def test_organs_in_one_place_of_every_image_all_keep_their_patch():
    """The authors' suppression forgets the images: of eight such organs it keeps one."""
    mask = torch.zeros(8, 16, 16, dtype=torch.int64)
    mask[:, 4:8, 4:8] = 1
    chosen = choose(one_hot(mask, 2), (4, 4), per_class=8, min_ratio=1.0, overlap=0.1)
    assert sorted(place[0] for place in places(chosen, 1)) == list(range(8))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dimensions", [2, 3])
def test_at_the_border_patches_that_a_class_fills_come_last(kind, dimensions):
    mask = torch.zeros(1, *[16] * dimensions, dtype=torch.int64)
    mask[:, 8:] = 1
    chosen = {
        border: choose(one_hot(mask, 2), (4,) * dimensions, 5, kind=kind, border=border).corner[:, 0]
        for border in (True, False)
    }
    # by halves of a patch, 6 is the one row of corners whose patches both classes share
    assert (chosen[True] == 6).all() == (kind != "coverage")
    assert not (chosen[False] == 6).all()


def test_draws_at_the_border_go_with_the_product_of_both_shares():
    coverage = torch.tensor([[0.5, 0.25, 0.75, 1.0]])
    grid = PatchGrid(torch.arange(4), torch.zeros(4, 2, dtype=torch.int64), coverage, coverage, 0 * coverage,
                     torch.tensor([[1.0, 1.0, 0.5, 1.0]]))  # fmt: skip
    sampler = PatchSampler("entropy", 1, 1, min_ratio=0.1, border=True)
    torch.manual_seed(0)
    counts = torch.bincount(torch.cat([sampler(grid, (2, 2)).image for _ in range(2000)]), minlength=4)
    weight = torch.tensor([1.0, 0.75, 0.375], dtype=torch.float64)
    assert counts[3] == 0
    assert chisquare(counts[:3].numpy(), (2000 * weight / weight.sum()).numpy()).pvalue > 0.001
