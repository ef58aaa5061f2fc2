"""UniMatch: FixMatch with two strong views, and with features perturbed instead of the image beside them.

Yang et al., 2023, https://arxiv.org/abs/2208.09910.
"""

import torch

from patchcl.augment.mix import cut_mix
from patchcl.core.batch import StepResult, StudentView, TrainingBatch
from patchcl.losses.pseudo_labels import accepted_mask, pseudo_labels
from patchcl.losses.supervised import soft_dice_loss
from patchcl.methods.base import Method, Task, weighted_sum
from patchcl.methods.settings import UniMatchSettings


class UniMatch(Method[UniMatchSettings]):
    """The student's own sure pseudo-labels of the weak view, learned three times.

    On two strong views with CutMix, and on the weak view with channels dropped from the features that the encoder
    hands over, skip connections included. Dice loss of the sure pixels, at a quarter, a quarter and a half.

    Deviations from LiheYoung/UniMatch, `more-scenarios/medical/unimatch.py`: labeled and strong images share a forward
    pass, as for every other method here, where it has labeled and weak ones together. A box comes from another image
    of the same batch, where it has a second batch, and has the sides of `random_boxes`. The moving average of the
    student predicts.
    """

    strong_views = 2

    def __init__(self, settings: UniMatchSettings, task: Task) -> None:
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
        assert unlabeled.second_strong is not None  # as `strong_views` asks
        with torch.no_grad():
            pseudo = pseudo_labels(self.student(unlabeled.weak))
        target = accepted_mask(pseudo, self.confidence_threshold)
        first, first_target = cut_mix(unlabeled.strong, target, self.settings.mix_probability)
        second, second_target = cut_mix(unlabeled.second_strong, target, self.settings.mix_probability)
        logits = self.student(torch.cat([labeled.image, first, second]))
        labeled_logits, first_logits, second_logits = logits.split([len(labeled.image), len(first), len(second)])
        perturbed_logits = self.student(unlabeled.weak, self.settings.feature_dropout)

        weight = 0.5 * self.settings.consistency_weight
        result = weighted_sum(
            StudentView(labeled, unlabeled, pseudo.probs),
            supervised=(0.5, self.supervised_loss(labeled_logits, labeled.mask)),
            first_strong=(0.25 * weight, soft_dice_loss(first_logits.float().softmax(dim=1), first_target)),
            second_strong=(0.25 * weight, soft_dice_loss(second_logits.float().softmax(dim=1), second_target)),
            perturbed=(0.5 * weight, soft_dice_loss(perturbed_logits.float().softmax(dim=1), target)),
        )
        result.terms["accepted"] = (target >= 0).float().mean()
        return result
