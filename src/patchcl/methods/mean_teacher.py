"""Mean teacher: the student must agree with its own moving average about images that nobody annotated.

Tarvainen & Valpola, 2017, https://arxiv.org/abs/1703.01780.
"""

import torch

from patchcl.core.batch import StepResult, StudentView, TrainingBatch
from patchcl.core.schedule import scheduled
from patchcl.losses.consistency import squared_difference
from patchcl.losses.schedules import ramp_up, stage_length
from patchcl.methods.base import Method, Task, weighted_sum
from patchcl.methods.settings import MeanTeacherSettings


class MeanTeacher(Method[MeanTeacherSettings]):
    """The student sees the strong view, the teacher the weak one; squared error between their probabilities.

    Deviation from SSL4MIS: the student's view carries the same strong augmentation as for every other method here,
    instead of faint noise on the teacher's.
    """

    def __init__(self, settings: MeanTeacherSettings, task: Task) -> None:
        super().__init__(settings, task)
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
            weak_logits, weak_features = self.teacher.segment(unlabeled.weak)
            teacher_probs = weak_logits.float().softmax(dim=1)
        logits = self.student(torch.cat([labeled.image, unlabeled.strong]))
        labeled_logits, unlabeled_logits = logits.split([len(labeled.image), len(unlabeled.strong)])

        weight = scheduled(step, self.consistency_weight)
        return weighted_sum(
            StudentView(labeled, unlabeled, teacher_probs, weak_features=weak_features),
            supervised=(1.0, self.supervised_loss(labeled_logits, labeled.mask)),
            consistency=(weight, squared_difference(unlabeled_logits, teacher_probs)),
        )

    def consistency_weight(self, step: int) -> float:
        """Of the unlabeled images at a step."""
        return self.settings.consistency_weight * ramp_up(step, self.ramp_steps)
