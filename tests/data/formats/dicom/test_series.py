import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from patchcl.core.errors import UserError
from patchcl.data.formats.dicom import series as dicom
from patchcl.data.formats.dicom.frames import read_header

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


def bare(path: Path, keep_meta: bool) -> None:
    """Take preamble and mark from a file, and what stands before the data set too."""
    content = path.read_bytes()[132:]
    path.write_bytes(content if keep_meta else content[12 + int.from_bytes(content[8:12], "little") :])


@pytest.mark.parametrize("keep_meta", [True, False])
@pytest.mark.parametrize("bared", [range(6), [5], [0]])
def test_a_series_without_preamble_keeps_all_its_slices(
    write_series: Make, keep_meta: bool, bared: Sequence[int]
) -> None:
    folder = write_series(VOLUME, name="IM{}".format)
    for index in bared:
        bare(folder / f"IM{index}", keep_meta)
        assert pydicom.dcmread(folder / f"IM{index}", force=True).Rows == 4
    assert dicom.is_series_folder(folder)
    assert dicom.count_channels(folder) == 1
    np.testing.assert_array_equal(dicom.read_values(folder)[0], VOLUME)


def test_implicit_files_without_preamble_are_read(write_series: Make) -> None:
    folder = write_series(VOLUME)
    for path in folder.iterdir():
        content = pydicom.dcmread(path)
        content.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
        content.save_as(path, implicit_vr=True, little_endian=True)
        bare(path, keep_meta=False)
    np.testing.assert_array_equal(dicom.read_values(folder)[0], VOLUME)


@pytest.mark.parametrize("content", [b"", b"damaged", b"\x08\0\x16\0UI\x04\0none" * 9])
def test_what_is_called_as_slices_are_must_be_one(write_series: Make, content: bytes) -> None:
    folder = write_series(VOLUME, name="IM{}".format)
    (folder / "IM5").write_bytes(content)
    with pytest.raises(UserError, match=r"IM5 is no DICOM file: the mark DICM is missing"):
        dicom.read_values(folder)
    (folder / "IM5").unlink()
    for name in ("Thumbs.db", "LICENSE5", "._IM5", ".DS_Store", "desktop.ini"):
        (folder / name).write_bytes(b"damaged")
    assert dicom.read_grid(folder).shape == (5, 4, 5)


def test_a_structure_set_is_called_one(write_file: Make, change: Make, tmp_path: Path) -> None:
    path = write_file(tmp_path / "mask.dcm", VOLUME[..., 0], Modality="RTSTRUCT")
    change(path, Rows=None, PixelData=None)
    with pytest.raises(UserError, match=r"mask\.dcm is a structure set \(RTSTRUCT\): contours"):
        dicom.read_values(path)
    change(path, Modality="SR")
    with pytest.raises(UserError, match=r"mask\.dcm is DICOM without an image \(SR\)"):
        dicom.read_grid(path)


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


def test_series_are_never_written(write_series: Make) -> None:
    folder = write_series(VOLUME)
    with pytest.raises(UserError, match=r"\.nii\.gz"):
        dicom.write_like(folder, VOLUME, folder)


def test_without_pydicom_one_line_helps(write_series: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_series(VOLUME)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(UserError, match=r"slice000\.dcm is DICOM, which needs pydicom: pip install 'patchcl\[dicom\]'"):
        dicom.read_grid(folder)


def test_a_slice_that_damage_makes_look_like_no_image_is_named(write_series: Make) -> None:
    path = write_series(VOLUME) / "slice002.dcm"
    start, uid, rest = path.read_bytes().partition(b"\x20\x00\x0e\x00U")
    path.write_bytes(start + uid + b"\xfc\xeb" * 16 + rest)  # where Rows is meant, there is something else
    assert "Rows" not in read_header(path)
    with pytest.raises(UserError, match=r"slice002\.dcm cannot be read as a DICOM file"):
        dicom.read_grid(path.parent)


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
