"""How scans become network inputs: decided once from the data, explained in words, saved beside every result.

Nothing here depends on the machine, so that a plan is the same wherever it is made. The batch alone does, and a plan
holds one only if somebody had `patchcl check` write it.
"""

import math
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from pydantic import Field, ValidationError, model_validator

from patchcl.core.errors import UserError
from patchcl.core.files import write_text
from patchcl.core.parallel import ProgressCallback
from patchcl.core.settings import FrozenSettings
from patchcl.data.dataset import Dataset
from patchcl.data.preprocessing.fingerprint import ClassFacts, Fingerprint, ScanFacts, take_fingerprint

THICK = 3.0
"""Slices this many times thicker than pixels are wide are looked at one by one."""
THIN = 24
"""Volumes with fewer voxels along their thinnest axis are looked at slice by slice."""
SAME_VIEW = 1.6
"""Fields of view that differ by less than this factor are simply resized to one size."""
FINE = 10
"""Percentile of the spacings along the coarse axis that volumes of thick slices are brought to."""
SOFT_TISSUE = (-175.0, 250.0)
"""Hounsfield units that show it."""
PATCH_FRACTIONS = (0.125, 0.25)
"""Least and largest side of a patch over that of the image, where the data decide."""
BATCH = ("labeled_per_batch", "unlabeled_per_batch")
"""What a saved plan decides of `training` and not of the images."""
CAP = {2: 256, 3: 96}
MULTIPLE = {2: 32, 3: 16}

Normalise = Literal["min_max", "percentile", "z_score", "ct", "rgb"]
NORMALISE_BY_NAME: dict[str, Normalise] = {"zscore": "z_score", "rescale_to_0_1": "min_max"}
"""How data sets for nnU-Net ask for a normalisation, by the name of a channel."""
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
    patch_fraction: float | None = Field(default=None, gt=0, le=1)
    """What `method.contrast.patch_fraction` is set to counts as well."""


class Plan(FrozenSettings):
    """Everything that turns a scan into what the network sees, and back."""

    dimensions: Literal[2, 3]
    slice_axis: int = Field(default=2, ge=0, le=2)
    """The axis of the file along which slices are taken; means nothing for volumes."""
    fit: Literal["resize", "crop"]
    """`resize`: the whole slice or volume to `size`. `crop`: resample to `spacing_mm`, train on pieces of `size`."""
    size: tuple[int, ...]
    """Network input, one length per network axis, in the order of the file's axes."""
    spacing_mm: tuple[float, ...] | None = None
    """Spacing of the network axes: what `crop` resamples to, and about what volumes come to that `resize` fits."""
    normalise: Normalise | tuple[Normalise, ...]
    """Of all channels, or of each."""
    window: tuple[float, float] = SOFT_TISSUE
    """What becomes 0 and 1: Hounsfield units of `ct`, no colour and full colour of `rgb`; for these two only."""
    input_interpolation: Interpolation = "linear"
    """How images reach the network's size or spacing; `nearest` follows the published ACDC protocol."""
    output_interpolation: Interpolation = "linear"
    """How probabilities return to the grid of the scan; `nearest` follows the published ACDC protocol."""
    patch_fraction: float | None = Field(default=None, gt=0, le=1)
    """Side of the patches that contrast compares over that of the image; None in plans that were made before."""
    labeled_per_batch: int | None = Field(default=None, gt=0)
    unlabeled_per_batch: int | None = Field(default=None, gt=0)
    """Images of a step, for settings that name none; None leaves them to the settings."""
    channels: tuple[str, ...]
    classes: tuple[str, ...]
    ignore: int | None = None
    """What masks hold where nobody annotated, if they do so anywhere."""
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
        if self.window[0] >= self.window[1]:
            raise ValueError(f"window must rise, not {list(self.window)}")
        if isinstance(self.normalise, tuple) and len(self.normalise) != len(self.channels):
            raise ValueError(f"normalise must be one word or {len(self.channels)}, not {list(self.normalise)}")
        if {"ct", "rgb"} <= set(self.normalise_channels):
            raise ValueError("normalise cannot hold both ct and rgb, because they share the window")
        return self

    @property
    def normalise_channels(self) -> tuple[Normalise, ...]:
        """How each channel is normalised."""
        return self.normalise if isinstance(self.normalise, tuple) else (self.normalise,) * len(self.channels)


def make_plan(dataset: Dataset, settings: PlanSettings, fingerprint: Fingerprint | None = None) -> Plan:
    """Decide how the scans of `dataset` become network inputs, from their `fingerprint` and `settings`.

    Raises:
        UserError: A scan cannot be read, or the settings contradict each other or the data.
    """
    seen = fingerprint or fingerprint_for(dataset, settings)
    plan, reasons = _decided(dataset, settings)
    _decide_slicing(plan, reasons, seen, dataset.root)
    shapes, spacings = _network_axes(seen.scans, plan)
    _fill(plan, reasons, "fit", *_fit(shapes, spacings, seen.colours))
    if plan["fit"] == "crop":
        _fill(plan, reasons, "spacing_mm", *_spacing(spacings))
    _fill(plan, reasons, "size", *_size(shapes, spacings, plan))
    if plan["fit"] == "resize" and plan["dimensions"] == len(plan["size"]) == 3:
        _fill(plan, reasons, "spacing_mm", *_resized_spacing(shapes, spacings, plan))
    _fill(plan, reasons, "normalise", *_normalise(dataset.channels, seen.colours))
    if {"ct", "rgb"} & set(_words(plan["normalise"])):
        _fill(plan, reasons, "window", *_window(plan["normalise"], seen))
    _fill(plan, reasons, "patch_fraction", *_patch_fraction(seen, plan))
    try:
        return Plan(**plan, reasons=reasons)
    except ValidationError as error:
        raise UserError(f"The plan settings do not fit together: {_why(error)}.") from error


def fingerprint_for(
    dataset: Dataset,
    settings: PlanSettings,
    labeled: Collection[str] | None = None,
    on_progress: ProgressCallback | None = None,
) -> Fingerprint:
    """The fingerprint that a plan by `settings` needs: headers, masks, and images if a window must be found in them.

    Masks and images are those of the patients `labeled`, None being everybody who has a mask; no other mask is ever
    read, nor anything in imagesTs.

    Raises:
        UserError: A file cannot be read, or the settings contradict the data.
    """
    plan, reasons = _decided(dataset, settings)
    words = _words(plan.get("normalise") or _normalise(dataset.channels, colours=False)[0], len(dataset.channels))
    hounsfield = [index for index, word in enumerate(words) if word == "ct" and "window" not in plan]

    def slice_axis(headers: Fingerprint) -> int | None:
        _decide_slicing(plan, reasons, headers, dataset.root)
        return plan["slice_axis"] if plan["dimensions"] == 2 else None

    return take_fingerprint(dataset, hounsfield, labeled, on_progress, slice_axis)


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
        return Plan.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UserError(f"The plan {path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {error}") from error
    except ValidationError as error:
        raise UserError(f"{path} is no plan: {_why(error)}. Restore it, or train again.") from error


def _decided(dataset: Dataset, settings: PlanSettings) -> tuple[dict[str, Any], dict[str, str]]:
    """What the data need not decide, because a saved plan or a setting does, and why it is so."""
    plan: dict[str, Any] = {key: getattr(dataset, key) for key in ("channels", "classes", "ignore")}
    reasons: dict[str, str] = {}
    if settings.file is not None:
        saved = load_plan(settings.file)
        _require_made_for(saved, plan, settings.file, dataset.root)
        plan |= saved.model_dump(exclude_none=True, exclude={*plan, *BATCH, "reasons"})
        reasons |= {key: reason for key, reason in saved.reasons.items() if key not in BATCH}
    chosen = settings.model_dump(exclude_none=True, exclude={"file"})
    return plan | chosen, reasons | dict.fromkeys(chosen, "set by the user.")


def _require_made_for(saved: Plan, facts: dict[str, Any], path: Path, root: Path) -> None:
    for key, found in facts.items():
        if getattr(saved, key) != found:
            raise UserError(
                f"{path} is a plan for other data: its {key} are {_listed(getattr(saved, key))}, those of {root} are "
                f"{_listed(found)}. Take another plan, or let the data decide."
            )


def _listed(value: object) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)


def _fill(plan: dict[str, Any], reasons: dict[str, str], key: str, value: object, reason: str) -> None:
    """Take `value` unless the user has decided."""
    if key not in plan:
        plan[key], reasons[key] = value, reason


def _decide_slicing(plan: dict[str, Any], reasons: dict[str, str], seen: Fingerprint, root: Path) -> None:
    _fill(plan, reasons, "dimensions", *_dimensions(seen))
    if plan["dimensions"] == 3 and any(len(scan.shape) == 2 for scan in seen.scans):
        raise UserError(f"plan.dimensions is 3, but {root} has two-dimensional files. Set it to 2.")
    if plan["dimensions"] == 2:
        _fill(plan, reasons, "slice_axis", *_slice_axis(seen.scans))


def _dimensions(seen: Fingerprint) -> tuple[int, str]:
    if any(len(scan.shape) == 2 or min(scan.shape) == 1 for scan in seen.scans):
        return 2, "slices, because some files hold a single slice."
    if seen.anisotropy >= THICK:
        return 2, f"slices, because they are {seen.anisotropy:.1f} times thicker than pixels are wide."
    thinnest = int(np.median([min(scan.shape) for scan in seen.scans]))
    if thinnest < THIN:
        return 2, f"slices, because the thinnest axis has only {thinnest} voxels."
    return 3, f"volumes, because the thinnest axis has {thinnest} voxels and the spacing is nearly even."


def _slice_axis(scans: Sequence[ScanFacts]) -> tuple[int, str]:
    """The coarsest axis; where spacing does not tell, the shortest; where that does not either, the last."""
    volumes = [scan for scan in scans if len(scan.shape) == 3]
    if not volumes:
        return 2, "files hold one slice each."
    spacing = np.median([scan.spacing_mm for scan in volumes], axis=0)
    if spacing.max() >= 1.5 * np.sort(spacing)[1]:
        return int(spacing.argmax()), f"slices lie {spacing.max():.3g} mm apart along this axis."
    shape = np.median([scan.shape for scan in volumes], axis=0)
    if shape.min() < np.sort(shape)[1] / 1.5:
        return int(shape.argmin()), "this axis has the fewest voxels."
    return 2, "the last axis of the file, because no axis stands out."


def _network_axes(scans: Sequence[ScanFacts], plan: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Sizes and spacings (scans, dimensions) of the axes that the network sees."""
    kept = [
        [axis for axis in range(len(g.shape)) if not (_sliced(g, plan) and axis == plan["slice_axis"])] for g in scans
    ]
    shapes = [[scan.shape[axis] for axis in axes] for scan, axes in zip(scans, kept, strict=True)]
    spacings = [[scan.spacing_mm[axis] for axis in axes] for scan, axes in zip(scans, kept, strict=True)]
    return np.array(shapes, dtype=np.float64), np.array(spacings, dtype=np.float64)


def _sliced(scan: ScanFacts, plan: dict[str, Any]) -> bool:
    return plan["dimensions"] == 2 and len(scan.shape) == 3


def _fit(shapes: np.ndarray, spacings: np.ndarray, colours: bool) -> tuple[str, str]:
    if colours:
        return "crop", "what colour pictures show is told by its size in pixels, so they are not stretched."
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
    """The median; of volumes of thick slices a finer one between slices, but none finer than within them.

    Source: nnU-Net, Isensee et al., 2021. It also asks that thick slices be few; here those who take them as volumes
    have said so.
    """
    target = np.median(spacings, axis=0)
    coarse = int(target.argmax())
    within = float(np.delete(target, coarse).max())
    reason = "the median over all scans."
    if len(target) == 3 and target[coarse] > THICK * within:
        target[coarse] = max(float(np.percentile(spacings[:, coarse], FINE)), within)
        reason = f"the median over all scans; between thick slices the {FINE}th percentile, so thin ones stay sharp."
    return tuple(round(float(value), 4) for value in target), reason


def _resized_spacing(shapes: np.ndarray, spacings: np.ndarray, plan: dict[str, Any]) -> tuple[tuple[float, ...], str]:
    widths = np.median(shapes * spacings, axis=0) / np.array(plan["size"])
    return tuple(round(float(width), 4) for width in widths), "about what voxels come to after resizing."


def _size(shapes: np.ndarray, spacings: np.ndarray, plan: dict[str, Any]) -> tuple[tuple[int, ...], str]:
    multiple, cap = MULTIPLE[plan["dimensions"]], CAP[plan["dimensions"]]
    if plan["fit"] == "crop" and len(plan["spacing_mm"]) == plan["dimensions"]:
        shapes = shapes * spacings / np.array(plan["spacing_mm"])
    lengths = np.clip(np.round(np.median(shapes, axis=0) / multiple) * multiple, multiple, cap)
    return tuple(int(x) for x in lengths), f"the median size in multiples of {multiple}, {cap} at most."


def _normalise(channels: Sequence[str], colours: bool) -> tuple[Normalise | tuple[Normalise, ...], str]:
    if colours:
        return "rgb", "channels are colours, which mean the same in every picture, so none is stretched."
    words = tuple(_normalise_one(channel) for channel in channels)
    if set(words) == {"ct"}:
        return "ct", "the channel is CT, so Hounsfield units are cut to a window."
    if set(words) == {"percentile"}:
        reason = "intensities have no unit, so the 0.5 and 99.5 percentile of every scan become 0 and 1."
        return "percentile", reason
    return (words[0] if len(set(words)) == 1 else words), "by the names of the channels, each by itself."


def _normalise_one(channel: str) -> Normalise:
    hounsfield = re.search(r"(?i)(?<![a-z])cta?(?![a-z])", channel)
    return "ct" if hounsfield else NORMALISE_BY_NAME.get(channel.casefold(), "percentile")


def _words(normalise: str | Sequence[str], channels: int = 1) -> tuple[str, ...]:
    return (normalise,) * channels if isinstance(normalise, str) else tuple(normalise)


def _window(normalise: str | Sequence[str], seen: Fingerprint) -> tuple[tuple[float, float], str]:
    """What becomes 0 and 1. That is an affine step away from nnU-Net's z-score, and dark stays dark for the patches."""
    if "rgb" in _words(normalise):
        full = seen.full_scale or 255.0
        return (0.0, full), f"full colour is {full:g}."
    tissue = [channel for channel in seen.intensities if channel.foreground]
    low = min((channel.percentile_0_5 for channel in tissue), default=0.0)
    high = max((channel.percentile_99_5 for channel in tissue), default=0.0)
    if low < high:
        return (round(low, 1), round(high, 1)), "the 0.5 and 99.5 percentile of all structures in the labeled masks."
    return SOFT_TISSUE, "soft tissue, because the labeled masks show too little to find a window."


def _patch_fraction(seen: Fingerprint, plan: dict[str, Any]) -> tuple[float, str]:
    """A quarter, or twice the longest side of the class that is smallest by it, if that is less; in sixteenths.

    Patches come every half side, so whatever is no longer than that lies whole in one of them, and larger patches would
    show more of what is around it. Sixteenths, rounded up, because sides vary with who is labeled.
    """
    minimum, most = PATCH_FRACTIONS
    spans = {kind.name: max(_spanned(kind, plan)) for kind in seen.classes[1:] if kind.side_fraction}
    if not spans:
        return most, "a quarter of the image, one every half side; no labeled mask tells how large structures are."
    name = min(spans, key=lambda each: spans[each])
    spanned = f"the smallest structure, {name}, spans {min(spans[name], 1):.0%} of the image"
    fraction = min(max(math.ceil(round(2 * spans[name] * 16, 6)) / 16, minimum), most)
    if fraction == most:
        return most, f"a quarter of the image, one every half side; {spanned}."
    if fraction == minimum:
        return minimum, f"an eighth of the image, the least, one every half side; {spanned}."
    return fraction, f"twice the smallest structure, which so lies whole in one, one every half side; {spanned}."


def _spanned(kind: ClassFacts, plan: dict[str, Any]) -> tuple[float, ...]:
    """Of what the network sees at once, along each of its axes."""
    if plan["fit"] == "resize" or not len(kind.side_mm) == len(plan["size"]) == len(plan["spacing_mm"]):
        return kind.side_fraction
    lengths = zip(kind.side_mm, plan["size"], plan["spacing_mm"], strict=True)
    return tuple(side / (length * spacing) for side, length, spacing in lengths)


def _why(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, item['loc']))}: {item['msg']}".removeprefix(": ").replace("Value error, ", "")
        for item in error.errors()
    )
