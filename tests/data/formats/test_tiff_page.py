"""Pages of TIFFs of every layout and type of numbers, against what went into them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from patchcl.data.formats.images import read_classes, read_values
from patchcl.data.formats.tiff import open_tiff
from patchcl.data.formats.tiff_page import Page

ROWS, COLUMNS = 75, 53
COLOUR = np.random.default_rng(0).integers(0, 256, (ROWS, COLUMNS, 3)).astype(np.uint8)


def page_at(path: Path) -> Page:
    file = open_tiff(path)
    assert file is not None
    return file.pages[0]


def check_rows(path: Path, expected: np.ndarray) -> None:
    for start, stop in ((0, ROWS), (0, 1), (15, 17), (16, 32), (70, 75)):
        np.testing.assert_array_equal(page_at(path).read_rows(path, start, stop), expected[:, start:stop])


@pytest.mark.parametrize("layout", [{"rowsperstrip": 16}, {"tile": (16, 32)}], ids=["strips", "tiles"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_colours_that_lie_apart_are_put_together(tmp_path: Path, layout: Any, compression: str | None) -> None:
    path = tmp_path / "a.tif"
    planes = np.moveaxis(COLOUR, 2, 0)
    tifffile.imwrite(path, planes, photometric="rgb", planarconfig="separate", compression=compression, **layout)
    check_rows(path, planes)


@pytest.mark.parametrize("kind", ["f4", "i4", "i2", "u2"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_numbers_with_the_highest_byte_first(tmp_path: Path, kind: str, compression: str | None) -> None:
    values = np.arange(ROWS * COLUMNS).reshape(ROWS, COLUMNS).astype(kind) - np.array(9).astype(kind)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, values, compression=compression, byteorder=">")
    np.testing.assert_array_equal(read_values(path)[0], values)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize(
    "values",
    [
        np.array([[-128, -1], [0, 127]], np.int8),
        np.array([[-(2**62) - 1, 7], [2**53 + 1, 2**63 - 1]], np.int64),
        np.array([[0, 2**31], [2**31 + 1, 2**32 - 1]], np.uint32),
        np.array([[-65504, 0.5], [2.0**-24, 65504]], np.float16),
        np.array([[-1e300, 0.1], [2.0**53 + 2, np.pi]], np.float64),
    ],
    ids=lambda values: values.dtype.name,
)
def test_every_type_of_numbers_is_exact(tmp_path: Path, values: np.ndarray, compression: str | None) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, values, compression=compression)
    for found in (read_values(path)[0], read_classes(path)):
        assert found.dtype == values.dtype
        np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize(("kind", "predictor"), [("u1", 2), ("u2", 2), ("f4", 3)])
def test_differences_instead_of_numbers(tmp_path: Path, kind: str, predictor: int) -> None:
    values = np.arange(ROWS * COLUMNS).reshape(ROWS, COLUMNS).astype(kind)
    path = tmp_path / "a.tif"
    Image.fromarray(values).save(path, compression="tiff_lzw", tiffinfo={317: predictor, 278: 16}, strip_size=4096)
    assert page_at(path).predictor == predictor
    check_rows(path, values[None])


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt", "tiff_lzw", "packbits"])
def test_bits_as_fax_machines_store_them(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(COLOUR[..., 0] > 99).save(path, compression=compression)
    np.testing.assert_array_equal(read_classes(path), COLOUR[..., 0] > 99)


@pytest.mark.parametrize("bits", [1, 2, 4, 12])
@pytest.mark.parametrize("white", [False, True])
def test_numbers_of_few_bits(tmp_path: Path, bits: int, white: bool) -> None:
    """By hand: 8 columns of 2 rows, packed without gaps."""
    stored = np.random.default_rng(bits).integers(0, 2**bits, (2, 8))
    packed = np.packbits(stored[..., None] >> np.arange(bits)[::-1] & 1).tobytes()
    template = tmp_path / "template.tif"
    tifffile.imwrite(template, np.zeros((2, len(packed) // 2), np.uint8), photometric="minisblack", metadata=None)
    content = bytearray(template.read_bytes())
    with tifffile.TiffFile(template) as file:
        (page,) = file.pages
        start = page.dataoffsets[0]
        for tag, value in ((256, 8), (258, bits), (262, int(not white))):
            at = page.tags[tag].valueoffset
            content[at : at + 2] = value.to_bytes(2, "little")
    content[start : start + len(packed)] = packed
    path = tmp_path / "a.tif"
    path.write_bytes(content)
    shown = 2**bits - 1 - stored if white and bits < 8 else stored
    np.testing.assert_array_equal(read_classes(path), shown)
    np.testing.assert_array_equal(read_values(path)[0], shown * {2: 85, 4: 17}.get(bits, 1))
