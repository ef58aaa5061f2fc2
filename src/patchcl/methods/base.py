"""The contract between a method and the training loop."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, NamedTuple, Self

from pydantic import Field
from torch import Tensor, nn

from patchcl.batch import LabeledBatch, StepResult, TrainingBatch
from patchcl.losses.supervised import dice_and_cross_entropy
from patchcl.networks.unet import UNet
from patchcl.section import Section
from patchcl.teacher import follow, frozen_copy, warmed_up


class MethodSettings(Section):
    """Settings of one method. A subclass narrows `name` to a literal and adds its own fields with their ranges."""

    name: str
    teacher_decay: float = Field(0.99, ge=0, lt=1, description="Share of the teacher that each step keeps.")


class Task(NamedTuple):
    """What a method must know about the job at hand."""

    build_network: Callable[[], UNet]
    classes: int  # K, background included
    size: tuple[int, ...]  # of the images that a step sees
    steps: int  # of the whole run


class Method(nn.Module, ABC):
    """A way of learning from labeled and unlabeled images.

    A method owns its networks and its loss. It owns no data, no optimizer and no loop: the loop calls `training_step`,
    does the backward pass, moves the weights, then calls `after_step`. Random numbers come from the global generator,
    which the loop seeds from (seed, step, rank) before each step.

    Every method predicts with a teacher, the moving average of its student, so that no method owes its lead to that.
    """

    needs_unlabeled: ClassVar[bool] = True

    def __init__(self, settings: MethodSettings, task: Task) -> None:
        super().__init__()
        self.student = task.build_network()
        self.teacher = frozen_copy(self.student)
        self.teacher_decay = settings.teacher_decay

    @abstractmethod
    def training_step(self, batch: TrainingBatch, step: int) -> StepResult:
        """The loss of one batch. `step` counts optimizer steps from 0."""

    def after_step(self, step: int) -> None:
        """Called after each optimizer step: the teacher follows."""
        follow(self.teacher, self.student, warmed_up(self.teacher_decay, step))

    def supervised_step(self, labeled: LabeledBatch) -> StepResult:
        """The step that every method takes while unlabeled images weigh nothing."""
        return total(supervised=(1.0, dice_and_cross_entropy(self.student(labeled.image), labeled.mask)))

    def forward(self, batch: TrainingBatch, step: int) -> StepResult:
        """`training_step`, reached through `__call__` so that autocast and distributed training wrap it."""
        return self.training_step(batch, step)

    def train(self, mode: bool = True) -> Self:
        """Sets the training mode of all that learns; a teacher stays in evaluation mode."""
        super().train(mode)
        for child in self.children():
            if not any(weight.requires_grad for weight in child.parameters()):
                child.eval()
        return self


def total(**terms: tuple[float, Tensor]) -> StepResult:
    """The weighted sum of named losses, and each of them unweighted for the log."""
    loss = sum((weight * value for weight, value in terms.values()), start=0.0 * next(iter(terms.values()))[1])
    return StepResult(loss, {name: value.detach() for name, (_, value) in terms.items()})
