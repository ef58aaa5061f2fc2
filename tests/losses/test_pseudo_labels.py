"""What a teacher believes, from probabilities that are known beforehand."""

import math

import pytest
import scipy.special
import scipy.stats
import torch
from beartype import beartype
from jaxtyping import TypeCheckError, jaxtyped

import patchcl.losses.pseudo_labels as module
from patchcl.core.batch import IGNORE
from patchcl.losses.pseudo_labels import PseudoLabels

pseudo_labels, accepted_mask, confidence_above_chance = (
    jaxtyped(typechecker=beartype)(function)
    for function in (module.pseudo_labels, module.accepted_mask, module.confidence_above_chance)
)


def test_two_pixels_by_hand():
    probs = torch.tensor([[0.7, 0.2], [0.2, 0.5], [0.1, 0.3]]).view(1, 3, 2, 1)
    pseudo = pseudo_labels(probs.log() + 5)
    torch.testing.assert_close(pseudo.probs, probs)
    assert pseudo.mask.flatten().tolist() == [0, 1]
    torch.testing.assert_close(pseudo.confidence.flatten(), torch.tensor([0.7, 0.5]))
    first = -(0.7 * math.log(0.7) + 0.2 * math.log(0.2) + 0.1 * math.log(0.1)) / math.log(3)
    assert pseudo.entropy.flatten()[0].item() == pytest.approx(first, rel=1e-5)


@pytest.mark.parametrize("size", [(4, 5), (3, 4, 5)], ids=["slices", "volumes"])
@pytest.mark.parametrize("classes", [2, 4])
def test_it_agrees_with_scipy_on_random_logits(size, classes):
    logits = 3 * torch.randn(2, classes, *size, generator=torch.Generator().manual_seed(0))
    pseudo = pseudo_labels(logits)
    probs = scipy.special.softmax(logits.double().numpy(), axis=1)
    torch.testing.assert_close(pseudo.probs.double(), torch.from_numpy(probs), rtol=1e-5, atol=1e-6)
    entropy = torch.from_numpy(scipy.stats.entropy(probs, base=classes, axis=1))
    torch.testing.assert_close(pseudo.entropy.double(), entropy, rtol=1e-4, atol=1e-6)
    assert torch.equal(pseudo.mask, logits.argmax(dim=1))
    assert torch.equal(pseudo.confidence, pseudo.probs.amax(dim=1))
    assert pseudo.mask.dtype == torch.int64


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_the_ends_of_the_ranges_are_reached_and_finite(classes):
    unsure, sure = torch.zeros(1, classes, 1, 1), torch.zeros(1, classes, 1, 1)
    sure[:, -1] = 1e4
    assert pseudo_labels(unsure).entropy.item() == pytest.approx(1, abs=1e-6)
    assert pseudo_labels(unsure).confidence.item() == pytest.approx(1 / classes)
    assert pseudo_labels(sure).entropy.item() == 0
    assert pseudo_labels(sure).confidence.item() == 1


def test_half_precision_logits_are_judged_in_single_precision():
    logits = torch.tensor([0.0, 4.0], dtype=torch.bfloat16).view(1, 2, 1, 1)
    pseudo = pseudo_labels(logits)
    assert {tensor.dtype for tensor in (pseudo.probs, pseudo.confidence, pseudo.entropy)} == {torch.float32}
    assert pseudo.confidence.item() == pytest.approx(1 / (1 + math.exp(-4)), rel=1e-6)


@pytest.mark.parametrize(
    ("threshold", "accepted"),
    [(0.0, [2, 1, 0]), (0.75, [2, 1, IGNORE]), (0.8, [2, IGNORE, IGNORE]), (1.0, [2, IGNORE, IGNORE])],
)
def test_a_pixel_is_accepted_from_the_threshold_on(threshold, accepted):
    confidence, mask = torch.tensor([1.0, 0.75, 0.5]).view(1, 1, 3), torch.tensor([2, 1, 0]).view(1, 1, 3)
    pseudo = PseudoLabels(torch.zeros(1, 3, 1, 3), mask, confidence, torch.zeros(1, 1, 3))
    assert accepted_mask(pseudo, threshold).flatten().tolist() == accepted
    assert pseudo.mask.flatten().tolist() == [2, 1, 0], "the pseudo-mask itself stays whole"


@pytest.mark.parametrize(("classes", "half"), [(2, 0.75), (4, 0.625)])
def test_confidence_counts_from_chance_on(classes, half):
    confidence = torch.tensor([1 / classes, half, 1.0]).view(1, 1, 3)
    torch.testing.assert_close(confidence_above_chance(confidence, classes), torch.tensor([[[0.0, 0.5, 1.0]]]))


def test_logits_without_classes_are_refused():
    with pytest.raises(TypeCheckError, match="logits"):
        pseudo_labels(torch.zeros(3))
