"""How well single objects, such as glands or nuclei, were found: the three scores of the GlaS challenge.

An object is one id of an instance map; a mask without ids has its connected components for objects.

Source: Sirinukunwattana et al., 2017, https://arxiv.org/abs/1603.00275, section 5, and the challenge's own code
(evaluation_v6) where the two differ. Deviation: where one side has no object at all the challenge's distance is
infinite; here it is the image diagonal, see `OBJECT_POLICY`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Integer
from scipy.ndimage import distance_transform_edt, find_objects, generate_binary_structure, label

from patchcl.core.errors import UserError
from patchcl.data.geometry import Grid
from patchcl.data.scan import IGNORED, read_ids
from patchcl.evaluation.metrics import image_diagonal

OBJECT_POLICY = (
    "Objects as in the GlaS challenge: a predicted object is found right if it covers more than half of the reference "
    "object that it shares most with, of which F1 is made; Dice and Hausdorff are means over objects by their area, of "
    "each predicted object against that partner and the other way round. An object without a partner has Dice 0 and "
    "the Hausdorff distance of the nearest, or the image diagonal if there is none. In one pool, as the challenge has "
    "it, an object weighs the same whatever image it is in. Where masks carry no ids objects are connected components, "
    "corners included; no hole is filled and no small object removed."
)
"""How objects are made and scored; printed under every table that shows such scores."""


class ObjectScore(NamedTuple):
    """How well the objects of some images were found."""

    f1: float  # 0 .. 1
    dice: float  # 0 .. 1
    hausdorff_mm: float


class Side(NamedTuple):
    """Sums over the objects of one side, predicted or reference, each against its partner on the other."""

    objects: int
    area: float  # voxels
    dice: float  # weighted by area
    hausdorff_mm: float  # weighted by area


class ObjectTally(NamedTuple):
    """What the scores of images are made of. The tallies of single images add up to that of all of them."""

    right: int  # predicted objects that cover more than half of their partner
    predicted: Side
    reference: Side


class _Objects(NamedTuple):
    """An instance map with ids 1 .. N, and where each object lies."""

    ids: Int[np.ndarray, "*S"]
    boxes: list[tuple[slice, ...]]
    corners_mm: np.ndarray  # (N, 2 D) first and last coordinates


def components(mask: Bool[np.ndarray, "*S"]) -> Int[np.ndarray, "*S"]:
    """The connected components of `mask` as ids 1 .. N, 0 outside; voxels that share a corner are connected."""
    ids, _ = label(mask, structure=generate_binary_structure(mask.ndim, mask.ndim))
    return np.asarray(ids)


def tally_structures(
    predicted: Integer[np.ndarray, "*S"],
    reference: Integer[np.ndarray, "*S"],
    classes: Sequence[str],
    spacing_mm: Sequence[float],
    instances: Integer[np.ndarray, "*S"] | None = None,
) -> dict[str, ObjectTally]:
    """The objects of every structure of `classes` but the background, in two masks of one image.

    Objects of the reference are the ids of `instances` where they are known. Voxels whose reference is no class are
    counted on neither side.
    """
    known = reference < len(classes)
    return {
        structure: tally_objects(
            components(predicted == value) * known,
            components(reference == value) if instances is None else instances * (reference == value),
            spacing_mm,
        )
        for value, structure in enumerate(classes)
        if value > 0
    }


def tally_objects(
    predicted: Integer[np.ndarray, "*S"], reference: Integer[np.ndarray, "*S"], spacing_mm: Sequence[float]
) -> ObjectTally:
    """Count and measure the objects of two instance maps of one image; 0 is the background, ids may have gaps."""
    found, wanted = _objects(predicted, spacing_mm), _objects(reference, spacing_mm)
    shared = _shared(found, wanted)
    return ObjectTally(
        right=_right(shared),
        predicted=_side(shared, found, wanted, spacing_mm),
        reference=_side(shared.T, wanted, found, spacing_mm),
    )


def pooled(tallies: Sequence[ObjectTally]) -> ObjectTally:
    """The tally of all images together, in which each object counts by its area, whatever image it is in."""
    right, predicted, reference = zip(*tallies, strict=True)
    return ObjectTally(sum(right), _added(predicted), _added(reference))


def score_objects(tally: ObjectTally) -> ObjectScore:
    """The three scores of a tally; F1 and Dice 1 and distance 0 where there is no object on either side."""
    right, predicted, reference = tally
    sides = [side for side in (predicted, reference) if side.objects]
    if not sides:
        return ObjectScore(1.0, 1.0, 0.0)
    return ObjectScore(
        f1=2 * right / (predicted.objects + reference.objects),
        dice=sum(side.dice / side.area for side in sides) / len(sides),
        hausdorff_mm=sum(side.hausdorff_mm / side.area for side in sides) / len(sides),
    )


def _objects(ids: np.ndarray, spacing_mm: Sequence[float]) -> _Objects:
    values, numbered = np.unique(ids, return_inverse=True)
    numbered = (numbered.reshape(ids.shape) + (values[0] != 0)).astype(np.int64)  # a map may lack the background
    boxes = find_objects(numbered)
    corners = np.array([[edge for span in box for edge in (span.start, span.stop - 1)] for box in boxes], np.float64)
    return _Objects(numbered, boxes, corners.reshape(len(boxes), 2 * ids.ndim) * np.repeat(spacing_mm, 2))


def _shared(found: _Objects, wanted: _Objects) -> np.ndarray:
    """(P + 1, R + 1) voxels that two objects share; row and column 0 are the background."""
    shape = len(found.boxes) + 1, len(wanted.boxes) + 1
    pairs = found.ids * shape[1] + wanted.ids
    return np.bincount(pairs.ravel(), minlength=shape[0] * shape[1]).reshape(shape)


def _right(shared: np.ndarray) -> int:
    """Predicted objects that cover more than half of the reference object that they share most with."""
    if min(shared.shape) == 1:
        return 0
    common, areas = shared[1:, 1:], shared.sum(axis=0)[1:]
    return int(np.count_nonzero(2 * common.max(axis=1) > areas[common.argmax(axis=1)]))


def _side(shared: np.ndarray, own: _Objects, other: _Objects, spacing_mm: Sequence[float]) -> Side:
    """The sums over `own`, whose objects are the rows of `shared`."""
    areas = shared.sum(axis=1)[1:]
    if not other.boxes:
        diagonal = image_diagonal(own.ids.shape, spacing_mm)
        return Side(len(areas), float(areas.sum()), 0.0, float(areas.sum()) * diagonal)
    common = shared[1:, 1:]
    partners = common.argmax(axis=1)
    most = common.max(axis=1)
    dice = 2 * most / (areas + shared.sum(axis=0)[1:][partners])
    distances = [
        _hausdorff_mm(own, each, other, partner, spacing_mm) if overlap else _nearest_mm(own, each, other, spacing_mm)
        for each, (partner, overlap) in enumerate(zip(partners.tolist(), most.tolist(), strict=True))
    ]
    return Side(len(areas), float(areas.sum()), float(areas @ dice), float(areas @ np.array(distances)))


def _nearest_mm(own: _Objects, each: int, other: _Objects, spacing_mm: Sequence[float]) -> float:
    """The least Hausdorff distance from one object to any of the other side.

    Two objects are at least as far apart as the edges of their boxes, so most need not be measured.
    """
    bounds = np.abs(other.corners_mm - own.corners_mm[each]).max(axis=1)
    best = np.inf
    for place in bounds.argsort().tolist():
        if bounds[place] >= best:
            break
        best = min(best, _hausdorff_mm(own, each, other, place, spacing_mm))
    return float(best)


def _hausdorff_mm(own: _Objects, each: int, other: _Objects, place: int, spacing_mm: Sequence[float]) -> float:
    """How far the voxels of either object lie from the other at most; insides count, not surfaces alone."""
    box = tuple(
        slice(min(one.start, two.start), max(one.stop, two.stop))
        for one, two in zip(own.boxes[each], other.boxes[place], strict=True)
    )
    mine, theirs = own.ids[box] == each + 1, other.ids[box] == place + 1
    to_theirs = distance_transform_edt(~theirs, sampling=spacing_mm)[mine].max()
    to_mine = distance_transform_edt(~mine, sampling=spacing_mm)[theirs].max()
    return float(max(to_theirs, to_mine))


def _added(sides: Sequence[Side]) -> Side:
    objects, area, dice, hausdorff_mm = (sum(values) for values in zip(*sides, strict=True))
    return Side(int(objects), area, dice, hausdorff_mm)


def instances_beside(mask_file: Path, mask: Integer[np.ndarray, "*S"], grid: Grid) -> Integer[np.ndarray, "*S"] | None:
    """The ids of the objects in `mask`, from instancesTr for a mask in labelsTr; None without that folder.

    Raises:
        UserError: The folder lacks the file, which cannot be read or marks other voxels than the mask.
    """
    folder = mask_file.parent.with_name(mask_file.parent.name.replace("labels", "instances"))
    if folder == mask_file.parent or not folder.is_dir():
        return None
    path = folder / mask_file.name
    if not path.exists():
        raise UserError(f"{path} is missing: with --objects each mask needs its ids there, or none has any.")
    ids = read_ids(path, grid)
    differing = int(np.count_nonzero(((ids > 0) != (mask > 0)) & (mask != IGNORED)))
    if differing:
        raise UserError(
            f"{path} and {mask_file} disagree at {differing} voxels on what is an object and what is background. "
            "Correct one of them."
        )
    return ids
