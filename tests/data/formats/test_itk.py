"""NRRD and MetaImage, written by SimpleITK or by hand, against SimpleITK's own reading and the text of the header."""

import gzip
import zlib
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from patchcl.core.errors import UserError
from patchcl.data.formats.itk import FORMAT, read_grid, read_values, write_like

sitk = pytest.importorskip("SimpleITK")
RANDOM = np.random.default_rng(0)
VOXELS = RANDOM.integers(-1000, 1000, (5, 4, 3)).astype(np.int16)  # x, y, z
MASK = RANDOM.integers(0, 3, VOXELS.shape).astype(np.uint8)
OBLIQUE = Rotation.from_euler("xyz", [20, -35, 100], degrees=True).as_matrix()
FLIPPED = np.diag([-1.0, 1.0, -1.0])
ENDINGS = pytest.mark.parametrize("ending", [".nrrd", ".mha"])


def save(path: Path, voxels: np.ndarray = VOXELS, direction: np.ndarray = OBLIQUE, compress: bool = False) -> Path:
    image = sitk.GetImageFromArray(voxels.transpose())
    image.SetSpacing([0.7, 1.0 / 3, 2.5][: voxels.ndim])
    image.SetOrigin([-101.1, 20.2, np.pi][: voxels.ndim])
    image.SetDirection(direction[: voxels.ndim, : voxels.ndim].ravel().tolist())
    image.SetMetaData("Patient", "anna, left")
    sitk.WriteImage(image, str(path), compress)
    return path


def test_the_affine_is_itks_own_with_two_axes_turned(tmp_path: Path) -> None:
    path = save(tmp_path / "a.mha")
    affine = read_grid(path).affine
    image = sitk.ReadImage(str(path))
    for index in [(0, 0, 0), (4, 0, 0), (1, 2, 1), (4, 3, 2)]:
        left, back, up = image.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose((affine @ [*index, 1])[:3], [-left, -back, up], atol=1e-12)
    assert read_grid(path).shape == (5, 4, 3)
    np.testing.assert_allclose(read_grid(path).spacing_mm, (0.7, 1.0 / 3, 2.5))


@ENDINGS
@pytest.mark.parametrize("direction", [np.eye(3), OBLIQUE, FLIPPED], ids=["straight", "oblique", "flipped"])
def test_what_is_written_lies_where_the_scan_does_to_the_last_bit(
    tmp_path: Path, ending: str, direction: np.ndarray
) -> None:
    like, out = save(tmp_path / f"like{ending}", direction=direction), tmp_path / f"out{ending}"
    write_like(out, MASK, like)
    before, after = sitk.ReadImage(str(like)), sitk.ReadImage(str(out))
    assert before.GetSize() == after.GetSize()
    assert before.GetSpacing() == after.GetSpacing()
    assert before.GetOrigin() == after.GetOrigin()
    assert before.GetDirection() == after.GetDirection()
    assert after.GetMetaData("Patient") == "anna, left"
    assert after.GetPixelID() == sitk.sitkUInt8
    np.testing.assert_array_equal(sitk.GetArrayFromImage(after).transpose(), MASK)
    assert read_grid(like).affine.tobytes() == read_grid(out).affine.tobytes()


@ENDINGS
def test_maps_keep_every_bit(tmp_path: Path, ending: str) -> None:
    values = RANDOM.random(VOXELS.shape).astype(np.float32)
    write_like(tmp_path / f"map{ending}", values, save(tmp_path / f"like{ending}"))
    np.testing.assert_array_equal(read_values(tmp_path / f"map{ending}")[0], values)


@ENDINGS
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "float32", "float64"])
def test_every_type_is_read_exactly(tmp_path: Path, ending: str, dtype: str) -> None:
    kind = np.dtype(dtype)
    limits = np.finfo(kind) if kind.kind == "f" else np.iinfo(kind)
    voxels = np.arange(60).reshape(5, 4, 3).astype(kind)
    voxels[0, 0, :2] = limits.min, limits.max
    for compress in (False, True):
        values = read_values(save(tmp_path / f"a{ending}", voxels, compress=compress))
        assert values.dtype == kind
        np.testing.assert_array_equal(values, voxels[None])


@ENDINGS
@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 1)], ids=["a slice", "a volume of one slice"])
def test_flat_images(tmp_path: Path, ending: str, shape: tuple[int, ...]) -> None:
    voxels = np.arange(20, dtype=np.uint16).reshape(shape)
    like = save(tmp_path / f"like{ending}", voxels, FLIPPED)
    assert read_grid(like).shape == shape
    assert read_grid(like).affine[0, 0] == pytest.approx(0.7)  # to the right: turned in the file, and LPS to RAS
    write_like(tmp_path / f"out{ending}", (voxels % 2).astype(np.uint8), like)
    np.testing.assert_array_equal(read_values(tmp_path / f"out{ending}")[0], voxels % 2)
    assert read_grid(tmp_path / f"out{ending}").affine.tobytes() == read_grid(like).affine.tobytes()


@pytest.mark.parametrize("order", ["<", ">"], ids=["little", "big"])
def test_both_byte_orders_and_data_in_a_file_of_their_own(tmp_path: Path, order: str) -> None:
    raw = VOXELS.astype(f"{order}i2").tobytes(order="F")
    (tmp_path / "a.raw").write_bytes(raw)
    (tmp_path / "a.raw.gz").write_bytes(gzip.compress(raw))
    nrrd = "NRRD0004\ntype: short\ndimension: 3\nsizes: 5 4 3\nspace: right-anterior-superior\n"
    nrrd += "space directions: (2,0,0) (0,3,0) (0,0,4)\nspace origin: (7,8,9)\n"
    nrrd += f"endian: {'little' if order == '<' else 'big'}\nencoding: gzip\ndata file: a.raw.gz\n"
    (tmp_path / "a.nhdr").write_text(nrrd)
    meta = (
        "ObjectType = Image\nNDims = 3\nDimSize = 5 4 3\nElementSpacing = 2 3 4\nOffset = -7 -8 9\nBinaryData = True\n"
    )
    meta += "TransformMatrix = -1 0 0 0 -1 0 0 0 1\nElementType = MET_SHORT\n"
    meta += f"BinaryDataByteOrderMSB = {order == '>'}\nElementDataFile = a.raw\n"
    (tmp_path / "a.mhd").write_text(meta)
    for name, written in (("a.nhdr", "out.nrrd"), ("a.mhd", "out.mha")):
        np.testing.assert_array_equal(read_values(tmp_path / name)[0], VOXELS)
        expected = [[2, 0, 0, 7], [0, 3, 0, 8], [0, 0, 4, 9], [0, 0, 0, 1]]  # both say the same of the patient
        np.testing.assert_array_equal(read_grid(tmp_path / name).affine, expected)
        assert FORMAT.masks_as[Path(name).suffix] == Path(written).suffix
        write_like(tmp_path / written, MASK, tmp_path / name)
        np.testing.assert_array_equal(read_values(tmp_path / written)[0], MASK)
        np.testing.assert_array_equal(read_grid(tmp_path / written).affine, expected)
    (tmp_path / "a.raw").write_bytes(raw[:-2])
    with pytest.raises(UserError, match=r"a\.raw .* header claims 120 bytes of voxels, but the file has 118"):
        read_grid(tmp_path / "a.mhd")
    (tmp_path / "a.raw").unlink()
    with pytest.raises(UserError, match=r"a\.raw does not exist"):
        read_grid(tmp_path / "a.mhd")


NRRD = "NRRD0004\ntype: short\ndimension: 3\nsizes: 5 4 3\nendian: little\nencoding: raw\n"
META = (
    "ObjectType = Image\nNDims = 3\nDimSize = 5 4 3\nElementType = MET_SHORT\nBinaryData = True\n"
    "BinaryDataByteOrderMSB = False\n"
)
NRRD_PLACE = "space: {}\nspace directions: ({},0,0) (0,{},0) (0,0,4)\nspace origin: ({},{},9)\n\n"
META_PLACE = "{} = -1 0 0 0 -1 0 0 0 1\n{} = -7 -8 9\nElementSpacing = 2 3 4\nElementDataFile = LOCAL\n"
PLACES = {
    "right.nrrd": NRRD + NRRD_PLACE.format("right-anterior-superior", 2, 3, 7, 8),
    "ras.nrrd": NRRD + NRRD_PLACE.format("RAS", 2, 3, 7, 8),
    "las.nrrd": NRRD + NRRD_PLACE.format("LAS", -2, 3, -7, 8),
    "lps.nrrd": NRRD + NRRD_PLACE.format("left-posterior-superior", -2, -3, -7, -8),
    "mirrored.mha": META + META_PLACE.format("TransformMatrix", "Offset"),
    "oriented.mha": META + META_PLACE.format("Orientation", "Position"),
}
"""One place in the patient, in all the words that headers have for it."""


@pytest.mark.parametrize("name", PLACES)
def test_one_place_is_one_place_however_a_header_says_it(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(PLACES[name].encode() + VOXELS.astype("<i2").tobytes(order="F"))
    expected = [[2, 0, 0, 7], [0, 3, 0, 8], [0, 0, 4, 9], [0, 0, 0, 1]]
    np.testing.assert_array_equal(read_grid(tmp_path / name).affine, expected)
    np.testing.assert_array_equal(read_values(tmp_path / name)[0], VOXELS)
    write_like(tmp_path / f"out_{name}", MASK, tmp_path / name)
    scan, mask = (sitk.ReadImage(str(tmp_path / file)) for file in (name, f"out_{name}"))
    for of in (sitk.Image.GetSpacing, sitk.Image.GetOrigin, sitk.Image.GetDirection):
        assert of(mask) == of(scan)


@pytest.mark.parametrize(
    ("name", "unit", "mm"),
    [
        ("ras.nrrd", 'space units: "um" "um" "um"', 0.001),
        ("lps.nrrd", 'space units: "mm" "mm" "mm"', 1),
        ("mirrored.mha", "DistanceUnits = cm", 10),
        ("mirrored.mha", "DistanceUnits = ?", 1),
    ],
)
def test_lengths_are_in_mm_whatever_unit_the_header_names(tmp_path: Path, name: str, unit: str, mm: float) -> None:
    before = "space directions" if name.endswith(".nrrd") else "TransformMatrix"
    voxels = VOXELS.astype("<i2").tobytes(order="F")
    (tmp_path / name).write_bytes(PLACES[name].replace(before, f"{unit}\n{before}").encode() + voxels)
    expected = np.array([[2, 0, 0, 7], [0, 3, 0, 8], [0, 0, 4, 9], [0, 0, 0, 1]]) * [[mm], [mm], [mm], [1]]
    np.testing.assert_allclose(read_grid(tmp_path / name).affine, expected)
    write_like(tmp_path / f"out_{name}", MASK, tmp_path / name)
    assert read_grid(tmp_path / f"out_{name}").affine.tobytes() == read_grid(tmp_path / name).affine.tobytes()


@pytest.mark.parametrize("unit", ['"mm" "mm" "um"', '"parsec" "parsec" "parsec"'])
def test_lengths_in_several_units_or_in_an_unknown_one_are_refused(tmp_path: Path, unit: str) -> None:
    header = PLACES["ras.nrrd"].replace("space directions", f"space units: {unit}\nspace directions")
    (tmp_path / "a.nrrd").write_bytes(header.encode() + VOXELS.tobytes())
    with pytest.raises(UserError, match=r"a\.nrrd has lengths in .*; expected one unit, such as mm"):
        read_grid(tmp_path / "a.nrrd")


def test_a_negative_spacing_means_what_itk_makes_of_it(tmp_path: Path) -> None:
    header = META + "Offset = 7 8 9\nElementSpacing = -2 -3 4\nElementDataFile = LOCAL\n"
    (tmp_path / "a.mha").write_bytes(header.encode() + VOXELS.astype("<i2").tobytes(order="F"))
    write_like(tmp_path / "out.mha", MASK, tmp_path / "a.mha")
    grid, mask = (read_grid(tmp_path / name) for name in ("a.mha", "out.mha"))
    scan = sitk.ReadImage(str(tmp_path / "a.mha"))
    left, back, up = scan.TransformIndexToPhysicalPoint((4, 3, 2))
    np.testing.assert_allclose((grid.affine @ [4, 3, 2, 1])[:3], [-left, -back, up])
    assert grid.spacing_mm == (2, 3, 4)
    assert mask.affine.tobytes() == grid.affine.tobytes()


@ENDINGS
@pytest.mark.parametrize("compress", [False, True], ids=["plain", "packed"])
def test_damaged_files_are_named(tmp_path: Path, ending: str, compress: bool) -> None:
    whole = save(tmp_path / f"whole{ending}", compress=compress).read_bytes()
    broken = {"cut": whole[:-10], "headless": whole[200:], "empty": b"", "header": whole[:100]}
    if compress:
        broken["flipped"] = whole[:-30] + bytes(255 - byte for byte in whole[-30:-25]) + whole[-25:]
    for name, content in broken.items():
        path = tmp_path / f"{name}{ending}"
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"{name}\{ending} (cannot be read|ends before)") as told:
            read_values(path)
        assert "again" in str(told.value)
    with pytest.raises(UserError, match=r"none.* does not exist"):
        read_grid(tmp_path / f"none{ending}")
    (tmp_path / f"folder{ending}").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        read_grid(tmp_path / f"folder{ending}")


def test_a_header_that_claims_too_much_is_refused_before_memory_is_asked_for(tmp_path: Path) -> None:
    text = "NRRD0004\ntype: double\ndimension: 3\nsizes: 100000 100000 1000\nendian: little\nencoding: raw\n\n"
    (tmp_path / "a.nrrd").write_bytes(text.encode() + bytes(1000))
    (tmp_path / "b.nrrd").write_bytes(text.replace("raw", "gzip").encode() + gzip.compress(bytes(1000)))
    meta = "ObjectType = Image\nNDims = 2\nDimSize = 9000000 9000000\nBinaryData = True\nCompressedData = True\n"
    packed = zlib.compress(bytes(1000))
    meta += f"CompressedDataSize = {len(packed)}\nElementType = MET_FLOAT\nElementDataFile = LOCAL\n"
    (tmp_path / "c.mha").write_bytes(meta.encode() + packed)
    for name, claimed in (("a.nrrd", 8 * 10**13), ("b.nrrd", 8 * 10**13), ("c.mha", 4 * 81 * 10**12)):
        with pytest.raises(UserError, match=rf"{name} cannot be read: its header claims {claimed} bytes"):
            read_values(tmp_path / name)


@pytest.mark.parametrize("claimed", ["-1", "99999999999", "1e3"])
def test_packed_bytes_that_are_not_there_are_refused_before_memory_is_asked_for(tmp_path: Path, claimed: str) -> None:
    content = save(tmp_path / "sound.mha", compress=True).read_bytes()
    before, _, after = content.partition(b"CompressedDataSize = ")
    (tmp_path / "a.mha").write_bytes(before + b"CompressedDataSize = " + claimed.encode() + after[after.index(b"\n") :])
    with pytest.raises(
        UserError, match=rf"a\.mha cannot be read: its header claims {claimed} packed bytes, but a\.mha has [0-9]+"
    ) as told:
        read_values(tmp_path / "a.mha")
    assert ("may be incomplete" in str(told.value)) == claimed.isdecimal()


def test_several_numbers_per_voxel_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "colours.mha"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 5, 3), np.uint8), isVector=True), str(path))
    with pytest.raises(UserError, match="holds 3 numbers per voxel; expected one"):
        read_values(path)
    layers = NRRD.replace("dimension: 3", "dimension: 4").replace("sizes: ", "sizes: 2 ")  # overlapping segments
    layers += "space: left-posterior-superior\nspace directions: none (2,0,0) (0,3,0) (0,0,4)\n"
    layers += "kinds: list domain domain domain\n\n"
    (tmp_path / "layers.nrrd").write_bytes(layers.encode() + 2 * VOXELS.tobytes())
    with pytest.raises(UserError, match=r"layers\.nrrd holds 2 numbers per voxel; expected one"):
        read_values(tmp_path / "layers.nrrd")
    series = tmp_path / "series.nrrd"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((2, 3, 4, 5), np.uint8), isVector=False), str(series))
    with pytest.raises(UserError, match=r"series\.nrrd has shape \(5, 4, 3, 2\)"):
        read_values(series)


def test_a_mask_of_another_size_is_never_written(tmp_path: Path) -> None:
    like = save(tmp_path / "like.nrrd")
    with pytest.raises(ValueError, match="do not fit"):
        write_like(tmp_path / "out.nrrd", MASK[:2], like)
    assert not (tmp_path / "out.nrrd").exists()


def test_a_missing_library_is_told_with_the_way_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.nrrd")
    monkeypatch.setitem(__import__("sys").modules, "SimpleITK", None)
    with pytest.raises(UserError, match=r"a\.nrrd is an NRRD .* needs SimpleITK: pip install 'patchcl\[itk\]'"):
        read_grid(path)


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_a_header_without_a_place_does_not_say_how_it_lies(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    simple_itk = pytest.importorskip("SimpleITK")
    simple_itk.WriteImage(simple_itk.GetImageFromArray(np.zeros((4, 3, 2), np.uint8)), str(path), False)
    assert read_grid(path).placed
    lines = [b"space:", b"space directions:", b"space origin:", b"TransformMatrix", b"AnatomicalOrientation"]
    kept = [line for line in path.read_bytes().split(b"\n") if not line.startswith(tuple(lines))]
    path.write_bytes(b"\n".join(kept))
    assert not read_grid(path).placed
