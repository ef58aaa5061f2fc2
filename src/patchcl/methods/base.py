"""Method: the interface between a way of learning and the training loop."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import ClassVar, Generic, NamedTuple, Self, TypeVar, get_args, get_origin

from torch import Tensor, nn

from patchcl.augment import AugmentSettings
from patchcl.contrast.patch_contrast import PatchContrast
from patchcl.core.batch import LabeledBatch, StepResult, StudentView, TrainingBatch
from patchcl.core.errors import UserError
from patchcl.core.schedule import scheduled
from patchcl.losses.supervised import dice_and_cross_entropy, over_levels
from patchcl.methods.settings import MethodSettings
from patchcl.networks.ema import ema_decay_at, ema_update, frozen_copy
from patchcl.networks.unet import UNet

S = TypeVar("S", bound=MethodSettings)


class Task(NamedTuple):
    """What a method must know about the job at hand."""

    build_network: Callable[[], UNet]
    classes: int  # K, background included
    size: tuple[int, ...]  # of the images that a step sees
    steps: int  # of the whole run
    augment: AugmentSettings = AugmentSettings()  # what its images have been through
    spacing_mm: tuple[float, ...] | None = None  # of their pixels; None: they are square


class Method(nn.Module, ABC, Generic[S]):
    """A way of learning from labeled and unlabeled images, with settings of type S: `class X(Method[XSettings])`.

    A method owns its networks and its loss. It owns no data, no optimizer and no loop: the loop calls the method, which
    takes its `training_step` and adds patch contrast if the settings ask for it, does the backward pass, moves the
    weights, then calls `after_step`. Random numbers come from the global generator, which the loop seeds from (seed,
    step, rank) before each step.

    Every method predicts with a teacher, the moving average of its student, so that no method owes its lead to that.
    """

    settings_class: ClassVar[type[MethodSettings]]  # S, as the class that is its argument
    needs_unlabeled: ClassVar[bool] = True
    strong_views: int = 1  # of every unlabeled image; 2 fills `second_strong`, 0 leaves intensities to the method

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        named = [get_args(base) for base in vars(cls).get("__orig_bases__", ()) if get_origin(base) is Method]
        if not named:
            raise TypeError(f"{cls.__name__} must name its settings: class {cls.__name__}(Method[SomeSettings]).")
        cls.settings_class = named[0][0]

    def __init__(self, settings: S, task: Task) -> None:
        super().__init__()
        self.settings = settings
        self.student = task.build_network()
        if settings.contrast is not None and settings.contrast.levels != (0,):
            self.student.embed_at(settings.contrast.levels)
        self.teacher = frozen_copy(self.student)
        self.classes = task.classes
        self.confidence_threshold = 0.0  # least confidence of a pseudo-label that counts; 0: all do
        self.segmentation_loss: Callable[..., Tensor] = dice_and_cross_entropy
        self.contrast: PatchContrast | None = None
        if settings.contrast is not None and settings.contrast.weight > 0:
            self.contrast = PatchContrast(settings.contrast, self.student, task.classes, task.size, task.steps)

    @abstractmethod
    def training_step(self, batch: TrainingBatch, step: int) -> StepResult:
        """The loss of one batch, and what was seen for it. `step` counts optimizer steps from 0."""

    def forward(self, batch: TrainingBatch, step: int) -> StepResult:
        """The step that the loop takes: `training_step`, with patch contrast added if the settings ask for it.

        Reached through `__call__`, so that autocast and distributed training wrap it.
        """
        result = self.training_step(batch, step)
        if self.contrast is None:
            return result._replace(seen=None)
        if result.seen is None:
            name = self.settings.name
            raise UserError(f"method.contrast: {name} does not say what it has seen. Leave method.contrast out.")
        contrast, terms = self.contrast(self.student, self.teacher, result.seen, step)
        loss = result.loss + scheduled(step, self.contrast.weight) * contrast
        return StepResult(loss, result.terms | {"contrast": contrast.detach()} | terms)

    def phase(self, step: int) -> str | None:
        """The kind of step that `step` is: those of one kind do the same operations, on other numbers.

        Such steps can be captured in one CUDA graph, if they take from `scheduled` all that depends on `step`. None:
        this one is not to be captured.
        """
        return None

    def after_step(self, step: int) -> None:
        """EMA update of the teacher, after each optimizer step."""
        decay = scheduled(step, partial(ema_decay_at, self.settings.teacher_decay))
        ema_update(self.teacher, self.student, decay)
        if self.contrast is not None:
            self.contrast.ema_update(decay)

    def diagnostics(self) -> dict[str, float]:
        """Figures that the method knows about itself, for the log; asked for at each validation."""
        return {} if self.contrast is None else self.contrast.diagnostics()

    def supervised_step(self, labeled: LabeledBatch) -> StepResult:
        """The step that every method takes while unlabeled images weigh nothing."""
        logits, features = self.student.segment(labeled.image)
        seen = StudentView(labeled, features=features)
        return weighted_sum(seen, supervised=(1.0, self.supervised_loss(logits, labeled.mask)))

    def supervised_loss(
        self, logits: Tensor, mask: Tensor, first: int = 0, network: UNet | None = None, weight: Tensor | None = None
    ) -> Tensor:
        """The segmentation loss of what has labels or pseudo-labels; under deep supervision of the lower levels, too.

        Args:
            logits: (B, K, *S), of the last pass of `network` with a gradient and nothing perturbed.
            mask: (B, *S), of the pixels that have a label; IGNORE elsewhere.
            first: Where these images began in that pass.
            network: By default the student.
            weight: (B, *S), how much every pixel counts; None: all do in full.
        """
        network = self.student if network is None else network
        lower = [level[first : first + len(logits)] for level in network.lower_logits]
        return over_levels(self.segmentation_loss, logits, lower, mask, weight)

    def train(self, mode: bool = True) -> Self:
        """Sets the training mode of all that learns; a teacher stays in evaluation mode."""
        super().train(mode)
        for child in self.children():
            if not any(weight.requires_grad for weight in child.parameters()):
                child.eval()
        return self


def weighted_sum(seen: StudentView | None = None, /, **terms: tuple[float | Tensor, Tensor]) -> StepResult:
    """The weighted sum of named losses, (weight, loss) each; in `terms` stands each of them unweighted, for the log."""
    loss = sum((weight * value for weight, value in terms.values()), start=0.0 * next(iter(terms.values()))[1])
    return StepResult(loss, {name: value.detach() for name, (_, value) in terms.items()}, seen)
