"""DICOM files, and what they say of their frames: where each one lies, and how its numbers are to be read."""

import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from patchcl.core.errors import UserError
from patchcl.data.formats.base import library, reading

KIND = "a DICOM file"
Dataset = Any
"""A pydicom Dataset; the library is loaded only where a file needs it."""
SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
"""UIDs of DICOM-SEG: segments one by one, and a map of labels."""

GROUPS = {
    **dict.fromkeys(("PixelSpacing", "SliceThickness", "SpacingBetweenSlices"), "PixelMeasuresSequence"),
    **dict.fromkeys(("RescaleSlope", "RescaleIntercept"), "PixelValueTransformationSequence"),
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "ReferencedSegmentNumber": "SegmentIdentificationSequence",
}
"""The group that holds a field in files of many frames; in files of one frame it stands at the top."""
FIELDS = (
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SeriesDescription", "Modality", "FrameOfReferenceUID"),
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "ImagerPixelSpacing"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", *GROUPS),
    *("SegmentSequence", "ReferencedSeriesSequence", "InstanceNumber"),
)
"""All that is ever read of a header; the rest is passed over, which is faster."""
IDENTITY = ("SOPClassUID", "SOPInstanceUID")
"""What every DICOM file says of itself."""
FIRST_GROUPS = (b"\x02\0", b"\x08\0", b"\0\x08")
"""What a file without preamble begins with: the group of its first field, of either byte order."""
SLOPE_OF_DIRECTIONS = 1e-3
"""How far the two directions of a picture may be from unit length and from a right angle."""


class Frame(NamedTuple):
    """One picture of a file; most files hold one, enhanced ones hold many."""

    path: Path
    place: int  # in its file, from 0
    frames: int  # that its file holds
    instance: str  # UID of the file's content
    size: tuple[int, int]  # columns, rows
    position: np.ndarray | None  # (3,) the centre of its first pixel, mm in DICOM's LPS axes
    directions: np.ndarray | None  # (2, 3) unit vectors from column to column and from row to row
    spacing_mm: tuple[float, float]  # from column to column and from row to row
    depth_mm: float  # what the header says of the distance between slices
    slope: float  # value = slope * stored + intercept
    intercept: float
    segment: int | None = None  # that a frame of a segmentation shows

    @property
    def name(self) -> str:
        """How messages call it."""
        return self.path.name if self.frames == 1 else f"{self.path.name} (frame {self.place + 1})"


def is_dicom(path: Path) -> bool:
    """Whether the file at `path` has the mark of DICOM after its first 128 bytes, or reads as DICOM without it."""
    with reading(path, KIND), path.open("rb") as file:
        start = file.read(132)
    return start[128:] == b"DICM" or _is_bare(path, start)


def _is_bare(path: Path, start: bytes) -> bool:
    """Whether the file at `path`, which begins with `start`, is DICOM without preamble and mark: it says what it is."""
    if start[128:] == b"DICM" or start[:2] not in FIRST_GROUPS:
        return False
    pydicom = library("pydicom", path, "DICOM", "dicom")
    try:
        with path.open("rb") as file:
            header = pydicom.dcmread(file, force=True, stop_before_pixels=True, specific_tags=list(IDENTITY))
        return all(pydicom.uid.UID(str(header.get(keyword, ""))).is_valid for keyword in IDENTITY)
    except Exception:  # pydicom raises whatever it likes on what is no DICOM
        return False


def says_segmentation(path: Path, header: Dataset) -> bool:
    """Whether the file at `path` is a segmentation, by its `header`."""
    with reading(path, KIND):  # pydicom looks at a field when it is asked for
        return header.get("SOPClassUID") in SEGMENTATIONS


def read_header(path: Path) -> Dataset:
    """`FIELDS` of the file at `path`.

    Raises:
        UserError: It is missing or damaged, or no DICOM file.
    """
    return read_content(path, stop_before_pixels=True, specific_tags=list(FIELDS))


def read_content(path: Path, **options: object) -> Dataset:
    """The DICOM file at `path`, of which no field is longer than the file, whatever it claims.

    Raises:
        UserError: It is missing or damaged, or no DICOM file.
    """
    pydicom = library("pydicom", path, "DICOM", "dicom")
    with (
        reading(path, KIND),
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        bare = _is_bare(path, content[:132])
        header = pydicom.dcmread(content, force=bare, **options)
        if bare and "TransferSyntaxUID" not in header.file_meta:  # then pydicom found out how fields are stored
            header.file_meta.TransferSyntaxUID = _stored_as(header, pydicom.uid)
        return header


def _stored_as(header: Dataset, uid: Any) -> str:  # noqa: ANN401 - a module
    """The UID of how a file that does not say so is stored, which cannot be compressed."""
    implicit, little = header.original_encoding
    plain = uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian
    return str(plain if little else uid.ExplicitVRBigEndian)


def frames_of(path: Path, header: Dataset) -> list[Frame]:
    """Every frame of the file at `path`.

    Raises:
        UserError: The file has many frames and does not say where they lie, or what it says makes no sense.
    """
    with reading(path, KIND):
        count = int(header.get("NumberOfFrames") or 1)
        shared, per_frame = (header.get(f"{kind}FunctionalGroupsSequence") or [] for kind in ("Shared", "PerFrame"))
        if len(per_frame) != count and (count > 1 or per_frame):
            raise UserError(
                f"{path} holds {count} frames, but positions of {len(per_frame)}: a film, or a kind of DICOM that "
                "patchcl does not read. Export it as one file per slice, or as NIfTI."
            )
        return [
            _frame(path, place, count, header, [*per_frame[place : place + 1], *shared[:1]]) for place in range(count)
        ]


def _frame(path: Path, place: int, count: int, header: Dataset, groups: Sequence[Dataset]) -> Frame:
    def numbers(keyword: str, length: int = 1) -> np.ndarray | None:
        """A field as numbers, or nothing where it is missing or empty."""
        value = _field(header, groups, keyword)
        if value is None or value == "":
            return None
        found = np.array(value, dtype=np.float64).reshape(-1)
        if len(found) != length or not np.isfinite(found).all():
            raise UserError(f"{path}: {keyword} is {value}; expected {length} numbers. Export the scan again.")
        return found

    def number(keyword: str, otherwise: float) -> float:
        found = numbers(keyword)
        return otherwise if found is None else float(found[0])

    position, segment = numbers("ImagePositionPatient", 3), numbers("ReferencedSegmentNumber")
    return Frame(
        *(path, place, count, str(header.get("SOPInstanceUID", "")), (int(header.Columns), int(header.Rows)), position),
        directions=_directions(path, numbers("ImageOrientationPatient", 6)),
        spacing_mm=_pixel_spacing(path, header, numbers("PixelSpacing", 2), position is None),
        depth_mm=number("SpacingBetweenSlices", number("SliceThickness", 1.0)) or 1.0,
        slope=number("RescaleSlope", 1.0),
        intercept=number("RescaleIntercept", 0.0),
        segment=None if segment is None else int(segment[0]),
    )


def _field(header: Dataset, groups: Sequence[Dataset], keyword: str) -> Any:  # noqa: ANN401 - values of any type
    """A field of one frame: from its own groups, else from those of all frames, else from the top of the file."""
    for group in groups:
        items = group.get(GROUPS[keyword])
        if items and items[0].get(keyword) is not None:
            return items[0].get(keyword)
    return header.get(keyword)


def _directions(path: Path, orientation: np.ndarray | None) -> np.ndarray | None:
    """The directions of columns and rows, freed of what rounding did to their length."""
    if orientation is None:
        return None
    directions = orientation.reshape(2, 3)
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    if max(np.abs(lengths - 1).max(), abs(directions[0] @ directions[1])) > SLOPE_OF_DIRECTIONS:
        raise UserError(
            f"{path}: ImageOrientationPatient is {orientation.tolist()}; expected two directions of length 1 "
            "at a right angle. Export the scan again."
        )
    return np.asarray(directions / lengths)


def _pixel_spacing(path: Path, header: Dataset, spacing: np.ndarray | None, projection: bool) -> tuple[float, float]:
    """From column to column and from row to row; DICOM writes them the other way round."""
    if spacing is None and projection:
        spacing = np.array(header.get("ImagerPixelSpacing") or (1.0, 1.0), dtype=np.float64)
    if spacing is None or min(spacing) <= 0:
        raise UserError(f"{path} has no valid PixelSpacing: {spacing}. Export the scan again with its geometry.")
    return float(spacing[1]), float(spacing[0])
