"""DICOM-SEG: masks as files that name their segments and say in which slices of which scan they lie.

Frames are put where their positions say; a slice without a frame is background. Alone, without its scan, a file has
the grid that reaches from its first frame to its last.

Frames are placed here, not by highdicom. Its `match_geometry` crops what lies outside the scan, or returns another
shape than that asked for, without a word; `get_volume` refuses masks of radiographs and overlaps within a class, does
not see segments that are not described, and names neither frames nor segments in what it refuses.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import NamedTuple

import numpy as np

from patchcl.core.errors import UserError
from patchcl.data.formats.base import Format, reading
from patchcl.data.formats.dicom.frames import KIND, Dataset, Frame, frames_of, read_header, says_segmentation
from patchcl.data.formats.dicom.pixels import read_pixels
from patchcl.data.formats.dicom.series import ENDINGS, Series, chosen_series
from patchcl.data.formats.dicom.series import read_grid as read_image_grid
from patchcl.data.formats.dicom.stack import LPS_TO_RAS, SAME_MM, depth, grid_between, require_one_plane
from patchcl.data.formats.dicom.writing import write_like
from patchcl.data.geometry import GRID_TOLERANCE, Grid

MOST_SEGMENTS = 65535
MOST_CLASSES = 255
"""Background and all: they are kept in a byte, whose highest value marks what nobody annotated."""
UNDESCRIBED = -1


class Segmentation(NamedTuple):
    """What a file holds."""

    path: Path
    header: Dataset
    labels: dict[int, str]  # of every segment, by its number
    frames: list[Frame]
    planes: Iterator[np.ndarray]  # (rows, columns) for each frame: the number of the segment, 0 for none


def is_segmentation(path: Path) -> bool:
    """Whether the DICOM file at `path` is a segmentation."""
    return says_segmentation(path, read_header(path))


def labels_of(path: Path, header: Dataset) -> dict[int, str]:
    """Number -> label of every segment that the segmentation at `path` describes."""
    with reading(path, KIND):  # pydicom looks at a field when it is asked for
        labels = {int(part.SegmentNumber): str(part.get("SegmentLabel", "")) for part in header.SegmentSequence}
        labels.pop(0, None)  # a map of labels may describe the background too
        return labels


def is_mask_of(path: Path, header: Dataset, image: Series, grid: Grid, there: Set[str]) -> bool:
    """Whether the segmentation at `path` was drawn on the series `image`, which has `grid`, and no other UID `there`.

    A mask may name a series that is not there, as when UIDs were made anew; then its frames have to be slices of it.

    Raises:
        UserError: It belongs to no series.
    """
    with reading(path, KIND):
        references = header.get("ReferencedSeriesSequence") or []
        named = there & {str(part.get("SeriesInstanceUID", "")) for part in references}
    if named:
        return image.uid in named
    try:
        _require_same_reference(path, header, image, path)
        for frame in frames_of(path, header):
            _placing(frame, grid)
    except UserError:
        raise UserError(
            f"{path} is a mask of no series that lies with it, and does not fit the slices of {image.description!r}"
        ) from None
    return True


def read_segmentation(path: Path, onto: Path | Grid, classes: Sequence[str]) -> np.ndarray:
    """The class of every voxel, (*shape) uint8, on the grid of the scan `onto`.

    Segments are told by their labels where these are names in `classes` (small and capital letters alike); where
    none is, by their numbers, which then are classes.

    Raises:
        UserError: A segment is no class, two overlap, pixels are fractions, or a frame lies on no slice of the scan.
    """
    grid = onto if isinstance(onto, Grid) else read_image_grid(onto)
    found = _open(path)
    if isinstance(onto, Path):
        _require_same_reference(path, found.header, chosen_series(onto), onto)
    if len(classes) > MOST_CLASSES:
        raise UserError(f"{path} cannot be read for {len(classes)} classes; at most {MOST_CLASSES} fit. Join some.")
    return _painted(found, grid, _classes_of(found, classes)).astype(np.uint8)


def read_grid(path: Path) -> Grid:
    """The grid from the first frame to the last one of the segmentation at `path`.

    Raises:
        UserError: The file is damaged or is no segmentation, or its frames differ in size or direction.
    """
    return _grid_of(frames_of(path, _header(path)), path)


def read_classes(path: Path) -> np.ndarray:
    """The number of the segment of every voxel, (*shape) uint16, on the grid of the file alone.

    Raises:
        UserError: Two segments overlap, or pixels are fractions.
    """
    found = _open(path)
    return _painted(found, _grid_of(found.frames, path), {number: number for number in found.labels})


def read_values(path: Path) -> np.ndarray:
    """`read_classes` with an axis for the channel."""
    return read_classes(path)[None]


def plain(name: str) -> str:
    """A label without what does not matter when it is compared."""
    return name.casefold().replace("_", " ").replace("-", " ").strip()


def _header(path: Path) -> Dataset:
    header = read_header(path)
    if not says_segmentation(path, header):
        raise UserError(
            f"{path} is no DICOM segmentation but {header.get('Modality', 'something else')}. "
            "Save masks as DICOM-SEG, or in another format."
        )
    return header


def _open(path: Path) -> Segmentation:
    """The segmentation at `path`.

    Raises:
        UserError: It is none or damaged, its pixels are fractions, or a frame names no segment.
    """
    header = _header(path)
    frames = frames_of(path, header)
    content, pixels = read_pixels(path)
    with reading(path, KIND):
        return Segmentation(path, header, labels_of(path, content), frames, _numbers(content, frames, pixels))


def _numbers(content: Dataset, frames: Sequence[Frame], pixels: np.ndarray) -> Iterator[np.ndarray]:
    """The number of the segment in every pixel, frame by frame; fractions are refused unless each is all or nothing."""
    if content.get("SegmentationType") == "LABELMAP":
        return iter(pixels)
    path = frames[0].path
    highest = content.get("MaximumFractionalValue", 1) if content.get("SegmentationType") == "FRACTIONAL" else 1
    between = int(((pixels != 0) & (pixels != highest)).sum())
    if between:
        raise UserError(
            f"{path} holds fractions: {between} pixels lie between 0 and {highest}. Expected all or nothing: "
            "choose a threshold where the mask was made, and export it as a binary segmentation."
        )
    for frame in frames:
        if frame.segment is None:
            raise UserError(f"{path}: frame {frame.place + 1} names no segment. Export the mask again.")
    return (plane.astype(bool) * np.uint16(frame.segment or 0) for plane, frame in zip(pixels, frames, strict=True))


def _grid_of(frames: Sequence[Frame], path: Path) -> Grid:
    """From the first frame to the last; some between them may be left out."""
    if len(frames) == 1 and frames[0].position is None:
        return read_image_grid(path)
    require_one_plane(frames, path)
    ordered = sorted(frames, key=depth)
    gaps = np.diff([depth(frame) for frame in ordered])
    gaps = gaps[gaps >= SAME_MM]
    if not gaps.size:
        return grid_between(ordered[0], ordered[0], 1, path)
    stated = gaps / frames[0].depth_mm
    fits = np.abs(stated - np.rint(stated)).max() <= GRID_TOLERANCE
    steps = stated if fits and stated.min() > 1 - GRID_TOLERANCE else gaps / gaps.min()
    return grid_between(ordered[0], ordered[-1], int(np.rint(steps).sum()) + 1, path)


def _require_same_reference(path: Path, header: Dataset, series: Series, where: Path) -> None:
    """Refuse a mask that was drawn in another frame of reference than the one that its scan names, if both do."""
    with reading(path, KIND):
        found, *others = (str(one.get("FrameOfReferenceUID", "")) for one in (header, *series.files.values()))
    expected = set(others) - {""}
    if found and expected and found not in expected:
        raise UserError(
            f"{path} was drawn in another frame of reference than {where}: {found}, but expected {min(expected)}. "
            "Use the mask of this very series."
        )


def _classes_of(found: Segmentation, classes: Sequence[str]) -> dict[int, int]:
    """The class of every segment, by its number."""
    values = {plain(name): value for value, name in enumerate(classes)}
    named = {number: values[plain(label)] for number, label in found.labels.items() if plain(label) in values}
    if len(named) == len(found.labels):
        return named
    if not named and all(0 < number < len(classes) for number in found.labels):
        return {number: number for number in found.labels}
    unknown = ", ".join(f"{number} {label!r}" for number, label in found.labels.items() if number not in named)
    raise UserError(
        f"{found.path} has segments that are no class: {unknown}. The classes are {', '.join(classes[1:])}. "
        "Name the segments like the classes, or remove them."
    )


def _painted(found: Segmentation, grid: Grid, classes: Mapping[int, int]) -> np.ndarray:
    """The class of every voxel, (*shape) uint16, from all frames."""
    value = np.full(MOST_SEGMENTS + 1, UNDESCRIBED)
    value[list(classes)] = list(classes.values())
    painted = np.zeros((*grid.shape, 1)[:3], dtype=np.uint16)
    for frame, numbers in zip(found.frames, found.planes, strict=True):
        rows, columns = np.nonzero(numbers)
        new = value[numbers[rows, columns]]
        if (new == UNDESCRIBED).any():
            strange = np.unique(numbers[rows, columns][new == UNDESCRIBED]).tolist()
            raise UserError(f"{found.path} uses segments {strange} that it does not describe. Export it again.")
        voxels = tuple(_voxels(_placing(frame, grid), columns, rows).T)
        old = painted[voxels]
        clash = (old != 0) & (old != new)
        if clash.any():
            values = {int(old[clash][0]), int(new[clash][0])}
            names = " and ".join(repr(label) for number, label in found.labels.items() if classes[number] in values)
            raise UserError(
                f"{found.path}: the segments {names} overlap in {clash.sum()} pixels of frame {frame.place + 1}, and a "
                "voxel has one class. Separate them where they were drawn."
            )
        painted[voxels] = new
    return painted.reshape(grid.shape)


def _placing(frame: Frame, grid: Grid) -> np.ndarray:
    """(3, 3) int64: the voxel of `grid` where the first pixel lies, the steps from column to column and row to row.

    A frame may be a part of a slice, turned or mirrored.

    Raises:
        UserError: Its pixels are no voxels.
    """
    exact = _exact_placing(frame, grid)
    whole = np.rint(exact).astype(np.int64)
    columns, rows = np.array(frame.size) - 1
    corners = np.array([0, columns, 0, columns]), np.array([0, 0, rows, rows])
    found, placed = (_voxels(placing, *corners) for placing in (exact, whole))
    unit = (np.abs(whole[1:]).sum(axis=1) == 1).all()
    last = np.array((*grid.shape, 1)[:3]) - 1
    if not unit or np.abs(found - placed).max() > GRID_TOLERANCE or (placed < 0).any() or (placed > last).any():
        raise UserError(
            f"{frame.path}: frame {frame.place + 1} lies on no slice of its scan: its corners are the voxels "
            f"{np.round(found.min(axis=0), 2).tolist()} to {np.round(found.max(axis=0), 2).tolist()}, but those of the "
            f"scan are whole numbers up to {last.tolist()}. Use the mask of this very scan, or resample it."
        )
    return np.asarray(whole)


def _exact_placing(frame: Frame, grid: Grid) -> np.ndarray:
    if frame.position is None or frame.directions is None:  # a projection: pixel for pixel
        return np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    to_voxels = np.linalg.inv(grid.affine) @ LPS_TO_RAS
    steps = frame.directions * np.array([frame.spacing_mm]).T
    return np.stack([(to_voxels @ [*frame.position, 1.0])[:3], *(steps @ to_voxels[:3, :3].T)])


def _voxels(placing: np.ndarray, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The voxels of pixels (N, 3)."""
    return np.asarray(placing[0] + np.outer(columns, placing[1]) + np.outer(rows, placing[2]))


FORMAT = Format("DICOM-SEG", ENDINGS, read_grid, read_values, write_like, read_classes, read_segmentation)
