"""DICOM files, made up as they are needed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

try:
    import pydicom
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
except ImportError:  # tests that ask for a fixture of this file ask for pydicom, too
    pydicom = None

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
Series = Callable[..., Path]


def write(path: Path, pixels: np.ndarray, **fields: Any) -> Path:
    """One DICOM file; a field that is None is left out."""
    content = Dataset()
    content.file_meta = FileMetaDataset()
    content.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    stored = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": generate_uid(),
        "StudyInstanceUID": "1.2.3",
        "SeriesInstanceUID": "1.2.3.4",
        "FrameOfReferenceUID": "1.2.3.5",
        "SeriesDescription": "thorax",
        "Modality": "CT",
        "PatientID": "patient7",
        "PatientName": "Seven^Patient",
        "Rows": pixels.shape[-2],
        "Columns": pixels.shape[-1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 8 * pixels.itemsize,
        "BitsStored": 8 * pixels.itemsize,
        "HighBit": 8 * pixels.itemsize - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "PixelData": pixels.tobytes(),
    }
    for keyword, value in (stored | fields).items():
        if value is not None:
            setattr(content, keyword, value)
    content["PixelData"].VR = "OW"
    content.file_meta.MediaStorageSOPClassUID = content.SOPClassUID
    content.file_meta.MediaStorageSOPInstanceUID = content.SOPInstanceUID
    path.parent.mkdir(parents=True, exist_ok=True)
    content.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def write_series(tmp_path: Path) -> Series:
    """A folder with one file per slice of `volume` (columns, rows, slices); `name` maps a slice to its file."""

    def make(
        volume: np.ndarray,
        orientation: tuple[float, ...] = AXIAL,
        origin: tuple[float, float, float] = (0.0, 0.0, 0.0),
        spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
        name: Callable[[int], str] = "slice{:03d}.dcm".format,
        folder: str = "series",
        **fields: Any,
    ) -> Path:
        normal = np.cross(orientation[:3], orientation[3:])
        for index in range(volume.shape[2]):
            position = np.array(origin) + index * spacing[2] * normal
            placed = {
                "ImagePositionPatient": [f"{value:.10g}" for value in position],
                "ImageOrientationPatient": [f"{value:.10g}" for value in orientation],
                "PixelSpacing": [spacing[1], spacing[0]],
            }
            write(tmp_path / folder / name(index), np.ascontiguousarray(volume[..., index].T), **(placed | fields))
        return tmp_path / folder

    return make


@pytest.fixture
def write_file() -> Callable[..., Path]:
    """See `write`."""
    return write


@pytest.fixture
def change() -> Callable[..., None]:
    """Change fields of a DICOM file; None removes one."""

    def edit(path: Path, **fields: Any) -> None:
        content = pydicom.dcmread(path)
        for keyword, value in fields.items():
            if value is None:
                delattr(content, keyword)
            else:
                setattr(content, keyword, value)
        content.save_as(path)

    return edit


@pytest.fixture
def write_enhanced(tmp_path: Path) -> Callable[..., Path]:
    """One file that holds all slices of `volume` (columns, rows, slices), in the order `order`."""

    def make(volume: np.ndarray, order: tuple[int, ...], step: float = 2.0, **fields: Any) -> Path:
        frames = [_frame(index, step) for index in order]
        shared = Dataset()
        shared.PlaneOrientationSequence = [_item(ImageOrientationPatient=list(AXIAL))]
        shared.PixelMeasuresSequence = [_item(PixelSpacing=[0.5, 0.25], SliceThickness=9.0)]
        pixels = np.ascontiguousarray(volume[..., list(order)].transpose(2, 1, 0))
        groups = {"SharedFunctionalGroupsSequence": [shared], "PerFrameFunctionalGroupsSequence": frames}
        enhanced = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2.1", "NumberOfFrames": len(order)}
        return write(tmp_path / "enhanced" / "all.dcm", pixels, **(enhanced | groups | fields))

    return make


def _frame(index: int, step: float) -> Dataset:
    frame = Dataset()
    frame.PlanePositionSequence = [_item(ImagePositionPatient=[1.0, 2.0, 3.0 + step * index])]
    frame.PixelValueTransformationSequence = [_item(RescaleSlope=1, RescaleIntercept=index, RescaleType="US")]
    return frame


def _item(**fields: Any) -> Dataset:
    item = Dataset()
    for keyword, value in fields.items():
        setattr(item, keyword, value)
    return item


@pytest.fixture
def write_structures() -> Callable[..., Path]:
    """An RTSTRUCT at `path` with the closed contours (N, 3), in mm LPS, of every structure, drawn on `series`."""

    def make(
        path: Path,
        rois: dict[str, list[np.ndarray]],
        series: str = "1.2.3.4",
        kind: str = "CLOSED_PLANAR",
        **fields: Any,
    ) -> Path:
        frame = fields.pop("FrameOfReferenceUID", "1.2.3.5")
        study = _item(RTReferencedSeriesSequence=[_item(SeriesInstanceUID=series)])
        own = {
            "SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.3",
            "Modality": "RTSTRUCT",
            "SeriesInstanceUID": "1.2.3.9",
            "ReferencedFrameOfReferenceSequence": [
                _item(FrameOfReferenceUID=frame, RTReferencedStudySequence=[study] if series else None)
            ],
            "StructureSetROISequence": [
                _item(ROINumber=number, ReferencedFrameOfReferenceUID=frame, ROIName=name)
                for number, name in enumerate(rois, start=3)
            ],
            "ROIContourSequence": [
                _item(ReferencedROINumber=number, ContourSequence=[_contour(corners, kind) for corners in contours])
                for number, contours in enumerate(rois.values(), start=3)
            ],
        }
        write(path, np.zeros((2, 2), np.int16), **(own | fields))
        content = pydicom.dcmread(path)
        del content.PixelData, content.Rows, content.Columns
        content.save_as(path)
        return path

    return make


def _contour(corners: np.ndarray, kind: str) -> Dataset:
    numbers = [f"{value:.6f}"[:16] for value in corners.ravel()]
    return _item(ContourGeometricType=kind, NumberOfContourPoints=len(corners), ContourData=numbers)
