from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from patchcl.core.errors import UserError
from patchcl.data.formats.dicom import segmentation as dicom_seg
from patchcl.data.formats.dicom.writing import write_like, write_segmentation

pydicom = pytest.importorskip("pydicom")
highdicom = pytest.importorskip("highdicom")

RANDOM = np.random.default_rng(0)
VOLUME = RANDOM.integers(-1000, 2000, (5, 4, 6)).astype(np.int16)
MASK = RANDOM.integers(0, 3, VOLUME.shape).astype(np.uint8)
CLASSES = ("background", "liver", "big tumour")
Make = Callable[..., Any]


@pytest.fixture
def series(write_series: Make) -> Path:
    return write_series(VOLUME, origin=(-10, -20, 30), spacing=(0.5, 0.75, 2.5))


def planes(mask: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(mask.transpose(2, 1, 0))


def test_highdicom_finds_every_slice_of_the_series_under_its_mask(series: Path, tmp_path: Path) -> None:
    write_segmentation(tmp_path / "mask.dcm", MASK, series, CLASSES)
    content = highdicom.seg.segread(tmp_path / "mask.dcm")
    images = [pydicom.dcmread(path) for path in sorted(series.iterdir())]
    found = content.get_pixels_by_source_instance([image.SOPInstanceUID for image in images], combine_segments=True)
    np.testing.assert_array_equal(found, planes(MASK))
    assert [content.get_segment_description(number).segment_label for number in (1, 2)] == ["liver", "big tumour"]
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert content.get(keyword) == images[0].get(keyword), keyword
    assert content.SeriesInstanceUID != images[0].SeriesInstanceUID
    assert content.ReferencedSeriesSequence[0].SeriesInstanceUID == images[0].SeriesInstanceUID
    volume = content.get_volume(combine_segments=True)
    np.testing.assert_array_equal(volume.array[::-1], planes(MASK))  # its slices run against the normal
    np.testing.assert_allclose(
        volume.affine, [[0, 0, 0.5, -10], [0, 0.75, 0, -20], [-2.5, 0, 0, 42.5], [0, 0, 0, 1]], atol=1e-9
    )


def test_masks_of_an_enhanced_file_follow_its_frames(write_enhanced: Make, tmp_path: Path) -> None:
    image = write_enhanced(VOLUME, (3, 0, 5, 2, 1, 4))
    write_segmentation(tmp_path / "mask.dcm", MASK, image.parent, CLASSES)
    np.testing.assert_array_equal(dicom_seg.read_segmentation(tmp_path / "mask.dcm", image, CLASSES), MASK)
    content = highdicom.seg.segread(tmp_path / "mask.dcm")
    found = content.get_pixels_by_source_frame(
        pydicom.dcmread(image).SOPInstanceUID, [1, 2, 3, 4, 5, 6], combine_segments=True
    )
    np.testing.assert_array_equal(found, planes(MASK)[[3, 0, 5, 2, 1, 4]])


def test_an_empty_mask_and_an_absent_class(series: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for mask in (np.zeros_like(MASK), np.where(MASK == 1, 0, MASK)):
        write_segmentation(tmp_path / "mask.dcm", mask, series, CLASSES)
        np.testing.assert_array_equal(dicom_seg.read_segmentation(tmp_path / "mask.dcm", series, CLASSES), mask)
    assert caplog.records == []


def test_anonymised_series_and_names_in_any_script(write_series: Make, tmp_path: Path) -> None:
    fields = {"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller", "PatientID": None}
    series = write_series(VOLUME, FrameOfReferenceUID=None, **fields)
    classes = ("background", "Läsion", "肝臓")
    write_segmentation(tmp_path / "mask.dcm", MASK, series, classes)
    np.testing.assert_array_equal(dicom_seg.read_segmentation(tmp_path / "mask.dcm", series, classes), MASK)
    content = highdicom.seg.segread(tmp_path / "mask.dcm")
    assert str(content.PatientName) == "Müller"
    assert [one.SegmentLabel for one in content.SegmentSequence] == list(classes[1:])


def test_what_cannot_be_written_is_said(series: Path, change: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot hold float32 numbers"):
        write_like(tmp_path / "a.dcm", MASK.astype(np.float32), series)
    write_like(tmp_path / "a.dcm", MASK, series)
    np.testing.assert_array_equal(dicom_seg.read_classes(tmp_path / "a.dcm"), MASK)
    with pytest.raises(ValueError, match="does not fit"):
        write_segmentation(tmp_path / "a.dcm", MASK[1:], series, CLASSES)
    with pytest.raises(ValueError, match="class 2"):
        write_segmentation(tmp_path / "a.dcm", MASK, series, CLASSES[:2])
    for path in series.iterdir():
        change(path, StudyInstanceUID=None)
    with pytest.raises(UserError, match=r"a\.dcm cannot be written as DICOM-SEG, because .*StudyInstanceUID"):
        write_segmentation(tmp_path / "a.dcm", MASK, series, CLASSES)
