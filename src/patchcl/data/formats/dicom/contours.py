"""RTSTRUCT: structures drawn as contours in the patient, slice by slice on the images of a series.

A voxel belongs to a structure if its centre lies inside: of the contours in a slice inside an odd number, so that one
within another is a hole. A centre on a contour is inside, as contours that programs draw around a mask run through the
centres of its outermost voxels.
"""

from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import NamedTuple

import numpy as np

from patchcl.core.errors import UserError
from patchcl.data.formats.base import reading
from patchcl.data.formats.dicom.frames import KIND, Dataset, read_content
from patchcl.data.formats.dicom.polygons import filled
from patchcl.data.formats.dicom.segmentation import plain
from patchcl.data.formats.dicom.series import Series
from patchcl.data.formats.dicom.stack import LPS_TO_RAS
from patchcl.data.geometry import GRID_TOLERANCE, Grid

STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
"""UID of RTSTRUCT."""
CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
"""Contours with an inside; points and open lines have none."""

FARTHEST_MM = 1e6
"""No patient reaches so far; larger coordinates are damage."""


class Roi(NamedTuple):
    """One structure."""

    name: str
    contours: tuple[np.ndarray, ...]  # closed ones, corners (N, 3) in mm of DICOM's LPS axes


class StructureSet(NamedTuple):
    """What a file holds."""

    path: Path
    series: frozenset[str]  # UIDs of those whose images it was drawn on
    references: frozenset[str]  # UIDs of the frames of reference that its coordinates belong to
    rois: tuple[Roi, ...]  # in the order of their numbers

    @property
    def drawn(self) -> list[str]:
        """The names of structures that have an inside, each once."""
        return list({plain(roi.name): roi.name for roi in reversed(self.rois) if roi.contours}.values())[::-1]

    @property
    def without_inside(self) -> list[str]:
        """The names of structures of points and open lines, or of nothing."""
        return [roi.name for roi in self.rois if not roi.contours]


def says_structure_set(path: Path, header: Dataset) -> bool:
    """Whether the file at `path` is an RTSTRUCT, by its `header`."""
    with reading(path, KIND):
        return bool(header.get("SOPClassUID") == STRUCTURE_SET)


def read_structure_set(path: Path) -> StructureSet:
    """The RTSTRUCT at `path`.

    Raises:
        UserError: It is damaged, or a contour has no coordinates.
    """
    content = read_content(path)
    with reading(path, KIND):
        described = content.get("StructureSetROISequence") or []
        names = {int(roi.ROINumber): str(roi.get("ROIName") or "") for roi in described}
        contours: dict[int, list[np.ndarray]] = {number: [] for number in sorted(names)}
        for item in content.get("ROIContourSequence") or []:
            number = int(item.ReferencedROINumber)
            if number not in names:
                raise UserError(f"{path} draws the ROI {number}, which it does not describe. Export it again.")
            contours[number] += _contours(path, names[number], item)
        frames = content.get("ReferencedFrameOfReferenceSequence") or []
        uids = {str(roi.get("ReferencedFrameOfReferenceUID") or "") for roi in described}
        uids |= {str(frame.get("FrameOfReferenceUID") or "") for frame in frames}
        rois = tuple(Roi(names[number], tuple(drawn)) for number, drawn in contours.items())
        return StructureSet(path, frozenset(_series(frames)), frozenset(uids - {""}), rois)


def _series(frames: Sequence[Dataset]) -> Iterator[str]:
    for frame in frames:
        for study in frame.get("RTReferencedStudySequence") or []:
            for series in study.get("RTReferencedSeriesSequence") or []:
                yield str(series.get("SeriesInstanceUID", ""))


def _contours(path: Path, name: str, item: Dataset) -> Iterator[np.ndarray]:
    """The closed contours of one structure."""
    for contour in item.get("ContourSequence") or []:
        if contour.get("ContourGeometricType") not in CLOSED:
            continue
        stored = contour.get_item("ContourData").value  # as bytes: pydicom would make an object of every number
        numbers = np.array(stored.split(b"\\"), dtype=np.float64)
        count = int(contour.get("NumberOfContourPoints") or len(numbers) // 3)
        if len(numbers) != 3 * count or not (np.abs(numbers) < FARTHEST_MM).all():
            raise UserError(
                f"{path}: a contour of {name!r} holds {len(numbers)} numbers; expected 3 for each of {count} points, "
                f"below {FARTHEST_MM:g} mm. Export it again."
            )
        if count > 2:
            yield numbers.reshape(-1, 3)


def is_mask_of(found: StructureSet, image: Series, grid: Grid, there: Set[str]) -> bool:
    """Whether the structures were drawn on the series `image`, which has `grid`, and no other UID `there`.

    They may name a series that is not there, as when UIDs were made anew; then their contours have to lie on it.

    Raises:
        UserError: They belong to no series.
    """
    if named := there & found.series:
        return image.uid in named
    own = {str(header.get("FrameOfReferenceUID") or "") for header in image.files.values()} - {""}
    try:
        if own and found.references and not own & found.references:
            raise UserError("another frame of reference")
        for name in found.drawn:
            _inside(found, name, grid)
    except UserError:
        raise UserError(
            f"{found.path} holds contours of no series that lies with it, and they do not fit the slices of "
            f"{image.description!r}"
        ) from None
    return True


def painted(found: StructureSet, grid: Grid, classes: Sequence[str], in_order: bool) -> np.ndarray:
    """The class of every voxel of `grid`, (*shape) uint8.

    Structures are told by their names, as `plain` compares them; those that are no class are left aside.

    Args:
        found: The structures.
        grid: That of the series.
        classes: Their names, background first.
        in_order: Where structures overlap, the later class counts; else that is refused.

    Raises:
        UserError: A contour lies beside the slices or across them, structures overlap, or of one nothing is left.
    """
    drawn = {plain(name) for name in found.drawn}
    if not drawn & {plain(name) for name in classes[1:]}:
        raise UserError(
            f"{found.path} has none of the structures {', '.join(classes[1:])}; it has {', '.join(found.drawn)}. "
            "Name those to learn as they are called there: --structures A,B. Or remove it: its scan is unlabeled then."
        )
    mask = np.zeros((*grid.shape, 1)[:3], dtype=np.uint8)
    shared: dict[tuple[str, str], int] = {}
    counts = np.zeros(len(classes), dtype=np.int64)
    for value, name in enumerate(classes[1:], start=1):
        voxels = _inside(found, name, grid)
        under = np.bincount(mask[voxels], minlength=len(classes))
        shared |= {(classes[other], name): int(under[other]) for other in (np.flatnonzero(under[1:]) + 1).tolist()}
        mask[voxels] = value
        counts[value] = under.sum()
    if shared and not in_order:
        pairs = [f"{first!r} and {second!r} ({count} voxels)" for (first, second), count in shared.items()]
        raise UserError(
            f"{found.path}: structures overlap, and a voxel has one class: {'; '.join(pairs)}. Name those to learn, of "
            f"which later ones are painted over earlier ones: --structures {','.join(classes[1:])}"
        )
    covered = [name for value, name in enumerate(classes) if counts[value] and not (mask == value).any()]
    if covered:
        raise UserError(
            f"{found.path}: nothing is left of {', '.join(covered)} beside the classes that come later. Name a "
            f"structure that holds others before these: --structures OUTER,INNER. The classes are {', '.join(classes)}."
        )
    return mask.reshape(grid.shape)


def _inside(found: StructureSet, name: str, grid: Grid) -> np.ndarray:
    """The voxels of the structure `name`, bool (columns, rows, slices)."""
    shape = (*grid.shape, 1)[:3]
    to_voxels = np.linalg.inv(grid.affine) @ LPS_TO_RAS
    contours = [
        corners @ to_voxels[:3, :3].T + to_voxels[:3, 3]
        for roi in found.rois
        if plain(roi.name) == plain(name)
        for corners in roi.contours
    ]
    voxels = np.zeros(shape, dtype=bool)
    for slice_, own in _by_slice(found.path, name, contours, shape).items():
        voxels[..., slice_] = filled([corners[:, :2] for corners in own], (shape[0], shape[1]))
    return voxels


def _by_slice(
    path: Path, name: str, contours: Sequence[np.ndarray], shape: tuple[int, ...]
) -> dict[int, list[np.ndarray]]:
    """The contours (N, 3), in voxels, of each slice: those in the plane nearest to it, half a slice away at most."""
    levels = np.array([_level(path, name, corners, shape) for corners in contours])
    slices = np.clip(np.rint(levels), 0, shape[2] - 1)
    chosen: dict[int, list[np.ndarray]] = {}
    for slice_ in np.unique(slices).astype(int).tolist():
        own = levels[slices == slice_]
        nearest = own[np.abs(own - slice_).argmin()]
        same = (slices == slice_) & (np.abs(levels - nearest) <= GRID_TOLERANCE)
        chosen[slice_] = [contours[place] for place in np.flatnonzero(same).tolist()]
    gaps = np.diff(np.array(list(chosen)))
    if len(gaps) > 1 and gaps.min() > 1:
        raise UserError(
            f"{path}: {name!r} is drawn on {len(chosen)} slices, of which no two are next to each other. Interpolate "
            "its contours where they were drawn, so that every slice between has one."
        )
    return chosen


def _level(path: Path, name: str, corners: np.ndarray, shape: tuple[int, ...]) -> float:
    """The slice, as a fraction, in which a contour (N, 3) lies."""
    low, high = corners.min(axis=0), corners.max(axis=0)
    if high[2] - low[2] > 2 * GRID_TOLERANCE:
        raise UserError(
            f"{path}: a contour of {name!r} runs across the slices {low[2]:.1f} to {high[2]:.1f} of its series; "
            "expected contours in the planes of slices. Use the series that it was drawn on, or export a DICOM-SEG."
        )
    level = float(corners[:, 2].mean())
    limit = np.array(shape) - 0.5 + GRID_TOLERANCE
    if ([high[0], high[1], level] < np.array(-0.5 - GRID_TOLERANCE)).any() or ([low[0], low[1], level] > limit).any():
        raise UserError(
            f"{path}: a contour of {name!r} lies beside its series, at the voxels {np.round(low, 1).tolist()} to "
            f"{np.round(high, 1).tolist()} of {shape}. Put all slices of the series there that it was drawn on."
        )
    return level
