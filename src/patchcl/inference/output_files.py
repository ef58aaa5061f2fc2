"""Where predictions go, and in which format."""

import os
from pathlib import Path
from typing import Literal

from patchcl.core.errors import UserError
from patchcl.data.formats import DICOM, ending_of, map_ending, mask_ending

Output = Literal["same", "nifti", "dicom-seg"]
"""The format of masks: that of the scan, which is DICOM-SEG for a DICOM series, or one for all."""
DATA_SET_FOLDERS = ("imagesTr", "imagesUn", "imagesTs", "labelsTr", "labelsTs")


def endings(scan: Path, output: Output) -> tuple[str, str]:
    """What the names of masks and of maps for a scan end in.

    Raises:
        UserError: The scan cannot have masks of that format.
    """
    same = mask_ending(ending_of(scan.name))
    if output == "dicom-seg" and same != DICOM:
        raise UserError(f"{scan} is no DICOM series, and DICOM-SEG has to refer to one. Take --format same or nifti.")
    if output == "same":
        return same, map_ending(ending_of(scan.name))
    return DICOM if output == "dicom-seg" else ".nii.gz", ".nii.gz"


def check_out(out: Path, source: Path) -> None:
    """Predictions go to a folder of their own, where they can be neither taken for scans nor replace masks.

    Raises:
        UserError: `out` is the folder of the scans or of a data set, or cannot be written to.
    """
    scans = source if source.is_dir() else source.parent
    place = Path(os.path.realpath(out))  # where resolve() would stumble over a link to itself
    of_data_set = out.name in DATA_SET_FOLDERS and (place.parent / "dataset.json").exists()
    if place == Path(os.path.realpath(scans)) or of_data_set:
        raise UserError(f"{out} holds scans or masks of yours, which are never written over. Choose another folder.")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"Cannot make the folder {out}: {error.strerror}. Choose another one.") from error
    if not os.access(out, os.W_OK):
        raise UserError(f"{out} cannot be written to. Choose another folder, or ask for the right to write there.")
