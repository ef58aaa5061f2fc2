"""The plan: how scans become network inputs, and back. Saved beside every result, with a reason for each decision."""

from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from patchcl.core.documents import DocumentError, parse_yaml
from patchcl.core.errors import UserError
from patchcl.core.files import write_text
from patchcl.core.renamed import brought_up_to_date
from patchcl.core.settings import FrozenSettings

SOFT_TISSUE = (-175.0, 250.0)
"""Hounsfield units that show it."""
BATCH = ("labeled_per_batch", "unlabeled_per_batch")
"""What a plan decides of `training` and not of the images."""

Normalise = Literal["min_max", "percentile", "z_score", "ct", "rgb"]
Interpolation = Literal["linear", "nearest"]


class PlanSettings(FrozenSettings):
    """Parts of the plan that the user decides; the data decide whatever is None."""

    file: Path | None = None
    """A plan that was saved before; it decides whatever is None here."""
    dimensions: Literal[2, 3] | None = None
    slice_axis: int | None = Field(default=None, ge=0, le=2)
    fit: Literal["resize", "crop"] | None = None
    size: tuple[int, ...] | None = None
    spacing_mm: tuple[float, ...] | None = None
    normalise: Normalise | tuple[Normalise, ...] | None = None
    window: tuple[float, float] | None = None
    input_interpolation: Interpolation | None = None
    output_interpolation: Interpolation | None = None
    window_stride: tuple[int, ...] | None = None
    """Voxels from one window to the next along each network axis, when scans are predicted that `crop` takes."""
    patch_fraction: float | None = Field(default=None, gt=0, le=1)
    """What `method.contrast.patch_fraction` is set to counts as well."""
    labeled_per_batch: int | None = Field(default=None, gt=0)
    unlabeled_per_batch: int | None = Field(default=None, gt=0)
    """What `training` sets of these counts as well."""
    memory_gib: float = Field(default=8.0, gt=0)
    """That a step with volumes may take: their size and the batch follow from it, on every machine alike."""


class Plan(FrozenSettings):
    """Everything that turns a scan into what the network sees, and back."""

    dimensions: Literal[2, 3]
    slice_axis: int = Field(default=2, ge=0, le=2)
    """The axis, of the file or of `orientation`, along which slices are taken; means nothing for volumes."""
    orientation: str | None = Field(default=None, pattern="^[RLAPSI]{3}$")
    """What the axes of volumes run towards, as in RAS; others are brought to it. None takes files as they are."""
    fit: Literal["resize", "crop"]
    """`resize`: the whole slice or volume to `size`. `crop`: resample to `spacing_mm`, train on pieces of `size`."""
    size: tuple[int, ...]
    """Network input, one length per network axis, in the order of the file's axes."""
    spacing_mm: tuple[float, ...] | None = None
    """Spacing of the network axes: what `crop` resamples to, and about what volumes come to that `resize` fits."""
    normalise: Normalise | tuple[Normalise, ...]
    """Of all channels, or of each."""
    background: Literal["counted", "ignored"] = "counted"
    """Whether `percentile` counts the lowest value where it fills more than half of a scan; it did in older plans."""
    window: tuple[float, float] = SOFT_TISSUE
    """What becomes 0 and 1: Hounsfield units of `ct`, no colour and full colour of `rgb`; for these two only."""
    input_interpolation: Interpolation = "linear"
    """How images reach the network's size or spacing; `nearest` follows the published ACDC protocol."""
    output_interpolation: Interpolation = "linear"
    """How probabilities return to the grid of the scan; `nearest` follows the published ACDC protocol."""
    window_stride: tuple[int, ...] | None = None
    """Voxels from one window to the next along each network axis in prediction; None is half of `size`."""
    patch_fraction: float | None = Field(default=None, gt=0, le=1)
    """Side of the patches that contrast compares over that of the image; None in plans that were made before."""
    labeled_per_batch: int | None = Field(default=None, gt=0)
    unlabeled_per_batch: int | None = Field(default=None, gt=0)
    """Images of a step, for settings that name none; None leaves them to the settings."""
    channels: tuple[str, ...]
    classes: tuple[str, ...]
    ignore: int | None = None
    """What masks hold where nobody annotated, if they do so anywhere."""
    regions: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    """Structures that join several classes: these are learned, and the regions scored and written."""
    reasons: dict[str, str] = Field(default_factory=dict)
    """One sentence for every decision."""

    @model_validator(mode="after")
    def _require_consistent(self) -> "Plan":
        if len(self.size) != self.dimensions or min(self.size) < 1:
            raise ValueError(f"size must be {self.dimensions} positive lengths, not {list(self.size)}")
        if self.fit == "crop" and (self.spacing_mm is None or len(self.spacing_mm) != self.dimensions):
            raise ValueError(f"fit: crop needs spacing_mm with {self.dimensions} lengths, not {self.spacing_mm}")
        if self.spacing_mm is not None and (len(self.spacing_mm) != self.dimensions or min(self.spacing_mm) <= 0):
            raise ValueError(f"spacing_mm must be {self.dimensions} positive lengths, not {list(self.spacing_mm)}")
        if self.window_stride is not None and not self._is_stride(self.window_stride):
            raise ValueError(
                f"window_stride must be {self.dimensions} whole lengths from 1 to those of size {list(self.size)}, and "
                f"fit crop, not {list(self.window_stride)} and {self.fit}"
            )
        if self.window[0] >= self.window[1]:
            raise ValueError(f"window must rise, not {list(self.window)}")
        if isinstance(self.normalise, tuple) and len(self.normalise) != len(self.channels):
            raise ValueError(f"normalise must be one word or {len(self.channels)}, not {list(self.normalise)}")
        if {"ct", "rgb"} <= set(self.normalise_channels):
            raise ValueError("normalise cannot hold both ct and rgb, because they share the window")
        return self

    def _is_stride(self, stride: tuple[int, ...]) -> bool:
        within = len(stride) == self.dimensions and all(
            1 <= step <= length for step, length in zip(stride, self.size, strict=True)
        )
        return within and self.fit == "crop"

    @property
    def normalise_channels(self) -> tuple[Normalise, ...]:
        """How each channel is normalised."""
        return self.normalise if isinstance(self.normalise, tuple) else (self.normalise,) * len(self.channels)


def save_plan(path: Path, plan: Plan) -> None:
    """Write `plan` as YAML.

    Raises:
        UserError: `path` cannot be written.
    """
    text = yaml.safe_dump(plan.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)
    try:
        write_text(path, text)
    except OSError as error:
        raise UserError(f"The plan cannot be written to {path}: {error.strerror}. Choose another file.") from error


def load_plan(path: Path) -> Plan:
    """The plan that `save_plan` wrote.

    Raises:
        UserError: The file is missing or is no plan.
    """
    try:
        content = parse_yaml(path.read_bytes())
        return Plan.model_validate(brought_up_to_date({"plan": content})["plan"])
    except OSError as error:
        raise UserError(f"The plan {path} cannot be read: {error.strerror}.") from error
    except DocumentError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from error
    except ValidationError as error:
        raise UserError(f"{path} is no plan: {plan_errors(error)}. Restore it, or train again.") from error


def plan_errors(error: ValidationError) -> str:
    """What pydantic found wrong with a plan, in one line."""
    return "; ".join(
        f"{'.'.join(map(str, item['loc']))}: {item['msg']}".removeprefix(": ").replace("Value error, ", "")
        for item in error.errors()
    )
