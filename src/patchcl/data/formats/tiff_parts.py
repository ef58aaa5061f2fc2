"""A large TIFF by parts: a strip or a tile is cut out, made a small TIFF of its own, and read like any other."""

import io
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

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
