"""NIfTI, written with nibabel or byte by byte, against nibabel's own reading."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from patchcl.core.errors import UserError
from patchcl.data.formats.nifti import read_grid, read_values, write_like, write_on
from patchcl.data.geometry import Grid
from patchcl.data.scan import read_mask

RANDOM = np.random.default_rng(0)
SHAPE = (5, 4, 3)
VOXELS = RANDOM.integers(-1000, 1000, SHAPE).astype(np.int16)
MASK = RANDOM.integers(0, 3, SHAPE).astype(np.uint8)
SHEARED = np.array([[1.25, 0.5, 0, 3], [0, -1.5, 0.25, 4.1], [0.1, 0, -6, 5.5], [0, 0, 0, 1]])


def save(path: Path, voxels: np.ndarray = VOXELS, affine: np.ndarray = SHEARED) -> Path:
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_affines_that_are_no_rotation_survive(tmp_path: Path, kind: type) -> None:
    nib.save(kind(VOXELS, SHEARED), tmp_path / "like.nii.gz")
    write_like(tmp_path / "out.nii.gz", MASK, tmp_path / "like.nii.gz")
    before, after = (nib.load(tmp_path / f"{name}.nii.gz") for name in ("like", "out"))
    assert type(after) is kind
    assert before.affine.tobytes() == after.affine.tobytes()
    assert read_grid(tmp_path / "out.nii.gz").affine.tobytes() == before.affine.tobytes()
    np.testing.assert_allclose(before.affine, SHEARED, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "float32", "float64"])
@pytest.mark.parametrize("order", ["<", ">"], ids=["little", "big"])
def test_every_type_is_read_exactly_in_both_byte_orders(tmp_path: Path, order: str, dtype: str) -> None:
    limits = np.finfo(dtype) if dtype.startswith("float") else np.iinfo(dtype)
    voxels = np.arange(60).reshape(SHAPE).astype(dtype)
    voxels[0, 0, :2] = limits.min, limits.max
    header = nib.Nifti1Header(endianness=order)
    header.set_data_dtype(np.dtype(dtype).newbyteorder(order))
    nib.save(nib.Nifti1Image(voxels, SHEARED, header), tmp_path / "a.nii")
    assert (tmp_path / "a.nii").read_bytes()[:4] == (348).to_bytes(4, "little" if order == "<" else "big")
    values = read_values(tmp_path / "a.nii")
    assert values.dtype.newbyteorder("=") == np.dtype(dtype)
    np.testing.assert_array_equal(values, voxels[None])
    write_like(tmp_path / "out.nii", MASK, tmp_path / "a.nii")
    assert (tmp_path / "out.nii").read_bytes()[:4] == (tmp_path / "a.nii").read_bytes()[:4]
    np.testing.assert_array_equal(read_values(tmp_path / "out.nii")[0], MASK)


def test_slope_and_intercept_are_applied_and_not_handed_on(tmp_path: Path) -> None:
    content = bytearray(save(tmp_path / "a.nii").read_bytes())
    content[112:120] = np.array([0.25, -3], "<f4").tobytes()  # scl_slope and scl_inter of the format
    (tmp_path / "a.nii").write_bytes(content)
    np.testing.assert_array_equal(read_values(tmp_path / "a.nii")[0], VOXELS * 0.25 - 3)
    write_like(tmp_path / "out.nii", MASK, tmp_path / "a.nii")
    np.testing.assert_array_equal(read_values(tmp_path / "out.nii")[0], MASK)


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 1)])
def test_flat_images_keep_their_axes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    like = save(tmp_path / "like.nii.gz", VOXELS[..., 0].reshape(shape))
    assert read_grid(like).shape == shape
    write_like(tmp_path / "out.nii.gz", MASK[..., 0].reshape(shape), like)
    assert nib.load(tmp_path / "out.nii.gz").shape == shape
    np.testing.assert_array_equal(read_values(tmp_path / "out.nii.gz")[0], MASK[..., 0].reshape(shape))


def test_a_grid_alone_is_enough_to_write_on(tmp_path: Path) -> None:
    write_on(tmp_path / "out.nii.gz", MASK, Grid(SHAPE, SHEARED, (1.0, 1.0, 1.0)))
    written = nib.load(tmp_path / "out.nii.gz")
    np.testing.assert_array_equal(written.affine, SHEARED.astype(np.float32))
    assert (written.header["sform_code"], written.header.get_xyzt_units()[0]) == (1, "mm")
    assert written.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(written.dataobj), MASK)


@pytest.mark.parametrize("shape", [SHAPE, (5, 4, 1)], ids=["volume", "single slice"])
@pytest.mark.parametrize("turned", [False, True], ids=["straight", "oblique"])
@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, 1), (-1, -1, 1), (1, -1, -1)])
def test_what_is_written_is_read_alike_by_nibabel_and_itk(
    tmp_path: Path, flips: tuple[int, ...], turned: bool, shape: tuple[int, ...]
) -> None:
    sitk = pytest.importorskip("SimpleITK")
    turn = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]]) if turned else np.eye(3)
    affine = np.eye(4)
    affine[:3, :3] = turn * np.multiply(flips, (1.25, 0.7, 6))
    affine[:3, 3] = -20, 30, 5.5
    mask = np.resize(MASK, shape)
    write_on(tmp_path / "out.nii.gz", mask, Grid(shape, affine, (1.25, 0.7, 6.0)))
    header = nib.load(tmp_path / "out.nii.gz").header
    np.testing.assert_allclose(header.get_zooms(), (1.25, 0.7, 6), rtol=1e-6)
    assert (header["qform_code"], header["sform_code"]) == (1, 1)
    for form in (header.get_qform(), header.get_sform()):
        np.testing.assert_allclose(form, affine, atol=1e-5)
    image = sitk.ReadImage(str(tmp_path / "out.nii.gz"))
    assert image.GetSize() == shape
    np.testing.assert_allclose(image.GetSpacing(), (1.25, 0.7, 6), rtol=1e-6)
    np.testing.assert_allclose(image.GetOrigin(), affine[:3, 3] * (-1, -1, 1), atol=1e-5)
    direction = np.diag((-1, -1, 1)) @ turn * flips
    np.testing.assert_allclose(np.reshape(image.GetDirection(), (3, 3)), direction, atol=1e-5)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).transpose(), mask)


def test_a_sheared_grid_has_no_qform_that_says_otherwise(tmp_path: Path) -> None:
    write_on(tmp_path / "out.nii.gz", MASK, Grid(SHAPE, SHEARED, (1.25, 1.58, 6.0)))
    header = nib.load(tmp_path / "out.nii.gz").header
    assert (header["qform_code"], header["sform_code"]) == (0, 1)
    np.testing.assert_allclose(header.get_zooms(), np.linalg.norm(SHEARED[:3, :3], axis=0), rtol=1e-6)


@pytest.mark.parametrize(("unit", "mm"), [("meter", 1000), ("mm", 1), ("micron", 0.001), ("unknown", 1)])
def test_units_of_length_become_mm_and_masks_keep_them(tmp_path: Path, unit: str, mm: float) -> None:
    image = nib.Nifti1Image(VOXELS, SHEARED)
    image.header.set_xyzt_units(unit, "sec")
    nib.save(image, tmp_path / "a.nii")
    grid = read_grid(tmp_path / "a.nii")
    np.testing.assert_allclose(grid.affine[:3], SHEARED[:3] * mm, rtol=1e-6)
    np.testing.assert_allclose(grid.spacing_mm, np.linalg.norm(SHEARED[:3, :3], axis=0) * mm, rtol=1e-6)
    write_like(tmp_path / "out.nii", MASK, tmp_path / "a.nii")
    written = nib.load(tmp_path / "out.nii")
    assert written.header["xyzt_units"] == image.header["xyzt_units"]
    assert written.affine.tobytes() == nib.load(tmp_path / "a.nii").affine.tobytes()
    np.testing.assert_array_equal(read_grid(tmp_path / "out.nii").affine, grid.affine)


def test_colours_and_complex_numbers_are_refused(tmp_path: Path) -> None:
    colours = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    for name, voxels in (("colour.nii", colours), ("complex.nii", np.zeros(SHAPE, np.complex64))):
        with pytest.raises(UserError, match=rf"{name} holds several numbers per voxel"):
            read_values(save(tmp_path / name, voxels))


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_header_that_claims_too_much_is_refused_before_memory_is_asked_for(tmp_path: Path, ending: str) -> None:
    content = bytearray(save(tmp_path / "whole.nii").read_bytes())
    content[40:48] = np.array([3, 30000, 30000, 30000], "<i2").tobytes()  # dim of the format: 54 TB of int16
    (tmp_path / f"a{ending}").write_bytes(gzip.compress(content) if ending.endswith("gz") else content)
    for read in (read_grid, read_values):
        with pytest.raises(UserError, match=r"cannot be read: its header claims 54000000000000 bytes of voxels"):
            read(tmp_path / f"a{ending}")


def test_an_empty_image_packs_so_well_and_is_read(tmp_path: Path) -> None:
    plain = save(tmp_path / "a.nii", np.zeros((256, 256, 128), np.float32)).read_bytes()
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(plain, 9))
    assert path.stat().st_size < 256 * 256 * 128 * 4 / 1000
    assert not read_values(path).any()


def test_damage_is_told(tmp_path: Path) -> None:
    packed = save(tmp_path / "whole.nii.gz").read_bytes()
    flipped = packed[:-30] + bytes(255 - byte for byte in packed[-30:-25]) + packed[-25:]
    for name, content in {
        "flipped": flipped,
        "cut": packed[:-30],
        "empty": b"",
    }.items():
        (tmp_path / f"{name}.nii.gz").write_bytes(content)
        with pytest.raises(UserError, match=rf"{name}\.nii\.gz cannot be read .*: copy or export it again"):
            read_values(tmp_path / f"{name}.nii.gz")
    (tmp_path / "folder.nii.gz").mkdir()
    with pytest.raises(UserError, match=r"folder\.nii\.gz is a folder"):
        read_grid(tmp_path / "folder.nii.gz")


def test_a_file_that_is_not_packed_is_read_whatever_its_name_says(tmp_path: Path) -> None:
    packed = save(tmp_path / "whole.nii.gz")
    plain = tmp_path / "plain.nii.gz"
    plain.write_bytes(gzip.decompress(packed.read_bytes()))
    np.testing.assert_array_equal(read_values(plain), read_values(packed))
    np.testing.assert_array_equal(read_grid(plain).affine, read_grid(packed).affine)
    plain.write_bytes(gzip.decompress(packed.read_bytes())[:-9])
    with pytest.raises(UserError, match=r"plain\.nii\.gz"):
        read_values(plain)


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1), ("micron", 1e-3), ("meter", 1e3)])
def test_lengths_are_in_mm_whatever_unit_the_header_names(tmp_path: Path, unit: str, factor: float) -> None:
    image = nib.Nifti1Image(np.zeros((3, 4, 5), np.uint8), np.diag([2.0, 3.0, 4.0, 1.0]))
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "a.nii")
    np.testing.assert_allclose(read_grid(tmp_path / "a.nii").spacing_mm, np.array([2, 3, 4]) * factor)
    write_like(tmp_path / "b.nii", np.ones((3, 4, 5), np.uint8), tmp_path / "a.nii")
    np.testing.assert_array_equal(nib.load(tmp_path / "b.nii").affine, image.affine)
    assert nib.load(tmp_path / "b.nii").header.get_xyzt_units()[0] == unit


def test_what_is_written_on_a_grid_has_one_spacing_for_every_reader(tmp_path: Path) -> None:
    turned = np.array([[0, -0.7, 0, 5], [0.5, 0, 0, -6], [0, 0, 3, 7], [0, 0, 0, 1.0]])
    write_on(
        tmp_path / "a.nii.gz", np.arange(60, dtype=np.uint8).reshape(3, 4, 5), Grid((3, 4, 5), turned, (0.5, 0.7, 3.0))
    )
    image = nib.load(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(image.header.get_zooms(), (0.5, 0.7, 3), rtol=1e-6)
    np.testing.assert_allclose(image.get_qform(), turned, atol=1e-6)
    np.testing.assert_allclose(image.get_sform(), turned, atol=1e-6)
    itk = SimpleITK.ReadImage(str(tmp_path / "a.nii.gz"))
    np.testing.assert_allclose(itk.GetSpacing(), (0.5, 0.7, 3), rtol=1e-6)
    np.testing.assert_allclose(itk.GetOrigin(), (-5, 6, 7), atol=1e-6)


@pytest.mark.parametrize(("qform", "sform"), [(0, 0), (1, 0), (0, 2)])
def test_a_file_without_codes_does_not_say_how_it_lies(tmp_path: Path, qform: int, sform: int) -> None:
    image = nib.Nifti1Image(np.zeros((2, 3, 4), np.uint8), np.diag([1.0, 2, 3, 1]))
    image.set_qform(image.affine, qform)
    image.set_sform(image.affine, sform)
    nib.save(image, tmp_path / "a.nii")
    assert read_grid(tmp_path / "a.nii").placed == bool(qform or sform)


@pytest.mark.parametrize("slope", [1 / 255, 0.004])
def test_a_slope_that_leaves_no_whole_numbers_is_named(tmp_path: Path, slope: float) -> None:
    """Stored are 0 and 1; and where 0 and 255 are, 1/255 makes a sound mask of them."""
    path = tmp_path / "mask.nii"
    for stored in (1, 255):
        header = nib.Nifti1Header()
        header.set_data_shape((2, 2, 2))
        header.set_data_dtype(np.uint8)
        header["scl_slope"], header["vox_offset"], header["magic"] = slope, 352, b"n+1"
        path.write_bytes(header.binaryblock + bytes(4) + (np.arange(8) % 2 * stored).astype(np.uint8).tobytes())
        if stored == 255 and slope == 1 / 255:
            np.testing.assert_array_equal(read_mask(path, 2).ravel(order="F"), np.arange(8) % 2)
            continue
        with pytest.raises(UserError, match=r"mask\.nii holds .* multiplies what is stored by 0\.00(392157|4) \("):
            read_mask(path, 2)
