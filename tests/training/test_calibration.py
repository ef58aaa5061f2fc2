"""Quality of pseudo-labels: fractions by hand, and the calibration error against its definition in plain NumPy."""

import numpy as np
import pytest
import torch

from patchcl.core.batch import IGNORE
from patchcl.training.calibration import BINS, pseudo_label_quality, pseudo_label_stats

CLASSES = ("background", "left", "right")


def probs_of(predicted, confidence):
    """(1, 3, N) probabilities whose largest is `confidence`, for the class `predicted`; the others share the rest."""
    confidence = torch.tensor(confidence)
    probs = ((1 - confidence) / 2).repeat(3, 1)
    probs[predicted, torch.arange(len(predicted))] = confidence
    return probs.unsqueeze(0)


def random_case(seed, shape=(2, 8, 8)):
    draws = torch.Generator().manual_seed(seed)
    probs = torch.randn(shape[0], 3, *shape[1:], generator=draws).mul(2).softmax(dim=1)
    return probs, torch.randint(0, 3, shape, generator=draws, dtype=torch.uint8)


def calibration_error(confidence, right):
    """As Guo et al. write it: the mean over bins of |accuracy - confidence|, weighted by the pixels in each."""
    error = 0.0
    for low, high in zip(np.arange(BINS) / BINS, np.arange(1, BINS + 1) / BINS, strict=True):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return error


def test_shares_by_hand():
    predicted = [0, 0, 0, 1, 1, 1, 1, 2]
    confidence = [0.9, 0.9, 0.6, 0.8, 0.8, 0.8, 0.5, 0.8]
    mask = torch.tensor([[0, 1, 0, 1, 1, 0, 1, 1]])
    assert pseudo_label_quality([pseudo_label_stats(probs_of(predicted, confidence), mask, 0.8)], CLASSES) == {
        "accepted_background": 2 / 3,
        "accepted_left": 3 / 4,
        "accepted_right": 1.0,
        "agreement_background": 1 / 2,
        "agreement_left": 2 / 3,
        "agreement_right": 0.0,
        "found_background": 1 / 3,
        "found_left": 2 / 5,
        "ece": pytest.approx((abs(1.8 - 1) + abs(0.6 - 1) + abs(3.2 - 2) + abs(0.5 - 1)) / 8),
        "ece_structures": pytest.approx((abs(0.9 - 0) + abs(3.2 - 2) + abs(0.5 - 1)) / 6),
    }


def test_what_nothing_can_be_said_of_is_left_out():
    stats = pseudo_label_stats(probs_of([0, 0], [0.9, 0.9]), torch.tensor([[0, 0]]), 0.95)
    figures = pseudo_label_quality([stats], CLASSES)
    assert figures == {
        "accepted_background": 0.0,
        "accepted_left": 0.0,
        "accepted_right": 0.0,
        "found_background": 0.0,
        "ece": pytest.approx(0.1),
    }


def test_a_confidence_at_the_threshold_is_enough():
    probs, mask = probs_of([1, 1, 1], [0.5, 0.75, 0.875]), torch.tensor([[1, 1, 1]])
    for threshold, accepted in ((0.5, 1.0), (0.75, 2 / 3), (0.7501, 1 / 3), (0.875, 1 / 3)):
        figures = pseudo_label_quality([pseudo_label_stats(probs, mask, threshold)], CLASSES)
        assert figures["accepted_left"] == pytest.approx(accepted)


@pytest.mark.parametrize("confidence", [7 / 15, 12 / 15, 1.0])
def test_a_bin_holds_its_upper_end(confidence):
    """The one at the end is wrong, the one just below is right: in one bin their errors partly cancel."""
    probs = probs_of([1, 1], [confidence, confidence - 0.01])
    error = pseudo_label_quality([pseudo_label_stats(probs, torch.tensor([[0, 1]]), 0.0)], CLASSES)["ece"]
    assert error == pytest.approx(abs(2 * confidence - 0.01 - 1) / 2, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_the_calibration_error_is_that_of_the_paper(seed):
    probs, mask = random_case(seed)
    figures = pseudo_label_quality([pseudo_label_stats(probs, mask, 0.0)], CLASSES)
    confidence, predicted = (each.double().numpy() for each in probs.max(dim=1))
    right, structure = predicted == mask.numpy(), (predicted > 0) | (mask.numpy() > 0)
    assert figures["ece"] == pytest.approx(calibration_error(confidence, right), abs=1e-9)
    of_structures = calibration_error(confidence[structure], right[structure])
    assert figures["ece_structures"] == pytest.approx(of_structures, abs=1e-9)
    assert abs(figures["ece"] - figures["ece_structures"]) > 1e-3


@pytest.mark.parametrize("seed", range(2))
def test_ignored_pixels_might_as_well_not_be_there(seed):
    probs, mask = random_case(seed)
    cut = pseudo_label_stats(probs[..., 3:], mask[..., 3:], 0.6)
    ignored = mask.long()
    ignored[..., :3] = IGNORE
    assert all(torch.equal(one, two) for one, two in zip(pseudo_label_stats(probs, ignored, 0.6), cut, strict=True))
    nothing = pseudo_label_stats(probs, torch.full_like(ignored, IGNORE), 0.6)
    assert pseudo_label_quality([nothing], CLASSES) == dict.fromkeys([f"accepted_{name}" for name in CLASSES], 0.0)


def test_scans_may_come_one_by_one_slices_and_volumes_alike():
    cases = [random_case(seed, shape) for seed, shape in ((0, (2, 8, 8)), (1, (1, 4, 8, 8)), (2, (3, 8, 8)))]
    releasing_memory = pseudo_label_quality([pseudo_label_stats(*case, 0.6) for case in cases], CLASSES)
    probs = torch.cat([probs.movedim(1, -1).reshape(-1, 3) for probs, _ in cases])
    mask = torch.cat([mask.flatten() for _, mask in cases])
    together = pseudo_label_quality([pseudo_label_stats(probs, mask, 0.6)], CLASSES)
    assert releasing_memory == pytest.approx(together, abs=1e-12)
    assert len(releasing_memory) == 11


def test_a_teacher_that_is_right_and_sure_is_perfect():
    mask = torch.tensor([[0, 1, 2, 2]])
    figures = pseudo_label_quality([pseudo_label_stats(torch.eye(3)[mask].movedim(-1, 1), mask, 1.0)], CLASSES)
    assert figures.pop("ece") == figures.pop("ece_structures") == 0
    assert set(figures.values()) == {1.0}
