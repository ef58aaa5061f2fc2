"""Cross pseudo supervision: two networks that began differently learn from each other's pseudo-masks.

Chen et al., 2021, https://arxiv.org/abs/2106.01226.
"""

import torch

from patchcl.core.batch import StepResult, StudentView, TrainingBatch
from patchcl.core.schedule import scheduled
from patchcl.losses.pseudo_labels import pseudo_labels
from patchcl.losses.schedules import ramp_up, stage_length
from patchcl.losses.supervised import cross_entropy
from patchcl.methods.base import Method, Task, weighted_sum
from patchcl.methods.settings import CrossPseudoSettings


class CrossPseudo(Method[CrossPseudoSettings]):
    """A student and its peer, both on the masks; and each on the hard pseudo-masks of the other.

    Deviations from the paper and its code (charlesCXK/TorchSemiSeg; SSL4MIS): pseudo-masks are made of the weak view
    and learned on the strong one, as for every other method here, where the paper has one view for both (and CutMix in
    its best row). One optimizer moves both networks. The moving average of the student predicts, the peer does not.
    """

    def __init__(self, settings: CrossPseudoSettings, task: Task) -> None:
        super().__init__(settings, task)
        self.ramp_steps = stage_length(settings.ramp_fraction, settings.ramp_max_steps, task.steps)
        self.peer = task.build_network()

    def phase(self, step: int) -> str | None:
        """See `Method.phase`."""
        return "all"

    def training_step(self, batch: TrainingBatch, step: int) -> StepResult:
        """See `Method.training_step`."""
        labeled, unlabeled = batch
        if unlabeled is None or self.settings.consistency_weight == 0:
            return self.supervised_step(labeled)
        with torch.no_grad():
            student_pseudo = pseudo_labels(self.student(unlabeled.weak))
            peer_pseudo = pseudo_labels(self.peer(unlabeled.weak))
        images, counts = torch.cat([labeled.image, unlabeled.strong]), [len(labeled.image), len(unlabeled.strong)]
        student_labeled, student_unlabeled = self.student(images).float().split(counts)
        peer_labeled, peer_unlabeled = self.peer(images).float().split(counts)

        weight = scheduled(step, self.consistency_weight)
        return weighted_sum(
            StudentView(labeled, unlabeled, student_pseudo.probs),
            supervised=(1.0, self.supervised_loss(student_labeled, labeled.mask)),
            peer_supervised=(1.0, self.supervised_loss(peer_labeled, labeled.mask, network=self.peer)),
            consistency=(weight, cross_entropy(student_unlabeled, peer_pseudo.mask)),
            peer_consistency=(weight, cross_entropy(peer_unlabeled, student_pseudo.mask)),
        )

    def consistency_weight(self, step: int) -> float:
        """Of the unlabeled images at a step."""
        return self.settings.consistency_weight * ramp_up(step, self.ramp_steps)
