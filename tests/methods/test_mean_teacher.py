"""Mean teacher, worked through by hand."""

import torch

from patchcl.losses.supervised import dice_and_cross_entropy
from patchcl.methods import build_method
from patchcl.methods.settings import MeanTeacherSettings


def test_the_loss_is_dice_and_cross_entropy_plus_the_ramped_squared_difference(make_task, make_batch):
    """With instance norm, where an image's logits do not depend on the images beside it."""
    torch.manual_seed(0)
    settings = MeanTeacherSettings(consistency_weight=2.0, ramp_fraction=1.0)
    method, batch = build_method(settings, make_task(norm="instance", steps=10)).train(), make_batch()
    torch.nn.init.normal_(method.teacher.classify.weight)

    with torch.no_grad():
        student = method.student(batch.unlabeled.strong).softmax(dim=1)
        teacher = method.teacher(batch.unlabeled.weak).softmax(dim=1)
        supervised = dice_and_cross_entropy(method.student(batch.labeled.image), batch.labeled.mask)
        weight = 2.0 * torch.exp(torch.tensor(-5 * (1 - 4 / 10) ** 2))
        expected = supervised + weight * (student - teacher).square().mean()
    torch.testing.assert_close(method(batch, 4).loss.detach(), expected)
