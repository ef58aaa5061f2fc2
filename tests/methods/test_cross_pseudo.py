"""Cross pseudo supervision, worked through by hand."""

import math

import torch
import torch.nn.functional as F

from patchcl.losses.supervised import dice_and_cross_entropy
from patchcl.methods import build_method
from patchcl.methods.settings import CrossPseudoSettings


def build(task, **changes):
    torch.manual_seed(0)
    return build_method(CrossPseudoSettings(**changes), task).train()


def test_each_network_learns_the_masks_and_what_the_other_makes_of_the_weak_view(make_task, make_batch):
    """With instance norm, where an image's logits do not depend on the images beside it."""
    method, batch = build(make_task(norm="instance", steps=10), consistency_weight=0.4), make_batch()
    (image, mask), unlabeled = batch
    supervised, weak, strong = [], [], []
    with torch.no_grad():
        for network in (method.student, method.peer):
            supervised.append(dice_and_cross_entropy(network(image), mask))
            weak.append(network(unlabeled.weak).argmax(dim=1))
            strong.append(network(unlabeled.strong))
    crossed = F.cross_entropy(strong[0], weak[1]) + F.cross_entropy(strong[1], weak[0])
    own = F.cross_entropy(strong[0], weak[0]) + F.cross_entropy(strong[1], weak[1])
    assert (crossed - own).abs() > 0.05, "else the example would not tell crossed from not crossed"

    ramp = math.exp(-5 * (1 - 4 / 10) ** 2)
    torch.testing.assert_close(method(batch, 4).loss.detach(), sum(supervised) + 0.4 * ramp * crossed)


def test_the_peer_begins_elsewhere_and_the_student_where_supervised_learning_does(make_task):
    method = build(make_task())
    torch.manual_seed(0)
    alone = make_task().build_network()
    pairs = list(zip(method.student.parameters(), method.peer.parameters(), alone.parameters(), strict=True))
    assert all(torch.equal(student, same) for student, _, same in pairs)
    assert not any(torch.equal(student, peer) for student, peer, _ in pairs if student.ndim > 1)


def test_the_peer_learns_and_only_the_student_is_averaged(make_task, make_batch):
    method = build(make_task())
    method(make_batch(), 0).loss.backward()
    with torch.no_grad():
        for network in (method.student, method.peer):
            for weight in network.parameters():
                weight -= 0.1 * weight.grad
    before = method.teacher.classify.weight.clone()
    method.after_step(0)  # where the teacher keeps a tenth
    expected = 0.1 * before + 0.9 * method.student.classify.weight
    torch.testing.assert_close(method.teacher.classify.weight, expected.detach())
