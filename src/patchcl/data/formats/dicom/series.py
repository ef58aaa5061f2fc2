"""DICOM images: a folder that holds one series, or one file; read, never written.

Axes are (columns, rows, slices), the order of NIfTI's x, y, z; slices come by their position along the normal of
their plane, whatever files are called. The distance between slices is that between their positions.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from patchcl.core.errors import UserError
from patchcl.data.formats.base import Format, reading
from patchcl.data.formats.dicom.frames import KIND, Frame, frames_of, is_dicom, need_pydicom, read_content, read_header
from patchcl.data.formats.dicom.stack import Stack, stacked
from patchcl.data.geometry import Grid

SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
"""UIDs of DICOM-SEG: segments one by one, and a map of labels."""
ENDINGS = (".dcm",)
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")


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
        _demand_decoder(content, path)
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


def _demand_decoder(content: Any, path: Path) -> None:  # noqa: ANN401 - a pydicom Dataset
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


FORMAT = Format("DICOM", ENDINGS, read_grid, read_values, write_like, count_channels=count_channels)
