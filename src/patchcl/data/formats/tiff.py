"""TIFF, as microscopes, scanners of slides, ImageJ and drawing programs write it, read with tifffile.

Axes are (rows, columns), and (rows, columns, pages) where a file has several pages. What is not understood, such as
channels or times as pages, or a further number per pixel that is no transparency, is refused and never left out.
"""

import logging
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from patchcl.core.errors import UserError
from patchcl.core.files import atomic_write
from patchcl.data.formats.base import (
    RowBlocks,
    library,
    reading,
    require_content,
    require_eight_bits,
    require_grey,
    require_opaque,
    require_upright,
)
from patchcl.data.formats.tiff_page import (
    BLACK_IS_ZERO,
    JPEG,
    PALETTE,
    RGB,
    STREAMS,
    WHITE_IS_ZERO,
    WHOLE,
    YCBCR,
    Page,
    page_of,
)

KIND = "a picture"
HEADS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
RATIO = 40_000
"""What one byte can stand for in the densest of the ways that TIFF knows."""
LARGE = 89_478_485
"""Pixels above which a picture is read in row blocks where that can be; one of twice as many is never read at once."""
BLOCK = 2**22
"""Pixels of a row block."""
SMALLER = (
    "Cut it into tiles, or save it as a TIFF of one page with strips or tiles, which is read in row blocks where "
    "plan.fit is crop, plan.spacing_mm [1, 1] and plan.normalise rgb or ct."
)
ORIENTATION = 274  # a tag
COLOURS = {5: "CMYK", YCBCR: "YCbCr", 8: "LAB"}
ALPHA = ((1,), (2,), (999,))
"""What a further sample is where it is transparency, the last in Corel Draw."""
SLICES = "IZQ"
"""Axes along which pages are slices: depth, and those that nobody named."""
SLIDES = ("svs", "ndpi", "bif", "qpi", "avs", "philips")
"""Files of slide scanners, whose other pages show the label and the whole glass."""


class _Refusing(logging.Handler):
    """Raises what tifffile only logs: pages and tags that it leaves out because they are damaged."""

    def emit(self, record: logging.LogRecord) -> None:
        """Tags of vendors, which have five digits, may be as they like; warnings are not shown."""
        known = re.search(r"TiffTag \d{5}|incorrect Strip|ImageJ series", record.getMessage())  # told better elsewhere
        if record.levelno >= logging.ERROR and not known:
            raise ValueError(record.getMessage())


Decode = Callable[[Page, Path, int, int], np.ndarray]
"""The pixels (C, rows, columns) of a page of a file, from one row to before another."""


class Tiff(NamedTuple):
    """A file, and those of its pages that are its image, all of one kind."""

    path: Path
    pages: list[Page]

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and columns, and pages where there are several."""
        return (*self.pages[0].shape, *[len(self.pages)] * (len(self.pages) > 1))

    @property
    def rgb(self) -> bool:
        """Whether pixels are colours themselves, and no indices of a colour map."""
        return self.pages[0].samples > 2

    @property
    def channels(self) -> int:
        """3 for colour, also by a colour map, and 1 for grey."""
        return 3 if self.rgb or self.pages[0].colours is not None else 1

    def values(self) -> np.ndarray:
        """The pixels (C, *shape) of an image."""
        self._require_held()
        return self._stacked(_values)

    def value_row_blocks(self) -> RowBlocks | None:
        """What `values` gives, some rows at a time, of one page with more than LARGE pixels; else None."""
        return self._row_blocks(_values)

    def classes(self) -> np.ndarray:
        """The classes (*shape) of a mask: grey values as they are stored, or the indices of a colour map."""
        self._require_held()
        self._require_grey()
        return np.asarray(self._stacked(Page.read_rows)[0])

    def class_row_blocks(self) -> RowBlocks | None:
        """What `classes` gives, (1, rows, columns), some rows at a time; see `value_row_blocks`."""
        self._require_grey()
        return self._row_blocks(Page.read_rows)

    def _require_grey(self) -> None:
        if self.pages[0].samples > 1:
            require_grey(self.path, "RGB" if self.rgb else "grey with transparency")

    def _require_held(self) -> None:
        pixels = math.prod(self.pages[0].shape)
        if pixels > 2 * LARGE:
            raise UserError(f"{self.path} is too large to be read at once ({pixels} pixels). {SMALLER}")

    def _stacked(self, decode: Decode) -> np.ndarray:
        with reading(self.path, KIND):
            decoded = [decode(page, self.path, 0, page.shape[0]) for page in self.pages]
        return np.stack(decoded, axis=-1) if len(decoded) > 1 else decoded[0]

    def _row_blocks(self, decode: Decode) -> RowBlocks | None:
        (page, *others), path = self.pages, self.path
        (rows, columns), (height, width) = page.shape, page.part
        if others or rows * columns <= LARGE or height * width > LARGE:
            return None

        def read(start: int, stop: int) -> np.ndarray:
            with reading(path, KIND):
                return decode(page, path, start, stop)

        return RowBlocks(page.shape, height * max(1, BLOCK // (height * columns)), read)


def open_tiff(path: Path) -> Tiff | None:
    """The TIFF at `path` from its headers alone, of a pyramid level 0, of a slide not its label; None of other files.

    Raises:
        UserError: It is damaged, or of colours, numbers, axes or pages that nobody could know the meaning of.
    """
    with reading(path, KIND):
        with path.open("rb") as head:
            if head.read(4) not in HEADS:
                return None
        from tifffile import TIFF, TiffFile

        with _strict(), TiffFile(path, _multifile=False) as file:
            headers = _headers(file)
            main = file.series[0]
            if main.is_pyramidal or main.kind in SLIDES:
                headers = [page.aspage() for page in main if page is not None]
            _require_meant(headers[0], path)
            _require_slices(file, headers, path)
            pages = [page_of(header) for header in headers]
        page, header = pages[0], headers[0]
        if header.compression not in TIFF.DECOMPRESSORS or header.predictor not in TIFF.UNPREDICTORS:
            library("imagecodecs", path, f"a TIFF of compression {page.compression}", "tiff")
        pixels = max(math.prod(page.part), math.prod(page.shape) * len(pages))
        claimed = pixels * header.samplesperpixel * header.bitspersample // 8
        require_content(path, claimed, 1 if all(page.compression == 1 for page in pages) else RATIO)
        return Tiff(path, pages)


def write(path: Path, slices: np.ndarray) -> None:
    """Write `slices` (pages, rows, columns) in grey."""
    from tifffile import imwrite

    def save(unfinished: Path) -> None:
        imwrite(unfinished, slices, photometric="minisblack", compression="zlib", metadata=None)

    atomic_write(path, save)


@contextmanager
def _strict() -> Iterator[None]:
    """Nothing that tifffile leaves out goes unnoticed."""
    refusing, log = _Refusing(), logging.getLogger("tifffile")
    log.addHandler(refusing)
    try:
        yield
    finally:
        log.removeHandler(refusing)


def _headers(file: Any) -> list[Any]:  # noqa: ANN401 - tifffile's TiffFile
    """All pages; in a damaged file, one can follow itself."""
    headers: dict[int, Any] = {}
    for page in file.pages:
        if page.offset in headers:
            raise ValueError("its pages follow each other in a circle")
        headers[page.offset] = page.aspage()
    return list(headers.values())


def _require_meant(header: Any, path: Path) -> None:  # noqa: ANN401
    """Refuse pixels that are read as they are stored but not as they are meant."""
    bits, kind, samples, colours = header.bitspersample, header.dtype, header.samplesperpixel, int(header.photometric)
    packed = bits not in WHOLE
    if kind is None or kind.kind not in ("bu" if packed else "iuf") or (packed and header.predictor != 1):
        raise UserError(
            f"{path} holds numbers of {bits} bits and format {int(header.sampleformat)}, which no image has."
        )
    if colours > PALETTE and not (colours == YCBCR and (header.compression in (JPEG, *STREAMS) or samples == 1)):
        name = COLOURS.get(colours, f"{colours}")
        raise UserError(f"{path} has colours of kind {name}; expected grey or RGB. Convert it.")
    further = samples - (3 if colours in (RGB, YCBCR) and samples > 1 else 1)
    grey_as_rgb = colours in (WHITE_IS_ZERO, BLACK_IS_ZERO) and samples == 3
    alpha = header.extrasamples in ALPHA or (colours == RGB and not header.extrasamples)
    if samples < 1 + 2 * (colours == RGB) or not (further == 0 or grey_as_rgb or (further == 1 and alpha)):
        raise UserError(
            f"{path} has {samples} numbers per pixel, and what they are is not said; expected grey or RGB, with or "
            "without transparency (alpha). Save each channel as a grey file."
        )
    if samples > 1:
        require_eight_bits(path, bits if kind.kind == "u" else 0)
    require_upright(path, header.tags.valueof(ORIENTATION, 1))


def _require_slices(file: Any, headers: Sequence[Any], path: Path) -> None:  # noqa: ANN401
    """Refuse pages that are anything but slices of one volume."""
    if len({(head.shape, head.dtype, head.bitspersample, head.photometric, head.extrasamples) for head in headers}) > 1:
        raise UserError(f"{path} has pages that differ in size or colour; a volume has equal slices. Split the file.")
    main = file.series[0]
    named = [each for each in zip(main.axes, main.shape, main.dims, strict=True) if each[0] not in "YXS"]
    claimed = max(math.prod(size for _, size, _ in named), int((file.imagej_metadata or {}).get("images", 1)))
    if claimed > len(headers):
        kind = "an ImageJ" if file.is_imagej else "a"
        raise UserError(
            f"{path} is {kind} stack whose {claimed} pages have one header, or lie elsewhere. "
            "Save it with one for each."
        )
    if len(named) > 1 or any(axis not in SLICES for axis, _, _ in named):
        names = " x ".join(f"{size} {name}" for _, size, name in named)
        raise UserError(
            f"{path} has pages along other axes than that of slices ({names}). Save a file for each channel or time."
        )


def _values(page: Page, path: Path, start: int, stop: int) -> np.ndarray:
    """The pixels (C, rows, columns) of an image; grey ones of 2 and 4 bits spread over 8, as viewers do."""
    samples, bits = page.read_rows(path, start, stop), page.header.bitspersample
    if page.samples in (2, 4):
        require_opaque(path, bool((samples[-1] == 255).all()))
        samples = samples[:-1]
    if page.colours is not None:
        return page.colours[:, samples[0]]
    return np.asarray(samples * np.uint8(255 // (2**bits - 1)) if bits in (2, 4) else samples)
