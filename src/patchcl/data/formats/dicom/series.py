"""DICOM images: a folder that holds one series, or one file; read, never written.

Axes are (columns, rows, slices), the order of NIfTI's x, y, z; slices come by their position along the normal of
their plane, whatever files are called. The distance between slices is that between their positions.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from patchcl.core.errors import UserError
from patchcl.data.formats.base import Format, reading
from patchcl.data.formats.dicom.frames import (
    KIND,
    LPS_TO_RAS,
    Frame,
    frames_of,
    is_dicom,
    need_pydicom,
    read_content,
    read_header,
)
from patchcl.data.geometry import GRID_TOLERANCE, Grid, grid_of

SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
"""UIDs of DICOM-SEG: segments one by one, and a map of labels."""
ENDINGS = (".dcm",)
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")


SAME_MM = 1e-3
"""Frames that lie closer than this are at one position."""
SAME_DIRECTION = 1e-3
"""Largest difference between the components of two directions that still count as one."""
TILT_DEGREES = 0.1
"""A stack that leans less than this is upright; positions are rounded in many files."""


class Stack(NamedTuple):
    """Frames that make one image, the lowest along the normal of the slices first."""

    frames: tuple[Frame, ...]
    grid: Grid  # (columns, rows, slices); (columns, rows) for a projection


class Series(NamedTuple):
    """Files that were acquired together."""

    uid: str
    description: str
    modality: str
    files: dict[Path, Any]  # their headers

    @property
    def line(self) -> str:
        """How a list of series shows it."""
        slices = sum(int(header.get("NumberOfFrames") or 1) for header in self.files.values())
        return f"  {self.modality} {self.description!r}, {slices} slices, UID {self.uid}"


class Contents(NamedTuple):
    """What DICOM files hold."""

    series: list[Series]  # of images
    others: dict[Path, Any]  # headers of what is no image: segmentations, plans, reports


def is_series_folder(path: Path) -> bool:
    """Whether `path` is a folder with a DICOM file in it."""
    return path.is_dir() and any(is_dicom(file) for file in _files(path))


def contents_of(path: Path, below: bool = False) -> Contents:
    """What the files in the folder `path` hold, or the file `path`; with `below`, those in its folders as well.

    Raises:
        UserError: A file is damaged, or there is no image.
    """
    found: dict[str, Series] = {}
    others: dict[Path, Any] = {}
    for file in _dicom_files(path, below):
        header = read_header(file)
        with reading(file, KIND):  # pydicom looks at a field when it is asked for
            uid, description, modality = (
                str(header.get(key, "")) for key in ("SeriesInstanceUID", "SeriesDescription", "Modality")
            )
            if _is_image(header):
                found.setdefault(uid, Series(uid, description, modality, {})).files[file] = header
            else:
                others[file] = header
    if not found:
        but = _passed_over(path, others, below)
        raise UserError(f"{path} holds no DICOM image{but}. Put the files of one series there.")
    return Contents(list(found.values()), others)


def chosen_series(path: Path, series: str = "", below: bool = False) -> Series:
    """The one series in `path` whose UID is `series`, or whose description the regular expression `series` finds.

    With `below`, also of those in its folders.

    Raises:
        UserError: None or several remain; all are listed.
    """
    found = contents_of(path, below).series
    fitting = fitting_series(found, series)
    if len(fitting) == 1:
        return fitting[0]
    raise UserError(
        f"{listing(path, found, series)}\n"
        "Choose one by a part of its description, or by its UID: patchcl predict RUN SCANS -o OUT --series PATTERN, or "
        "for scans to learn from patchcl import SOURCE -o OUT --layout dicom --series PATTERN. Or keep the files of "
        "one series in the folder."
    )


def fitting_series(found: Sequence[Series], series: str) -> list[Series]:
    """Those whose UID is `series`, or else those whose description the regular expression `series` finds.

    Raises:
        UserError: `series` is no regular expression.
    """
    return [one for one in found if series == one.uid] or [one for one in found if finds(series, one.description)]


def finds(pattern: str, description: str) -> bool:
    """Whether the regular expression `pattern` finds something in the description of a series.

    Raises:
        UserError: It is none.
    """
    try:
        return re.search(pattern, description) is not None
    except re.error as error:
        raise UserError(f"{pattern!r} is no regular expression: {error}. Correct it, or name the UID.") from error


def listing(path: Path, found: Sequence[Series], series: str) -> str:
    """Says that `series` does not choose one of those `found` in `path`, with a line for each."""
    asked = f", and {len(fitting_series(found, series))} of them fit {series!r}" if series else ""
    lines = "\n".join(sorted(one.line for one in found))
    return f"{path} holds {len(found)} series{asked}; one was expected:\n{lines}"


def read_stack(path: Path) -> Stack:
    """Frames and grid of the series in `path`, from headers alone.

    Raises:
        UserError: There is not exactly one series, or its slices make no regular grid.
    """
    return stack_of(chosen_series(path).files, path)


def stack_of(files: Mapping[Path, Any], where: Path) -> Stack:
    """Frames and grid of one series from its `files` with their headers; `where` it is, for messages.

    Raises:
        UserError: Its slices make no regular grid.
    """
    return stacked([frame for file, header in files.items() for frame in frames_of(file, header)], where)


def read_grid(path: Path) -> Grid:
    """The grid of the series in `path`.

    Raises:
        UserError: See `read_stack`.
    """
    return read_stack(path).grid


def count_channels(path: Path) -> int:
    """3 for colour, else 1, as the first image says; no file after it is opened.

    Raises:
        UserError: There is no such image.
    """
    for file in _dicom_files(path):
        header = read_header(file)
        with reading(file, KIND):
            if _is_image(header):
                return components(file, header)
    return max(components(file, header) for file, header in chosen_series(path).files.items())


def components(path: Path, header: Any) -> int:  # noqa: ANN401 - a pydicom Dataset
    """How many numbers each pixel of the file at `path` has: 3 in colour, else 1.

    Raises:
        UserError: The header is damaged.
    """
    with reading(path, KIND):
        return int(header.get("SamplesPerPixel") or 1)


def read_values(path: Path) -> np.ndarray:
    """The voxels (C, *shape) after rescaling, frame by frame; C is 3 for colour, else 1.

    MONOCHROME1, in which small numbers are bright, is turned round, so that large ones are bright in every image.

    Raises:
        UserError: See `read_stack`; or a file holds no pixels, is truncated, or is compressed in an unknown way.
    """
    return values_of(read_stack(path))


def values_of(stack: Stack) -> np.ndarray:
    """The voxels of `stack`; see `read_values`.

    Raises:
        UserError: A file holds no pixels, is truncated, or is compressed in an unknown way.
    """
    planes = np.stack(_planes(stack.frames))  # (slices, rows, columns) and, of colour, components
    if planes.ndim == 3:
        planes = planes[..., None]
    return planes.transpose(3, 2, 1, 0).reshape(-1, *stack.grid.shape)


def write_like(path: Path, values: np.ndarray, like: Path) -> None:
    """Refuse: masks are written as DICOM-SEG, and scans not at all.

    Raises:
        UserError: Always.
    """
    raise UserError(f"{path} cannot be written as a DICOM series. Choose a name that ends in .nii.gz.")


def read_pixels(path: Path) -> tuple[Any, np.ndarray]:
    """The whole content of a DICOM file, and its pixels (frames, rows, columns) or (frames, rows, columns, 3).

    Raises:
        UserError: It holds none, is truncated, or is compressed in a way that nothing installed can read.
    """
    need_pydicom(path)
    from pydicom.pixels.utils import pixel_array

    with reading(path, KIND):
        content = read_content(path)
        if not any(key in content for key in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
            raise UserError(f"{path} holds no pixels, only a header. Copy or export it again.")
        _require_decoder(content, path)
        pixels = pixel_array(content, allow_excess_frames=False)  # few bits are padded to what looks like frames
        colour = pixels.shape[-1:] if content.get("SamplesPerPixel", 1) > 1 else ()
        return content, pixels.reshape(-1, content.Rows, content.Columns, *colour)


def _is_image(header: Any) -> bool:  # noqa: ANN401 - a pydicom Dataset
    return "Rows" in header and header.get("SOPClassUID") not in SEGMENTATIONS


def _files(path: Path, below: bool = False) -> Iterator[Path]:
    """The files of a folder that may be DICOM, by name; with `below`, those in its folders as well."""
    for file in sorted(path.rglob("*") if below else path.iterdir()):
        hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
        if not hidden and file.is_file() and file.name.upper() != "DICOMDIR":
            yield file


def _dicom_files(path: Path, below: bool = False) -> Iterator[Path]:
    """The file `path`, or the DICOM files in the folder `path`; what is called DICOM must be it."""
    for file in _files(path, below) if path.is_dir() else [path]:
        if is_dicom(file):
            yield file
        elif file == path or file.suffix.lower() in ENDINGS or file.stat().st_size == 0:
            raise UserError(f"{file} is no DICOM file: the mark DICM is missing. Copy or export it again.")


def _passed_over(path: Path, others: Mapping[Path, Any], below: bool) -> str:
    """What else lies there, for the message that no image does."""
    strange = sum(not is_dicom(file) for file in _files(path, below)) if path.is_dir() else 0
    names = [f"{file.name} ({header.get('Modality', 'no modality')})" for file, header in others.items()]
    parts = [", ".join(names[:5]) + (", ..." if len(names) > 5 else "")] if names else []
    parts += [f"{strange} files that are no DICOM"] if strange else []
    return f", but {' and '.join(parts)}" if parts else ""


def _planes(frames: Sequence[Frame]) -> list[np.ndarray]:
    """The rescaled pixels of every frame; each file is opened once."""
    planes: dict[tuple[Path, int], np.ndarray] = {}
    for path in dict.fromkeys(frame.path for frame in frames):
        content, pixels = read_pixels(path)
        pixels = _brighter_upwards(content, pixels, path)
        planes |= {(path, place): plane for place, plane in enumerate(pixels)}
    return [_rescaled(planes[frame.path, frame.place], frame) for frame in frames]


def _brighter_upwards(content: Any, pixels: np.ndarray, path: Path) -> np.ndarray:  # noqa: ANN401 - a pydicom Dataset
    kind = str(content.get("PhotometricInterpretation", ""))
    if "ModalityLUTSequence" in content:
        raise UserError(f"{path} holds values behind a lookup table (Modality LUT). Export it with plain values.")
    if kind == "MONOCHROME1":
        lowest_and_highest = -1 if content.PixelRepresentation else (1 << content.BitsStored) - 1
        return (lowest_and_highest - pixels.astype(np.int64)).astype(pixels.dtype)
    if kind not in ("MONOCHROME2", *COLOURS):
        raise UserError(f"{path} holds pixels as {kind or 'nothing known'}. Export it in grey or in RGB.")
    return pixels


def _rescaled(plane: np.ndarray, frame: Frame) -> np.ndarray:
    """In units of the modality, such as Hounsfield's; whole numbers stay whole where only an offset is added."""
    if frame.slope == 1 and frame.intercept == 0:
        return plane
    if frame.slope == 1 and frame.intercept.is_integer() and plane.dtype.kind in "iu":
        return plane.astype(np.int32 if plane.itemsize < 4 else np.int64) + int(frame.intercept)
    return (plane * frame.slope + frame.intercept).astype(np.float32)


def _require_decoder(content: Any, path: Path) -> None:  # noqa: ANN401 - a pydicom Dataset
    """Refuse pixels that nothing installed can decompress, and name what can."""
    from pydicom.pixels.decoders.base import get_decoder

    syntax = content.file_meta.TransferSyntaxUID
    try:
        if get_decoder(syntax).is_available:
            return
    except NotImplementedError:
        raise UserError(f"{path} is compressed as {syntax.name}, which is not read. Export it uncompressed.") from None
    plugin = "pyjpegls" if "JPEG-LS" in syntax.name else "pylibjpeg pylibjpeg-libjpeg"
    plugin = "pylibjpeg pylibjpeg-openjpeg" if "2000" in syntax.name else plugin
    raise UserError(
        f"{path} is compressed as {syntax.name}, and nothing that reads it is installed: pip install {plugin}"
    )


def stacked(frames: Sequence[Frame], where: Path) -> Stack:
    """The image that `frames` make; `where` is the series, for messages.

    A single frame without a position, such as an X-ray, is a picture of two axes.

    Raises:
        UserError: Slices are missing, repeated, uneven, tilted, or of several sizes or directions.
    """
    if len(frames) == 1 and (frames[0].position is None or frames[0].directions is None):
        return Stack(tuple(frames), _flat_grid(frames[0]))
    require_one_plane(frames, where)
    ordered = sorted(frames, key=depth)
    _require_single(ordered, where)
    grid = grid_between(ordered[0], ordered[-1], len(ordered), where)
    if len(ordered) > 1:
        _require_even(ordered, grid, where)
        _require_upright(ordered, where)
    return Stack(tuple(ordered), grid)


def depth(frame: Frame) -> float:
    """How far along the normal of its plane a frame lies, mm."""
    _, position, normal = _plane(frame)
    return float(position @ normal)


def grid_between(first: Frame, last: Frame, count: int, where: Path) -> Grid:
    """The grid of `count` slices from the frame `first` to the frame `last`."""
    directions, position, normal = _plane(first)
    step = (_plane(last)[1] - position) / (count - 1) if count > 1 else normal * first.depth_mm
    affine = np.eye(4)
    affine[:3] = np.column_stack([*directions * np.array([first.spacing_mm]).T, step, position])
    return grid_of(where, (*first.size, count), LPS_TO_RAS @ affine)


def require_one_plane(frames: Sequence[Frame], where: Path) -> None:
    """Refuse frames that do not say where they lie, or differ in size, direction or spacing.

    Raises:
        UserError: Names a frame of each kind.
    """
    first = frames[0]
    for frame in frames:
        if frame.position is None or frame.directions is None:
            raise UserError(
                f"{where}: {frame.name} has no ImagePositionPatient or no ImageOrientationPatient, so its place among "
                f"{len(frames)} slices is unknown. Export the series again with its geometry, or put every picture "
                "into a folder of its own."
            )
        if frame.size != first.size:
            raise _differ(where, first, frame, "size", *(f"{f.size[0]} × {f.size[1]}" for f in (first, frame)))
        if np.abs(frame.directions - _plane(first)[0]).max() > SAME_DIRECTION:
            raise _differ(
                where, first, frame, "direction", *(np.round(_plane(f)[0], 3).tolist() for f in (first, frame))
            )
        if not np.allclose(frame.spacing_mm, first.spacing_mm, rtol=SAME_DIRECTION):
            raise _differ(where, first, frame, "pixel spacing", first.spacing_mm, frame.spacing_mm)


def _plane(frame: Frame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Directions (2, 3), position (3,) and normal (3,) of a frame that has them."""
    if frame.directions is None or frame.position is None:
        raise ValueError(f"{frame.name} has no position")
    return frame.directions, frame.position, np.cross(*frame.directions)


def _flat_grid(frame: Frame) -> Grid:
    affine = LPS_TO_RAS @ np.diag([*frame.spacing_mm, 1.0, 1.0])
    return grid_of(frame.path, frame.size, affine)


def _differ(where: Path, first: Frame, other: Frame, what: str, *values: object) -> UserError:
    return UserError(
        f"{where} holds slices of more than one {what}: {first.name} has {values[0]}, {other.name} has {values[1]}. "
        "One image has one. Move those that do not belong to it, such as a localiser, to a folder of their own."
    )


def _require_single(ordered: Sequence[Frame], where: Path) -> None:
    """Refuse two frames at one position."""
    twins = [(low, high) for low, high in pairwise(ordered) if depth(high) - depth(low) < SAME_MM]
    if not twins:
        return
    low, high = twins[0]
    if (low.instance, low.place) == (high.instance, high.place):
        raise UserError(f"{where}: {low.name} and {high.name} are copies of one image. Remove one of them.")
    repeats = _repeats(ordered)
    if len(set(repeats)) == 1:
        raise UserError(
            f"{where} holds {repeats[0]} images at each of {len(repeats)} positions (time points, echoes or "
            "b-values?), and one was expected. Move the images of one of them to a folder of their own."
        )
    more = f" ({len(twins) - 1} more do so too)" if len(twins) > 1 else ""
    raise UserError(
        f"{where}: {low.name} and {high.name} lie at the same position{more}, and one slice was expected there. "
        "Move what does not belong to the image to a folder of its own."
    )


def _repeats(ordered: Sequence[Frame]) -> list[int]:
    """How many frames lie at each position."""
    places = np.cumsum([0.0, *(depth(high) - depth(low) >= SAME_MM for low, high in pairwise(ordered))])
    return list(Counter(places.tolist()).values())


def _require_even(ordered: Sequence[Frame], grid: Grid, where: Path) -> None:
    """Refuse slices that are missing or lie at uneven distances."""
    depths = np.array([depth(frame) for frame in ordered])
    even = np.linspace(depths[0], depths[-1], len(depths))
    gaps = np.diff(depths)
    if np.abs(depths - even).max() <= GRID_TOLERANCE * gaps.mean():
        return
    usual, widest = float(np.median(gaps)), int(gaps.argmax())
    missing = sum(int(np.rint(gap / usual)) - 1 for gap in gaps if gap > 1.5 * usual)
    place = f"{gaps[widest]:.4g} mm from {ordered[widest].name} to {ordered[widest + 1].name}"
    if missing and np.allclose(gaps / usual, np.rint(gaps / usual), atol=2 * GRID_TOLERANCE):
        raise UserError(
            f"{where}: {missing} slice{'s are' if missing > 1 else ' is'} missing: it is {place}, and {usual:.4g} mm "
            "elsewhere. Copy or export the series again, with all its files."
        )
    raise UserError(
        f"{where} has slices at uneven distances: {gaps.min():.4g} mm at the least, and {place}. "
        "patchcl needs even ones: resample the series, or keep the part that is even."
    )


def _require_upright(ordered: Sequence[Frame], where: Path) -> None:
    """Refuse a stack whose slices move sideways from one to the next, as under a tilted gantry."""
    positions = np.stack([_plane(frame)[1] for frame in ordered]) - _plane(ordered[0])[1]
    normal = _plane(ordered[0])[2]
    sideways = positions - np.outer(positions @ normal, normal)
    limit = GRID_TOLERANCE * min(ordered[0].spacing_mm)
    angle = float(np.degrees(np.arctan2(np.linalg.norm(sideways[-1]), positions[-1] @ normal)))
    if angle > TILT_DEGREES and np.linalg.norm(sideways[-1]) > limit:
        raise UserError(
            f"{where} is tilted: its slices lean by {angle:.2f}° (a tilted gantry), so its voxels are no boxes. "
            "Resample it to an upright grid first, for example with dcm2niix."
        )
    stray = np.linalg.norm(sideways - np.outer(np.linspace(0, 1, len(ordered)), sideways[-1]), axis=1)
    if stray.max() > limit:
        raise UserError(
            f"{where}: {ordered[int(stray.argmax())].name} lies {stray.max():.3g} mm beside the line of the other "
            "slices. Resample the series to an upright grid, or keep the part that is straight."
        )


FORMAT = Format("DICOM", ENDINGS, read_grid, read_values, write_like, count_channels=count_channels)
