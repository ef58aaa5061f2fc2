"""Pictures written by Pillow and by hand, against the numbers that went into them."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchcl.core.errors import UserError
from patchcl.data.formats.images import (
    FORMAT,
    colour_map,
    count_channels,
    is_lossless_rgb,
    read_classes,
    read_grid,
    read_values,
    write_like,
)

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (5, 7)).astype(np.uint8)
COLOUR = RANDOM.integers(0, 256, (5, 7, 3)).astype(np.uint8)
MASK = RANDOM.integers(0, 3, (5, 7)).astype(np.uint8)


def save(path: Path, pixels: np.ndarray, mode: str | None = None, **options: object) -> Path:
    picture = Image.fromarray(pixels)
    (picture if mode is None else picture.convert(mode)).save(path, **options)
    return path


def png(path: Path, width: int, height: int, bits: int, colour: int, rows: bytes) -> Path:
    """A PNG of any kind, also of those that Pillow never writes."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.gif", "a.tif", "a.TIFF", "A.PNG"])
def test_grey_pictures_come_as_rows_and_columns(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name, GREY)
    np.testing.assert_array_equal(read_values(path), GREY[None])
    np.testing.assert_array_equal(read_classes(path), GREY)
    grid = read_grid(path)
    assert (grid.shape, grid.spacing_mm, count_channels(path)) == ((5, 7), (1.0, 1.0), 1)
    np.testing.assert_array_equal(grid.affine, np.eye(4))


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tiff"])
def test_colour_pictures_have_three_channels(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name, COLOUR)
    np.testing.assert_array_equal(read_values(path), np.moveaxis(COLOUR, 2, 0))
    assert count_channels(path) == 3
    assert read_grid(path).shape == (5, 7)


def test_a_jpeg_is_an_image_but_no_mask(tmp_path: Path) -> None:
    smooth = np.broadcast_to(np.arange(0, 160, 10, dtype=np.uint8)[:, None, None], (16, 24, 3))
    path = save(tmp_path / "a.jpg", np.ascontiguousarray(smooth), quality=95)
    np.testing.assert_allclose(read_values(path), np.moveaxis(smooth, 2, 0), atol=3)
    save(tmp_path / "hidden.png", MASK, format="JPEG")
    for name in ("a.jpg", "hidden.png"):
        with pytest.raises(UserError, match=rf"{name} is a JPEG, which changes values"):
            read_classes(tmp_path / name)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bits_are_exact(tmp_path: Path, name: str) -> None:
    pixels = np.array([[0, 1, 255, 256], [257, 32767, 32768, 65535]], np.uint16)
    values = read_values(save(tmp_path / name, pixels))
    assert values.dtype.kind in "iu"
    np.testing.assert_array_equal(values, pixels[None])


@pytest.mark.parametrize("order", ["<", ">"])
def test_tiffs_of_either_byte_order(tmp_path: Path, order: str) -> None:
    """Written by hand: one strip of 16-bit pixels, 3 wide and 2 high."""
    pixels = np.array([[1, 2, 300], [400, 50000, 65535]], f"{order}u2")
    tags = [(256, 3, 3), (257, 3, 2), (258, 3, 16), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1), (278, 3, 2)]
    tags.append((279, 4, 12))
    mark = b"II*\0" if order == "<" else b"MM\0*"

    def entry(tag: int, kind: int, value: int) -> bytes:
        return struct.pack(f"{order}HHI{'H2x' if kind == 3 else 'I'}", tag, kind, 1, value)

    content = mark + struct.pack(f"{order}I", 20) + pixels.tobytes() + struct.pack(f"{order}H", len(tags))
    content += b"".join(entry(*tag) for tag in tags) + bytes(4)
    (tmp_path / "a.tif").write_bytes(content)
    np.testing.assert_array_equal(read_values(tmp_path / "a.tif")[0], pixels)
    (tmp_path / "cut.tif").write_bytes(content.replace(entry(257, 3, 2), entry(257, 3, 60000)))
    with pytest.raises(UserError, match=r"cut\.tif cannot be read: its header claims 360000 bytes"):
        read_grid(tmp_path / "cut.tif")


def test_floats_and_bits(tmp_path: Path) -> None:
    floats = RANDOM.normal(size=(5, 7)).astype(np.float32)
    np.testing.assert_array_equal(read_values(save(tmp_path / "float.tif", floats))[0], floats)
    bits = save(tmp_path / "bits.png", MASK * 200, "1", bits=1)
    assert set(np.unique(read_values(bits))) == {0, 1}
    np.testing.assert_array_equal(read_classes(bits), np.asarray(Image.open(bits)))


def test_pages_are_slices(tmp_path: Path) -> None:
    pages = RANDOM.integers(0, 60000, (4, 5, 7)).astype(np.uint16)
    first, *others = (Image.fromarray(page) for page in pages)
    first.save(tmp_path / "a.tif", save_all=True, append_images=others)
    assert read_grid(tmp_path / "a.tif").shape == (5, 7, 4)
    np.testing.assert_array_equal(read_values(tmp_path / "a.tif")[0], np.moveaxis(pages, 0, 2))
    mask = (pages % 3).astype(np.uint8).transpose(1, 2, 0)
    write_like(tmp_path / "mask.tif", mask, tmp_path / "a.tif")
    np.testing.assert_array_equal(read_classes(tmp_path / "mask.tif"), mask)
    colours = [Image.fromarray(COLOUR), Image.fromarray(COLOUR[::-1])]
    colours[0].save(tmp_path / "rgb.tif", save_all=True, append_images=colours[1:])
    expected = np.stack([COLOUR, COLOUR[::-1]], -1).transpose(2, 0, 1, 3)
    np.testing.assert_array_equal(read_values(tmp_path / "rgb.tif"), expected)
    first.save(tmp_path / "odd.tif", save_all=True, append_images=[Image.fromarray(GREY[:3])])
    with pytest.raises(UserError, match="pages that differ in size or colour"):
        read_values(tmp_path / "odd.tif")


def test_an_imagej_stack_is_not_read_as_its_first_page(tmp_path: Path) -> None:
    save(tmp_path / "one.tif", GREY, description="ImageJ=1.54f\nimages=1\nunit=um\n")
    assert read_grid(tmp_path / "one.tif").shape == (5, 7)
    save(tmp_path / "many.tif", GREY, description="ImageJ=1.54f\nimages=12\nslices=12\n")
    with pytest.raises(UserError, match="ImageJ stack whose 12 pages have one header"):
        read_grid(tmp_path / "many.tif")


def test_a_colour_map_is_colours_of_an_image_and_classes_of_a_mask(tmp_path: Path) -> None:
    picture = Image.fromarray(MASK)
    picture.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    for name in ("a.png", "a.tif", "a.bmp", "a.gif"):
        picture.save(tmp_path / name)
        np.testing.assert_array_equal(read_classes(tmp_path / name), MASK)
        np.testing.assert_array_equal(read_values(tmp_path / name)[1], 20 + 30 * MASK)
        assert count_channels(tmp_path / name) == 3


def test_a_gif_with_a_map_of_greys_is_grey(tmp_path: Path) -> None:
    picture = Image.fromarray(MASK)
    picture.putpalette(np.repeat(np.array([255, 0, 128], np.uint8), 3).tolist())  # white comes first
    picture.save(tmp_path / "a.gif")
    grey = np.array([255, 0, 128], np.uint8)[MASK]
    np.testing.assert_array_equal(read_classes(tmp_path / "a.gif"), grey)
    np.testing.assert_array_equal(read_values(tmp_path / "a.gif"), grey[None])
    assert count_channels(tmp_path / "a.gif") == 1
    assert colour_map(tmp_path / "a.gif") is None


def test_a_webp_is_in_colour_and_a_mask_where_it_is_grey_and_lost_nothing(tmp_path: Path) -> None:
    path = save(tmp_path / "a.webp", COLOUR, lossless=True)
    np.testing.assert_array_equal(read_values(path), np.moveaxis(COLOUR, 2, 0))
    assert (count_channels(path), is_lossless_rgb(path)) == (3, True)
    with pytest.raises(UserError, match=r"a\.webp holds colours \(RGB\)"):
        read_classes(path)
    np.testing.assert_array_equal(read_classes(save(tmp_path / "mask.webp", MASK, lossless=True)), MASK)
    exact = save(tmp_path / "exif.webp", MASK, lossless=True, exif=Image.Exif().tobytes(), icc_profile=b"ab")
    np.testing.assert_array_equal(read_classes(exact), MASK)
    lossy = save(tmp_path / "lossy.webp", MASK, quality=100)
    assert not is_lossless_rgb(lossy)
    with pytest.raises(UserError, match=r"lossy\.webp is a lossy WebP, which changes values"):
        read_classes(lossy)


@pytest.mark.parametrize("name", ["a.gif", "a.webp"])
def test_animated_pictures_are_refused(tmp_path: Path, name: str) -> None:
    first, *others = (Image.fromarray(np.roll(COLOUR, number, axis=0)) for number in range(3))
    first.save(tmp_path / name, save_all=True, append_images=others)
    with pytest.raises(UserError, match=rf"{name} is animated: it holds 3 pictures; expected one\. Save"):
        read_grid(tmp_path / name)


def test_a_gif_with_transparent_pixels_is_no_image(tmp_path: Path) -> None:
    picture = Image.fromarray(MASK)
    picture.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    for name in ("a.gif", "a.png"):
        picture.save(tmp_path / name, transparency=1)
        with pytest.raises(UserError, match=rf"{name} has transparent pixels"):
            read_values(tmp_path / name)
        np.testing.assert_array_equal(read_classes(tmp_path / name), MASK)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_masks_of_few_bits_hold_what_was_stored(tmp_path: Path, bits: int) -> None:
    path = png(tmp_path / "a.png", 8 // bits, 2, bits, 0, b"\0\x1b\0\xe4")
    expected = [[byte >> shift & 2**bits - 1 for shift in range(8 - bits, -1, -bits)] for byte in (0x1B, 0xE4)]
    np.testing.assert_array_equal(read_classes(path), expected)


def test_colours_make_no_mask(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.png holds colours \(RGB\); a mask has one number per pixel"):
        read_classes(save(tmp_path / "a.png", COLOUR))


def test_what_cannot_be_read_as_it_is_meant_is_refused(tmp_path: Path) -> None:
    alpha = np.dstack([COLOUR, np.full((5, 7), 255, np.uint8)])
    np.testing.assert_array_equal(read_values(save(tmp_path / "opaque.png", alpha)), np.moveaxis(COLOUR, 2, 0))
    np.testing.assert_array_equal(read_values(save(tmp_path / "grey.png", alpha, "LA")).shape, (1, 5, 7))
    alpha[2, 3, 3] = 254
    turned = Image.Exif()
    turned[274] = 6
    cases = {
        save(tmp_path / "clear.png", alpha): "transparent pixels",
        save(tmp_path / "print.tif", COLOUR, "CMYK"): "colours of kind CMYK",
        save(tmp_path / "turned.jpg", COLOUR, exif=turned): r"turned or mirrored \(orientation 6\)",
        save(tmp_path / "turned.webp", COLOUR, exif=turned): r"turned or mirrored \(orientation 6\)",
        save(tmp_path / "clear.webp", alpha): "transparent pixels",
        save(tmp_path / "turned.tif", COLOUR, tiffinfo={274: 3}): r"turned or mirrored \(orientation 3\)",
        png(tmp_path / "deep.png", 1, 1, 16, 2, b"\0" + bytes(6)): "colours of 16 bits; expected 8",
    }
    for path, message in cases.items():
        with pytest.raises(UserError, match=rf"{path.name} .*{message}"):
            read_values(path)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg", "a.bmp", "a.gif", "a.webp"])
def test_damaged_files_are_named(tmp_path: Path, name: str) -> None:
    whole = save(tmp_path / name, RANDOM.integers(0, 256, (64, 64), np.uint8)).read_bytes()
    for content in (b"", b"no picture" * 99, whole[:20], whole[: len(whole) // 2]):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=rf"{name} cannot be read"):
            read_values(tmp_path / name)
    (tmp_path / name).unlink()
    with pytest.raises(UserError, match=rf"{name} does not exist"):
        read_grid(tmp_path / name)


def test_headers_that_claim_too_much(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png", 9000, 9000, 8, 0, bytes(1000))
    with pytest.raises(UserError, match=r"a\.png cannot be read: its header claims 81000000 bytes"):
        read_grid(path)
    with pytest.raises(UserError, match=r"b\.png is too large .* Cut it into tiles"):
        read_grid(png(tmp_path / "b.png", 60000, 60000, 8, 0, bytes(1000)))


@pytest.mark.parametrize("ending", FORMAT.endings)
def test_masks_and_maps_come_back_as_they_were(tmp_path: Path, ending: str) -> None:
    like = save(tmp_path / f"like{ending}", COLOUR)
    mask = tmp_path / f"mask{FORMAT.masks_as.get(ending, ending)}"
    write_like(mask, MASK, like)
    np.testing.assert_array_equal(read_classes(mask), MASK)
    with Image.open(mask) as picture:
        assert picture.mode == "L"
    values = RANDOM.random((5, 7)).astype(np.float32)
    smooth = tmp_path / f"map{FORMAT.maps_as.get(ending, ending)}"
    write_like(smooth, values, like)
    np.testing.assert_array_equal(read_values(smooth)[0], values)
    with pytest.raises(ValueError, match="do not fit"):
        write_like(tmp_path / "out.png", MASK.T, like)
