"""Planner: decides the plan once from the dataset fingerprint, with a reason for each decision.

Nothing here depends on the machine, so that a plan is the same wherever it is made. The batch alone does, and a plan
holds one only if somebody had `patchcl check` write it.
"""

import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import ValidationError

from patchcl.core.errors import UserError
from patchcl.core.parallel import ProgressCallback
from patchcl.data.dataset import Dataset
from patchcl.data.modality import names_ct
from patchcl.data.preprocessing.fingerprint import (
    ClassFacts,
    Fingerprint,
    ScanFacts,
    read_headers,
    with_structures,
)
from patchcl.data.preprocessing.plan import BATCH, SOFT_TISSUE, Normalise, Plan, PlanSettings, load_plan, plan_errors
from patchcl.data.preprocessing.sizes import batch_of_volumes, network_size, seen_whole

THICK = 3.0
"""Slices this many times thicker than pixels are wide are looked at one by one."""
THIN = 24
"""Volumes with fewer voxels along their thinnest axis are looked at slice by slice."""
SAME_VIEW = 1.6
"""Fields of view that differ by less than this factor are simply resized to one size."""
FINE = 10
"""Percentile of the spacings along the coarse axis that volumes of thick slices are brought to."""
PATCH_FRACTIONS = (0.125, 0.25)
"""Least and largest side of a patch over that of the image, where the data decide."""

NORMALISE_BY_NAME: dict[str, Normalise] = {"zscore": "z_score", "rescale_to_0_1": "min_max"}
"""How data sets for nnU-Net ask for a normalisation, by the name of a channel."""


class _Draft(NamedTuple):
    """A plan in the making. Every decision returns a new draft."""

    values: dict[str, Any]
    reasons: dict[str, str]

    def with_default(self, key: str, value: object, reason: str) -> "_Draft":
        """This draft with `value` for `key`, unless a setting or a saved plan has decided it."""
        if key in self.values:
            return self
        return _Draft(self.values | {key: value}, self.reasons | {key: reason})


def make_plan(dataset: Dataset, settings: PlanSettings, fingerprint: Fingerprint | None = None) -> Plan:
    """Decide how the scans of `dataset` become network inputs, from their `fingerprint` and `settings`.

    Raises:
        UserError: A scan cannot be read, or the settings contradict each other or the data.
    """
    seen = fingerprint or fingerprint_for(dataset, settings)
    draft = _decided(dataset, settings)
    if seen.orientation is not None:
        draft = draft.with_default("orientation", *_orientation(seen))
    draft = _with_slicing(draft, seen, dataset.root)
    shapes, spacings = _network_axes(seen.scans, draft.values)
    draft = draft.with_default("fit", *_fit(shapes, spacings, seen.colours, settings.memory_gib))
    if draft.values["fit"] == "crop":
        draft = draft.with_default("spacing_mm", *_spacing(spacings))
    draft = draft.with_default("size", *network_size(shapes, spacings, draft.values, settings.memory_gib))
    if draft.values["dimensions"] == 3:
        count, reason = batch_of_volumes(draft.values["size"], settings.memory_gib)
        for key in BATCH if count else ():
            draft = draft.with_default(key, count, reason)
    if draft.values["fit"] == "resize" and draft.values["dimensions"] == len(draft.values["size"]) == 3:
        draft = draft.with_default("spacing_mm", *_resized_spacing(shapes, spacings, draft.values))
    draft = draft.with_default("normalise", *_normalise(dataset.channels, seen.colours))
    if "percentile" in _words(draft.values["normalise"]):
        reason = "the 99.5 percentile is that of other voxels where more than half of a scan has its lowest value."
        draft = draft.with_default("background", "ignored", reason)
    if {"ct", "rgb"} & set(_words(draft.values["normalise"])):
        draft = draft.with_default("window", *_window(draft.values["normalise"], seen))
    draft = draft.with_default("patch_fraction", *_patch_fraction(seen, draft.values))
    try:
        return Plan(**draft.values, reasons=draft.reasons)
    except ValidationError as error:
        raise UserError(f"The plan settings do not fit together: {plan_errors(error)}.") from error


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
    draft = _decided(dataset, settings)
    normalise = draft.values.get("normalise") or _normalise(dataset.channels, colours=False)[0]
    words = _words(normalise, len(dataset.channels))
    hounsfield = [index for index, word in enumerate(words) if word == "ct" and "window" not in draft.values]
    headers = read_headers(dataset, labeled, on_progress)
    sliced = _with_slicing(draft, headers, dataset.root).values
    axis = sliced["slice_axis"] if sliced["dimensions"] == 2 else None
    return with_structures(headers, dataset, hounsfield, labeled, axis, on_progress)


def _decided(dataset: Dataset, settings: PlanSettings) -> _Draft:
    """What the data need not decide, because a saved plan or a setting does, and why it is so."""
    plan: dict[str, Any] = {key: getattr(dataset, key) for key in ("channels", "classes", "ignore")}
    plan["regions"] = dict(dataset.regions)
    reasons: dict[str, str] = {}
    if settings.file is not None:
        saved = load_plan(settings.file)
        _require_made_for(saved, plan, settings.file, dataset.root)
        plan |= saved.model_dump(exclude_none=True, exclude={*plan, *BATCH, "reasons"})
        plan["orientation"] = saved.orientation  # also where it takes files as they are
        reasons |= {key: reason for key, reason in saved.reasons.items() if key not in BATCH}
    chosen = settings.model_dump(exclude_none=True, exclude={"file", "memory_gib"})
    return _Draft(plan | chosen, reasons | dict.fromkeys(chosen, "set by the user."))


def _require_made_for(saved: Plan, facts: dict[str, Any], path: Path, root: Path) -> None:
    for key, found in facts.items():
        if getattr(saved, key) != found:
            raise UserError(
                f"{path} is a plan for other data: its {key} are {_listed(getattr(saved, key))}, those of {root} are "
                f"{_listed(found)}. Take another plan, or let the data decide."
            )


def _listed(value: object) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)


def _with_slicing(draft: _Draft, seen: Fingerprint, root: Path) -> _Draft:
    """Slices or volumes, and the axis that slices are taken along."""
    draft = draft.with_default("dimensions", *_dimensions(seen))
    if draft.values["dimensions"] == 3 and any(len(scan.shape) == 2 for scan in seen.scans):
        raise UserError(f"plan.dimensions is 3, but {root} has two-dimensional files. Set it to 2.")
    return draft.with_default("slice_axis", *_slice_axis(seen.scans)) if draft.values["dimensions"] == 2 else draft


def _orientation(seen: Fingerprint) -> tuple[str | None, str]:
    own = sorted({str(scan.orientation) for scan in seen.scans})
    if len(own) > 1:
        return seen.orientation, f"axes run in several orders ({', '.join(own)}); all scans are brought to this one."
    return seen.orientation, "axes of all scans run so; others are brought to it, and their masks back."


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
    """One of length 1; else the coarsest axis; where spacing does not tell, the shortest; else the last."""
    volumes = [scan for scan in scans if len(scan.shape) == 3]
    if not volumes:
        return 2, "files hold one slice each."
    shape = np.median([scan.shape for scan in volumes], axis=0)
    if (shape == 1).sum() == 1:
        return int(shape.argmin()), "files hold a single slice along this axis."
    spacing = np.median([scan.spacing_mm for scan in volumes], axis=0)
    if spacing.max() >= 1.5 * np.sort(spacing)[1]:
        return int(spacing.argmax()), f"slices lie {spacing.max():.3g} mm apart along this axis."
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


def _fit(shapes: np.ndarray, spacings: np.ndarray, colours: bool, memory_gib: float) -> tuple[str, str]:
    if colours:
        return "crop", "what colour pictures show is told by its size in pixels, so they are not stretched."
    if shapes.shape[1] == 3 and not seen_whole(shapes, memory_gib):
        return "crop", "volumes have more voxels than a step has memory for, so pieces are learned from, unsqueezed."
    if shapes.shape[1] == 2 and (spacings == 1).all():
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
    """Target spacing: the median; between thick slices of volumes a finer one, but none finer than within the slices.

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
    return "ct" if names_ct(channel) else NORMALISE_BY_NAME.get(channel.casefold(), "percentile")


def _words(normalise: str | Sequence[str], channels: int = 1) -> tuple[str, ...]:
    return (normalise,) * channels if isinstance(normalise, str) else tuple(normalise)


def _window(normalise: str | Sequence[str], seen: Fingerprint) -> tuple[tuple[float, float], str]:
    """Intensity window, to [0, 1]: an affine step away from nnU-Net's z-score, and dark stays dark for the patches."""
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
    """Side of a patch: a quarter, or twice the longest side of the smallest class, if that is less; in sixteenths.

    Patches come every half side, so whatever is no longer than that lies whole in one of them, and larger patches would
    show more of what is around it. Sixteenths, rounded up, because sides vary with who is labeled.
    """
    minimum, most = PATCH_FRACTIONS
    spans = {kind.name: max(_spanned(kind, plan)) for kind in seen.classes[1:] if kind.side_fraction}
    if not spans:
        return most, "a quarter of the image, one every half side; no labeled mask tells how large structures are."
    name = min(spans, key=spans.__getitem__)
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
