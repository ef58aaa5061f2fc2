"""TIFF as Pillow, tifffile and others write it, whole and by its strips or tiles, against what went into it."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from patchcl.core.errors import UserError
from patchcl.data.formats import images as pictures
from patchcl.data.formats import tiff
from patchcl.data.formats.base import RowBlocks
from patchcl.data.scan import image_row_blocks, mask_row_blocks, read_grid, read_ids, read_image, read_mask

ROWS, COLUMNS = 75, 53
COLOUR = np.random.default_rng(0).integers(0, 256, (ROWS, COLUMNS, 3)).astype(np.uint8)
DEEP = np.random.default_rng(1).integers(0, 65536, (ROWS, COLUMNS)).astype(np.uint16)
MASK = np.random.default_rng(2).integers(0, 3, (ROWS, COLUMNS)).astype(np.uint8)
CLASSES = ("background", "gland", "lumen")


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiff, "LARGE", ROWS * COLUMNS - 1)
    monkeypatch.setattr(tiff, "BLOCK", 20 * COLUMNS)


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
def test_tiles_are_what_was_written(tmp_path: Path, order: Any, big: bool, array: np.ndarray) -> None:
    path = tmp_path / "a.tif"
    kind = "rgb" if array.ndim == 3 else "minisblack"
    tifffile.imwrite(path, array, photometric=kind, tile=(16, 32), compression="zlib", bigtiff=big, byteorder=order)
    assert read_grid(path).shape == (ROWS, COLUMNS)
    expected = array[None] if array.ndim == 2 else np.moveaxis(array, 2, 0)
    np.testing.assert_array_equal(together(pictures.value_row_blocks(path)), expected)
    np.testing.assert_array_equal(pictures.read_values(path), expected)


def test_ids_beyond_what_float32_and_int32_hold(tmp_path: Path) -> None:
    ids = np.array([[0, 2**24 + 1], [2**31, 2**32 - 1]], np.uint32)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, ids)
    np.testing.assert_array_equal(read_ids(path, read_grid(path)), ids.astype(np.int64))
    np.testing.assert_array_equal(read_image([path]).voxels[0], ids.astype(np.float32))


def test_colours_under_another_name_are_colours(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, COLOUR, photometric="minisblack", planarconfig="contig")
    np.testing.assert_array_equal(pictures.read_values(path), np.moveaxis(COLOUR, 2, 0))
    assert pictures.count_channels(path) == 3


def test_a_further_sample_is_transparency_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    four = np.dstack([COLOUR, np.full((ROWS, COLUMNS), 255, np.uint8)])
    tifffile.imwrite(path, four, photometric="rgb", extrasamples=["unassalpha"])
    np.testing.assert_array_equal(pictures.read_values(path), np.moveaxis(COLOUR, 2, 0))
    tifffile.imwrite(path, four, photometric="rgb", extrasamples=["unspecified"])
    with pytest.raises(UserError, match=r"a\.tif has 4 numbers per pixel, and what they are is not said"):
        read_grid(path)
    tifffile.imwrite(path, DEEP[..., None].repeat(2, 2), photometric="minisblack", planarconfig="contig")
    with pytest.raises(UserError, match=r"a\.tif has 2 numbers per pixel"):
        pictures.read_values(path)
    tifffile.imwrite(path, COLOUR.astype(np.uint16), photometric="rgb")
    with pytest.raises(UserError, match="colours of 16 bits; expected 8"):
        read_grid(path)


@pytest.mark.parametrize(
    ("axes", "shape", "names"),
    [("ZCYX", (4, 2), "4 depth x 2 channel"), ("TZYX", (2, 4), "2 time x 4 depth"), ("CYX", (2,), "2 channel")],
)
def test_stacks_of_more_than_slices_are_refused_by_name(
    tmp_path: Path, axes: str, shape: tuple[int, ...], names: str
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((*shape, 5, 7), np.uint16), imagej=True, metadata={"axes": axes})
    for read in (read_grid, pictures.read_values, pictures.read_classes):
        with pytest.raises(UserError, match=rf"a\.tif has pages along other axes than that of slices \({names}\)"):
            read(path)


@pytest.mark.parametrize("kind", ["imagej", "ome"])
def test_slices_are_read_in_their_order(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.tif"
    slices = DEEP[:60].reshape(4, 15, COLUMNS)
    tifffile.imwrite(path, slices, photometric="minisblack", metadata={"axes": "ZYX"}, **{kind: True})
    np.testing.assert_array_equal(pictures.read_values(path)[0], np.moveaxis(slices, 0, 2))


def test_a_stack_whose_pages_have_one_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, DEEP[:60].reshape(4, 15, COLUMNS), imagej=True, metadata={"axes": "ZYX"})
    with tifffile.TiffFile(path) as file:
        after = file.pages[0].offset + 2 + 12 * len(file.pages[0].tags)
    content = bytearray(path.read_bytes())
    content[after : after + 4] = bytes(4)  # there is no further page
    path.write_bytes(content)
    with pytest.raises(UserError, match="ImageJ stack whose 4 pages have one header"):
        read_grid(path)


@pytest.mark.parametrize("below", [False, True], ids=["pages", "pages below"])
def test_of_a_pyramid_the_finest_level_is_read(tmp_path: Path, below: bool) -> None:
    path = tmp_path / "a.tif"
    levels = COLOUR[:64, :48], COLOUR[:64:2, :48:2], COLOUR[:64:4, :48:4]
    kept: dict[str, Any] = {"photometric": "rgb", "tile": (16, 16), "metadata": None}
    with tifffile.TiffWriter(path) as file:
        file.write(levels[0], subifds=2 if below else 0, **kept)
        for level in levels[1:]:
            file.write(level, subfiletype=1, **kept)
    assert read_grid(path).shape == (64, 48)
    np.testing.assert_array_equal(pictures.read_values(path), np.moveaxis(levels[0], 2, 0))


def test_pages_that_a_damaged_file_has_lost_are_missed(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, DEEP[:60].reshape(4, 15, COLUMNS), photometric="minisblack", metadata=None)
    sound = path.read_bytes()
    with tifffile.TiffFile(path) as file:
        starts = [page.offset for page in file.pages]
        after = starts[2] + 2 + 12 * len(file.pages[2].tags)
    for place, message in ((starts[1], "in a circle"), (2**31, "invalid page offset"), (9, "cannot be read")):
        path.write_bytes(sound[:after] + place.to_bytes(4, "little") + sound[after + 4 :])
        with pytest.raises(UserError, match=rf"a\.tif cannot be read as a picture \(.*{message}|{message}"):
            read_grid(path)


def test_rare_compressions_name_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, COLOUR, photometric="rgb")
    with tifffile.TiffFile(path) as file:
        at = file.pages[0].tags[259].valueoffset
    content = bytearray(path.read_bytes())
    content[at : at + 2] = (34712).to_bytes(2, "little")  # JPEG 2000
    path.write_bytes(content)
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    monkeypatch.setattr(tifffile.TIFF, "DECOMPRESSORS", {1: bytes})
    with pytest.raises(UserError, match=r"a TIFF of compression 34712, which needs imagecodecs: .*'patchcl\[tiff\]'"):
        read_grid(path)


def test_what_is_written_is_read_by_others(tmp_path: Path) -> None:
    slices = DEEP[:60].reshape(3, 20, COLUMNS).astype(np.float32) / 7
    tiff.write(tmp_path / "a.tif", slices)
    with Image.open(tmp_path / "a.tif") as picture:
        assert picture.n_frames == 3
        for number in range(3):
            picture.seek(number)
            np.testing.assert_array_equal(np.asarray(picture), slices[number])


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
    monkeypatch.setattr(tiff, "LARGE", ROWS * COLUMNS)
    assert image_row_blocks([small]) is None


def test_what_is_far_too_large_is_never_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = striped(tmp_path / "a.tif", COLOUR, "tiff_lzw")
    monkeypatch.setattr(tiff, "LARGE", ROWS * COLUMNS // 2 - 1)
    for read in (pictures.read_values, pictures.read_classes):
        with pytest.raises(UserError, match=r"too large to be read at once \(3975 pixels\).* read in row blocks where"):
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
