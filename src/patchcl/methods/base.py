"""The contract between a method and the training loop."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, NamedTuple, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from patchcl.contrast.patch_contrast import ContrastSettings, PatchContrast, Seen
from patchcl.core.batch import LabeledBatch, StepResult, TrainingBatch, UnlabeledBatch
from patchcl.core.settings import FrozenSettings
from patchcl.losses.supervised import dice_and_cross_entropy, one_hot
from patchcl.networks.ema import follow, frozen_copy, warmed_up
from patchcl.networks.frozen_norm import running_statistics_untouched
from patchcl.networks.unet import UNet


class MethodSettings(FrozenSettings):
    """Settings of one method. A subclass narrows `name` to a literal and adds its own fields with their ranges."""

    name: str
    teacher_decay: float = Field(0.99, ge=0, lt=1, description="Share of the teacher that each step keeps.")
    contrast: ContrastSettings | None = Field(None, description="Patch contrast on top of the method's own losses.")


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
    strong_views: ClassVar[int] = 1  # of every unlabeled image; 2 fills `second_strong`

    def __init__(self, settings: MethodSettings, task: Task) -> None:
        super().__init__()
        self.student = task.build_network()
        self.teacher = frozen_copy(self.student)
        self.teacher_decay = settings.teacher_decay
        self.classes = task.classes
        self.confidence_threshold: float = getattr(settings, "confidence_threshold", 0.0)  # 0: all count
        self.segmentation_loss: Callable[[Tensor, Tensor], Tensor] = dice_and_cross_entropy
        self.contrast: PatchContrast | None = None
        if settings.contrast is not None and settings.contrast.weight > 0:
            self.contrast = PatchContrast(settings.contrast, self.student, task.classes, task.size, task.steps)

    @abstractmethod
    def training_step(self, batch: TrainingBatch, step: int) -> StepResult:
        """The loss of one batch. `step` counts optimizer steps from 0."""

    def after_step(self, step: int) -> None:
        """Called after each optimizer step: the teacher follows."""
        decay = warmed_up(self.teacher_decay, step)
        follow(self.teacher, self.student, decay)
        if self.contrast is not None:
            self.contrast.follow(decay)

    def health(self) -> dict[str, float]:
        """Figures that the method knows about itself, for the log; asked for at each validation."""
        return {} if self.contrast is None else self.contrast.health()

    def supervised_step(self, labeled: LabeledBatch, step: int) -> StepResult:
        """The step that every method takes while unlabeled images weigh nothing."""
        logits, features = self.student.segment(labeled.image)
        result = total(supervised=(1.0, self.segmentation_loss(logits, labeled.mask)))
        seen = Seen(labeled.image, one_hot(labeled.mask, self.classes), features)
        return self.with_patch_contrast(result, labeled, None, None, step, seen)

    def with_patch_contrast(
        self,
        result: StepResult,
        labeled: LabeledBatch,
        unlabeled: UnlabeledBatch | None,
        pseudo_probs: Tensor | None,
        step: int,
        seen: Seen | None = None,
    ) -> StepResult:
        """A step's loss with PatchCL's contrast added, if the settings ask for it.

        Masks say what the patches of labeled images show, the probabilities behind the pseudo-labels of the weak views
        what those of unlabeled images do. `seen` spares the student another look at labeled and strong images.
        """
        if self.contrast is None:
            return result
        weak, strong, probs = labeled.image, labeled.image, one_hot(labeled.mask, self.classes)
        if unlabeled is not None and pseudo_probs is not None:
            weak, strong = torch.cat([weak, unlabeled.weak]), torch.cat([strong, unlabeled.strong])
            probs = torch.cat([probs, pseudo_probs])
        if seen is None:
            with running_statistics_untouched(self.student):
                seen = Seen(strong, probs, self.student.encode(strong))
        contrast, terms = self.contrast(self.student, self.teacher, weak, probs, seen, step)
        loss = result.loss + self.contrast.weight(step) * contrast
        return StepResult(loss, result.terms | {"contrast": contrast.detach()} | terms)

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
