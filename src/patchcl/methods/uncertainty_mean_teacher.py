"""Uncertainty-aware mean teacher: the student must agree with its teacher where the teacher is sure.

Yu et al., 2019, https://arxiv.org/abs/1907.07034.
"""

import math

import torch
from torch import Tensor

from patchcl.core.batch import StepResult, StudentView, TrainingBatch
from patchcl.core.schedule import scheduled
from patchcl.losses.consistency import squared_difference_where
from patchcl.losses.schedules import ramp_up, stage_length
from patchcl.methods.base import Method, Task, weighted_sum
from patchcl.methods.settings import UncertaintyMeanTeacherSettings


class UncertaintyMeanTeacher(Method[UncertaintyMeanTeacherSettings]):
    """Mean teacher whose agreement loss leaves out the pixels that the teacher is unsure of.

    The teacher looks at several noisy copies of the weak view. The entropy of its mean probabilities is its
    uncertainty; the threshold rises until all pixels count.

    Deviations from the paper and its code (yulequan/UA-MT; SSL4MIS): noise on the image alone makes the passes differ,
    as our teacher stays in evaluation mode, where dropout is off. The threshold is a fraction of log K, the largest
    entropy of K classes; the code has log 2 for any number of classes. The loss is a mean over classes, which for two
    classes is the code's. All passes are one forward pass. The student's view carries the same strong augmentation as
    for every other method here.
    """

    def __init__(self, settings: UncertaintyMeanTeacherSettings, task: Task) -> None:
        super().__init__(settings, task)
        self.steps = task.steps
        self.ramp_steps = stage_length(settings.ramp_fraction, settings.ramp_max_steps, task.steps)

    def phase(self, step: int) -> str | None:
        """See `Method.phase`."""
        return "all"

    def training_step(self, batch: TrainingBatch, step: int) -> StepResult:
        """See `Method.training_step`."""
        labeled, unlabeled = batch
        if unlabeled is None or self.settings.consistency_weight == 0:
            return self.supervised_step(labeled)
        with torch.no_grad():
            probs = self.noisy_probs(unlabeled.weak)
            teacher_probs, certain = probs[0], predictive_entropy(probs[1:]) < scheduled(step, self.threshold)
        logits = self.student(torch.cat([labeled.image, unlabeled.strong]))
        labeled_logits, unlabeled_logits = logits.split([len(labeled.image), len(unlabeled.strong)])

        weight = scheduled(step, self.consistency_weight)
        result = weighted_sum(
            StudentView(labeled, unlabeled, teacher_probs),
            supervised=(1.0, self.supervised_loss(labeled_logits, labeled.mask)),
            consistency=(weight, squared_difference_where(unlabeled_logits, teacher_probs, certain)),
        )
        result.terms["certain"] = certain.float().mean()
        return result

    def consistency_weight(self, step: int) -> float:
        """Of the unlabeled images at a step."""
        return self.settings.consistency_weight * ramp_up(step, self.ramp_steps)

    def noisy_probs(self, weak: Tensor) -> Tensor:
        """Probabilities (T + 1, B, K, *S) of the teacher for as many noisy copies of (B, C, *S), in one forward pass.

        The first is what the student is compared with, the others tell how unsure the teacher is.
        """
        passes, noise = self.settings.teacher_passes + 1, self.settings.noise
        copies = weak.repeat(passes, *[1] * (weak.ndim - 1))
        noisy = copies + (noise * torch.randn_like(copies)).clamp(-2 * noise, 2 * noise)
        probs: Tensor = self.teacher(noisy).float().softmax(dim=1)
        return probs.reshape(passes, len(weak), *probs.shape[1:])

    def threshold(self, step: int) -> float:
        """The entropy below which a pixel counts, over the largest possible."""
        start = self.settings.entropy_threshold
        return start + (1 - start) * ramp_up(step, self.steps)


def predictive_entropy(probs: Tensor) -> Tensor:
    """(B, *S) entropy of the mean of (T, B, K, *S) over its first axis, over the log of K; in [0, 1].

    Source: Yu et al., 2019, https://arxiv.org/abs/1907.07034, eq. 2.
    """
    mean = probs.mean(dim=0)
    return -torch.xlogy(mean, mean).sum(dim=1) / math.log(mean.shape[1])
