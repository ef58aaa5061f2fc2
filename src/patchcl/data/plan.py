"""How scans become network inputs: decided once from the headers, explained in words, saved beside every result."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from pydantic import Field, ValidationError, model_validator

from patchcl.data.dataset import Dataset
from patchcl.data.scan import Grid, read_grid
from patchcl.errors import UserError
from patchcl.run_folder import write_text
from patchcl.section import Section

THICK = 3.0
"""Slices this many times thicker than pixels are wide are looked at one by one."""
THIN = 24
"""Volumes with fewer voxels along their thinnest axis are looked at slice by slice."""
SAME_VIEW = 1.6
"""Fields of view that differ by less than this factor are simply resized to one size."""
CAP = {2: 256, 3: 96}
MULTIPLE = {2: 32, 3: 16}

Normalise = Literal["min_max", "percentile", "z_score", "ct"]
Interpolation = Literal["linear", "nearest"]


class PlanSettings(Section):
    """Parts of the plan that the user decides; the data decide whatever is None."""

    dimensions: Literal[2, 3] | None = None
    slice_axis: int | None = Field(default=None, ge=0, le=2)
    fit: Literal["resize", "crop"] | None = None
    size: tuple[int, ...] | None = None
    spacing_mm: tuple[float, ...] | None = None
    normalise: Normalise | None = None
    window: tuple[float, float] | None = None
    resample: Interpolation | None = None
    restore: Interpolation | None = None


class Plan(Section):
    """Everything that turns a scan into what the network sees, and back."""

    dimensions: Literal[2, 3]
    slice_axis: int = Field(default=2, ge=0, le=2)
    """The axis of the file along which slices are taken; means nothing for volumes."""
    fit: Literal["resize", "crop"]
    """`resize`: the whole slice or volume to `size`. `crop`: resample to `spacing_mm`, train on pieces of `size`."""
    size: tuple[int, ...]
    """Network input, one length per network axis, in the order of the file's axes."""
    spacing_mm: tuple[float, ...] | None = None
    """Target spacing of the network axes; for `crop` only."""
    normalise: Normalise
    window: tuple[float, float] = (-175.0, 250.0)
    """Hounsfield units that become 0 and 1; for `ct` only."""
    resample: Interpolation = "linear"
    """How images reach the network's size or spacing; `nearest` follows the published ACDC protocol."""
    restore: Interpolation = "linear"
    """How probabilities return to the grid of the scan; `nearest` follows the published ACDC protocol."""
    channels: tuple[str, ...]
    classes: tuple[str, ...]
    reasons: dict[str, str] = Field(default_factory=dict)
    """One sentence for every decision."""

    @model_validator(mode="after")
    def _demand_consistent(self) -> "Plan":
        if len(self.size) != self.dimensions or min(self.size) < 1:
            raise ValueError(f"size must be {self.dimensions} positive lengths, not {list(self.size)}")
        if self.fit == "crop" and (self.spacing_mm is None or len(self.spacing_mm) != self.dimensions):
            raise ValueError(f"fit: crop needs spacing_mm with {self.dimensions} lengths, not {self.spacing_mm}")
        if self.spacing_mm is not None and min(self.spacing_mm) <= 0:
            raise ValueError(f"spacing_mm must be positive, not {list(self.spacing_mm)}")
        if self.window[0] >= self.window[1]:
            raise ValueError(f"window must rise, not {list(self.window)}")
        return self


def make_plan(dataset: Dataset, settings: PlanSettings) -> Plan:
    """Decide how the scans of `dataset` become network inputs, from their headers and `settings`.

    Neither masks nor the scans in imagesTs are opened.

    Raises:
        UserError: A header cannot be read, or the settings contradict each other or the data.
    """
    grids = [read_grid(case.images[0]) for case in dataset.cases if case.folder != "imagesTs"]
    chosen = settings.model_dump(exclude_none=True)
    reasons = dict.fromkeys(chosen, "set by the user.")
    plan: dict[str, Any] = {"channels": dataset.channels, "classes": dataset.classes, **chosen}
    _fill(plan, reasons, "dimensions", *_dimensions(grids))
    if plan["dimensions"] == 3 and any(len(grid.shape) == 2 for grid in grids):
        raise UserError(f"plan.dimensions is 3, but {dataset.root} has two-dimensional files. Set it to 2.")
    if plan["dimensions"] == 2:
        _fill(plan, reasons, "slice_axis", *_slice_axis(grids))
    shapes, spacings = _network_axes(grids, plan)
    _fill(plan, reasons, "fit", *_fit(shapes, spacings))
    if plan["fit"] == "crop":
        _fill(plan, reasons, "spacing_mm", *_spacing(spacings))
    _fill(plan, reasons, "size", *_size(shapes, spacings, plan))
    _fill(plan, reasons, "normalise", *_normalise(dataset.channels))
    try:
        return Plan(**plan, reasons=reasons)
    except ValidationError as error:
        raise UserError(f"The plan settings do not fit together: {_why(error)}.") from error


def save_plan(path: Path, plan: Plan) -> None:
    """Write `plan` as YAML."""
    write_text(path, yaml.safe_dump(plan.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120))


def load_plan(path: Path) -> Plan:
    """The plan that `save_plan` wrote.

    Raises:
        UserError: The file is missing or is no plan.
    """
    try:
        return Plan.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UserError(f"The plan {path} cannot be read: {error.strerror}.") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from error
    except ValidationError as error:
        raise UserError(f"{path} is no plan: {_why(error)}. Restore it, or train again.") from error


def _fill(plan: dict[str, Any], reasons: dict[str, str], key: str, value: object, reason: str) -> None:
    """Take `value` unless the user has decided."""
    if key not in plan:
        plan[key], reasons[key] = value, reason


def _dimensions(grids: Sequence[Grid]) -> tuple[int, str]:
    if any(len(grid.shape) == 2 or min(grid.shape) == 1 for grid in grids):
        return 2, "slices, because some files hold a single slice."
    thickness = float(np.median([max(grid.spacing_mm) / min(grid.spacing_mm) for grid in grids]))
    if thickness >= THICK:
        return 2, f"slices, because they are {thickness:.1f} times thicker than pixels are wide."
    thinnest = int(np.median([min(grid.shape) for grid in grids]))
    if thinnest < THIN:
        return 2, f"slices, because the thinnest axis has only {thinnest} voxels."
    return 3, f"volumes, because the thinnest axis has {thinnest} voxels and the spacing is nearly even."


def _slice_axis(grids: Sequence[Grid]) -> tuple[int, str]:
    """The coarsest axis; where spacing does not tell, the shortest; where that does not either, the last."""
    volumes = [grid for grid in grids if len(grid.shape) == 3]
    if not volumes:
        return 2, "files hold one slice each."
    spacing = np.median([grid.spacing_mm for grid in volumes], axis=0)
    if spacing.max() >= 1.5 * np.sort(spacing)[1]:
        return int(spacing.argmax()), f"slices lie {spacing.max():.3g} mm apart along this axis."
    shape = np.median([grid.shape for grid in volumes], axis=0)
    if shape.min() < np.sort(shape)[1] / 1.5:
        return int(shape.argmin()), "this axis has the fewest voxels."
    return 2, "the last axis of the file, because no axis stands out."


def _network_axes(grids: Sequence[Grid], plan: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Sizes and spacings (scans, dimensions) of the axes that the network sees."""
    kept = [
        [axis for axis in range(len(g.shape)) if not (_sliced(g, plan) and axis == plan["slice_axis"])] for g in grids
    ]
    shapes = [[grid.shape[axis] for axis in axes] for grid, axes in zip(grids, kept, strict=True)]
    spacings = [[grid.spacing_mm[axis] for axis in axes] for grid, axes in zip(grids, kept, strict=True)]
    return np.array(shapes, dtype=np.float64), np.array(spacings, dtype=np.float64)


def _sliced(grid: Grid, plan: dict[str, Any]) -> bool:
    return plan["dimensions"] == 2 and len(grid.shape) == 3


def _fit(shapes: np.ndarray, spacings: np.ndarray) -> tuple[str, str]:
    if (spacings == 1).all():
        return "resize", "every spacing is exactly 1 mm, as if it had been lost, so sizes in mm cannot be trusted."
    view = shapes * spacings
    ratio = float((view.max(axis=0) / view.min(axis=0)).max())
    if ratio < SAME_VIEW:
        return (
            "resize",
            f"fields of view differ by a factor of {ratio:.2f} at most, so one size shows all of each scan.",
        )
    return "crop", f"fields of view differ by a factor of {ratio:.2f}, so scans are brought to one spacing instead."


def _spacing(spacings: np.ndarray) -> tuple[tuple[float, ...], str]:
    return tuple(round(float(value), 4) for value in np.median(spacings, axis=0)), "the median over all scans."


def _size(shapes: np.ndarray, spacings: np.ndarray, plan: dict[str, Any]) -> tuple[tuple[int, ...], str]:
    multiple, cap = MULTIPLE[plan["dimensions"]], CAP[plan["dimensions"]]
    if plan["fit"] == "crop" and len(plan["spacing_mm"]) == plan["dimensions"]:
        shapes = shapes * spacings / np.array(plan["spacing_mm"])
    lengths = np.clip(np.round(np.median(shapes, axis=0) / multiple) * multiple, multiple, cap)
    return tuple(int(x) for x in lengths), f"the median size in multiples of {multiple}, {cap} at most."


def _normalise(channels: Sequence[str]) -> tuple[str, str]:
    if all(re.search(r"(?i)(?<![a-z])cta?(?![a-z])", channel) for channel in channels):
        return "ct", "the channel is CT, so Hounsfield units are cut to a window."
    return "percentile", "intensities have no unit, so the 0.5 and 99.5 percentile of every scan become 0 and 1."


def _why(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, item['loc']))}: {item['msg']}".removeprefix(": ").replace("Value error, ", "")
        for item in error.errors()
    )
