"""NRRD and MetaImage, as 3D Slicer and ITK write them: read by SimpleITK, written under the header of the scan.

ITK's axes point to the left and the back of the patient (LPS); an affine here points to the right and the front (RAS).
"""

import gzip
import math
import re
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from patchcl.core.errors import UserError
from patchcl.core.files import atomic_write
from patchcl.data.formats.base import DEFLATE_RATIO, Format, library, reading, require_content
from patchcl.data.formats.detached import require_inside
from patchcl.data.geometry import Grid, grid_of

KIND = "an NRRD or MetaImage file"
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
TYPES = {"uint8": ("uint8", "MET_UCHAR"), "float32": ("float", "MET_FLOAT")}
"""What we write, as NRRD and as MetaImage call it."""
STORAGE = (
    r"(?i)((type|endian|encoding|data ?file|(line|byte) ?skip|block ?size|(old ?)?(min|max)):"
    r"|(Element(Type|DataFile|ByteOrderMSB|Min|Max)|BinaryData(ByteOrderMSB)?|CompressedData(Size)?|HeaderSize) *=)"
)
"""Lines of a header that tell how voxels are stored, not where they lie; ours take their place."""

PLACE = r"(?i)(space:|(TransformMatrix|Orientation|Rotation) *=)"
"""Lines of a header that tell how the image lies."""
UNITS = r"(?i)((space )?units:|DistanceUnits *=)(.*)"
"""Lines of a header that name the unit of length."""
MM = {
    **dict.fromkeys(("mm", "millimeter", "millimeters", "millimetre", "millimetres"), 1.0),
    **dict.fromkeys(("um", "\u00b5m", "micron", "microns", "micrometer", "micrometers"), 0.001),
    **dict.fromkeys(("cm", "centimeter", "centimeters"), 10.0),
    **dict.fromkeys(("m", "meter", "meters"), 1000.0),
}
"""Millimetres in the units of length that headers name."""


class _Data(NamedTuple):
    """Where the voxels of an image are stored."""

    file: Path
    offset: int  # bytes of the header before them
    packed: bool  # by zlib or gzip
    plain: bool  # as they are in memory


def read_grid(path: Path) -> Grid:
    """The grid of the file at `path`, from its header alone.

    Raises:
        UserError: The file is missing, is no such image, or is neither a slice nor a volume.
    """
    return _grid_of(_open(path), path)


def read_values(path: Path) -> np.ndarray:
    """The voxels (1, *shape) in the order of the file.

    Raises:
        UserError: The file cannot be read, or holds several numbers per voxel.
    """
    reader = _open(path)
    _grid_of(reader, path)
    if reader.GetNumberOfComponents() > 1:
        raise UserError(
            f"{path} holds {reader.GetNumberOfComponents()} numbers per voxel; expected one. "
            "Save every component as a file of its own."
        )
    with reading(path, KIND):
        _require_intact(path)
        values = library("SimpleITK", path, KIND, "itk").GetArrayFromImage(reader.Execute())
    return np.asarray(values).transpose()[None]


def write_like(path: Path, values: np.ndarray, like: Path) -> None:
    """Write `values` (*shape), uint8 or float32, under the header of the file `like`, compressed.

    Whatever the header says of size, spacing, origin, direction and metadata stays as it stands there, to the letter.

    Raises:
        UserError: `like` cannot be read.
    """
    shape = read_grid(like).shape
    if values.shape != shape:
        raise ValueError(f"values of shape {values.shape} do not fit {like} of shape {shape}")
    kept = [line for line in _header(like)[0] if not re.match(STORAGE, line)]
    raw = values.astype(values.dtype.newbyteorder("<")).tobytes(order="F")
    pack = _nrrd if path.suffix.lower() == ".nrrd" else _meta_image
    atomic_write(path, lambda unfinished: unfinished.write_bytes(pack(kept, values.dtype.name, raw)))


def _open(path: Path) -> Any:  # noqa: ANN401 - SimpleITK has no types
    """A reader that knows the header of the file at `path`."""
    simple_itk = library("SimpleITK", path, KIND, "itk")
    with reading(path, KIND):
        _require_axes(path)
        require_inside(path)
        reader = simple_itk.ImageFileReader()
        reader.SetImageIO("NrrdImageIO" if path.suffix.lower() in (".nrrd", ".nhdr") else "MetaImageIO")
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        bits = re.search(r"\d+", simple_itk.GetPixelIDValueAsString(reader.GetPixelID()))  # of "16-bit signed integer"
        voxels = math.prod(reader.GetSize()) * reader.GetNumberOfComponents()
        _require_content(path, voxels * (int(bits[0]) if bits else 8) // 8)
        return reader


def _grid_of(reader: Any, path: Path) -> Grid:  # noqa: ANN401 - SimpleITK has no types
    axes = reader.GetDimension()
    affine = np.eye(4)
    if axes in (2, 3):
        affine[:axes, :axes] = np.reshape(reader.GetDirection(), (axes, axes)) * reader.GetSpacing()
        affine[:axes, 3] = reader.GetOrigin()
    header = _header(path)[0]
    affine[:3] *= _unit_mm(header, path)
    placed = any(re.match(PLACE, line) for line in header)
    return grid_of(path, tuple(reader.GetSize()), LPS_TO_RAS @ affine)._replace(placed=placed)


def _unit_mm(header: list[str], path: Path) -> float:
    """Millimetres in the unit of a header's lengths, which ITK passes over; 1 where it names none."""
    lines = [match[3] for line in header if (match := re.match(UNITS, line))]
    named = {unit.strip() for line in lines for unit in re.findall(r'"(.*?)"', line) or [line]} - {"", "?", "???"}
    lengths = {MM.get(unit.lower()) for unit in named} or {1.0}
    (length, *others) = lengths
    if others or length is None:
        raise UserError(f"{path} has lengths in {', '.join(sorted(named))}; expected one unit, such as mm. Convert it.")
    return length


def _header(path: Path) -> tuple[list[str], int]:
    """The lines of a header and its length: NRRD's up to an empty line, MetaImage's up to where the data are."""
    lines: list[str] = []
    with path.open("rb") as file:
        while text := file.readline().decode("latin-1").rstrip("\r\n"):
            lines.append(text)
            if text.startswith("ElementDataFile"):
                break
        return lines, file.tell()


def _data(path: Path) -> _Data | None:
    """Where the voxels of the file at `path` are stored; nothing if they are in several files."""
    lines, length = _header(path)
    header = "\n".join(lines)
    named = re.search(r"(?im)^(?:data ?file:|ElementDataFile *=) *(.*?) *$", header)
    if named is not None and re.match("(?i)list|.*%", named[1]):
        return None
    apart = named is not None and named[1].upper() != "LOCAL"
    packed = re.search(r"(?im)^(encoding: *gz|CompressedData *= *True)", header) is not None
    plain = re.search(r"(?im)^(encoding: *raw|BinaryData *= *True)", header) is not None and not packed
    file = path.parent / named[1] if apart and named is not None else path
    return _Data(file, 0 if apart else length, packed, plain)


def _require_axes(path: Path) -> None:
    """Refuse a number of axes that ITK would not survive; also a missing file, which ITK calls a damaged one."""
    stated = [re.fullmatch(r"(?i)NDims *=(.*)", line) for line in _header(path)[0]]
    for number in (line[1].strip() for line in stated if line is not None):
        if not re.fullmatch(r"[1-9]", number):
            raise UserError(f"{path} claims {number or 'no number of'} axes; expected 2 or 3. Export it again.")


def _require_content(path: Path, claimed: int) -> None:
    data = _data(path)
    if data is None:
        return
    require_content(data.file, claimed, 1 if data.plain else DEFLATE_RATIO)
    stated = re.search(r"(?im)^CompressedDataSize *= *(.*?) *$", "\n".join(_header(path)[0]))
    held = data.file.stat().st_size - data.offset
    if data.packed and stated is not None and not (stated[1].isdecimal() and int(stated[1]) <= held):
        kind = "may be incomplete: copy or" if stated[1].isdecimal() else "is damaged:"
        raise UserError(
            f"{path} cannot be read: its header claims {stated[1]} packed bytes, but {data.file.name} has {held}. "
            f"It {kind} export it again."
        )


def _require_intact(path: Path) -> None:
    """Unpack packed voxels once and check their sum, which ITK does not."""
    data = _data(path)
    if data is None or not data.packed:
        return
    unpack = zlib.decompressobj(wbits=47)  # either of zlib and gzip
    with data.file.open("rb") as file:
        file.seek(data.offset)
        while (some := file.read(1 << 20)) and not unpack.eof:
            unpack.decompress(some)
    if not unpack.eof:
        raise UserError(f"{data.file} ends before its last voxel. It may be incomplete: copy or export it again.")


def _nrrd(header: list[str], dtype: str, raw: bytes) -> bytes:
    stored = [f"type: {TYPES[dtype][0]}", "endian: little", "encoding: gzip"]
    return "\n".join([header[0], *stored, *header[1:], "", ""]).encode("latin-1") + gzip.compress(raw, 6, mtime=0)


def _meta_image(header: list[str], dtype: str, raw: bytes) -> bytes:
    packed = zlib.compress(raw)
    stored = ["BinaryData = True", "BinaryDataByteOrderMSB = False", "CompressedData = True"]
    stored += [f"CompressedDataSize = {len(packed)}", f"ElementType = {TYPES[dtype][1]}", "ElementDataFile = LOCAL"]
    return "\n".join([*header, *stored, ""]).encode("latin-1") + packed


FORMAT = Format(
    "NRRD or MetaImage",
    (".nrrd", ".nhdr", ".mha", ".mhd"),
    read_grid,
    read_values,
    write_like,
    masks_as={".nhdr": ".nrrd", ".mhd": ".mha"},
)
