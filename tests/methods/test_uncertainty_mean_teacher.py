"""Uncertainty-aware mean teacher, worked through by hand."""

import math

import pytest
import torch

from patchcl.losses.supervised import dice_and_cross_entropy
from patchcl.methods import build_method
from patchcl.methods.settings import UncertaintyMeanTeacherSettings
from patchcl.methods.uncertainty_mean_teacher import predictive_entropy


def build(task, **changes):
    torch.manual_seed(0)
    method = build_method(UncertaintyMeanTeacherSettings(**changes), task).train()
    torch.nn.init.normal_(method.teacher.classify.weight)
    return method


def entropy_in_bits(probs):
    return -sum(p * math.log2(p) for p in probs if p > 0)


def test_the_loss_is_supervised_plus_the_squared_difference_where_the_teacher_is_sure(make_task, make_batch):
    """With instance norm, where an image's logits do not depend on the images beside it."""
    method, batch = build(make_task(norm="instance", steps=10), consistency_weight=2.0, noise=0.0), make_batch()
    with torch.no_grad():
        student = method.student(batch.unlabeled.strong).softmax(dim=1)
        teacher = method.teacher(batch.unlabeled.weak).softmax(dim=1)
        supervised = dice_and_cross_entropy(method.student(batch.labeled.image), batch.labeled.mask)
    ramp = math.exp(-5 * (1 - 4 / 10) ** 2)
    certain = -(teacher * teacher.log()).sum(dim=1) < (0.75 + 0.25 * ramp) * math.log(3)
    assert 0.1 < certain.float().mean() < 0.9
    differences = (student - teacher).square().movedim(1, -1)[certain]

    result = method(batch, 4)
    torch.testing.assert_close(result.terms["consistency"], differences.mean())
    torch.testing.assert_close(result.terms["certain"], certain.float().mean())
    torch.testing.assert_close(result.loss.detach(), supervised + 2.0 * ramp * differences.mean())


def test_the_student_is_compared_with_one_pass_and_the_others_say_where(make_task, make_batch):
    method, batch = build(make_task(), ramp_fraction=0.0, entropy_threshold=0.3), make_batch()
    left = torch.zeros(3, 1, 16, 16)
    left[..., :8] = 1
    agreeing = torch.cat([left, torch.zeros_like(left), 1 - left], dim=1)  # one class on the left, another on the right
    passes = torch.stack([torch.full((3, 3, 16, 16), 1 / 3), *(agreeing.roll(k, dims=1) for k in range(3))])
    passes[1:, ..., :8] = agreeing[..., :8]  # on the left all say the same, on the right each says something else
    method.noisy_probs = lambda _: passes
    result = method(batch, 0)

    with torch.no_grad():
        logits = method.student(torch.cat([batch.labeled.image, batch.unlabeled.strong]))
    left_half = logits[3:].softmax(dim=1)[..., :8]
    torch.testing.assert_close(result.terms["consistency"], (left_half - 1 / 3).square().mean())
    assert result.terms["certain"] == 0.5


def test_every_pass_but_the_first_has_a_say(make_task, make_batch):
    """Two passes that contradict each other leave no pixel certain; either alone would leave all."""
    method, batch = build(make_task(), ramp_fraction=0.0, entropy_threshold=0.3), make_batch()
    one, other = (torch.eye(3)[k].view(1, 3, 1, 1).expand(3, 3, 16, 16) for k in (0, 1))
    for passes, certain in (((one, one, other), 0.0), ((one, other, one), 0.0), ((other, one, one), 1.0)):
        method.noisy_probs = lambda _, passes=passes: torch.stack(passes)
        assert method(batch, 0).terms["certain"] == certain


def test_the_teacher_sees_clipped_noise_that_differs_between_passes_in_one_forward_pass(make_task, make_batch):
    method, weak, seen = build(make_task(), teacher_passes=4, noise=0.1), make_batch(count=2).unlabeled.weak, []
    method.teacher.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    assert method.noisy_probs(weak).shape == (5, 2, 3, 16, 16)
    (images,) = seen
    noise = images.view(5, *weak.shape) - weak
    assert noise.abs().max().item() == pytest.approx(0.2, abs=1e-6)
    assert 0.08 < noise.std() < 0.1, "normal, but for its tails"
    assert torch.corrcoef(noise.flatten(1)).fill_diagonal_(0).abs().max() < 0.2


@pytest.mark.parametrize(
    ("passes", "expected"),
    [
        ([[1, 0], [0, 1]], 1.0),
        ([[1, 0], [1, 0]], 0.0),
        ([[0.9, 0.1], [0.7, 0.3]], entropy_in_bits([0.8, 0.2])),
        ([[0.5, 0.5, 0, 0]], 0.5),
    ],
)
def test_the_entropy_of_the_mean_is_a_share_of_the_largest(passes, expected):
    probs = torch.tensor(passes).float().view(len(passes), 1, -1, 1, 1)
    assert predictive_entropy(probs).item() == pytest.approx(expected, abs=1e-6)


def test_the_threshold_rises_from_three_quarters_of_the_largest_entropy_to_all_of_it(make_task):
    method = build(make_task(steps=40))
    assert method.threshold(0) == pytest.approx(0.75 + 0.25 * math.exp(-5))
    assert method.threshold(20) == pytest.approx(0.75 + 0.25 * math.exp(-5 / 4))
    assert method.threshold(40) == 1
