"""PNG, JPEG, BMP and TIFF, as microscopes, cameras and drawing programs write them.

Axes are (rows, columns), and (rows, columns, pages) where a TIFF has several pages. Pictures do not say where they lie
in a patient, and what they call resolution is that of a printer more often than not: it is ignored, the affine is the
identity and a pixel counts as 1 mm.
"""

import io
import math
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from patchcl.core.errors import UserError
from patchcl.core.files import atomic_write
from patchcl.data.formats.base import DEFLATE_RATIO, Format, RowBlocks, reading, require_content
from patchcl.data.geometry import Grid, grid_of

KIND = "a picture"
GREY = ("1", "L", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")
COLOUR = {"RGB": "RGB", "P": "RGB", "RGBA": "RGB", "PA": "RGB", "LA": "L"}
"""Other modes that Pillow finds, and what we make of them."""
SPREAD = {"L;2": 85, "L;4": 17}
"""Grey values of so few bits are multiplied by Pillow, so that the largest is 255."""
TIFF_RATIO = 40_000
"""What one byte can stand for in the densest of the ways that TIFF knows."""
TIFF_HEADS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
LARGE = 89_478_485
"""Pixels above which Pillow warns, and a TIFF is read in bands where that can be.

A picture of twice as many is never read at once.
"""
BAND = 2**22
"""Pixels of a band."""
SMALLER = (
    "Cut it into tiles, or save it as a TIFF of one page with strips or tiles, which is read in bands where plan.fit "
    "is crop, plan.spacing_mm [1, 1] and plan.normalise rgb or ct."
)
BITS, COMPRESSION, DESCRIPTION, ORIENTATION = 258, 259, 270, 274  # tags of TIFF


Decode = Callable[[Any], np.ndarray]
"""From a picture as Pillow opens it to its pixels (C, rows, columns)."""
WIDTH, HEIGHT, COMPRESSION, PLANES = 256, 257, 259, 284
STRIP_OFFSETS, ROWS_PER_STRIP, STRIP_BYTES = 273, 278, 279
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES = 322, 323, 324, 325
KEPT = (258, COMPRESSION, 262, 266, 277, PLANES, 317, 320, 338, 339, 347, 530)
"""Tags that say how pixels are stored, which holds for each part as for all."""
OLD_JPEG = 6
"""A compression whose parts cannot be read by themselves."""
UNDEFINED, SHORT, LONG = 7, 3, 4  # types of values
FORMATS = {SHORT: "H", LONG: "I"}


def read_grid(path: Path) -> Grid:
    """The grid of the picture at `path`, from its header alone.

    Raises:
        UserError: The file is missing, or is no picture that can be read as it is meant.
    """
    with _open(path) as picture:
        pages = _page_count(picture)
        return grid_of(path, (picture.height, picture.width, *[pages] * (pages > 1)), np.eye(4))


def count_channels(path: Path) -> int:
    """3 for colour and 1 for grey, from the header alone.

    Raises:
        UserError: As for `read_grid`.
    """
    with _open(path) as picture:
        return len(COLOUR.get(picture.mode, "L"))


def read_values(path: Path) -> np.ndarray:
    """The pixels (C, *shape); red, green and blue for colour, also where the file has a colour map.

    Raises:
        UserError: The file cannot be read, pixels are transparent, or pages differ.
    """
    with _open(path) as picture:
        _require_held(picture, path)
        _require_intact(picture)
        return _stacked([_pixels(page, path) for page in _pages(picture)], path)


def value_row_blocks(path: Path) -> RowBlocks | None:
    """What `read_values` gives, some rows at a time, of a TIFF of one page with more than LARGE pixels; else None.

    Raises:
        UserError: As for `read_values`.
    """
    with _open(path) as picture:
        return _row_blocks(picture, path, lambda page: _pixels(page, path))


def class_row_blocks(path: Path) -> RowBlocks | None:
    """What `read_classes` gives, (1, rows, columns), some rows at a time; see `value_row_blocks`.

    Raises:
        UserError: As for `read_classes`.
    """
    with _open(path) as picture:
        _require_classes(picture, path)
        return _row_blocks(picture, path, lambda page: _stored_values(page)[None])


def read_classes(path: Path) -> np.ndarray:
    """The classes (*shape) of a mask: grey values as they are stored, or the indices of a colour map.

    Raises:
        UserError: The file cannot be read, is a JPEG, or holds colours without a map.
    """
    with _open(path) as picture:
        _require_held(picture, path)
        _require_intact(picture)
        _require_classes(picture, path)
        return _stacked([_stored_values(page) for page in _pages(picture)], path)


def write_like(path: Path, values: np.ndarray, like: Path) -> None:
    """Write `values` (*shape), uint8 as PNG or TIFF in grey, float32 as TIFF; a page for each slice.

    Raises:
        UserError: `like` cannot be read.
    """
    shape = read_grid(like).shape
    if values.shape != shape:
        raise ValueError(f"values of shape {values.shape} do not fit {like} of shape {shape}")
    slices = np.moveaxis(values, 2, 0) if len(shape) == 3 else values[None]
    first, *others = (Image.fromarray(np.ascontiguousarray(page)) for page in slices)
    tiff: dict[str, Any] = {"save_all": True, "append_images": others, "compression": "tiff_adobe_deflate"}
    options = tiff if path.suffix.lower() in (".tif", ".tiff") else {}
    atomic_write(path, lambda unfinished: first.save(unfinished, **options))


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    """The picture at `path`, its pixels still on disk, after a look at whether they can be read as they are meant."""
    with reading(path, KIND):
        try:
            picture = _opened(path)
        except Image.DecompressionBombError as error:
            raise UserError(f"{path} is too large to be read at once ({error}). {SMALLER}") from error
        with picture:
            _require_meant(picture, path)
            yield picture


def _opened(path: Path) -> Any:  # noqa: ANN401
    """The picture at `path`. Of a TIFF, which can be read by parts, Pillow does not ask whether it is too large."""
    with path.open("rb") as file:
        tiff = file.read(4) in TIFF_HEADS
    return TiffImageFile(path) if tiff else Image.open(path, formats=("PNG", "JPEG", "BMP", "TIFF"))


def _row_blocks(picture: Any, path: Path, decode: Decode) -> RowBlocks | None:  # noqa: ANN401
    if picture.format != "TIFF" or _page_count(picture) > 1 or math.prod(picture.size) <= LARGE:
        return None
    parts = parts_of(picture)
    if parts is None or math.prod(parts.part) > LARGE:
        return None

    def read(start: int, stop: int) -> np.ndarray:
        with reading(path, KIND):
            return parts.read_rows(path, start, stop, decode)

    height = parts.part[0]
    return RowBlocks(parts.shape, height * max(1, BAND // (height * parts.shape[1])), read)


def _require_held(picture: Any, path: Path) -> None:  # noqa: ANN401
    """Refuse what is too large to be read whole, as Pillow does."""
    pixels = math.prod(picture.size)
    if picture.format == "TIFF" and pixels > 2 * LARGE:
        raise UserError(f"{path} is too large to be read at once ({pixels} pixels). {SMALLER}")


def _require_classes(picture: Any, path: Path) -> None:  # noqa: ANN401
    """Refuse a picture that can be no mask."""
    if picture.format in ("JPEG", "MPO"):
        raise UserError(f"{path} is a JPEG, which changes values when it is saved. Save the mask as PNG or TIFF.")
    if picture.mode not in (*GREY, "P"):
        raise UserError(
            f"{path} holds colours ({picture.mode}); a mask has one number per pixel, its class. "
            "Save it as grey values or with a colour map."
        )


def _require_meant(picture: Any, path: Path) -> None:  # noqa: ANN401 - plug-ins of Pillow have attributes of their own
    """Refuse what Pillow would read without a word but not as it is meant."""
    if picture.mode not in (*GREY, *COLOUR):
        raise UserError(f"{path} has colours of kind {picture.mode}; expected grey or RGB. Convert it.")
    if picture.mode in COLOUR and ";16" in _stored_as(picture):
        raise UserError(f"{path} has colours of 16 bits; expected 8. Convert it, or save each colour as a grey file.")
    tags = picture.tag_v2 if picture.format == "TIFF" else {}
    if picture.mode in ("I", "F") and tags.get(COMPRESSION, 1) != 1 and re.search(r"\dB[FS]?$", _stored_as(picture)):
        raise UserError(
            f"{path} holds compressed numbers with their highest byte first, which Pillow turns into others. "
            "Save it uncompressed, or with the lowest byte first (little-endian)."
        )
    orientation = (picture.getexif() if picture.format in ("JPEG", "MPO") else tags).get(ORIENTATION, 1)
    if orientation != 1:
        raise UserError(
            f"{path} is stored turned or mirrored (orientation {orientation}), and a mask drawn on what viewers show "
            "would not fit. Save it upright, without this mark."
        )
    stack = re.search(r"^ImageJ=(?s:.)*^images=(\d+)", str(tags.get(DESCRIPTION, "")), re.MULTILINE)
    if stack is not None and int(stack[1]) > _page_count(picture):
        raise UserError(f"{path} is an ImageJ stack whose {stack[1]} pages have one header. Save it with one for each.")
    bits = sum(tags.get(BITS, (1,))) if tags else 8 * len(picture.getbands())
    ratio = (1 if tags.get(COMPRESSION, 1) == 1 else TIFF_RATIO) if tags else DEFLATE_RATIO
    require_content(path, math.prod(picture.size) * _page_count(picture) * bits // 8, ratio)


def _require_intact(picture: Any) -> None:  # noqa: ANN401
    """Check the sums of a PNG, which Pillow passes over when it reads pixels."""
    if picture.format == "PNG":
        with Image.open(picture.filename, formats=("PNG",)) as again:
            again.verify()


def _page_count(picture: Any) -> int:  # noqa: ANN401
    return int(picture.n_frames) if picture.format == "TIFF" else 1


def _pages(picture: Any) -> Iterator[Any]:  # noqa: ANN401
    for number in range(_page_count(picture)):
        picture.seek(number)
        yield picture


def _stored_as(picture: Any) -> str:  # noqa: ANN401
    """How pixels lie in the file, as Pillow calls it: "RGB;16B". Known until they are read."""
    stored = picture.tile[0][3]
    return stored if isinstance(stored, str) else str(stored[0])


def _stored_values(page: Any) -> np.ndarray:  # noqa: ANN401
    factor = SPREAD.get(_stored_as(page), 1)
    values = np.asarray(page)
    return np.asarray(values // factor) if factor > 1 else values


def _pixels(page: Any, path: Path) -> np.ndarray:  # noqa: ANN401
    """The pixels (C, rows, columns) of one page."""
    if page.mode in ("RGBA", "LA", "PA") and page.convert("RGBA").getchannel("A").getextrema()[0] < 255:
        raise UserError(f"{path} has transparent pixels, whose colour nobody can know. Save it without transparency.")
    values = np.asarray(page.convert(COLOUR[page.mode]) if page.mode in COLOUR else page)
    return values[None] if values.ndim == 2 else np.moveaxis(values, 2, 0)


def _stacked(pages: Sequence[np.ndarray], path: Path) -> np.ndarray:
    """The pages along one more axis, if there are several."""
    shapes = {page.shape for page in pages}
    if len(shapes) > 1:
        raise UserError(f"{path} has pages that differ in size or colour; a volume has equal slices. Split the file.")
    return np.stack(pages, axis=-1) if len(pages) > 1 else pages[0]


class Parts(NamedTuple):
    """Where the strips or tiles of a TIFF lie in its file."""

    shape: tuple[int, int]  # rows and columns of the picture
    part: tuple[int, int]  # of a part; those at the right and the lower edge may reach beyond the picture
    offsets: tuple[int, ...]
    lengths: tuple[int, ...]
    tiled: bool  # tiles are stored whole, the last strip only as far as the picture goes
    tags: dict[int, Any]  # of KEPT
    order: str  # of bytes: "<" or ">"

    def read_rows(self, path: Path, start: int, stop: int, decode: Decode) -> np.ndarray:
        """The pixels (C, stop - start, columns) of the rows from `start` to before `stop`."""
        height = self.part[0]
        with path.open("rb") as file:
            rows = [self._row_of_parts(file, place, decode) for place in range(start // height, -(-stop // height))]
        first = start // height * height
        return np.concatenate(rows, axis=1)[:, start - first : stop - first]

    def _row_of_parts(self, file: Any, place: int, decode: Decode) -> np.ndarray:  # noqa: ANN401 - a file
        """All parts beside each other; `place` counts from above."""
        (rows, columns), (height, width) = self.shape, self.part
        across = -(-columns // width)
        tall = height if self.tiled else min(height, rows - place * height)
        pixels = [self._part(file, place * across + beside, (tall, width), decode) for beside in range(across)]
        return np.concatenate(pixels, axis=2)[:, : rows - place * height, :columns]

    def _part(self, file: Any, place: int, size: tuple[int, int], decode: Decode) -> np.ndarray:  # noqa: ANN401
        file.seek(self.offsets[place])
        content = file.read(self.lengths[place])
        if len(content) < self.lengths[place]:
            raise EOFError(f"part {place + 1} of {len(self.offsets)} is cut off")
        with Image.open(io.BytesIO(_as_file(content, size, self.tags, self.order)), formats=("TIFF",)) as picture:
            return decode(picture)


def parts_of(picture: Any) -> Parts | None:  # noqa: ANN401 - Pillow's TiffImageFile
    """The parts of an open TIFF; None where they cannot be read one by one: colours apart, or an old kind of JPEG."""
    tags = picture.tag_v2
    tiled = TILE_OFFSETS in tags
    keys = (TILE_OFFSETS, TILE_BYTES) if tiled else (STRIP_OFFSETS, STRIP_BYTES)
    if any(key not in tags for key in keys) or tags.get(PLANES, 1) != 1 or tags.get(COMPRESSION) == OLD_JPEG:
        return None
    rows, columns = int(tags[HEIGHT]), int(tags[WIDTH])
    part = (tags[TILE_HEIGHT], tags[TILE_WIDTH]) if tiled else (min(tags.get(ROWS_PER_STRIP, rows), rows), columns)
    offsets, lengths = (_numbers(tags[key]) for key in keys)
    if not len(offsets) == len(lengths) == math.ceil(rows / part[0]) * math.ceil(columns / part[1]):
        return None
    kept = {key: tags[key] for key in KEPT if key in tags}
    return Parts((rows, columns), part, offsets, lengths, tiled, kept, "<" if tags.prefix == b"II" else ">")


def _as_file(content: bytes, size: tuple[int, int], tags: dict[int, Any], order: str) -> bytes:
    """A TIFF of one strip: the head, then `content`, then the directory."""
    start = 8
    of_part = {HEIGHT: size[0], WIDTH: size[1], ROWS_PER_STRIP: size[0], STRIP_OFFSETS: start}
    of_part |= {STRIP_BYTES: len(content)}
    entries = sorted((tags | of_part).items())
    content += b"\0" * (len(content) % 2)
    place = start + len(content) + 2 + 12 * len(entries) + 4  # of values too long for the directory
    directory, values = struct.pack(order + "H", len(entries)), b""
    for key, value in entries:
        kind, count, packed = _packed(value, order)
        if len(packed) > 4:
            field = struct.pack(order + "I", place + len(values))
            values += packed + b"\0" * (len(packed) % 2)
        else:
            field = packed.ljust(4, b"\0")
        directory += struct.pack(order + "HHI", key, kind, count) + field
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", start + len(content))
    return head + content + directory + bytes(4) + values


def _packed(value: Any, order: str) -> tuple[int, int, bytes]:  # noqa: ANN401
    """Type, count and bytes of a value."""
    if isinstance(value, bytes):
        return UNDEFINED, len(value), value
    numbers = _numbers(value)
    kind = SHORT if max(numbers) < 2**16 else LONG
    return kind, len(numbers), struct.pack(f"{order}{len(numbers)}{FORMATS[kind]}", *numbers)


def _numbers(value: Any) -> tuple[int, ...]:  # noqa: ANN401
    return tuple(map(int, value)) if isinstance(value, tuple | list) else (int(value),)


FORMAT = Format(
    "picture",
    (".tiff", ".jpeg", ".tif", ".jpg", ".png", ".bmp"),
    read_grid,
    read_values,
    write_like,
    read_classes=read_classes,
    count_channels=count_channels,
    value_row_blocks=value_row_blocks,
    class_row_blocks=class_row_blocks,
    masks_as={".jpeg": ".png", ".jpg": ".png", ".bmp": ".png"},
    maps_as=dict.fromkeys((".jpeg", ".jpg", ".png", ".bmp"), ".tif"),
)
