"""Learning from masks alone: the row that every other method must beat."""

from patchcl.core.batch import StepResult, TrainingBatch
from patchcl.methods.base import Method
from patchcl.methods.settings import SupervisedSettings


class Supervised(Method[SupervisedSettings]):
    """Dice and cross-entropy on the labeled images, augmented as for every other method."""

    needs_unlabeled = False

    def phase(self, step: int) -> str | None:
        """See `Method.phase`."""
        return "all"

    def training_step(self, batch: TrainingBatch, step: int) -> StepResult:
        """See `Method.training_step`."""
        return self.supervised_step(batch.labeled)
