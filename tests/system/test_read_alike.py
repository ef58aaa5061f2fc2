"""What predict writes lies where the scan lies for every reader: nibabel, SimpleITK and highdicom find it the same."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from patchcl.data.preprocessing.plan import Plan
from patchcl.inference.output_files import Output
from patchcl.inference.predict import predict_files

sitk = pytest.importorskip("SimpleITK")
pydicom = pytest.importorskip("pydicom")
highdicom = pytest.importorskip("highdicom")

SHAPE = (16, 32, 3)
ORIGIN = (-20.0, 30.0, 5.5)
TILT, TURN = np.array([[1, 0, 0], [0, 0.8, -0.6], [0, 0.6, 0.8]]), np.array([[0.6, -0.8, 0], [0.8, 0.6, 0], [0, 0, 1]])
PLACES = {
    "straight": (np.eye(3), (1.0, 1.0, 3.0), SHAPE),
    "oblique": (TURN @ TILT, (0.7, 1.25, 6.0), SHAPE),
    "flipped": (np.diag([-1.0, -1.0, 1.0]), (0.9, 0.9, 2.5), SHAPE),
    "anisotropic": (np.eye(3)[:, [1, 2, 0]], (0.5, 2.0, 8.0), SHAPE),
    "single slice": (TURN, (0.8, 0.6, 4.0), (*SHAPE[:2], 1)),
    "left-handed": (np.diag([1.0, 1.0, -1.0]), (1.5, 1.0, 4.0), SHAPE),
}
"""Directions of the axes in DICOM's coordinates, spacings in mm, and numbers of voxels."""
PLAN = Plan.model_validate(
    {"dimensions": 2, "fit": "resize", "size": SHAPE[:2], "slice_axis": 2, "normalise": "min_max"}
    | {"channels": ("MRI",), "classes": ("background", "left", "right")}
)


class Levels(nn.Module):
    """Black is background, grey class 1 and white class 2."""

    def forward(self, image: Tensor) -> Tensor:
        return torch.cat([-40 * (image - level).abs() for level in (0, 0.5, 1)], dim=1)


class Read(NamedTuple):
    """What a reader says of a file."""

    voxels: np.ndarray  # (x, y, z)
    affine: np.ndarray  # of indices to mm, in DICOM's coordinates
    spacing_mm: tuple[float, ...]


def classes_of(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 3, shape).astype(np.uint8)


def affine_of(direction: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = direction * spacing, ORIGIN
    return affine


def write_scan(folder: Path, ending: str, place: str) -> Path:
    """A scan whose grey tells the class of every voxel."""
    direction, spacing, shape = PLACES[place]
    voxels = 500 * classes_of(shape).astype(np.int16)
    folder.mkdir(parents=True)
    if ending == "dicom":
        return write_series(folder / "a_0000", voxels, direction, spacing)
    image = sitk.GetImageFromArray(voxels.transpose())
    image.SetSpacing(spacing)
    image.SetOrigin(ORIGIN)
    image.SetDirection(direction.flatten())
    sitk.WriteImage(image, str(folder / f"a_0000{ending}"))
    return folder / f"a_0000{ending}"


def write_series(folder: Path, voxels: np.ndarray, direction: np.ndarray, spacing: Sequence[float]) -> Path:
    folder.mkdir()
    for index in range(voxels.shape[2]):
        content = pydicom.Dataset()
        content.file_meta = pydicom.dataset.FileMetaDataset()
        content.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        content.SOPClassUID, content.SOPInstanceUID = pydicom.uid.CTImageStorage, f"1.2.3.4.{index + 1}"
        content.StudyInstanceUID, content.SeriesInstanceUID, content.FrameOfReferenceUID = "1.2.3", "1.2.3.4", "1.2.3.5"
        content.Modality, content.PatientID, content.PatientName, content.InstanceNumber = "CT", "7", "Seven", index + 1
        place = ORIGIN + index * spacing[2] * direction[:, 2]
        content.ImagePositionPatient = [f"{value:.10g}" for value in place]
        content.ImageOrientationPatient = [f"{value:.10g}" for value in direction[:, :2].T.flatten()]
        content.PixelSpacing, content.SliceThickness = [spacing[1], spacing[0]], spacing[2]
        content.Columns, content.Rows, content.SamplesPerPixel = *voxels.shape[:2], 1
        content.PhotometricInterpretation, content.PixelRepresentation = "MONOCHROME2", 1
        content.BitsAllocated, content.BitsStored, content.HighBit = 16, 16, 15
        content.add_new("PixelData", "OW", np.ascontiguousarray(voxels[..., index].T).tobytes())
        content.save_as(folder / f"{index}.dcm", enforce_file_format=True)
    return folder


def by_itk(path: Path) -> Read:
    image = sitk.ReadImage(str(path))
    assert image.GetDimension() == 3
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return Read(sitk.GetArrayFromImage(image).transpose(), affine, image.GetSpacing())


def by_nibabel(path: Path) -> Read:
    image = nib.load(path)
    flip = np.diag([-1, -1, 1, 1])
    np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-4)
    return Read(np.asarray(image.dataobj), flip @ image.affine, image.header.get_zooms())


def by_highdicom(path: Path) -> Read:
    """A segmentation, with its slices in the order of the series."""
    volume = highdicom.seg.segread(path).get_volume(combine_segments=True)
    affine, voxels = volume.affine[:, [2, 1, 0, 3]], volume.array.transpose()
    if np.linalg.det(affine) < 0:  # highdicom counts slices against the normal
        affine[:3, 3] += (voxels.shape[2] - 1) * affine[:3, 2]
        affine[:3, 2] *= -1
        voxels = voxels[..., ::-1]
    return Read(voxels, affine, tuple(reversed(volume.spacing)))


def require_same(read: Read, place: str, classes: bool = True) -> None:
    direction, spacing, shape = PLACES[place]
    assert read.voxels.shape == shape
    np.testing.assert_allclose(read.spacing_mm, spacing, rtol=1e-5)
    np.testing.assert_allclose(read.affine, affine_of(direction, spacing), atol=2e-4)
    if classes:
        np.testing.assert_array_equal(read.voxels, classes_of(shape))
    else:
        np.testing.assert_array_equal(read.voxels > 0.5, classes_of(shape) == 1)


CASES = [
    (ending, place)
    for ending in (".nii.gz", ".nrrd", ".mha", "dicom")
    for place in PLACES
    if (ending, place) != ("dicom", "left-handed")  # which no series is
]


@pytest.mark.parametrize(("ending", "place"), CASES)
def test_masks_and_maps_lie_where_the_scan_lies_for_every_reader(tmp_path: Path, ending: str, place: str) -> None:
    write_scan(tmp_path / "scans", ending, place)
    outputs: tuple[Output, ...] = ("same", "nifti")
    for output in outputs:
        out = tmp_path / output
        summary = predict_files(Levels(), PLAN, tmp_path / "scans", out, probabilities=True, output=output)
        assert (summary.done, summary.failed) == (("a",), ())
        for mask in out.glob("a.*"):
            for read in readers(mask):
                require_same(read(mask), place)
        (written,) = out.glob("a_probabilities_left.*")
        for read in readers(written):
            require_same(read(written), place, classes=False)
    assert {path.name.removeprefix("a") for path in (tmp_path / "same").glob("a.*")} == {
        {"dicom": ".dcm"}.get(ending, ending)
    }


def test_an_oblique_scan_tells_an_oriented_network_that_it_stays_as_it_is_stored(tmp_path: Path) -> None:
    scans, plan = tmp_path / "scans", PLAN.model_copy(update={"orientation": "RAS"})
    scans.mkdir()
    for name in ("oblique", "straight"):
        write_scan(tmp_path / name, ".nii.gz", name).rename(scans / f"{name}_0000.nii.gz")
    oblique, straight = predict_files(Levels(), plan, scans, tmp_path / "out").cases
    assert "oblique is unlike" in oblique.warning
    assert "its axes stay as they are stored (training: RAS)" in oblique.warning
    assert straight.warning == ""


def test_a_structure_set_beside_the_images_is_named_and_no_failure(tmp_path: Path) -> None:
    series = write_scan(tmp_path / "scans", "dicom", "straight")
    plan = pydicom.dcmread(series / "0.dcm")
    plan.SOPClassUID, plan.Modality, plan.SeriesInstanceUID = pydicom.uid.RTStructureSetStorage, "RTSTRUCT", "1.2.3.9"
    plan.file_meta.MediaStorageSOPClassUID, plan.SOPInstanceUID = plan.SOPClassUID, "1.2.3.9.1"
    del plan.Rows, plan.Columns, plan.PixelData
    plan.save_as(series / "structures.dcm")
    summary = predict_files(Levels(), PLAN, tmp_path / "scans", tmp_path / "out")
    assert (summary.done, summary.failed) == (("a",), ())
    assert summary.notes == (f"{series}/structures.dcm is not used: DICOM without an image.",)


def readers(path: Path) -> list:
    if path.suffix == ".dcm":
        return [by_highdicom]
    return [by_itk, by_nibabel] if path.name.endswith(".nii.gz") else [by_itk]
