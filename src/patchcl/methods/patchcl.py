"""PatchCL: pseudo-labels say which class a patch shows, and patches of one class must have similar embeddings.

Basak & Yin, CVPR 2023, "Pseudo-Label Guided Contrastive Learning for Semi-Supervised Medical Image Segmentation".
docs/method.md goes through it equation by equation and says what is the paper's, the authors' code's, and ours.
"""

import torch
from torch import Tensor

from patchcl.augment.mix import mix, random_boxes
from patchcl.core.batch import LabeledBatch, StepResult, StudentView, TrainingBatch
from patchcl.core.schedule import scheduled
from patchcl.losses.pseudo_labels import PseudoLabels, accepted_mask, pseudo_labels
from patchcl.losses.schedules import ramp_up, stage_length
from patchcl.losses.supervised import cross_entropy, one_hot
from patchcl.methods.base import Method, Task, weighted_sum
from patchcl.methods.settings import PatchCLSettings


class PatchCL(Method[PatchCLSettings]):
    """A student learns from masks, from its teacher's pseudo-masks, and from the contrast of the patches they name."""

    def __init__(self, settings: PatchCLSettings, task: Task) -> None:
        super().__init__(settings, task)
        self.warm_up_steps = stage_length(settings.warm_up_fraction, settings.warm_up_max_steps, task.steps)
        self.ramp_steps = stage_length(settings.ramp_fraction, settings.ramp_max_steps, task.steps)
        self.confidence_threshold = settings.confidence_threshold
        if settings.segmentation_loss == "cross_entropy":
            self.segmentation_loss = cross_entropy

    def phase(self, step: int) -> str | None:
        """See `Method.phase`."""
        return "warm-up" if step < self.warm_up_steps else "semi-supervised"

    def training_step(self, batch: TrainingBatch, step: int) -> StepResult:
        """See `Method.training_step`."""
        labeled, unlabeled = batch
        weightless = self.settings.consistency_weight == self.settings.contrast.weight == 0
        if unlabeled is None or weightless or step < self.warm_up_steps:
            return self.supervised_step(labeled)

        with torch.no_grad():
            weak_logits, weak_features = self.teacher.segment(unlabeled.weak)
            pseudo = pseudo_labels(weak_logits)
        strong, target, strong_probs = self.mixed(labeled, unlabeled.strong, pseudo)
        logits, features = self.student.segment(torch.cat([labeled.image, strong]))
        labeled_logits, unlabeled_logits = logits[: len(labeled.image)], logits[len(labeled.image) :]

        result = weighted_sum(
            StudentView(
                labeled, unlabeled._replace(strong=strong), pseudo.probs, strong_probs, features, weak_features
            ),
            supervised=(1.0, self.supervised_loss(labeled_logits, labeled.mask)),
            consistency=(scheduled(step, self.consistency_weight), self.segmentation_loss(unlabeled_logits, target)),
        )
        result.terms["accepted"] = (target >= 0).float().mean()
        return result

    def consistency_weight(self, step: int) -> float:
        """Of the loss at a step after the warm-up."""
        return ramp_up(int(step - self.warm_up_steps), self.ramp_steps) * self.settings.consistency_weight

    def mixed(self, labeled: LabeledBatch, strong: Tensor, pseudo: PseudoLabels) -> tuple[Tensor, Tensor, Tensor]:
        """Strong views (B, C, *S) with boxes of one another or of labeled images; pseudo-masks and maps alike."""
        count = len(strong)
        target = accepted_mask(pseudo, self.confidence_threshold)
        box = random_boxes(strong, probability=self.settings.mix_probability)
        pasted = torch.rand(count, device=strong.device) < self.settings.labeled_mix_probability
        order = torch.arange(count, device=strong.device) % len(labeled.image)
        masks = one_hot(labeled.mask, self.classes)

        def with_boxes(unlabeled: Tensor, labeled: Tensor) -> Tensor:
            chosen = pasted.view(-1, *[1] * (unlabeled.ndim - 1))
            return mix(unlabeled, torch.where(chosen, labeled[order], unlabeled.roll(1, dims=0)), box)

        return with_boxes(strong, labeled.image), with_boxes(target, labeled.mask), with_boxes(pseudo.probs, masks)
