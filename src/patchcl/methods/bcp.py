"""Bidirectional copy-paste: boxes of labeled images in unlabeled ones, and of unlabeled ones in labeled ones.

Bai et al., 2023, https://arxiv.org/abs/2305.00673.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from patchcl.augment.mix import mix, random_boxes
from patchcl.core.batch import IGNORE, LabeledBatch, StepResult, StudentView, TrainingBatch, UnlabeledBatch
from patchcl.core.components import largest_components
from patchcl.losses.pseudo_labels import pseudo_labels
from patchcl.losses.schedules import stage_length
from patchcl.losses.supervised import dice_and_cross_entropy
from patchcl.methods.base import Method, Task, weighted_sum
from patchcl.methods.settings import BCPSettings


class BCP(Method[BCPSettings]):
    """Labeled images mixed with one another at first, then labeled and unlabeled ones, both ways round.

    Of the teacher's pseudo-mask the largest connected component of each class counts, the rest is background. The part
    around the box and the part inside have a Dice and cross-entropy loss of their own.

    Deviations from the paper and its code (DeepMed-Lab-ECNU/BCP): one run with one schedule, a quarter of it
    pre-training as the paper's 10,000 steps are of all its 40,000 (the code pre-trains as long as it trains), and the
    teacher follows the student from the first step, where the paper restarts both from the best pre-trained network.
    The teacher labels the weak view and the student sees the strong one, as for every other method here, unless
    `student_view` is weak; `experiments/variants/p1.yaml` has the authors' schedule as well. Each image of
    the batch is used twice, around a box and inside one, where the code splits the batch into halves; so the student
    sees as many images in a step as under any other method. Both mixtures share a forward pass. The teacher is in
    evaluation mode.
    """

    def __init__(self, settings: BCPSettings, task: Task) -> None:
        super().__init__(settings, task)
        self.pretrain_steps = stage_length(settings.pretrain_fraction, settings.pretrain_max_steps, task.steps)

    def phase(self, step: int) -> str | None:
        """See `Method.phase`."""
        return "pretraining" if step < self.pretrain_steps else "self-training"

    def training_step(self, batch: TrainingBatch, step: int) -> StepResult:
        """See `Method.training_step`."""
        labeled, unlabeled = batch
        if unlabeled is None or self.settings.consistency_weight == 0:
            return self.supervised_step(labeled)
        if step < self.pretrain_steps:
            return self.pretraining_step(labeled)
        return self.self_training_step(labeled, unlabeled)

    def pretraining_step(self, labeled: LabeledBatch) -> StepResult:
        """Boxes of labeled images in other labeled images."""
        mixed = paste(labeled, labeled, self.random_box(labeled.image))
        logits = self.student(mixed.image)
        around, inside = (self.supervised_loss(logits, mask) for mask in (mixed.around, mixed.inside))
        return weighted_sum(StudentView(labeled), supervised=(1.0, around + inside))

    def self_training_step(self, labeled: LabeledBatch, unlabeled: UnlabeledBatch) -> StepResult:
        """Boxes of labeled images in unlabeled ones and the reverse, the same box for both."""
        with torch.no_grad():
            weak_logits, weak_features = self.teacher.segment(unlabeled.weak)
            pseudo = pseudo_labels(weak_logits)
        shown = unlabeled.weak if self.settings.student_view == "weak" else unlabeled.strong
        believed = LabeledBatch(shown, largest_components(pseudo.mask, self.classes))
        box = self.random_box(labeled.image)
        on_unlabeled, on_labeled = paste(labeled, believed, box), paste(believed, labeled, box)
        logits = self.student(torch.cat([on_unlabeled.image, on_labeled.image]))
        on_unlabeled_logits, on_labeled_logits = logits.split([len(shown), len(labeled.image)])

        supervised = self.supervised_loss(on_unlabeled_logits, on_unlabeled.inside)
        supervised = supervised + self.supervised_loss(
            on_labeled_logits, on_labeled.around, first=len(unlabeled.strong)
        )
        consistency = dice_and_cross_entropy(on_unlabeled_logits, on_unlabeled.around)
        consistency = consistency + dice_and_cross_entropy(on_labeled_logits, on_labeled.inside)
        return weighted_sum(
            StudentView(labeled, unlabeled, pseudo.probs, weak_features=weak_features),
            supervised=(1.0, supervised),
            consistency=(self.settings.consistency_weight, consistency),
        )

    def random_box(self, image: Tensor) -> Tensor:
        """One box, (1, 1, *S), for all images of a step."""
        side = self.settings.box_fraction
        return random_boxes(image[:1], smallest=side, largest=side, probability=1.0)


class Pasted(NamedTuple):
    """Images with a box of others in them, and the masks of either part."""

    image: Tensor  # (B, C, *S) in [0, 1]
    around: Tensor  # (B, *S) class of every pixel outside the box, IGNORE inside
    inside: Tensor  # (B, *S) class of every pixel inside the box, IGNORE outside


def paste(source: LabeledBatch, onto: LabeledBatch, box: Tensor) -> Pasted:
    """The `box`, (1, 1, *S), of the image of `source` before it in the batch in every image of `onto`."""
    count, device = len(onto.image), onto.image.device
    order = (torch.arange(count, device=device) - 1) % len(source.image)
    around, inside = box[:, 0], ~box[:, 0]
    return Pasted(
        image=mix(onto.image, source.image[order], box),
        around=onto.mask.masked_fill(around, IGNORE),
        inside=source.mask[order].masked_fill(inside, IGNORE),
    )
