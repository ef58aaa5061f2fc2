import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from patchcl.core.errors import UserError
from patchcl.data.scan import (
    IGNORED,
    _classes,
    read_grid,
    read_ids,
    read_image,
    read_mask,
    require_annotated,
    write_map,
    write_mask,
)

Save = Callable[..., Path]
SHAPE = (5, 6, 7)
RANDOM = np.random.default_rng(0)
VOXELS = RANDOM.integers(-1000, 1000, SHAPE).astype(np.int16)
MASK = RANDOM.integers(0, 3, SHAPE).astype(np.uint8)
GEOMETRY = ["pixdim", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "xyzt_units"]
GEOMETRY += ["qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"]


def test_voxels_come_in_file_order_with_spacing(save: Save) -> None:
    affine = np.array([[0, -2.0, 0, 7], [-1.5, 0, 0, 8], [0, 0, 4.0, 9], [0, 0, 0, 1]])
    scan = read_image([save("a.nii.gz", VOXELS, affine)])
    assert scan.voxels.dtype == np.float32
    np.testing.assert_array_equal(scan.voxels, VOXELS[None])
    assert scan.grid.shape == SHAPE
    assert scan.grid.spacing_mm == (1.5, 2.0, 4.0)
    np.testing.assert_array_equal(scan.grid.affine, affine)


def test_channels_are_stacked_and_scaling_is_applied(save: Save) -> None:
    second = nib.Nifti1Image(VOXELS, nib.load(save("a_0000.nii.gz", VOXELS)).affine)
    second.header.set_slope_inter(2, 10)
    path = save("a_0000.nii.gz", VOXELS)
    scaled = path.with_name("a_0001.nii")
    nib.save(nib.Nifti1Image(VOXELS.astype(np.float64) * 0.5, second.affine), scaled)
    scan = read_image([path, scaled])
    np.testing.assert_array_equal(scan.voxels[1], scan.voxels[0] * 0.5)


@pytest.mark.parametrize(("qform_code", "sform_code"), [(1, 0), (0, 2), (1, 1), (3, 4), (0, 0)])
def test_written_masks_keep_the_geometry_bit_for_bit(save: Save, qform_code: int, sform_code: int) -> None:
    like = save("like.nii.gz", VOXELS)
    image = nib.load(like)
    rotated = np.array([[0, 1.25, 0, 3], [-1.25, 0, 0, 4], [0, 0, -6, 5.5], [0, 0, 0, 1]])
    image.header.set_qform(rotated, qform_code)
    image.header.set_sform(image.affine, sform_code)
    image.header.set_xyzt_units("mm", "sec")
    nib.save(nib.Nifti1Image(VOXELS, None, image.header), like)
    out = like.with_name("out.nii.gz")
    write_mask(out, MASK, like)
    before, after = nib.load(like), nib.load(out)
    for field in GEOMETRY:
        assert before.header[field].tobytes() == after.header[field].tobytes(), field
    assert before.affine.tobytes() == after.affine.tobytes()
    assert after.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(after.dataobj), MASK)
    np.testing.assert_array_equal(read_mask(out, 3, read_grid(like)), MASK)


def test_written_maps_are_exact(save: Save) -> None:
    like = save("like.nii", VOXELS)
    values = RANDOM.random(SHAPE).astype(np.float32)
    write_map(like.with_name("map.nii.gz"), values, like)
    np.testing.assert_array_equal(read_image([like.with_name("map.nii.gz")]).voxels[0], values)


def test_scaling_of_the_scan_does_not_touch_the_mask(save: Save) -> None:
    like = save("like.nii.gz", VOXELS)
    image = nib.Nifti1Image(VOXELS, nib.load(like).affine)
    image.header["cal_max"] = 500
    image.header.set_slope_inter(0.25, -3)
    nib.save(image, like)
    write_mask(like.with_name("out.nii.gz"), MASK, like)
    written = nib.load(like.with_name("out.nii.gz"))
    np.testing.assert_array_equal(np.asarray(written.dataobj), MASK)
    assert written.header["cal_max"] == 0


def test_slices_and_single_time_points(save: Save) -> None:
    flat = save("flat.nii.gz", VOXELS[..., 0])
    assert read_grid(flat).shape == (5, 6)
    assert len(read_grid(flat).spacing_mm) == 2
    single = save("single.nii.gz", VOXELS[..., None])
    np.testing.assert_array_equal(read_image([single]).voxels[0], VOXELS)
    write_mask(single.with_name("out.nii.gz"), MASK, single)
    assert nib.load(single.with_name("out.nii.gz")).shape == (*SHAPE, 1)
    with pytest.raises(UserError, match=r"series\.nii\.gz has shape \(5, 6, 7, 2\)"):
        read_image([save("series.nii.gz", np.stack([VOXELS, VOXELS], -1))])


def test_a_mask_with_a_value_that_is_no_class_is_refused(save: Save) -> None:
    for name, value, text in [("low", -1, "-1"), ("high", 3, "3"), ("part", 0.5, "0.5"), ("nan", np.nan, "nan")]:
        wrong = MASK.astype(np.float32)
        wrong[1, 2, 3] = value
        with pytest.raises(UserError, match=rf"{name}\.nii\.gz holds the value {text}, .* from 0 to 2"):
            read_mask(save(f"{name}.nii.gz", wrong), 3)
    np.testing.assert_array_equal(read_mask(save("whole.nii.gz", MASK.astype(np.float64)), 3), MASK)


def test_a_mask_in_black_and_white_has_two_classes(save: Save) -> None:
    white = (MASK == 1) * 255
    np.testing.assert_array_equal(read_mask(save("white.nii.gz", white.astype(np.uint8)), 2), MASK == 1)
    for name, values, classes in [("three", white, 3), ("mixed", white + (MASK == 2), 2), ("grey", white // 2, 2)]:
        with pytest.raises(UserError, match=rf"{name}\.nii\.gz holds the value"):
            read_mask(save(f"{name}.nii.gz", values.astype(np.uint8)), classes)
    with pytest.raises(UserError, match="holds the value 255"):  # a part of a mask does not tell
        _classes(np.array([[0, 255]]), Path("part.png"), 2, None)
    ignored = read_mask(save("ignored.nii.gz", white.astype(np.uint8)), 2, ignore=255)
    np.testing.assert_array_equal(ignored == IGNORED, MASK == 1)


@pytest.mark.parametrize("stored", [np.int16, np.uint16])
def test_classes_stored_with_a_slope_are_rounded(save: Save, stored: type) -> None:
    path = save("slope.nii.gz", MASK)
    image = nib.Nifti1Image(MASK.astype(np.float64), np.eye(4))
    image.set_data_dtype(stored)
    nib.save(image, path)
    assert nib.load(path).dataobj.slope != 1
    np.testing.assert_array_equal(read_mask(path, 3), MASK)
    np.testing.assert_array_equal(read_ids(path, read_grid(path)), MASK)


def test_what_is_no_rounding_is_refused_with_its_digits(save: Save) -> None:
    for value in (1.0009, 1.0011, 1234567.5):
        path = save("mask.nii.gz", np.where(MASK == 1, value, MASK).astype(np.float64))
        if value < 1.001:
            np.testing.assert_array_equal(read_mask(path, 3), MASK)
            continue
        with pytest.raises(UserError, match=rf"holds the value {value}, but a mask"):
            read_mask(path, 3)
        with pytest.raises(UserError, match=rf"holds {value}, but ids of objects"):
            read_ids(path, read_grid(path))


@pytest.mark.parametrize("qform_code", [0, 1])
def test_a_mask_that_follows_the_other_form_is_told_so(save: Save, qform_code: int) -> None:
    affine = np.diag([2.0, 2.0, 5.0, 1.0])
    mask, path = save("mask.nii.gz", MASK, affine), save("image.nii.gz", VOXELS, affine)
    image = nib.Nifti1Image(VOXELS, None)
    image.set_qform(affine, code=qform_code)
    affine[0, 3] = 10
    image.set_sform(affine, code=2)
    nib.save(image, path)
    with pytest.raises(UserError, match=r"mask\.nii\.gz lies up to 10 mm away from its image") as error:
        read_mask(mask, 3, read_grid(path))
    said = "The qform and the sform of its image differ by up to 10 mm" in str(error.value)
    assert said == (qform_code > 0)


def test_what_nobody_annotated_is_told_apart(save: Save) -> None:
    mask = np.array([[[0, 1], [2, 3]]], np.uint8)
    path = save("mask.nii.gz", mask)
    np.testing.assert_array_equal(read_mask(path, 3, ignore=3), [[[0, 1], [2, IGNORED]]])
    np.testing.assert_array_equal(read_mask(path, ("background", "A", "B"), ignore=3), [[[0, 1], [2, 255]]])
    with pytest.raises(UserError, match=r"holds the value 3, .* from 0 to 2"):
        read_mask(path, 3)
    with pytest.raises(UserError, match=r"holds the values 2, 3, .*number objects, such as cells, .* into instancesTr"):
        read_mask(path, ("background", "A"))


def test_files_of_colour_and_of_one_channel_are_stacked(tmp_path: Path) -> None:
    colour = RANDOM.integers(0, 256, (4, 5, 3)).astype(np.uint8)
    Image.fromarray(colour).save(tmp_path / "a_0000.png")
    Image.fromarray(colour[..., 1]).save(tmp_path / "a_0001.png")
    voxels = read_image([tmp_path / "a_0000.png", tmp_path / "a_0001.png"]).voxels
    np.testing.assert_array_equal(voxels, np.moveaxis(colour, 2, 0)[[0, 1, 2, 1]])
    Image.fromarray(colour[:3]).save(tmp_path / "a_0001.png")
    with pytest.raises(UserError, match=r"a_0001\.png has size 3 × 5, but a_0000\.png has 4 × 5"):
        read_image([tmp_path / "a_0000.png", tmp_path / "a_0001.png"])


@pytest.mark.parametrize("name", ["like.png", "like.tif", "like.nrrd", "like.mha"])
def test_any_grid_can_be_written_as_nifti(tmp_path: Path, name: str) -> None:
    mask = MASK[..., 0]
    if name.endswith(("nrrd", "mha")):
        sitk = pytest.importorskip("SimpleITK")
        image = sitk.GetImageFromArray(VOXELS.transpose())
        image.SetSpacing([0.7, 1.5, 2.5])
        image.SetOrigin([10.5, -20.25, 3])
        sitk.WriteImage(image, str(tmp_path / name))
        mask = MASK
    else:
        Image.fromarray(mask).save(tmp_path / name)
    write_mask(tmp_path / "out.nii.gz", mask, tmp_path / name)
    np.testing.assert_array_equal(read_mask(tmp_path / "out.nii.gz", 3, read_grid(tmp_path / name)), mask)
    affine = nib.load(tmp_path / "out.nii.gz").affine
    np.testing.assert_allclose(affine, read_grid(tmp_path / name).affine, atol=1e-6)


def test_grids_must_agree_within_a_tenth_of_a_voxel(save: Save) -> None:
    image = save("image.nii.gz", VOXELS, np.diag([2.0, 2.0, 5.0, 1.0]))
    near = np.diag([2.0, 2.0, 5.0, 1.0])
    near[0, 3] = 0.19
    far = near.copy()
    far[0, 3] = 0.21
    np.testing.assert_array_equal(read_mask(save("near.nii.gz", MASK, near), 3, read_grid(image)), MASK)
    with pytest.raises(UserError, match=r"far\.nii\.gz lies up to 0\.21 mm away"):
        read_mask(save("far.nii.gz", MASK, far), 3, read_grid(image))
    with pytest.raises(UserError, match=r"small\.nii\.gz has size 4 × 6 × 7, but its image has 5 × 6 × 7"):
        read_mask(save("small.nii.gz", MASK[:4]), 3, read_grid(image))
    flipped = np.diag([-2.0, 2.0, 5.0, 1.0])
    with pytest.raises(UserError, match=r"flip\.nii\.gz lies up to 16 mm away from image\.nii\.gz"):
        read_image([image, save("flip.nii.gz", VOXELS, flipped)])


def test_voxels_that_are_no_numbers_are_refused(save: Save) -> None:
    for name, value in {"nan": np.nan, "inf": -np.inf, "huge": 1e300}.items():
        voxels = VOXELS.astype(np.float64)
        voxels[0, 0, :2] = value
        with pytest.raises(UserError, match=rf"{name}\.nii\.gz holds 2 voxels that are NaN or infinite"):
            read_image([save(f"{name}.nii.gz", voxels)])


def test_files_that_cannot_be_read_are_named(save: Save) -> None:
    whole = save("whole.nii.gz", VOXELS)
    broken = {
        "garbage.nii.gz": b"no image at all" * 100,
        "cut.nii.gz": whole.read_bytes()[:-200],
        "short.nii": gzip.decompress(whole.read_bytes())[:-10],
        "header.nii": gzip.decompress(whole.read_bytes())[:100],
        "empty.nii.gz": b"",
    }
    for name, content in broken.items():
        whole.with_name(name).write_bytes(content)
        with pytest.raises(UserError, match=rf"{name} cannot be read"):
            read_image([whole.with_name(name)])
        with pytest.raises(UserError, match=rf"{name} cannot be read"):
            read_mask(whole.with_name(name), 3)
    with pytest.raises(UserError, match=r"none\.nii\.gz does not exist"):
        read_grid(whole.with_name("none.nii.gz"))


def test_a_grid_without_extent_is_refused(save: Save) -> None:
    path = save("flat.nii.gz", VOXELS)
    image = nib.load(path)
    image.header["qform_code"] = 0
    for row in ("srow_x", "srow_y", "srow_z"):
        image.header[row][0] = 0
    nib.save(nib.Nifti1Image(VOXELS, None, image.header), path)
    with pytest.raises(UserError, match=r"flat\.nii\.gz has no valid spacing"):
        read_grid(path)


def test_a_mask_of_another_size_is_never_written(save: Save) -> None:
    like = save("like.nii.gz", VOXELS)
    with pytest.raises(ValueError, match="do not fit"):
        write_mask(like.with_name("out.nii.gz"), MASK[:2], like)
    assert not like.with_name("out.nii.gz").exists()


def test_a_mask_that_says_nothing_is_refused() -> None:
    mask = np.full((3, 2), IGNORED, np.uint8)
    with pytest.raises(UserError, match=r"anna\.nii\.gz says of every voxel .* remove the file"):
        require_annotated(mask, Path("anna.nii.gz"))
    mask[1, 1] = 0
    require_annotated(mask, Path("anna.nii.gz"))
