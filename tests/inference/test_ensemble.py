"""An ensemble's probabilities are the mean of its networks', however sure these are."""

import torch
from torch import nn

from patchcl.inference.ensemble import Ensemble


class Fixed(nn.Module):
    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = torch.tensor(logits).view(1, -1, 1, 1)

    def forward(self, image):
        return self.logits.expand(len(image), -1, *image.shape[2:])


def test_probabilities_are_averaged():
    ensemble = Ensemble([Fixed(0.0, 0.0), Fixed(torch.log(torch.tensor(3.0)).item(), 0.0)])
    probs = ensemble(torch.zeros(2, 1, 3, 3)).softmax(dim=1)
    assert probs.shape == (2, 2, 3, 3)
    torch.testing.assert_close(probs[:, 0], torch.full((2, 3, 3), (0.5 + 0.75) / 2))


def test_networks_that_rule_a_class_out_leave_finite_logits():
    logits = Ensemble([Fixed(200.0, 0.0), Fixed(300.0, 0.0)])(torch.zeros(1, 1, 1, 1))
    assert logits.isfinite().all()
    torch.testing.assert_close(logits.softmax(dim=1)[0, 0], torch.ones(1, 1))
