"""The settings tree: one typed group for each part of a run. Torch is loaded when something is built from it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from patchcl.augment import AugmentSettings
from patchcl.core.choices import Device, Precision, Preset
from patchcl.core.names import sided
from patchcl.core.settings import FrozenSettings
from patchcl.data.preprocessing.plan import BATCH, Plan, PlanSettings
from patchcl.data.split_settings import SplitSettings
from patchcl.methods import any_method_settings, build_method
from patchcl.methods.settings import MethodSettings, PatchCLSettings
from patchcl.networks import NetworkSettings, build_network

if TYPE_CHECKING:
    from patchcl.methods.base import Method
    from patchcl.networks.unet import UNet

    AnyMethodSettings = MethodSettings
else:
    AnyMethodSettings = any_method_settings()

LoggerName = Literal["tensorboard", "wandb", "mlflow"]


class TrainingSettings(FrozenSettings):
    """The loop, the optimizer and the machine."""

    steps: int = Field(6000, gt=0, description="Optimizer steps.")
    labeled_per_batch: int = Field(12, gt=0)
    unlabeled_per_batch: int = Field(12, gt=0)
    foreground_fraction: float = Field(
        0.0, ge=0, le=1, description="Of labeled images that are drawn to show a structure: pieces are centred on one."
    )
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = Field(1e-3, gt=0, description="At the start; it falls to 0 as (1 - step / steps) ** power.")
    power: float = Field(0.9, ge=0, description="Of the fall of the learning rate.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Of sgd.")
    weight_decay: float = Field(1e-4, ge=0)
    validate_every: int = Field(200, gt=0, description="In steps.")
    log_every: int = Field(20, gt=0, description="In steps.")
    checkpoint_minutes: float = Field(
        5.0, gt=0, description="Between checkpoints, beside those at validations; made at the next log row."
    )
    device: Device = "auto"
    devices: int = Field(1, gt=0, description="On each node, one process for each; they share every batch.")
    nodes: int = Field(1, gt=0, description="Machines; srun or torchrun starts the processes of several.")
    batch_shares: int = Field(
        1, gt=0, description="Of a device's batch, taken one after the other; as much less memory, the same images."
    )
    sync_batch_norm: bool = Field(False, description="Batch norm over the shares of all devices; on CUDA.")
    precision: Precision | Literal["auto"] = Field(
        "auto", description="auto: bf16-mixed on a card that has bfloat16, 16-mixed on one that has not, else 32-true."
    )
    compile: bool | Literal["auto"] = Field(
        "auto", description="Compile the networks with torch.compile; auto: in long runs whose steps are captured."
    )
    deterministic: bool = Field(True, description="On CUDA: the same weights every time. Off may be faster.")
    memory_gib: float = Field(
        8.0, ge=0, description="Of the training device, for prepared images; beyond it they stream."
    )
    scratch: str | None = Field(None, description="Folder on a node's own disk for a copy of prepared images.")
    loggers: tuple[LoggerName, ...] = Field(("tensorboard",), description="Of tensorboard, wandb, mlflow.")
    seed: int = Field(0, ge=0)


class InferenceSettings(FrozenSettings):
    """What predictions and final scores do beyond one pass of the network."""

    symmetries: bool = Field(True, description="Average over the symmetries that training drew from; --fast does not.")
    postprocessing: bool = Field(True, description="Do to masks what validation chose when training ended.")


class Settings(FrozenSettings):
    """Everything that decides a result."""

    preset: Preset | None = Field(None, description="What the settings were begun with; see config/presets.")
    data: Path | None = None
    cache: Path | None = Field(None, description="Folder of prepared images; by default `prepared` beside the run.")
    method: AnyMethodSettings = PatchCLSettings()
    network: NetworkSettings = NetworkSettings()
    plan: PlanSettings = PlanSettings()
    split: SplitSettings = SplitSettings()
    augment: AugmentSettings = AugmentSettings()
    training: TrainingSettings = TrainingSettings()
    inference: InferenceSettings = InferenceSettings()

    def build_network(self, plan: Plan) -> "UNet":
        """The network, with new weights, for images that are prepared by `plan`."""
        return build_network(self.network, len(plan.channels), len(plan.classes), plan.size, plan.spacing_mm)

    def build_method(self, plan: Plan, size: tuple[int, ...] | None = None) -> "Method[Any]":
        """The method with new weights for images that are prepared by `plan`, of `size` if that is not the plan's."""
        from patchcl.methods.base import Task

        task = Task(
            lambda: self.build_network(plan),
            len(plan.classes),
            size or plan.size,
            self.training.steps,
            self.augment,
            plan.spacing_mm,
        )
        return build_method(self.method, task)


def planned(settings: Settings, plan: Plan) -> Settings:
    """`settings` with what `plan` says of the batch and of patches, and without mirrors if its classes have sides.

    A structure on the left that is mirrored looks like that on the right. What the user has set stands; plans know it.
    """
    batch = {key: min(count, getattr(settings.training, key)) for key in BATCH if (count := getattr(plan, key))}
    settings = settings.model_copy(update={"training": settings.training.model_copy(update=batch)})
    open_ = [key for key in ("flip", "rotate_90") if getattr(settings.augment, key) is None]
    decided = settings.augment.model_copy(update=dict.fromkeys(open_, not sided(plan.classes)))
    settings = settings.model_copy(update={"augment": decided})
    contrast = settings.method.contrast
    if contrast is None or plan.patch_fraction is None:
        return settings
    contrast = contrast.model_copy(update={"patch_fraction": plan.patch_fraction})
    return settings.model_copy(update={"method": settings.method.model_copy(update={"contrast": contrast})})
