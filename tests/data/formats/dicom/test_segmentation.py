import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from patchcl.core.errors import UserError
from patchcl.data.formats.dicom import segmentation as dicom_seg
from patchcl.data.formats.dicom import series as dicom
from patchcl.data.formats.dicom.writing import write_segmentation

pydicom = pytest.importorskip("pydicom")
highdicom = pytest.importorskip("highdicom")

SAMPLE = Path(__file__).parents[5] / "shared/data/samples/dicom_seg"
RANDOM = np.random.default_rng(0)
VOLUME = RANDOM.integers(-1000, 2000, (5, 4, 6)).astype(np.int16)
MASK = RANDOM.integers(0, 3, VOLUME.shape).astype(np.uint8)
CLASSES = ("background", "liver", "big tumour")
AXIAL, MIRRORED = (1, 0, 0, 0, 1, 0), (-1, 0, 0, 0, 1, 0)
SAGITTAL, OBLIQUE = (0, 1, 0, 0, 0, -1), (0.8, 0.6, 0.0, -0.36, 0.48, 0.8)
Make = Callable[..., Any]


@pytest.fixture
def write_with_highdicom(tmp_path: Path) -> Make:
    """A segmentation as others write it: `pixels` (slices, rows, columns) or with segments as the last axis."""

    def make(series: Path, pixels: np.ndarray, labels: list[str], kind: str = "BINARY") -> Path:
        sources = sorted(map(pydicom.dcmread, series.iterdir()), key=lambda image: image.ImagePositionPatient[2])
        for source in sources:
            for keyword in ("PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime"):
                setattr(source, keyword, "")
            source.SliceThickness = 1
        code = pydicom.sr.codedict.codes.SCT.Tissue
        content = highdicom.seg.Segmentation(
            sources,
            pixels,
            kind,
            [
                highdicom.seg.SegmentDescription(number, label, code, code, "MANUAL")
                for number, label in enumerate(labels, start=1)
            ],
            *("1.2.3.8", 1, highdicom.UID(), 1, "maker", "model", "1", "0"),
        )
        content.save_as(tmp_path / "other.dcm")
        return tmp_path / "other.dcm"

    return make


@pytest.fixture
def series(write_series: Make) -> Path:
    return write_series(VOLUME, origin=(-10, -20, 30), spacing=(0.5, 0.75, 2.5))


def planes(mask: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(mask.transpose(2, 1, 0))


@pytest.mark.parametrize("orientation", [AXIAL, MIRRORED, SAGITTAL, OBLIQUE])
def test_written_masks_are_read_back(write_series: Make, orientation: tuple[float, ...], tmp_path: Path) -> None:
    name = lambda index: f"{(index * 5) % 6}"  # noqa: E731
    series = write_series(VOLUME, orientation, (1.5, -2.25, 3), (0.5, 0.75, 3.3), name, SpacingBetweenSlices=0.3)
    path = tmp_path / "mask.dcm"
    write_segmentation(path, MASK, series, CLASSES)
    grid = dicom.read_grid(series)
    for onto in (series, grid):
        found = dicom_seg.read_segmentation(path, onto, CLASSES)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, MASK)
    np.testing.assert_array_equal(dicom_seg.read_classes(path), MASK)
    np.testing.assert_array_equal(dicom_seg.read_values(path), MASK[None])
    np.testing.assert_allclose(dicom_seg.read_grid(path).affine, grid.affine, atol=1e-9)
    assert not list(tmp_path.glob(".unfinished*"))


def test_masks_of_a_projection_and_of_one_slice(write_file: Make, write_series: Make, tmp_path: Path) -> None:
    xray = write_file(
        tmp_path / "xray.dcm",
        VOLUME[..., 0].T.copy(),
        FrameOfReferenceUID=None,
        SOPClassUID="1.2.840.10008.5.1.4.1.1.1",
    )
    write_segmentation(tmp_path / "a.dcm", MASK[..., 0], xray, CLASSES)
    np.testing.assert_array_equal(dicom_seg.read_segmentation(tmp_path / "a.dcm", xray, CLASSES), MASK[..., 0])
    single = write_series(VOLUME[..., :1], SliceThickness=4)
    write_segmentation(tmp_path / "b.dcm", MASK[..., :1], single, CLASSES)
    np.testing.assert_array_equal(dicom_seg.read_segmentation(tmp_path / "b.dcm", single, CLASSES), MASK[..., :1])
    assert dicom_seg.read_grid(tmp_path / "b.dcm").spacing_mm == (1, 1, 4)


def test_slices_without_a_frame_are_background(series: Path, tmp_path: Path) -> None:
    mask = np.zeros_like(MASK)
    mask[:, :, [1, 3, 4]] = MASK[:, :, [1, 3, 4]]
    write_segmentation(tmp_path / "mask.dcm", mask, series, CLASSES)
    assert pydicom.dcmread(tmp_path / "mask.dcm").NumberOfFrames == 6
    np.testing.assert_array_equal(dicom_seg.read_segmentation(tmp_path / "mask.dcm", series, CLASSES), mask)
    alone = dicom_seg.read_grid(tmp_path / "mask.dcm")
    assert (alone.shape, alone.spacing_mm) == ((5, 4, 4), (0.5, 0.75, 2.5))
    np.testing.assert_allclose(alone.affine[:3, 3], (10, 20, 32.5))
    np.testing.assert_array_equal(dicom_seg.read_classes(tmp_path / "mask.dcm"), mask[:, :, 1:5])


def test_labels_come_before_numbers(series: Path, write_with_highdicom: Make) -> None:
    path = write_with_highdicom(series, planes(MASK), ["Big_Tumour", "LIVER"])
    swapped = np.array([0, 2, 1])[MASK]
    np.testing.assert_array_equal(dicom_seg.read_segmentation(path, series, CLASSES), swapped)
    np.testing.assert_array_equal(dicom_seg.read_classes(path), MASK)


def test_numbers_are_classes_where_no_label_is_one(series: Path, write_with_highdicom: Make) -> None:
    path = write_with_highdicom(series, planes(MASK), ["Segment_1", "Segment_2"])
    np.testing.assert_array_equal(dicom_seg.read_segmentation(path, series, CLASSES), MASK)
    with pytest.raises(
        UserError, match=r"segments that are no class: 1 'Segment_1', 2 'Segment_2'\. The classes are liver"
    ):
        dicom_seg.read_segmentation(path, series, CLASSES[:2])
    path = write_with_highdicom(series, planes(MASK), ["liver", "spleen"])
    with pytest.raises(UserError, match=r"no class: 2 'spleen'\. The classes are liver, big tumour"):
        dicom_seg.read_segmentation(path, series, CLASSES)


def test_overlapping_segments_are_named_unless_they_are_one_class(series: Path, write_with_highdicom: Make) -> None:
    both = np.zeros((6, 4, 5, 2), np.uint8)
    both[2, 1:3, 1, 0] = both[2, 2:4, 1, 1] = 1
    path = write_with_highdicom(series, both, ["liver", "big tumour"])
    with pytest.raises(UserError, match="'liver' and 'big tumour' overlap in 1 pixels of frame 2"):
        dicom_seg.read_segmentation(path, series, CLASSES)
    path = write_with_highdicom(series, both, ["liver", "Liver"])
    np.testing.assert_array_equal(
        dicom_seg.read_segmentation(path, series, CLASSES), both.any(axis=3).transpose(2, 1, 0)
    )


def test_fractions_count_when_they_are_all_or_nothing(series: Path, write_with_highdicom: Make) -> None:
    path = write_with_highdicom(series, (planes(MASK) == 1).astype(np.float32), ["liver"], "FRACTIONAL")
    np.testing.assert_array_equal(dicom_seg.read_segmentation(path, series, CLASSES), MASK == 1)
    path = write_with_highdicom(series, np.full((6, 4, 5), 0.5, np.float32), ["liver"], "FRACTIONAL")
    with pytest.raises(UserError, match=r"holds fractions: 120 pixels lie between 0 and 255"):
        dicom_seg.read_segmentation(path, series, CLASSES)


def test_maps_of_labels(series: Path, write_with_highdicom: Make) -> None:
    path = write_with_highdicom(series, planes(MASK), ["big tumour", "liver"], "LABELMAP")
    assert dicom_seg.is_segmentation(path)
    np.testing.assert_array_equal(dicom_seg.read_segmentation(path, series, CLASSES), np.array([0, 2, 1])[MASK])
    np.testing.assert_array_equal(dicom_seg.read_classes(path), MASK)


def test_a_part_of_a_scan_and_a_mirrored_one_are_put_where_they_lie(
    series: Path, write_series: Make, tmp_path: Path
) -> None:
    grid = dicom.read_grid(series)
    part = write_series(VOLUME[1:4, 1:4, 2:5], AXIAL, (-9.5, -19.25, 35), (0.5, 0.75, 2.5), folder="part")
    write_segmentation(tmp_path / "mask.dcm", MASK[1:4, 1:4, 2:5], part, CLASSES)
    expected = np.zeros_like(MASK)
    expected[1:4, 1:4, 2:5] = MASK[1:4, 1:4, 2:5]
    np.testing.assert_array_equal(dicom_seg.read_segmentation(tmp_path / "mask.dcm", grid, CLASSES), expected)
    mirrored = write_series(VOLUME, MIRRORED, (-8, -20, 42.5), (0.5, 0.75, 2.5), folder="mirrored")
    assert dicom.read_grid(mirrored).affine[2, 3] == 42.5
    write_segmentation(tmp_path / "mask.dcm", MASK, mirrored, CLASSES)
    found = dicom_seg.read_segmentation(tmp_path / "mask.dcm", grid, CLASSES)
    np.testing.assert_array_equal(found, MASK[::-1, :, ::-1])


@pytest.mark.parametrize(
    ("origin", "spacing"),
    [
        ((-10, -20, 31.25), (0.5, 0.75, 2.5)),
        ((-10, -20, 32.5), (0.5, 0.75, 2.5)),
        ((-10.25, -20, 30), (0.5, 0.75, 2.5)),
        ((-10, -20, 30), (0.5, 1.5, 2.5)),
        ((-10, -20, 30), (0.55, 0.75, 2.5)),
    ],
)
def test_frames_on_no_slice_are_refused(
    series: Path, write_series: Make, tmp_path: Path, origin: tuple[float, ...], spacing: tuple[float, ...]
) -> None:
    other = write_series(VOLUME[:, :2], AXIAL, origin, spacing, folder="other")
    write_segmentation(tmp_path / "mask.dcm", np.ones_like(MASK[:, :2]), other, CLASSES)
    with pytest.raises(UserError, match=r"mask\.dcm: frame \d lies on no slice of its scan"):
        dicom_seg.read_segmentation(tmp_path / "mask.dcm", series, CLASSES)


def test_another_frame_of_reference_is_refused(series: Path, write_series: Make, tmp_path: Path) -> None:
    other = write_series(VOLUME, AXIAL, (-10, -20, 30), (0.5, 0.75, 2.5), folder="other", FrameOfReferenceUID="1.2.99")
    write_segmentation(tmp_path / "mask.dcm", MASK, other, CLASSES)
    with pytest.raises(UserError, match=r"another frame of reference than .*: 1\.2\.99, but expected 1\.2\.3\.5"):
        dicom_seg.read_segmentation(tmp_path / "mask.dcm", series, CLASSES)


def test_undescribed_segments_are_refused(series: Path, tmp_path: Path, change: Make) -> None:
    write_segmentation(tmp_path / "mask.dcm", MASK, series, CLASSES)
    liver = pydicom.dcmread(tmp_path / "mask.dcm").SegmentSequence[:1]
    change(tmp_path / "mask.dcm", SegmentSequence=liver)
    with pytest.raises(UserError, match=r"uses segments \[2\] that it does not describe"):
        dicom_seg.read_segmentation(tmp_path / "mask.dcm", series, CLASSES)


def test_more_classes_than_a_byte_holds_are_refused(series: Path, tmp_path: Path) -> None:
    write_segmentation(tmp_path / "a.dcm", MASK, series, CLASSES)
    many = [*CLASSES, *map(str, range(3, 255))]
    np.testing.assert_array_equal(dicom_seg.read_segmentation(tmp_path / "a.dcm", series, many), MASK)
    with pytest.raises(UserError, match=r"a\.dcm cannot be read for 256 classes; at most 255 fit"):
        dicom_seg.read_segmentation(tmp_path / "a.dcm", series, [*many, "255"])


def test_scans_are_no_segmentations(series: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = next(series.iterdir())
    assert not dicom_seg.is_segmentation(path)
    with pytest.raises(UserError, match="is no DICOM segmentation but CT"):
        dicom_seg.read_grid(path)
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(UserError, match=r"needs highdicom: pip install 'patchcl\[dicom\]'"):
        write_segmentation(path.with_name("mask.dcm"), MASK, series, CLASSES)


@pytest.mark.realdata
@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the sample is not here")
def test_a_real_mask_lies_on_its_series(tmp_path: Path) -> None:
    path, series = SAMPLE / "label.dcm", SAMPLE / "series"
    expected = highdicom.seg.segread(path).get_volume(combine_segments=True)
    mask = dicom_seg.read_segmentation(path, series, ("background", "liver"))
    np.testing.assert_array_equal(mask, expected.array[::-1].transpose(2, 1, 0))
    assert mask.sum() == 315
    np.testing.assert_array_equal(dicom_seg.read_classes(path), mask)
    np.testing.assert_allclose(dicom_seg.read_grid(path).affine, dicom.read_grid(series).affine)
    write_segmentation(tmp_path / "mask.dcm", mask, series, ("background", "liver"))
    np.testing.assert_array_equal(
        dicom_seg.read_segmentation(tmp_path / "mask.dcm", series, ("background", "liver")), mask
    )
