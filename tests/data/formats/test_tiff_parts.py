"""A TIFF that is read by its strips or tiles holds what Pillow, and tifffile, find in it as a whole."""

import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchcl.core.errors import UserError
from patchcl.data.formats import images as pictures
from patchcl.data.formats.base import RowBlocks
from patchcl.data.formats.images import _as_file
from patchcl.data.scan import image_row_blocks, mask_row_blocks, read_grid, read_image, read_mask

ROWS, COLUMNS = 75, 53
COLOUR = np.random.default_rng(0).integers(0, 256, (ROWS, COLUMNS, 3)).astype(np.uint8)
DEEP = np.random.default_rng(1).integers(0, 65536, (ROWS, COLUMNS)).astype(np.uint16)
MASK = np.random.default_rng(2).integers(0, 3, (ROWS, COLUMNS)).astype(np.uint8)
CLASSES = ("background", "gland", "lumen")


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "LARGE", ROWS * COLUMNS - 1)
    monkeypatch.setattr(pictures, "BAND", 20 * COLUMNS)


def together(blocks: RowBlocks | None) -> np.ndarray:
    assert blocks is not None
    starts, read = zip(*blocks.all(), strict=True)
    assert len(starts) > 1
    assert [*starts] == [*np.cumsum([0, *(block.shape[1] for block in read[:-1])])]
    return np.concatenate(read, axis=1)


def striped(path: Path, array: np.ndarray, compression: str | None, **more: object) -> Path:
    tags = {278: 16} | ({317: 2} if compression == "tiff_lzw" else {})  # rows of a strip; differences are stored
    Image.fromarray(array).save(path, compression=compression, tiffinfo=tags, strip_size=16 * array[0].nbytes, **more)
    return path


@pytest.mark.parametrize(
    ("array", "compression"),
    [
        (array, compression)
        for array in (COLOUR, DEEP, COLOUR[..., 0])
        for compression in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
        if array.dtype == np.uint8 or compression != "jpeg"  # which has 8 bits
    ],
)
def test_strips_are_what_pillow_reads(tmp_path: Path, array: np.ndarray, compression: str | None) -> None:
    path = striped(tmp_path / "a.tif", array, compression)
    np.testing.assert_array_equal(together(pictures.value_row_blocks(path)), pictures.read_values(path))
    np.testing.assert_array_equal(together(image_row_blocks([path])), read_image([path]).voxels)


@pytest.mark.parametrize(("order", "big"), [("<", False), ("<", True), (">", False)])
@pytest.mark.parametrize("array", [COLOUR, DEEP, DEEP.astype(np.float32)], ids=["colour", "16 bits", "real"])
def test_tiles_are_what_was_written(tmp_path: Path, order: str, big: bool, array: np.ndarray) -> None:
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path / "a.tif"
    kind = "rgb" if array.ndim == 3 else "minisblack"
    tifffile.imwrite(path, array, photometric=kind, tile=(16, 32), compression="zlib", bigtiff=big, byteorder=order)
    if order == ">" and array.dtype == np.float32:
        with pytest.raises(UserError, match="highest byte first"):
            read_grid(path)
        return
    assert read_grid(path).shape == (ROWS, COLUMNS)
    expected = array[None] if array.ndim == 2 else np.moveaxis(array, 2, 0)
    np.testing.assert_array_equal(together(pictures.value_row_blocks(path)), expected)


@pytest.mark.parametrize(("kind", "sample"), [("f4", 3), ("i4", 2), ("i2", 2), ("u2", 1)])
def test_numbers_with_the_highest_byte_first_are_read_truly_or_refused(tmp_path: Path, kind: str, sample: int) -> None:
    values = np.arange(ROWS * COLUMNS).reshape(ROWS, COLUMNS).astype(f">{kind}")
    tags = {258: 8 * values.itemsize, 262: 1, 277: 1, 339: sample}
    path = tmp_path / "a.tif"
    for compression, content in ((1, values.tobytes()), (8, zlib.compress(values.tobytes()))):
        path.write_bytes(_as_file(content, values.shape, tags | {259: compression}, ">"))
        if compression == 8 and kind != "u2":
            with pytest.raises(UserError, match="highest byte first"):
                pictures.read_values(path)
        else:
            np.testing.assert_array_equal(pictures.read_values(path)[0], values)


def test_any_rows_can_be_asked_for(tmp_path: Path) -> None:
    blocks = pictures.value_row_blocks(striped(tmp_path / "a.tif", COLOUR, "tiff_lzw"))
    assert blocks is not None
    assert blocks.shape == (ROWS, COLUMNS)
    assert blocks.step == 16
    for start, stop in ((0, 1), (15, 17), (16, 32), (70, 75), (0, 75)):
        np.testing.assert_array_equal(blocks.read(start, stop), np.moveaxis(COLOUR, 2, 0)[:, start:stop])


@pytest.mark.parametrize("mapped", [False, True])
def test_a_mask_has_its_classes(tmp_path: Path, mapped: bool) -> None:
    drawn = Image.fromarray(MASK)
    if mapped:
        drawn.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    path = tmp_path / "mask.tif"
    drawn.save(path, compression="tiff_lzw", strip_size=16 * COLUMNS)
    grid = read_grid(path)
    np.testing.assert_array_equal(together(mask_row_blocks(path, CLASSES, grid))[0], MASK)
    np.testing.assert_array_equal(together(mask_row_blocks(path, CLASSES[:2], grid, 2))[0], read_mask(path, 2, grid, 2))
    with pytest.raises(UserError, match="holds the value 2, but a mask may only hold whole numbers from 0 to 1"):
        together(mask_row_blocks(path, CLASSES[:2], grid))
    with pytest.raises(UserError, match="has size"):
        mask_row_blocks(path, CLASSES, grid._replace(shape=(ROWS, COLUMNS + 1)))
    with pytest.raises(UserError, match="a mask has one number per pixel"):
        mask_row_blocks(striped(tmp_path / "colour.tif", COLOUR, None), CLASSES, grid)


def test_what_is_small_or_has_no_parts_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = tmp_path / "one.tif"
    Image.fromarray(COLOUR).save(one, strip_size=COLOUR.nbytes, compression="tiff_lzw")
    pages = tmp_path / "pages.tif"
    Image.fromarray(MASK).save(pages, save_all=True, append_images=[Image.fromarray(MASK)])
    picture = tmp_path / "a.png"
    Image.fromarray(COLOUR).save(picture)
    for path in (one, pages, picture):
        assert image_row_blocks([path]) is None
    small = striped(tmp_path / "small.tif", COLOUR, "tiff_lzw")
    assert image_row_blocks([small, small]) is None
    monkeypatch.setattr(pictures, "LARGE", ROWS * COLUMNS)
    assert image_row_blocks([small]) is None


def test_what_is_far_too_large_is_never_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = striped(tmp_path / "a.tif", COLOUR, "tiff_lzw")
    monkeypatch.setattr(pictures, "LARGE", ROWS * COLUMNS // 2 - 1)
    for read in (pictures.read_values, pictures.read_classes):
        with pytest.raises(UserError, match=r"too large to be read at once \(3975 pixels\).* read in bands where"):
            read(path)
    np.testing.assert_array_equal(together(image_row_blocks([path])), np.moveaxis(COLOUR, 2, 0))


def test_a_part_that_is_cut_off_or_damaged_is_told(tmp_path: Path) -> None:
    path = striped(tmp_path / "a.tif", COLOUR, "tiff_adobe_deflate")
    blocks = image_row_blocks([path])
    content = bytearray(path.read_bytes())
    content[200:260] = bytes(60)
    path.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read as a picture"):
        together(blocks)
    path.write_bytes(content[:1000])
    with pytest.raises(UserError, match=r"cannot be read as a picture \(part 1 of 5 is cut off\)"):
        together(blocks)


def test_not_a_number_is_told(tmp_path: Path) -> None:
    wrong = DEEP.astype(np.float32)
    wrong[70, 3] = np.nan
    path = tmp_path / "a.tif"
    Image.fromarray(wrong).save(path, strip_size=16 * COLUMNS * 4, compression="tiff_lzw")
    with pytest.raises(UserError, match="holds 1 voxels that are NaN or infinite"):
        together(image_row_blocks([path]))
