"""Transferred files: what stays is the same to the byte, what changes is the same to the voxel."""

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from patchcl.core.errors import UserError
from patchcl.data.importers import transfer
from patchcl.data.importers.scan_files import common_ending
from patchcl.data.importers.transfer import transfer_image, transfer_mask
from patchcl.data.scan import read_grid, read_mask

RANDOM = np.random.default_rng(0)
COLOUR = RANDOM.integers(0, 256, (6, 5, 3), dtype=np.uint8)
GREY = RANDOM.integers(0, 256, (6, 5), dtype=np.uint8)
CLASSES = RANDOM.integers(0, 3, (6, 5), dtype=np.uint8)


def picture(path: Path, pixels: np.ndarray, **options: object) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def test_what_may_stay_is_linked_or_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = picture(tmp_path / "a.PNG", COLOUR)
    transfer_image(source, 3, tmp_path / "linked.png")
    assert (tmp_path / "linked.png").samefile(source)
    (tmp_path / "way.png").symlink_to(source)
    transfer_image(tmp_path / "way.png", 3, tmp_path / "followed.png")
    assert not (tmp_path / "followed.png").is_symlink()

    def refuse(*_: object) -> None:
        raise OSError("another disk")

    monkeypatch.setattr(transfer.os, "link", refuse)
    transfer_image(source, 3, tmp_path / "copied.png")
    assert not (tmp_path / "copied.png").samefile(source)
    assert (tmp_path / "copied.png").read_bytes() == source.read_bytes()


def test_nifti_is_packed_to_the_byte(tmp_path: Path, save: Callable[..., Path]) -> None:
    source = save("a.nii", RANDOM.integers(-9, 9, (4, 5, 6)).astype(np.int16))
    transfer_image(source, 1, tmp_path / "b.nii.gz")
    assert gzip.decompress((tmp_path / "b.nii.gz").read_bytes()) == source.read_bytes()


def test_pictures_become_png_without_loss(tmp_path: Path) -> None:
    deep = RANDOM.integers(0, 65536, (6, 5), dtype=np.uint16)
    for name, pixels in {"colour.tif": COLOUR, "deep.tif": deep, "lossy.jpg": COLOUR}.items():
        source = picture(tmp_path / name, pixels)
        transfer_image(source, 3 if pixels.ndim == 3 else 1, tmp_path / "out.png")
        with Image.open(source) as before, Image.open(tmp_path / "out.png") as after:
            np.testing.assert_array_equal(np.asarray(after), np.asarray(before))


def test_a_stack_of_pages_is_no_png(tmp_path: Path) -> None:
    pages = [Image.fromarray(GREY) for _ in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(UserError, match=r"a\.tif cannot become \.png without loss: it holds an array \(1, 6, 5, 3\)"):
        transfer_image(tmp_path / "a.tif", 1, tmp_path / "b.png")


def test_scans_become_nifti_where_they_lie(tmp_path: Path) -> None:
    itk = pytest.importorskip("SimpleITK")
    voxels = RANDOM.integers(-900, 900, (3, 4, 5)).astype(np.int16)  # z, y, x
    image = itk.GetImageFromArray(voxels)
    image.SetSpacing((0.5, 0.75, 2.0))
    image.SetOrigin((10.0, -20.0, 30.0))
    itk.WriteImage(image, str(tmp_path / "a.mhd"))
    transfer_image(tmp_path / "a.mhd", 1, tmp_path / "b.nii.gz")
    written = nib.load(tmp_path / "b.nii.gz")
    assert written.get_data_dtype() == np.int16
    np.testing.assert_array_equal(np.asarray(written.dataobj), voxels.T)
    np.testing.assert_allclose(written.affine, [[-0.5, 0, 0, -10], [0, -0.75, 0, 20], [0, 0, 2, 30], [0, 0, 0, 1]])


def test_all_images_have_the_same_channels(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"g\.png is grey, but other images are in colour\. Convert it"):
        transfer_image(picture(tmp_path / "g.png", GREY), 3, tmp_path / "out.png")
    with pytest.raises(UserError, match=r"c\.png is in colour, but other images are grey"):
        transfer_image(picture(tmp_path / "c.png", COLOUR), 1, tmp_path / "out.png")


def masks(tmp_path: Path) -> dict[str, Path]:
    """The same classes in every way that a picture can hold them."""
    mapped = Image.fromarray(CLASSES).copy()
    mapped.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0])
    assert mapped.mode == "P"
    mapped.save(tmp_path / "mapped.png")
    picture(tmp_path / "colours.png", np.repeat(CLASSES[..., None], 3, axis=2))
    opaque = np.concatenate([np.repeat(CLASSES[..., None], 3, axis=2), np.full((6, 5, 1), 255, np.uint8)], axis=2)
    picture(tmp_path / "opaque.png", opaque)
    picture(tmp_path / "grey.tif", CLASSES)
    return {name: tmp_path / name for name in ("mapped.png", "colours.png", "opaque.png", "grey.tif")}


def test_masks_become_classes_however_they_are_coloured(tmp_path: Path) -> None:
    image = picture(tmp_path / "image.png", COLOUR)
    for name, mask in masks(tmp_path).items():
        target = tmp_path / "out" / f"{name}.png"
        target.parent.mkdir(exist_ok=True)
        assert transfer_mask(mask, image, target) == {0, 1, 2}, name
        np.testing.assert_array_equal(read_mask(target, 3, read_grid(image)), CLASSES, err_msg=name)
    assert (tmp_path / "out" / "mapped.png.png").read_bytes() == (tmp_path / "mapped.png").read_bytes()


def test_a_mask_goes_onto_the_grid_of_its_image(tmp_path: Path, save: Callable[..., Path]) -> None:
    image, classes = save("a.nii", RANDOM.random((4, 5, 6))), RANDOM.integers(0, 3, (4, 5, 6)).astype(np.float64)
    transfer_mask(save("a_seg.nii.gz", classes), image, tmp_path / "out.nii")
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "out.nii").dataobj), classes)
    np.testing.assert_array_equal(nib.load(tmp_path / "out.nii").affine, nib.load(image).affine)


def test_a_header_never_goes_without_its_voxels(tmp_path: Path) -> None:
    """Whatever the header is called: a copy of it alone would name what does not lie beside it."""
    pytest.importorskip("SimpleITK")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.bin").write_bytes(CLASSES.tobytes())
    header = "ObjectType = Image\nNDims = 2\nDimSize = 5 6\nElementType = MET_UCHAR\nElementDataFile = raw/a.bin\n"
    (tmp_path / "a.mha").write_text(header)
    (tmp_path / "out").mkdir()
    assert transfer_mask(tmp_path / "a.mha", tmp_path / "a.mha", tmp_path / "out" / "a.mha") == {0, 1, 2}
    np.testing.assert_array_equal(read_mask(tmp_path / "out" / "a.mha", 3), CLASSES.T)
    assert common_ending([tmp_path / "a.mha"]) == ".nii.gz"
    transfer_image(tmp_path / "a.mha", 1, tmp_path / "out" / "a.nii.gz")
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "out" / "a.nii.gz").dataobj), CLASSES.T)


def test_masks_that_cannot_be_right(tmp_path: Path) -> None:
    image, target = picture(tmp_path / "image.png", COLOUR), tmp_path / "out.png"
    small = {"s.png": CLASSES[:5], "t.png": np.repeat(CLASSES[:5, :, None], 3, axis=2)}
    for name, pixels in small.items():
        with pytest.raises(UserError, match=rf"{name} has size 5 × 5, but .* 6 × 5"):
            transfer_mask(picture(tmp_path / name, pixels), image, target)
    with pytest.raises(UserError, match=r"c\.png holds colours"):
        transfer_mask(picture(tmp_path / "c.png", COLOUR), image, target)
    with pytest.raises(UserError, match=r"j\.jpg is a JPEG"):
        transfer_mask(picture(tmp_path / "j.jpg", CLASSES), image, target)
    with pytest.raises(UserError, match=r"d\.png holds the value 300"):
        transfer_mask(picture(tmp_path / "d.png", np.full((6, 5), 300, np.uint16)), image, target)
    assert not target.exists()


def test_images_that_cannot_be_read_are_named(tmp_path: Path, save: Callable[..., Path]) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    nan = save("n.nii", np.full((3, 3, 3), np.nan, np.float32))
    for source, message in {
        tmp_path / "a.png": r"a\.png cannot be read",
        nan: r"n\.nii holds 27 voxels that are NaN",
    }.items():
        with pytest.raises(UserError, match=message):
            transfer_image(source, 1, tmp_path / f"out{source.suffix}")


@pytest.mark.parametrize(
    ("name", "values", "threshold"),
    [
        ("a.jpg", np.array([0, 255]), 128),
        ("a.png", np.array([0, 40000]), 40000),
        ("a.tif", np.array([0.49, 0.5]), 0.5),
        ("a.webp", np.array([0, 255]), 128),
        ("a.gif", np.array([0, 7]), 7),
    ],
)
def test_a_threshold_takes_what_is_that_grey_or_brighter(
    tmp_path: Path, name: str, values: np.ndarray, threshold: float
) -> None:
    kinds = {"a.png": np.uint16, "a.tif": np.float32}
    half = (np.arange(16) > 7).astype(int)[:, None].repeat(16, axis=1)
    source = picture(tmp_path / name, values[half].astype(kinds.get(name, np.uint8)))
    image, target = picture(tmp_path / "image.png", np.zeros((16, 16), np.uint8)), tmp_path / "out.png"
    assert transfer_mask(source, image, target, threshold) == {0, 1}
    np.testing.assert_array_equal(read_mask(target, 2), half)


def test_a_threshold_needs_greys(tmp_path: Path) -> None:
    image, target = picture(tmp_path / "image.png", COLOUR), tmp_path / "out.png"
    with pytest.raises(UserError, match=r"c\.png holds colours \(RGB\)"):
        transfer_mask(picture(tmp_path / "c.png", COLOUR), image, target, 128)
    with pytest.raises(UserError, match=r"s\.png has size 5 × 5, but .* 6 × 5"):
        transfer_mask(picture(tmp_path / "s.png", CLASSES[:5]), image, target, 128)
    with pytest.raises(UserError, match=r"n\.tif holds 30 voxels that are NaN"):
        transfer_mask(picture(tmp_path / "n.tif", np.full((6, 5), np.nan, np.float32)), image, target, 128)
    with pytest.raises(UserError, match=r"d\.png holds .*one structure with grey edges is imported with --threshold"):
        transfer_mask(picture(tmp_path / "d.png", np.full((6, 5), 300, np.uint16)), image, target)
    assert not target.exists()
