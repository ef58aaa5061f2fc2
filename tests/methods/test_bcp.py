"""Bidirectional copy-paste, worked through by hand."""

import pytest
import torch

from patchcl.augment.mix import random_boxes
from patchcl.core.batch import IGNORE, LabeledBatch, UnlabeledBatch
from patchcl.losses.supervised import dice_and_cross_entropy
from patchcl.methods import build_method
from patchcl.methods.bcp import paste
from patchcl.methods.settings import BCPSettings


def build(task, **changes):
    torch.manual_seed(0)
    method = build_method(BCPSettings(**changes), task).train()
    torch.nn.init.normal_(method.teacher.classify.weight)
    return method


def box_of(image, seed):
    """The box that a step with this seed draws, as slices."""
    torch.manual_seed(seed)
    box = random_boxes(image[:1], smallest=2 / 3, largest=2 / 3, probability=1.0)[0, 0]
    return tuple(slice(int(places.min()), int(places.max()) + 1) for places in box.nonzero(as_tuple=True))


@pytest.mark.parametrize("view", ["strong", "weak"])
def test_labeled_and_unlabeled_images_are_mixed_both_ways_and_unlabeled_pixels_count_half(
    view, largest_by_scipy, make_task, make_batch
):
    """With instance norm, where an image's logits do not depend on the images beside it."""
    method, batch = build(make_task(norm="instance"), pretrain_fraction=0.0, student_view=view), make_batch()
    (image, mask), unlabeled = batch
    seen = getattr(unlabeled, view)
    with torch.no_grad():
        teacher_mask = method.teacher(unlabeled.weak).argmax(dim=1)
    pseudo_mask = torch.from_numpy(largest_by_scipy(teacher_mask.numpy(), 3))
    assert not torch.equal(pseudo_mask, teacher_mask), "there is something to remove"

    box = (..., *box_of(image, seed=5))
    losses = {"labeled": 0.0, "unlabeled": 0.0}
    for around, inside, around_mask, inside_mask, names in (
        (seen, image.roll(1, 0), pseudo_mask, mask.roll(1, 0), ("unlabeled", "labeled")),
        (image, seen.roll(1, 0), mask, pseudo_mask.roll(1, 0), ("labeled", "unlabeled")),
    ):
        mixed, outer, inner = around.clone(), around_mask.clone(), torch.full_like(mask, IGNORE)
        mixed[box], outer[box], inner[box] = inside[box], IGNORE, inside_mask[box]
        with torch.no_grad():
            logits = method.student(mixed)
            losses[names[0]] += dice_and_cross_entropy(logits, outer)
            losses[names[1]] += dice_and_cross_entropy(logits, inner)

    torch.manual_seed(5)
    result = method(batch, 0)
    torch.testing.assert_close(result.terms, {"supervised": losses["labeled"], "consistency": losses["unlabeled"]})
    torch.testing.assert_close(result.loss.detach(), losses["labeled"] + 0.5 * losses["unlabeled"])


def test_pretraining_mixes_labeled_images_and_sees_no_other(make_task, make_batch):
    """The last step of it, and the one after."""
    method, batch = build(make_task(norm="instance", steps=10), pretrain_fraction=0.5), make_batch()
    image, mask = batch.labeled
    box = (..., *box_of(image, seed=5))
    mixed, outer, inner = image.clone(), mask.clone(), torch.full_like(mask, IGNORE)
    mixed[box], outer[box], inner[box] = image.roll(1, 0)[box], IGNORE, mask.roll(1, 0)[box]
    with torch.no_grad():
        logits = method.student(mixed)
        expected = dice_and_cross_entropy(logits, outer) + dice_and_cross_entropy(logits, inner)

    blank = UnlabeledBatch(*(torch.zeros_like(view) for view in batch.unlabeled))
    losses = []
    for other in (batch, batch._replace(unlabeled=blank)):
        for step in (4, 5):
            torch.manual_seed(5)
            losses.append(method(other, step).loss.detach())
    torch.testing.assert_close(losses[0], expected)
    assert torch.equal(losses[0], losses[2])
    assert not torch.equal(losses[1], losses[3])


@pytest.mark.parametrize(("labeled", "unlabeled"), [(1, 3), (3, 1), (2, 3)])
def test_batches_of_any_sizes_can_be_mixed(labeled, unlabeled, make_task, make_batch):
    method = build(make_task(), pretrain_fraction=0.0)
    batch = make_batch(count=labeled)._replace(unlabeled=make_batch(count=unlabeled).unlabeled)
    result = method(batch, 0)
    result.loss.backward()
    assert result.loss.isfinite()


def test_a_box_of_the_image_before_it_is_pasted_and_either_mask_knows_its_part():
    onto = LabeledBatch(torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1, 1).expand(3, 1, 1, 4), torch.zeros(3, 1, 4).long())
    source = LabeledBatch(torch.tensor([0.8, 0.9]).view(2, 1, 1, 1).expand(2, 1, 1, 4), torch.ones(2, 1, 4).long())
    box = torch.tensor([False, True, True, False]).view(1, 1, 1, 4)
    mixed = paste(source, onto, box)
    rows = torch.tensor([[0.1, 0.9, 0.9, 0.1], [0.2, 0.8, 0.8, 0.2], [0.3, 0.9, 0.9, 0.3]])
    assert torch.equal(mixed.image, rows.view(3, 1, 1, 4))
    assert mixed.around.tolist() == [[[0, IGNORE, IGNORE, 0]]] * 3
    assert mixed.inside.tolist() == [[[IGNORE, 1, 1, IGNORE]]] * 3


def test_the_box_takes_two_thirds_of_every_side(make_task):
    box = build(make_task()).random_box(torch.empty(2, 1, 30, 60))
    assert box.shape == (1, 1, 30, 60)
    assert box.any(dim=3).sum().item() == pytest.approx(20, abs=1)
    assert box.any(dim=2).sum().item() == pytest.approx(40, abs=1)
