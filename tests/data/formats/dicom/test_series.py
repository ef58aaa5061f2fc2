import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from patchcl.core.errors import UserError
from patchcl.data.formats.dicom import series as dicom
from patchcl.data.formats.dicom.frames import Frame
from patchcl.data.formats.dicom.series import depth, grid_between, require_one_plane, stacked

pydicom = pytest.importorskip("pydicom")
SAMPLE = Path(__file__).parents[5] / "shared/data/samples/dicom_seg/series"
RANDOM = np.random.default_rng(0)
VOLUME = RANDOM.integers(-1000, 2000, (5, 4, 6)).astype(np.int16)
TILTED = (0.8, 0.6, 0.0, -0.36, 0.48, 0.8)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
Make = Callable[..., Any]


def test_an_axial_series_by_hand(write_series: Make) -> None:
    folder = write_series(VOLUME, origin=(-10, -20, 30), spacing=(0.5, 0.7, 3))
    grid = dicom.read_grid(folder)
    assert grid.shape == (5, 4, 6)
    np.testing.assert_allclose(grid.spacing_mm, (0.5, 0.7, 3))
    np.testing.assert_allclose(grid.affine, [[-0.5, 0, 0, 10], [0, -0.7, 0, 20], [0, 0, 3, 30], [0, 0, 0, 1]])
    values = dicom.read_values(folder)
    assert values.dtype == np.int16
    np.testing.assert_array_equal(values, VOLUME[None])


@pytest.mark.parametrize("orientation", [(1, 0, 0, 0, 1, 0), SAGITTAL, CORONAL, TILTED])
def test_grid_and_values_agree_with_simpleitk(write_series: Make, orientation: tuple[float, ...]) -> None:
    sitk = pytest.importorskip("SimpleITK")
    folder = write_series(
        VOLUME,
        orientation,
        (3.5, -2.25, 7),
        (0.5, 0.75, 3.3),
        name=lambda index: f"{(index * 5) % 6}.dcm",
        RescaleSlope=2,
        RescaleIntercept=-1024,
    )
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    np.testing.assert_allclose(dicom.read_grid(folder).affine, np.diag([-1, -1, 1, 1]) @ affine, atol=1e-6)
    np.testing.assert_array_equal(dicom.read_values(folder)[0], sitk.GetArrayFromImage(image).transpose(2, 1, 0))
    np.testing.assert_array_equal(dicom.read_values(folder)[0], VOLUME * 2 - 1024)


def test_every_slice_is_rescaled_by_its_own_numbers(write_series: Make, change: Make) -> None:
    folder = write_series(VOLUME.astype(np.uint16) % 1000)
    for index in range(6):
        change(folder / f"slice{index:03d}.dcm", RescaleSlope=0.5 + index, RescaleIntercept=-index)
    expected = (VOLUME.astype(np.uint16) % 1000) * (0.5 + np.arange(6)) - np.arange(6)
    np.testing.assert_array_equal(dicom.read_values(folder)[0], expected.astype(np.float32))


def test_whole_offsets_keep_whole_numbers(write_series: Make) -> None:
    folder = write_series(np.full((2, 3, 2), 65535, np.uint16), RescaleIntercept="-1024", RescaleSlope="1")
    values = dicom.read_values(folder)
    assert values.dtype == np.int32
    assert (values == 64511).all()


@pytest.mark.parametrize(("dtype", "bright"), [(np.uint16, 4095), (np.int16, -1)])
def test_monochrome1_is_turned_round(write_series: Make, dtype: type, bright: int) -> None:
    values = np.arange(24).reshape(2, 3, 4).astype(dtype)
    folder = write_series(values, PhotometricInterpretation="MONOCHROME1", BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(dicom.read_values(folder)[0], bright - values.astype(int))


def test_frames_of_an_enhanced_file_lie_where_they_say(write_enhanced: Make) -> None:
    path = write_enhanced(VOLUME, (3, 0, 5, 2, 1, 4))
    for where in (path, path.parent):
        grid = dicom.read_grid(where)
        np.testing.assert_allclose(grid.affine, [[-0.25, 0, 0, -1], [0, -0.5, 0, -2], [0, 0, 2, 3], [0, 0, 0, 1]])
        np.testing.assert_array_equal(dicom.read_values(where)[0], VOLUME + np.arange(6))


def test_frames_without_positions_are_refused(write_enhanced: Make) -> None:
    path = write_enhanced(VOLUME, (0, 1, 2, 3, 4, 5), PerFrameFunctionalGroupsSequence=None)
    with pytest.raises(UserError, match=r"all\.dcm holds 6 frames, but positions of 0"):
        dicom.read_grid(path)


@pytest.mark.parametrize(
    ("fields", "depth"), [({"SliceThickness": 3}, 3), ({}, 1), ({"SliceThickness": 3, "SpacingBetweenSlices": 4}, 4)]
)
def test_a_single_slice_is_as_deep_as_its_header_says(write_series: Make, fields: dict[str, int], depth: int) -> None:
    folder = write_series(VOLUME[..., :1], **fields)
    assert dicom.read_grid(folder).shape == (5, 4, 1)
    assert dicom.read_grid(folder).spacing_mm == (1, 1, depth)
    np.testing.assert_array_equal(dicom.read_values(folder), VOLUME[None, ..., :1])


def test_a_projection_has_two_axes(write_file: Make, tmp_path: Path) -> None:
    path = write_file(tmp_path / "a.dcm", VOLUME[..., 0].T.copy(), ImagerPixelSpacing=[0.2, 0.1])
    grid = dicom.read_grid(path)
    assert (grid.shape, grid.spacing_mm) == ((5, 4), (0.1, 0.2))
    np.testing.assert_array_equal(dicom.read_values(path), VOLUME[None, ..., 0])
    assert dicom.count_channels(path) == 1


def test_colour_has_three_channels(write_file: Make, tmp_path: Path) -> None:
    colour = RANDOM.integers(0, 256, (4, 5, 3)).astype(np.uint8)
    fields = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    path = write_file(tmp_path / "a.dcm", colour, Rows=4, Columns=5, **fields)
    np.testing.assert_array_equal(dicom.read_values(path), colour.transpose(2, 1, 0))
    assert dicom.FORMAT.count_channels is not None
    assert dicom.FORMAT.count_channels(path) == 3
    path = write_file(tmp_path / "b.dcm", colour[..., 0].copy(), PhotometricInterpretation="PALETTE COLOR")
    with pytest.raises(UserError, match="PALETTE COLOR"):
        dicom.read_values(path)


def test_the_first_image_tells_its_channels(write_series: Make, write_file: Make, change: Make) -> None:
    folder = write_series(VOLUME)
    colour = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    pixels = np.zeros((4, 5, 3), np.uint8)
    fields = {"SeriesInstanceUID": "1.9", "SeriesDescription": "photo", "Rows": 4, "Columns": 5, **colour}
    write_file(folder / "t.dcm", pixels, **fields)
    plan = write_file(folder / "a.dcm", VOLUME[..., 0].T.copy(), SamplesPerPixel=4)
    change(plan, Rows=None, PixelData=None)
    (folder / "slice005.dcm").write_bytes(b"damaged")
    assert dicom.count_channels(folder) == 1
    for path in folder.glob("slice*.dcm"):
        path.unlink()
    assert dicom.count_channels(folder) == 3


def test_compressed_pixels_are_exact(write_series: Make) -> None:
    folder = write_series(VOLUME)
    for path in folder.iterdir():
        content = pydicom.dcmread(path)
        content.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
        content.save_as(path)
    np.testing.assert_array_equal(dicom.read_values(folder)[0], VOLUME)


def test_an_unknown_compression_names_what_reads_it(
    write_series: Make, change: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_series(VOLUME) / "slice003.dcm"
    content = pydicom.dcmread(path)
    content.PixelData = pydicom.encaps.encapsulate([content.PixelData])
    content["PixelData"].is_undefined_length = True
    for syntax, plugin in {
        pydicom.uid.JPEGLosslessSV1: "pip install pylibjpeg pylibjpeg-libjpeg",
        pydicom.uid.HTJ2KLossless: "pip install pylibjpeg pylibjpeg-openjpeg",
        pydicom.uid.JPEGLSLossless: "pip install pyjpegls",
        pydicom.uid.MPEG2MPML: "MPEG2.* which is not read",
    }.items():
        content.file_meta.TransferSyntaxUID = syntax
        content.save_as(path)
        monkeypatch.setattr("pydicom.pixels.decoders.base.Decoder.is_available", False)
        with pytest.raises(UserError, match=rf"slice003\.dcm is compressed as .*{plugin}"):
            dicom.read_values(path)


def test_several_series_are_listed_and_one_can_be_chosen(write_series: Make) -> None:
    folder = write_series(VOLUME, name="a{}.dcm".format)
    write_series(
        VOLUME[..., :2], name="b{}.dcm".format, SeriesInstanceUID="1.9", SeriesDescription="bone", Modality="MR"
    )
    with pytest.raises(UserError) as error:
        dicom.read_grid(folder)
    assert str(error.value).splitlines() == [
        f"{folder} holds 2 series; one was expected:",
        "  CT 'thorax', 6 slices, UID 1.2.3.4",
        "  MR 'bone', 2 slices, UID 1.9",
        "Choose one by a part of its description, or by its UID: patchcl predict RUN SCANS -o OUT --series PATTERN, "
        "or for scans to learn from patchcl import SOURCE -o OUT --layout dicom --series PATTERN. Or keep the files of "
        "one series in the folder.",
    ]
    for series, slices in {"^bo": 2, "1.9": 2, "thorax": 6}.items():
        assert len(dicom.chosen_series(folder, series).files) == slices
    with pytest.raises(UserError, match="holds 2 series, and 0 of them fit 'liver'"):
        dicom.chosen_series(folder, "liver")
    with pytest.raises(UserError, match="no regular expression"):
        dicom.chosen_series(folder, "(")


def test_what_is_no_image_is_passed_over(write_series: Make, write_file: Make, change: Make) -> None:
    folder = write_series(VOLUME)
    (folder / "notes.txt").write_text("hello")
    (folder / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    (folder / "._slice000.dcm").write_bytes(b"\0\5\26\7")
    plan = write_file(folder / "plan.dcm", VOLUME[..., 0], SeriesInstanceUID="1.7", Modality="RTSTRUCT")
    change(plan, Rows=None, PixelData=None)
    assert dicom.read_grid(folder).shape == VOLUME.shape
    for path in folder.glob("slice*"):
        path.unlink()
    with pytest.raises(UserError, match=r"no DICOM image, but plan\.dcm \(RTSTRUCT\) and 1 files that are no DICOM"):
        dicom.read_grid(folder)


def test_a_folder_with_a_dicom_file_is_told(write_series: Make, tmp_path: Path) -> None:
    folder = write_series(VOLUME, name="IM{}".format)
    assert dicom.is_series_folder(folder)
    assert not dicom.is_series_folder(folder / "IM0")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a").write_text("a")
    assert not dicom.is_series_folder(tmp_path / "text")
    assert not dicom.is_series_folder(tmp_path / "nowhere")
    np.testing.assert_array_equal(dicom.read_values(folder)[0], VOLUME)


def test_damaged_files_are_named(write_series: Make, change: Make) -> None:
    folder = write_series(VOLUME)
    path = folder / "slice002.dcm"
    whole = path.read_bytes()
    for length in (0, 100, len(whole) - 10):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"slice002\.dcm"):
            dicom.read_values(folder)
    path.write_bytes(whole)
    change(path, PixelData=None)
    with pytest.raises(UserError, match=r"slice002\.dcm holds no pixels"):
        dicom.read_values(folder)
    with pytest.raises(UserError, match="does not exist"):
        dicom.read_values(folder / "slice9.dcm")


def test_lookup_tables_are_refused(write_series: Make, change: Make) -> None:
    folder = write_series(VOLUME)
    change(folder / "slice000.dcm", ModalityLUTSequence=[pydicom.Dataset()])
    with pytest.raises(UserError, match="lookup table"):
        dicom.read_values(folder)


def test_series_are_never_written(write_series: Make) -> None:
    folder = write_series(VOLUME)
    with pytest.raises(UserError, match=r"\.nii\.gz"):
        dicom.write_like(folder, VOLUME, folder)


def test_without_pydicom_one_line_helps(write_series: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_series(VOLUME)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(UserError, match=r"slice000\.dcm is DICOM, which needs pydicom: pip install 'patchcl\[dicom\]'"):
        dicom.read_grid(folder)


@pytest.mark.realdata
@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the sample is not here")
def test_a_real_series(tmp_path: Path) -> None:
    sitk = pytest.importorskip("SimpleITK")
    for number, path in enumerate(sorted(SAMPLE.iterdir(), reverse=True)):
        shutil.copy(path, tmp_path / f"IM{number}")
    grid = dicom.read_grid(tmp_path)
    assert grid.shape == (24, 38, 3)
    np.testing.assert_allclose(grid.spacing_mm, (0.7, 0.7, 2.5))
    np.testing.assert_allclose(grid.affine[:3, 3], (-46.4649, -5.01881, -177.75))
    found = sitk.GetArrayFromImage(sitk.ReadImage([str(path) for path in sorted(SAMPLE.iterdir())]))
    np.testing.assert_array_equal(dicom.read_values(tmp_path)[0], found.transpose(2, 1, 0))


WHERE = Path("series")
AXIAL = np.array([[1.0, 0, 0], [0, 1, 0]])
OBLIQUE = np.array([[0.8, 0.6, 0], [-0.36, 0.48, 0.8]])  # their normal is (0.48, -0.64, 0.6)


def frame(number: int, position: object, **fields: Any) -> Frame:
    place = None if position is None else np.array(position, dtype=float)
    made = Frame(Path(f"s{number}"), 0, 1, f"1.{number}", (5, 4), place, AXIAL, (0.5, 0.75), 3.0, 1.0, 0.0)
    return made._replace(**fields)


def stack_of(*depths: float) -> list[Frame]:
    return [frame(number, (0, 0, depth)) for number, depth in enumerate(depths)]


def refusal(frames: list[Frame]) -> str:
    with pytest.raises(UserError) as error:
        stacked(frames, WHERE)
    return str(error.value)


def test_slices_come_by_position_and_positions_give_the_spacing() -> None:
    stack = stacked(stack_of(7, 3, 5), WHERE)
    assert [found.name for found in stack.frames] == ["s1", "s2", "s0"]
    assert stack.grid.shape == (5, 4, 3)
    assert stack.grid.spacing_mm == (0.5, 0.75, 2)
    np.testing.assert_array_equal(stack.grid.affine, [[-0.5, 0, 0, 0], [0, -0.75, 0, 0], [0, 0, 2, 3], [0, 0, 0, 1]])


def test_an_oblique_stack_runs_along_its_normal() -> None:
    normal = np.array([0.48, -0.64, 0.6])
    stack = stacked([frame(n, 10 + 2.5 * n * normal, directions=OBLIQUE) for n in (2, 0, 1)], WHERE)
    assert [found.name for found in stack.frames] == ["s0", "s1", "s2"]
    np.testing.assert_allclose(stack.grid.affine[:3, 2], [-1.2, 1.6, 1.5])
    np.testing.assert_allclose(stack.grid.affine[:3, 1], [0.27, -0.36, 0.6])
    np.testing.assert_allclose(stack.grid.affine[:3, 3], [-10, -10, 10])
    np.testing.assert_allclose([depth(found) for found in stack.frames], [4.4, 6.9, 9.4])


def test_rounded_positions_are_even_enough() -> None:
    assert stacked(stack_of(0, 2.05, 4.05, 5.95, 8), WHERE).grid.spacing_mm[2] == 2
    assert "uneven" in refusal(stack_of(0, 2.3, 4, 6, 8))


def test_missing_slices_are_counted_and_placed() -> None:
    message = refusal(stack_of(0, 2, 4, 8, 10, 16))
    assert message.startswith("series: 3 slices are missing: it is 6 mm from s4 to s5, and 2 mm elsewhere.")
    assert refusal(stack_of(0, 2, 6, 8)).startswith("series: 1 slice is missing: it is 4 mm from s1 to s2")
    assert refusal(stack_of(0, 2, 4, 7)).startswith(
        "series has slices at uneven distances: 2 mm at the least, and 3 mm"
    )


def test_a_slice_that_is_missing_at_the_end_of_a_long_series_is_found() -> None:
    assert "1 slice is missing: it is 2 mm from s297 to s298" in refusal(stack_of(*range(298), 299))


def test_copies_duplicates_and_time_points_are_told_apart() -> None:
    frames = stack_of(0, 2, 4)
    assert "s2 and s7 are copies of one image" in refusal([*frames, frames[2]._replace(path=Path("s7"))])
    assert "s1 and s7 lie at the same position, and one slice was expected" in refusal(
        [*frames, frame(7, (0, 0, 2.0001))]
    )
    later = [found._replace(instance=f"2.{n}", path=Path(f"t{n}")) for n, found in enumerate(frames)]
    assert "holds 2 images at each of 3 positions (time points" in refusal(frames + later)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"size": (5, 3)}, "more than one size: s0 has 5 × 4, s9 has 5 × 3"),
        ({"directions": OBLIQUE}, "more than one direction: s0 has [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], s9 has [[0.8"),
        ({"spacing_mm": (0.5, 0.8)}, "more than one pixel spacing: s0 has (0.5, 0.75), s9 has (0.5, 0.8)"),
        ({"position": None}, "s9 has no ImagePositionPatient"),
        ({"directions": None}, "s9 has no ImagePositionPatient or no ImageOrientationPatient"),
    ],
)
def test_strangers_are_named(fields: dict[str, Any], words: str) -> None:
    assert words in refusal([*stack_of(0, 2), frame(9, (0, 0, 4))._replace(**fields)])


def test_a_tilted_gantry_is_refused_with_its_angle() -> None:
    lean = np.tan(np.radians(15))
    message = refusal([frame(n, (0, 2 * n * lean, 2 * n)) for n in range(4)])
    assert message.startswith("series is tilted: its slices lean by 15.00°")


def test_rounding_is_no_tilt_and_stays_in_the_affine() -> None:
    stack = stacked([frame(0, (0, 0, 0)), frame(1, (0.04, 0, 2))], WHERE)
    np.testing.assert_array_equal(stack.grid.affine[:3, 2], [-0.04, 0, 2])
    long = stacked([frame(n, (0.001 * n, 0, 2 * n)) for n in range(200)], WHERE)
    assert long.grid.shape[2] == 200


def test_a_slice_beside_the_line_is_named() -> None:
    frames = [frame(n, (1.0 if n == 2 else 0, 0, 2 * n)) for n in range(5)]
    assert refusal(frames).startswith("series: s2 lies 1 mm beside the line")


def test_single_frames() -> None:
    single = stacked([frame(0, (1, 2, 3))], WHERE).grid
    assert (single.shape, single.spacing_mm) == ((5, 4, 1), (0.5, 0.75, 3))
    flat = stacked([frame(0, None)], WHERE).grid
    assert (flat.shape, flat.spacing_mm) == ((5, 4), (0.5, 0.75))


def test_a_grid_between_two_frames() -> None:
    low, high = stack_of(1, 7)
    assert grid_between(low, high, 4, WHERE).spacing_mm == (0.5, 0.75, 2)
    require_one_plane([low, high], WHERE)
