"""A page of a TIFF, decoded by its parts, which are strips or tiles.

So a large page is read some rows at a time, and no part yields more than its header claims. tifffile knows types of
numbers, orders of bytes and predictions, but alone it decodes no LZW, no JPEG and no fax, no numbers of 2, 4 or 12
bits, and zlib without a limit: all this is left to the libtiff within Pillow or done here, so that the pixels of a
file do not depend on what is installed. Rare compressions are left to imagecodecs, through tifffile.
"""

import io
import math
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL.TiffImagePlugin import TiffImageFile

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, OFFSETS = 256, 257, 258, 259, 262, 266, 273  # tags
SAMPLES, ROWS_PER_STRIP, BYTES, PREDICTOR = 277, 278, 279, 317
KEPT = (FILL_ORDER, 292, 293, 338, 339, 347, 530)
"""Tags of fax, further samples, numbers and JPEG, which hold for each part as for all."""
STREAMS = (5, 8, 32773, 32946, 34925, 50000)
"""Compressions of bytes, whatever these stand for: LZW, deflate, PackBits, deflate as it was, LZMA, Zstandard."""
FAX, JPEG, FLOATS = (2, 3, 4), 7, 3
"""Two compressions of pixels, and the prediction of real numbers."""
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, YCBCR = 0, 1, 2, 3, 6
WHOLE = (8, 16, 32, 64)
"""Bits of numbers that fill bytes."""


class Page(NamedTuple):
    """A page, as its header describes it."""

    header: Any  # tifffile's TiffPage; where libtiff undoes the compression, it says that there is none
    compression: int
    predictor: int
    drawn: bool  # whether libtiff gives pixels; else it gives bytes, or is not needed
    shape: tuple[int, int]
    part: tuple[int, int]  # rows and columns of a strip or tile; those at the edges may reach beyond the picture
    colours: np.ndarray | None  # (3, indices) uint8 of a colour map

    @property
    def samples(self) -> int:
        """Numbers per pixel as stored."""
        return int(self.header.samplesperpixel)

    def read_rows(self, path: Path, start: int, stop: int) -> np.ndarray:
        """The samples (S, stop - start, columns) of the rows from `start` to before `stop`."""
        (rows, columns), (height, width), header = self.shape, self.part, self.header
        down, across = math.ceil(rows / height), math.ceil(columns / width)
        kind = np.dtype(np.uint8) if header.dtype == np.bool_ else header.dtype
        pixels = np.empty((self.samples, stop - start, columns), kind)
        planes = self.samples if header.planarconfig == 2 else 1
        with path.open("rb") as file:
            for plane, above, beside in np.ndindex(planes, math.ceil(stop / height) - start // height, across):
                top, left = (start // height + above) * height, beside * width
                size = height if header.is_tiled else min(height, rows - top), width, self.samples // planes
                part = self._part(file, (plane * down + top // height) * across + beside, size)
                part = part[max(0, start - top) : min(stop, rows) - top, : columns - left]
                first = max(0, top - start)
                into = pixels[plane : plane + part.shape[2], first : first + len(part), left : left + width]
                into[...] = np.moveaxis(part, 2, 0)
        if header.photometric == WHITE_IS_ZERO and kind == np.uint8:
            np.subtract(2**header.bitspersample - 1, pixels, out=pixels)
        return pixels

    def _part(self, file: Any, number: int, size: tuple[int, int, int]) -> np.ndarray:  # noqa: ANN401 - a file
        """The samples (rows, columns, S) of one strip or tile."""
        header, offset, length = self.header, self.header.dataoffsets[number], self.header.databytecounts[number]
        if offset + length > file.seek(0, io.SEEK_END):
            raise EOFError(f"part {number + 1} of {len(header.dataoffsets)} is cut off")
        file.seek(offset)
        content, (rows, columns, samples) = file.read(length), size
        if self.drawn:
            return self._pixels(content, *size)
        bits, fill = header.bitspersample, header.tags.valueof(FILL_ORDER, 1)
        if self.compression != header.compression:
            tags = {HEIGHT: rows, WIDTH: math.ceil(columns * samples * bits / 8), COMPRESSION: self.compression}
            tags |= {BITS: 8, PHOTOMETRIC: BLACK_IS_ZERO, SAMPLES: 1, FILL_ORDER: fill}
            content, fill = _by_libtiff(content, tags).tobytes(), 1
        if bits not in WHOLE:
            return _unpacked(content, bits, (rows, columns * samples), fill).reshape(size)
        return np.asarray(header.decode(content, number)[0][0])

    def _pixels(self, content: bytes, rows: int, columns: int, samples: int) -> np.ndarray:
        """The samples (rows, columns, S) of a part whose compression knows what a pixel is."""
        tags = {tag: self.header.tags[tag].value for tag in KEPT if tag in self.header.tags}
        colours = self.header.photometric if samples > 1 else BLACK_IS_ZERO
        tags |= {HEIGHT: rows, WIDTH: columns, BITS: (self.header.bitspersample,) * samples, PHOTOMETRIC: colours}
        tags |= {SAMPLES: samples, COMPRESSION: self.compression, PREDICTOR: self.predictor}
        return _by_libtiff(content, tags).reshape(rows, columns, -1)


def page_of(header: Any) -> Page:  # noqa: ANN401 - tifffile's TiffPage
    """The page that `header` describes; takes from it the compression that libtiff undoes."""
    compression, predictor, colours = int(header.compression), int(header.predictor), None
    reals = predictor == FLOATS and header.bitspersample == 32 and header.samplesperpixel == 1
    ycbcr = header.photometric == YCBCR and compression in STREAMS
    drawn = compression in FAX or (compression == JPEG and header.bitspersample == 8) or reals or ycbcr
    if drawn or (compression in STREAMS and predictor != FLOATS):
        header.compression, header.fillorder = 1, 1
        header.predictor = 1 if drawn else predictor
    if header.photometric == PALETTE:
        colours = (np.asarray(header.colormap) // 256).astype(np.uint8)
    part = (header.tilelength, header.tilewidth) if header.is_tiled else (header.rowsperstrip, header.imagewidth)
    return Page(header, compression, predictor, drawn, (header.imagelength, header.imagewidth), part, colours)


def _unpacked(content: bytes, bits: int, size: tuple[int, int], fill_order: int) -> np.ndarray:
    """Numbers (rows, count) that do not fill bytes; each row begins with a byte."""
    rows, count = size
    stored = np.frombuffer(content, np.uint8)[: rows * math.ceil(count * bits / 8)].reshape(rows, -1)
    order: Any = "big" if fill_order == 1 else "little"
    each = np.unpackbits(stored, axis=1, count=count * bits, bitorder=order).reshape(rows, count, bits)
    return np.asarray(each @ (1 << np.arange(bits)[::-1]).astype(np.min_scalar_type(2**bits - 1)))


def _by_libtiff(content: bytes, tags: dict[int, Any]) -> np.ndarray:
    """What the strip `content` holds, decoded as the only one of a TIFF: the head, `content`, the directory."""
    entries = sorted((tags | {OFFSETS: 8, ROWS_PER_STRIP: tags[HEIGHT], BYTES: len(content)}).items())
    content += bytes(len(content) % 2)
    end = 8 + len(content)
    directory, values = struct.pack("<H", len(entries)), b""
    for tag, value in entries:
        several = value if isinstance(value, bytes) else np.atleast_1d(value).astype("<u4").tobytes()
        kind, count = (7, len(several)) if isinstance(value, bytes) else (4, len(several) // 4)
        field = several.ljust(4, b"\0")
        if len(several) > 4:
            field = struct.pack("<I", end + 2 + 12 * len(entries) + 4 + len(values))
            values += several + bytes(len(several) % 2)
        directory += struct.pack("<HHI", tag, kind, count) + field
    whole = b"II*\0" + struct.pack("<I", end) + content + directory + bytes(4) + values
    with TiffImageFile(io.BytesIO(whole)) as picture:
        return np.asarray(picture)
