"""UniMatch, worked through by hand."""

import torch

from patchcl.augment.mix import cut_mix
from patchcl.core.batch import IGNORE
from patchcl.losses.supervised import dice_and_cross_entropy, soft_dice_loss
from patchcl.methods import build_method, method_class, method_names
from patchcl.methods.settings import UniMatchSettings


def build(task, **changes):
    """With a teacher unlike the student, so that it shows who makes the pseudo-labels."""
    torch.manual_seed(0)
    method = build_method(UniMatchSettings(**changes), task).train()
    torch.nn.init.normal_(method.teacher.classify.weight)
    return method


def test_the_sure_pixels_are_learned_on_two_mixed_views_and_through_perturbed_features(make_task, make_batch):
    """With instance norm, where an image's logits do not depend on the images beside it."""
    method = build(make_task(norm="instance"), mix_probability=1.0, confidence_threshold=0.5, consistency_weight=0.8)
    batch = make_batch()
    (image, mask), (weak, strong, second_strong) = batch
    with torch.no_grad():
        confidence, pseudo_mask = method.student(weak).softmax(dim=1).max(dim=1)
        sure = torch.where(confidence >= 0.5, pseudo_mask, IGNORE)
        torch.manual_seed(5)
        losses = [
            soft_dice_loss(method.student(view).softmax(dim=1), target)
            for view, target in [cut_mix(view, sure, probability=1.0) for view in (strong, second_strong)]
        ]
        losses.append(soft_dice_loss(method.student(weak, feature_dropout=0.5).softmax(dim=1), sure))
        supervised = dice_and_cross_entropy(method.student(image), mask)
    assert 0.1 < (sure >= 0).float().mean() < 0.9
    assert len({round(loss.item(), 4) for loss in losses}) == 3

    torch.manual_seed(5)
    result = method(batch, 0)
    terms = [result.terms[name] for name in ("first_strong", "second_strong", "perturbed")]
    torch.testing.assert_close(terms, losses)
    unlabeled = 0.25 * losses[0] + 0.25 * losses[1] + 0.5 * losses[2]
    torch.testing.assert_close(result.loss.detach(), (supervised + 0.8 * unlabeled) / 2)
    torch.testing.assert_close(result.terms["accepted"], (sure >= 0).float().mean())


def test_it_alone_asks_for_two_strong_views():
    assert {name: method_class(name).strong_views for name in method_names()} == {
        name: 2 if name == "unimatch" else 1 for name in method_names()
    }
