"""DICOM-SEG: masks as files that name their segments and say in which slices of which scan they lie.

Frames are put where their positions say; a slice without a frame is background. Alone, without its scan, a file has
the grid that reaches from its first frame to its last.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from patchcl.core.errors import UserError
from patchcl.core.files import atomic_write
from patchcl.core.version import __version__
from patchcl.data.formats.base import Format, reading
from patchcl.data.formats.dicom.frames import KIND, LPS_TO_RAS, Frame, field, frames_of, need_pydicom, read_header
from patchcl.data.formats.dicom.series import (
    ENDINGS,
    SAME_MM,
    SEGMENTATIONS,
    Series,
    Stack,
    chosen_series,
    depth,
    grid_between,
    read_pixels,
    read_stack,
    require_one_plane,
)
from patchcl.data.formats.dicom.series import read_grid as read_image_grid
from patchcl.data.geometry import GRID_TOLERANCE, Grid

IDENTITY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("AccessionNumber", "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
)
"""What every DICOM file has to state, if only as unknown; anonymised scans often lack some."""
MOST_SEGMENTS = 65535
MOST_CLASSES = 255
"""Background and all: they are kept in a byte, whose highest value marks what nobody annotated."""
UNDESCRIBED = -1


class Painting(NamedTuple):
    """The pixels of one frame that belong to a segment."""

    frame: Frame
    numbers: np.ndarray  # (rows, columns) of the segment, 0 for none


class Segmentation(NamedTuple):
    """What a file holds."""

    path: Path
    labels: dict[int, str]  # of every segment, by its number
    frames: list[Frame]
    reference: str  # UID of the frame of reference
    paintings: Iterator[Painting]


def is_segmentation(path: Path) -> bool:
    """Whether the DICOM file at `path` is a segmentation."""
    return _says_so(path, read_header(path))


def labels_of(path: Path, header: Any) -> dict[int, str]:  # noqa: ANN401 - a pydicom Dataset
    """Number -> label of every segment that the segmentation at `path` describes.

    Raises:
        UserError: It is damaged.
    """
    with reading(path, KIND):
        labels = {int(part.SegmentNumber): str(part.get("SegmentLabel", "")) for part in header.SegmentSequence}
        labels.pop(0, None)  # a map of labels may describe the background too
        return labels


def series_named_in(path: Path, header: Any) -> set[str]:  # noqa: ANN401 - a pydicom Dataset
    """UIDs of the series that the segmentation at `path` says it was drawn on.

    Raises:
        UserError: It is damaged.
    """
    with reading(path, KIND):
        return {str(part.get("SeriesInstanceUID", "")) for part in header.get("ReferencedSeriesSequence") or []}


def lies_on(path: Path, header: Any, series: Series, grid: Grid) -> bool:  # noqa: ANN401 - a pydicom Dataset
    """Whether all frames of the segmentation at `path` are slices of `series`, which has that `grid`."""
    references = _references(series)
    reference = str(header.get("FrameOfReferenceUID", ""))
    if reference and references and reference not in references:
        return False
    try:
        for frame in frames_of(path, header):
            _voxels(frame, grid, path)
    except UserError:
        return False
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
        _require_same_reference(found, onto)
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
    """`read_classes` with an axis for the channel.

    Raises:
        UserError: See `read_classes`.
    """
    return read_classes(path)[None]


def write_segmentation(path: Path, mask: np.ndarray, like: Path, classes: Sequence[str]) -> None:
    """Write the classes `mask` (*shape) as binary segments, one per class but the background, on the series `like`.

    Patient and study are those of the series, whose images are referenced; segments have the names and numbers of
    `classes`, also those that are nowhere in the mask.

    Raises:
        UserError: `like` cannot be read, or says too little of itself to be referenced.
    """
    stack = read_stack(like)
    if mask.shape != stack.grid.shape:
        raise ValueError(f"a mask of shape {mask.shape} does not fit {like} of shape {stack.grid.shape}")
    if mask.max(initial=0) >= len(classes):
        raise ValueError(f"the mask holds class {mask.max()}, but there are {len(classes)} names")
    planes = mask.reshape(*mask.shape[:2], -1).transpose(2, 1, 0).astype(np.uint8)
    order = sorted(range(len(stack.frames)), key=lambda slice_: stack.frames[slice_].place)  # as the files have them
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The string .* person name")  # how a hospital names people is its own
            content = _segmentation(_sources(stack, path), planes[order], stack, classes)
    except (AttributeError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} cannot be written as DICOM-SEG, because {like} does not suit it ({error}). "
            "Choose a name that ends in .nii.gz."
        ) from error
    atomic_write(path, lambda unfinished: content.save_as(unfinished, enforce_file_format=True))


def write_like(path: Path, values: np.ndarray, like: Path) -> None:
    """Write a mask whose classes have no names; see `write_segmentation`.

    Raises:
        UserError: `values` are no classes, or `like` is no DICOM series.
    """
    if values.dtype.kind not in "iub":
        raise UserError(f"{path} cannot hold {values.dtype} numbers, only classes. Choose a name that ends in .nii.gz.")
    names = ["background", *(f"class {value}" for value in range(1, int(values.max(initial=1)) + 1))]
    write_segmentation(path, values, like, names)


def _says_so(path: Path, header: Any) -> bool:  # noqa: ANN401 - a pydicom Dataset
    with reading(path, KIND):
        return header.get("SOPClassUID") in SEGMENTATIONS


def _header(path: Path) -> Any:  # noqa: ANN401 - a pydicom Dataset
    header = read_header(path)
    if not _says_so(path, header):
        raise UserError(
            f"{path} is no DICOM segmentation but {header.get('Modality', 'something else')}. "
            "Save masks as DICOM-SEG, or in another format."
        )
    return header


def _open(path: Path) -> Segmentation:
    """The segmentation at `path`."""
    header = _header(path)
    frames = frames_of(path, header)
    content, pixels = read_pixels(path)
    with reading(path, KIND):  # pydicom looks at a field when it is asked for
        labels = labels_of(path, content)
        reference = str(header.get("FrameOfReferenceUID", ""))
        if content.get("SegmentationType") == "LABELMAP":
            return Segmentation(path, labels, frames, reference, map(Painting, frames, pixels))
        _require_binary(content, pixels, path)
        owners = [_owner(content, frame) for frame in frames]
        numbers = (plane.astype(bool) * owner for owner, plane in zip(owners, pixels, strict=True))
        return Segmentation(path, labels, frames, reference, map(Painting, frames, numbers))


def _owner(content: Any, frame: Frame) -> np.uint16:  # noqa: ANN401 - a pydicom Dataset
    """The number of the segment that a frame of a binary segmentation shows."""
    shared, per_frame = (content.get(f"{kind}FunctionalGroupsSequence") or [] for kind in ("Shared", "PerFrame"))
    number = field(content, [*per_frame[frame.place : frame.place + 1], *shared[:1]], "ReferencedSegmentNumber")
    if number is None:
        raise UserError(f"{frame.path}: frame {frame.place + 1} names no segment. Export the mask again.")
    return np.uint16(number)


def _require_binary(content: Any, pixels: np.ndarray, path: Path) -> None:  # noqa: ANN401 - a pydicom Dataset
    """Refuse fractions, unless each is all or nothing."""
    highest = content.get("MaximumFractionalValue", 1) if content.get("SegmentationType") == "FRACTIONAL" else 1
    between = int(((pixels != 0) & (pixels != highest)).sum())
    if between:
        raise UserError(
            f"{path} holds fractions: {between} pixels lie between 0 and {highest}. Expected all or nothing: "
            "choose a threshold where the mask was made, and export it as a binary segmentation."
        )


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


def _require_same_reference(found: Segmentation, series: Path) -> None:
    """Refuse a mask that was drawn in other coordinates than those of its scan."""
    references = _references(chosen_series(series))
    if found.reference and references and found.reference not in references:
        raise UserError(
            f"{found.path} was drawn in another frame of reference than {series}: {found.reference}, but expected "
            f"{min(references)}. Use the mask of this very series."
        )


def _references(series: Series) -> set[str]:
    """UIDs of the frames of reference that its files name; one, unless they name none."""
    return {str(header.get("FrameOfReferenceUID", "")) for header in series.files.values()} - {""}


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


def plain(name: str) -> str:
    """A label without what does not matter when it is compared."""
    return name.casefold().replace("_", " ").replace("-", " ").strip()


def _painted(found: Segmentation, grid: Grid, classes: Mapping[int, int]) -> np.ndarray:
    """The class of every voxel, (*shape) uint16, from all frames."""
    value = np.full(MOST_SEGMENTS + 1, UNDESCRIBED)
    value[list(classes)] = list(classes.values())
    painted = np.zeros((*grid.shape, 1)[:3], dtype=np.uint16)
    for frame, numbers in found.paintings:
        rows, columns = np.nonzero(numbers)
        new = value[numbers[rows, columns]]
        if (new == UNDESCRIBED).any():
            strange = np.unique(numbers[rows, columns][new == UNDESCRIBED]).tolist()
            raise UserError(f"{found.path} uses segments {strange} that it does not describe. Export it again.")
        voxels = _voxels(frame, grid, found.path)(columns, rows)
        old = painted[voxels]
        clash = (old != 0) & (old != new)
        if clash.any():
            raise _overlap(found, classes, {int(old[clash][0]), int(new[clash][0])}, int(clash.sum()), frame)
        painted[voxels] = new
    return painted.reshape(grid.shape)


def _overlap(found: Segmentation, classes: Mapping[int, int], values: set[int], count: int, frame: Frame) -> UserError:
    names = " and ".join(repr(label) for number, label in found.labels.items() if classes[number] in values)
    return UserError(
        f"{found.path}: the segments {names} overlap in {count} pixels of frame {frame.place + 1}, and a voxel has "
        "one class. Separate them where they were drawn."
    )


class _Placing(NamedTuple):
    """How pixels of a frame become voxels of a grid, all in whole numbers."""

    origin: np.ndarray  # (3,) the voxel of the first pixel
    steps: np.ndarray  # (2, 3) from column to column and from row to row

    def __call__(self, columns: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, ...]:
        """The voxels of pixels, one array per axis."""
        return tuple((self.origin + np.outer(columns, self.steps[0]) + np.outer(rows, self.steps[1])).T)


def _voxels(frame: Frame, grid: Grid, path: Path) -> _Placing:
    """Where on `grid` the pixels of a frame lie, which may be a part of a slice, turned or mirrored."""
    exact = _exact_placing(frame, grid)
    whole = _Placing(*(np.rint(part).astype(np.int64) for part in exact))
    columns, rows = np.array(frame.size) - 1
    corners = np.array([0, columns, 0, columns]), np.array([0, 0, rows, rows])
    found, placed = (np.array(placing(*corners)).T for placing in (exact, whole))
    unit = (np.abs(whole.steps).sum(axis=1) == 1).all()
    last = np.array((*grid.shape, 1)[:3]) - 1
    if not unit or np.abs(found - placed).max() > GRID_TOLERANCE or (placed < 0).any() or (placed > last).any():
        raise UserError(
            f"{path}: frame {frame.place + 1} lies on no slice of its scan: its corners are the voxels "
            f"{np.round(found.min(axis=0), 2).tolist()} to {np.round(found.max(axis=0), 2).tolist()}, but those of the "
            f"scan are whole numbers up to {last.tolist()}. Use the mask of this very scan, or resample it."
        )
    return whole


def _exact_placing(frame: Frame, grid: Grid) -> _Placing:
    if frame.position is None or frame.directions is None:  # a projection: pixel for pixel
        return _Placing(np.zeros(3), np.eye(3)[:2])
    to_voxels = np.linalg.inv(grid.affine) @ LPS_TO_RAS
    steps = frame.directions * np.array([frame.spacing_mm]).T
    return _Placing((to_voxels @ [*frame.position, 1.0])[:3], steps @ to_voxels[:3, :3].T)


def _sources(stack: Stack, path: Path) -> list[Any]:
    """The headers of the images behind a stack, each file once, with what every DICOM file has to state."""
    pydicom = need_pydicom(path)
    files = list(dict.fromkeys(frame.path for frame in stack.frames))
    sources = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
    for source in sources:
        for keyword, value in (dict.fromkeys(IDENTITY, "") | {"SliceThickness": stack.frames[0].depth_mm}).items():
            if keyword not in source:
                setattr(source, keyword, value)
        if stack.frames[0].position is not None and "FrameOfReferenceUID" not in source:
            source.FrameOfReferenceUID = pydicom.uid.generate_uid(entropy_srcs=[source.SeriesInstanceUID])
        if "ImageOrientationPatient" in source:  # they may differ by rounding
            source.ImageOrientationPatient = sources[0].ImageOrientationPatient
    return sources


def _segmentation(sources: list[Any], planes: np.ndarray, stack: Stack, classes: Sequence[str]) -> Any:  # noqa: ANN401
    """The DICOM-SEG of `planes` (frames of the sources, rows, columns)."""
    highdicom = _need_highdicom(sources[0].filename)
    from highdicom.seg import Segmentation as Content

    content = Content(
        source_images=sources,
        pixel_array=planes,
        segmentation_type="BINARY",
        segment_descriptions=[_description(number, classes[number]) for number in range(1, len(classes))],
        series_instance_uid=highdicom.UID(),
        series_number=int(sources[0].get("SeriesNumber") or 0) + 1000,
        omit_empty_frames=bool(planes.any()),  # a mask that is empty throughout keeps its frames
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="patchcl",
        manufacturer_model_name="patchcl",
        software_versions=__version__,
        device_serial_number="0",
        series_description="patchcl segmentation",
        specific_character_set="ISO_IR 192",
    )
    if len(stack.grid.shape) == 3:  # highdicom copies what the images claim, which positions may belie
        measures = content.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        measures.SpacingBetweenSlices = f"{stack.grid.spacing_mm[2]:.10g}"
    return content


def _description(number: int, name: str) -> Any:  # noqa: ANN401 - highdicom's
    """A segment; its kind is the widest there is, since the name of a class tells no code."""
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentDescription
    from pydicom.sr.codedict import codes

    tissue = codes.SCT.Tissue
    algorithm = AlgorithmIdentificationSequence("patchcl", codes.cid7162.ArtificialIntelligence, __version__)
    return SegmentDescription(number, name, tissue, tissue, "AUTOMATIC", algorithm)


def _need_highdicom(path: object) -> Any:  # noqa: ANN401 - a module
    try:
        import highdicom
    except ImportError as error:
        raise UserError(f"{path} is DICOM, and DICOM-SEG needs highdicom: pip install 'patchcl[dicom]'") from error
    return highdicom


FORMAT = Format("DICOM-SEG", ENDINGS, read_grid, read_values, write_like, read_classes, read_segmentation)
