"""Masks written as DICOM-SEG by highdicom, with what it needs of the scan and many scans lack."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from patchcl.core.errors import UserError
from patchcl.core.files import atomic_write
from patchcl.core.version import __version__
from patchcl.data.formats.base import library
from patchcl.data.formats.dicom.frames import Dataset
from patchcl.data.formats.dicom.series import read_stack
from patchcl.data.formats.dicom.stack import Stack

IDENTITY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("AccessionNumber", "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
)
"""What every DICOM file has to state, if only as unknown; anonymised scans often lack some."""


def write_segmentation(path: Path, mask: np.ndarray, like: Path, classes: Sequence[str]) -> None:
    """Write the classes `mask` (*shape) as binary segments, one per class but the background, on the series `like`.

    Patient and study are those of the series, whose images are referenced; segments have the names and numbers of
    `classes`, also those that are nowhere in the mask.

    Raises:
        UserError: `like` cannot be read, or says too little of itself to be referenced.
    """
    write_on(path, mask, read_stack(like), like, classes)


def write_on(
    path: Path, mask: np.ndarray, stack: Stack, like: Path, classes: Sequence[str], by_hand: bool = False
) -> None:
    """As `write_segmentation`, on the series `stack` at `like`; `by_hand` for a mask that no algorithm made.

    Raises:
        UserError: The series says too little of itself to be referenced.
    """
    if mask.shape != stack.grid.shape:
        raise ValueError(f"a mask of shape {mask.shape} does not fit {like} of shape {stack.grid.shape}")
    if mask.max(initial=0) >= len(classes):
        raise ValueError(f"the mask holds class {mask.max()}, but there are {len(classes)} names")
    planes = mask.reshape(*mask.shape[:2], -1).transpose(2, 1, 0).astype(np.uint8)
    order = sorted(range(len(stack.frames)), key=lambda slice_: stack.frames[slice_].place)  # as the files have them
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The string .* person name")  # how a hospital names people is its own
            content = _segmentation(path, _sources(stack, path), planes[order], stack, classes, by_hand)
    except (AttributeError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} cannot be written as DICOM-SEG, because {like} does not suit it ({error}). "
            "Choose a name that ends in .nii.gz."
        ) from error
    atomic_write(path, lambda unfinished: content.save_as(unfinished, enforce_file_format=True))


def write_like(path: Path, values: np.ndarray, like: Path) -> None:
    """Write a mask whose classes have no names; see `write_segmentation`.

    Raises:
        UserError: `values` are no classes, or `like` is no DICOM series.
    """
    if values.dtype.kind not in "iub":
        raise UserError(f"{path} cannot hold {values.dtype} numbers, only classes. Choose a name that ends in .nii.gz.")
    names = ["background", *(f"class {value}" for value in range(1, int(values.max(initial=1)) + 1))]
    write_segmentation(path, values, like, names)


def _sources(stack: Stack, path: Path) -> list[Dataset]:
    """The headers of the images behind a stack, each file once, with what every DICOM file has to state."""
    pydicom = library("pydicom", path, "DICOM", "dicom")
    files = dict.fromkeys(frame.path for frame in stack.frames)
    sources = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
    for source in sources:
        for keyword, value in (dict.fromkeys(IDENTITY, "") | {"SliceThickness": stack.frames[0].depth_mm}).items():
            if keyword not in source:
                setattr(source, keyword, value)
        if stack.frames[0].position is not None and "FrameOfReferenceUID" not in source:
            source.FrameOfReferenceUID = pydicom.uid.generate_uid(entropy_srcs=[source.SeriesInstanceUID])
        if "ImageOrientationPatient" in source:  # they may differ by rounding
            source.ImageOrientationPatient = sources[0].ImageOrientationPatient
    return sources


def _segmentation(
    path: Path, sources: list[Dataset], planes: np.ndarray, stack: Stack, classes: Sequence[str], by_hand: bool
) -> Dataset:
    """The DICOM-SEG of `planes` (frames of the sources, rows, columns), which `path` will be."""
    highdicom = library("highdicom", path, "DICOM-SEG", "dicom")
    content = highdicom.seg.Segmentation(
        source_images=sources,
        pixel_array=planes,
        segmentation_type="BINARY",
        segment_descriptions=[_description(number, classes[number], by_hand) for number in range(1, len(classes))],
        series_instance_uid=highdicom.UID(),
        series_number=int(sources[0].get("SeriesNumber") or 0) + 1000,
        omit_empty_frames=bool(planes.any()),  # a mask that is empty throughout keeps its frames
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="patchcl",
        manufacturer_model_name="patchcl",
        software_versions=__version__,
        device_serial_number="0",
        series_description="patchcl segmentation",
        specific_character_set="ISO_IR 192",
    )
    if len(stack.grid.shape) == 3:  # highdicom copies what the images claim, which positions may belie
        measures = content.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        measures.SpacingBetweenSlices = f"{stack.grid.spacing_mm[2]:.10g}"
    return content


def _description(number: int, name: str, by_hand: bool) -> Any:  # noqa: ANN401 - highdicom's
    """A segment; its kind is the widest there is, since the name of a class tells no code."""
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentDescription
    from pydicom.sr.codedict import codes

    tissue = codes.SCT.Tissue
    if by_hand:
        return SegmentDescription(number, name, tissue, tissue, "MANUAL")
    algorithm = AlgorithmIdentificationSequence("patchcl", codes.cid7162.ArtificialIntelligence, __version__)
    return SegmentDescription(number, name, tissue, tissue, "AUTOMATIC", algorithm)
