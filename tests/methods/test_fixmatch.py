"""FixMatch, worked through by hand."""

import torch

from patchcl.augment.mix import cut_mix
from patchcl.core.batch import IGNORE
from patchcl.losses.supervised import dice_and_cross_entropy
from patchcl.methods import build_method
from patchcl.methods.settings import FixMatchSettings


def build(task, **changes):
    """With a teacher unlike the student, so that it shows who makes the pseudo-labels."""
    torch.manual_seed(0)
    method = build_method(FixMatchSettings(**changes), task).train()
    torch.nn.init.normal_(method.teacher.classify.weight)
    return method


def dice_of_known_pixels(logits, target):
    """Mean over classes of one minus Dice, from the definition and over a list of pixels."""
    known = target.flatten() != IGNORE
    probs = logits.softmax(dim=1).movedim(1, -1).flatten(0, -2)[known]
    terms = []
    for k, prob in enumerate(probs.T):
        true = (target.flatten()[known] == k).float()
        terms.append(1 - (2 * (prob * true).sum() + 1e-5) / (prob.square().sum() + true.sum() + 1e-5))
    return torch.stack(terms).mean()


def test_the_loss_is_half_supervised_and_half_the_dice_of_the_students_own_sure_pixels(make_task, make_batch):
    """With instance norm, where an image's logits do not depend on the images beside it."""
    method = build(make_task(norm="instance"), mix_probability=1.0, confidence_threshold=0.5, consistency_weight=0.8)
    batch = make_batch()
    with torch.no_grad():
        confidence, mask = method.student(batch.unlabeled.weak).softmax(dim=1).max(dim=1)
        sure = torch.where(confidence >= 0.5, mask, IGNORE)
        torch.manual_seed(5)
        strong, target = cut_mix(batch.unlabeled.strong, sure, probability=1.0)
        supervised = dice_and_cross_entropy(method.student(batch.labeled.image), batch.labeled.mask)
        consistency = dice_of_known_pixels(method.student(strong), target)
    assert 0.1 < (sure >= 0).float().mean() < 0.9

    torch.manual_seed(5)
    result = method(batch, 0)
    torch.testing.assert_close(result.terms["consistency"], consistency)
    torch.testing.assert_close(result.loss.detach(), 0.5 * supervised + 0.5 * 0.8 * consistency)
    torch.testing.assert_close(result.terms["accepted"], (sure >= 0).float().mean())


def test_without_a_sure_pixel_only_the_masks_are_learned(make_task, make_batch):
    result = build(make_task(), confidence_threshold=1.0)(make_batch(), 0)
    assert result.terms["accepted"] == 0
    assert result.terms["consistency"].abs() < 1e-6
    torch.testing.assert_close(result.loss.detach(), 0.5 * result.terms["supervised"])
