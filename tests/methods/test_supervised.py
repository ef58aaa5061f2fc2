"""Supervised learning, worked through by hand."""

import torch

from patchcl.losses.supervised import dice_and_cross_entropy
from patchcl.methods import build_method
from patchcl.methods.settings import SupervisedSettings


def test_the_loss_is_dice_and_cross_entropy_on_labeled_images_alone(make_task, make_batch):
    torch.manual_seed(0)
    method, batch = build_method(SupervisedSettings(), make_task()).train(), make_batch()
    expected = dice_and_cross_entropy(method.student(batch.labeled.image), batch.labeled.mask)
    torch.testing.assert_close(method(batch._replace(unlabeled=None), 0).loss, expected)
