"""Segmentation metrics: overlap of a predicted mask with the reference, and distances between their surfaces.

The distances follow medpy 0.4, which SSL4MIS and the tables published after it use, so figures can be compared:
a surface voxel is one with a background voxel among its face neighbours (outside the image counts as background),
95HD is the 95th percentile of both directions pooled, ASD the mean from the prediction to the reference alone.
Deliberate deviation: SSL4MIS scores a missed structure as distance 0, which is perfect; see `EMPTY_POLICY`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Integer
from scipy.ndimage import binary_erosion, distance_transform_edt, find_objects

EMPTY_POLICY = (
    "A structure that is present but not predicted, or predicted but not present, scores Dice 0, Jaccard 0 and the "
    "image diagonal as 95HD and ASD; one that is neither present nor predicted scores Dice 1, Jaccard 1 and distance 0."
)
"""How empty masks are scored; printed under every table."""
SURFACE_POLICY = (
    "Surface Dice is the share of both surfaces that lies within one voxel of the other, by the coarser of the two "
    "finest spacings of the scan; empty masks as for Dice."
)
"""How surface Dice is scored; printed under tables that have it."""
IGNORE_POLICY = (
    "Voxels that nobody annotated belong to neither mask. They bound no structure: where one meets them it has no "
    "surface, unless it has none elsewhere; then all its annotated voxels stand for its surface."
)
"""How ignored voxels are scored; printed under tables of masks that have some."""


class ClassScore(NamedTuple):
    """Metrics of one structure in one scan."""

    structure: str
    dice: float  # 0 .. 1
    jaccard: float  # 0 .. 1
    hd95_mm: float
    asd_mm: float
    surface_dice: float  # 0 .. 1


def dice(predicted: Bool[np.ndarray, "*S"], reference: Bool[np.ndarray, "*S"]) -> float:
    """Dice: twice the shared volume over the sum of both volumes, 0 .. 1; 1 if both masks are empty."""
    volumes = np.count_nonzero(predicted) + np.count_nonzero(reference)
    return float(2 * np.count_nonzero(predicted & reference) / volumes) if volumes else 1.0


def jaccard(predicted: Bool[np.ndarray, "*S"], reference: Bool[np.ndarray, "*S"]) -> float:
    """Jaccard: the shared volume over the joint volume, 0 .. 1; 1 if both masks are empty."""
    joint = np.count_nonzero(predicted | reference)
    return float(np.count_nonzero(predicted & reference) / joint) if joint else 1.0


def hausdorff95(
    predicted: Bool[np.ndarray, "*S"], reference: Bool[np.ndarray, "*S"], spacing_mm: Sequence[float]
) -> float:
    """95HD: the distance in mm that 95 % of all surface voxels, of either mask, lie within from the other surface.

    Source: medpy 0.4, medpy/metric/binary.py, hd95; empty masks by `EMPTY_POLICY`.
    """
    to_reference, to_predicted = surface_distances(predicted, reference, spacing_mm)
    return float(np.percentile(np.concatenate((to_reference, to_predicted)), 95))


def average_surface_distance(
    predicted: Bool[np.ndarray, "*S"], reference: Bool[np.ndarray, "*S"], spacing_mm: Sequence[float]
) -> float:
    """ASD: the mean distance in mm from the surface of the prediction to that of the reference, in that direction only.

    Source: medpy 0.4, medpy/metric/binary.py, asd; empty masks by `EMPTY_POLICY`.
    """
    return float(surface_distances(predicted, reference, spacing_mm)[0].mean())


def surface_distances(
    predicted: Bool[np.ndarray, "*S"],
    reference: Bool[np.ndarray, "*S"],
    spacing_mm: Sequence[float],
    known: Bool[np.ndarray, "*S"] | None = None,
) -> tuple[Float[np.ndarray, " surface"], Float[np.ndarray, " other_surface"]]:
    """From every surface voxel of either mask the distance in mm to the nearest surface voxel of the other mask.

    Args:
        predicted: The voxels of the structure.
        reference: The same.
        spacing_mm: Of the voxels.
        known: The voxels that were annotated, by default all; the others are treated by `IGNORE_POLICY`.

    Returns:
        The distances from the prediction to the reference, then from the reference to the prediction. Where a mask
        is empty both hold the one value that `EMPTY_POLICY` asks for.
    """
    if known is not None:
        predicted, reference = predicted & known, reference & known
    if not (predicted.any() and reference.any()):
        both_empty = predicted.any() == reference.any()
        policy = np.array([0.0 if both_empty else image_diagonal(predicted.shape, spacing_mm)])
        return policy, policy
    tight = find_objects((predicted | reference).astype(np.uint8))[0]
    box = tuple(slice(max(0, along.start - 1), along.stop + 1) for along in tight)  # with what bounds the structures
    unknown = None if known is None else ~known[box]
    surface, other = _surface(predicted[box], unknown), _surface(reference[box], unknown)
    return (
        distance_transform_edt(~other, sampling=spacing_mm)[surface],
        distance_transform_edt(~surface, sampling=spacing_mm)[other],
    )


def image_diagonal(shape: Sequence[int], spacing_mm: Sequence[float]) -> float:
    """The length in mm of the diagonal of the whole image, which no distance within it can exceed."""
    return float(np.linalg.norm(np.multiply(shape, spacing_mm)))


def surface_tolerance(spacing_mm: Sequence[float]) -> float:
    """The distance in mm within which surfaces count as one: that of pixels in the plane, the finest of a volume."""
    return float(sorted(spacing_mm)[1])


def score_case(
    predicted: Integer[np.ndarray, "*S"],
    reference: Integer[np.ndarray, "*S"],
    classes: Sequence[str],
    spacing_mm: Sequence[float],
    known: Bool[np.ndarray, "*S"] | None = None,
) -> list[ClassScore]:
    """One score per structure of `classes`, whose first entry is the background and is not scored.

    Where `known` is false nothing is scored, see `IGNORE_POLICY`.
    """
    if known is not None:
        predicted, reference = np.where(known, predicted, 0), np.where(known, reference, 0)
    return [
        _score_structure(structure, predicted == value, reference == value, spacing_mm, known)
        for value, structure in enumerate(classes)
        if value > 0
    ]


def _score_structure(
    structure: str,
    predicted: Bool[np.ndarray, "*S"],
    reference: Bool[np.ndarray, "*S"],
    spacing_mm: Sequence[float],
    known: Bool[np.ndarray, "*S"] | None,
) -> ClassScore:
    to_reference, to_predicted = surface_distances(predicted, reference, spacing_mm, known)
    return ClassScore(
        structure=structure,
        dice=dice(predicted, reference),
        jaccard=jaccard(predicted, reference),
        hd95_mm=float(np.percentile(np.concatenate((to_reference, to_predicted)), 95)),
        asd_mm=float(to_reference.mean()),
        surface_dice=float((np.concatenate((to_reference, to_predicted)) <= surface_tolerance(spacing_mm)).mean()),
    )


def _surface(mask: Bool[np.ndarray, "*S"], unknown: Bool[np.ndarray, "*S"] | None) -> Bool[np.ndarray, "*S"]:
    if unknown is None:
        return np.asarray(mask & ~binary_erosion(mask))
    edge = mask & ~binary_erosion(mask | unknown)
    return np.asarray(edge if edge.any() else mask)
