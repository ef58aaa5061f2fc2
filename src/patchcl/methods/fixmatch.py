"""FixMatch: what the network is sure of on the weak view, it must say of the strong one.

Sohn et al., 2020, https://arxiv.org/abs/2001.07685.
"""

import torch

from patchcl.augment.mix import cut_mix
from patchcl.core.batch import StepResult, StudentView, TrainingBatch
from patchcl.losses.pseudo_labels import accepted_mask, pseudo_labels
from patchcl.losses.supervised import soft_dice_loss
from patchcl.methods.base import Method, Task, weighted_sum
from patchcl.methods.settings import FixMatchSettings


class FixMatch(Method[FixMatchSettings]):
    """The student's own sure pseudo-labels of the weak view, learned on the strong view with CutMix.

    The student itself, and no teacher, makes the pseudo-labels, in the paper as in the segmentation code. The loss of
    the sure pixels is the Dice loss that the UniMatch repository has for ACDC; for photographs it has cross-entropy.

    Deviations from LiheYoung/UniMatch, `fixmatch.py`: labeled and strong images share a forward pass, as for every
    other method here, where it has labeled and weak ones together. A box comes from another image of the same batch,
    where it has a second batch, and has the sides of `random_boxes`. The moving average of the student predicts.
    """

    def __init__(self, settings: FixMatchSettings, task: Task) -> None:
        super().__init__(settings, task)
        self.confidence_threshold = settings.confidence_threshold

    def phase(self, step: int) -> str | None:
        """See `Method.phase`."""
        return "all"

    def training_step(self, batch: TrainingBatch, step: int) -> StepResult:
        """See `Method.training_step`."""
        labeled, unlabeled = batch
        if unlabeled is None or self.settings.consistency_weight == 0:
            return self.supervised_step(labeled)
        with torch.no_grad():
            pseudo = pseudo_labels(self.student(unlabeled.weak))
        target = accepted_mask(pseudo, self.confidence_threshold)
        strong, mixed_target = cut_mix(unlabeled.strong, target, self.settings.mix_probability)
        logits = self.student(torch.cat([labeled.image, strong]))
        labeled_logits, strong_logits = logits.split([len(labeled.image), len(strong)])

        result = weighted_sum(
            StudentView(labeled, unlabeled, pseudo.probs),
            supervised=(0.5, self.supervised_loss(labeled_logits, labeled.mask)),
            consistency=(
                0.5 * self.settings.consistency_weight,
                soft_dice_loss(strong_logits.float().softmax(dim=1), mixed_target),
            ),
        )
        result.terms["accepted"] = (target >= 0).float().mean()
        return result
