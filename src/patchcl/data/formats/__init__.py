"""The file formats of scans and masks, one module per family; here is who reads what."""

from pathlib import Path

from patchcl.core.errors import UserError
from patchcl.data.formats import images as pictures
from patchcl.data.formats import itk, nifti
from patchcl.data.formats.base import Format
from patchcl.data.formats.dicom import segmentation as dicom_seg
from patchcl.data.formats.dicom import series as dicom

__all__ = [
    *("DICOM", "ENDINGS", "Format", "count_channels", "ending_of", "format_of", "is_scan"),
    *("map_ending", "mask_ending", "tells_by_name", "without_ending"),
]

FILES = {ending: known for known in (nifti.FORMAT, itk.FORMAT, pictures.FORMAT) for ending in known.endings}
DICOM = ".dcm"
"""The ending of a mask for a DICOM series, which itself is a folder, or an image of one file."""
ENDINGS = (*FILES, DICOM)
"""What names of files may end in, in lower case; the names themselves may have either case."""


def format_of(path: Path) -> Format:
    """The format of the file at `path`, told by how its name ends, or of the DICOM series in the folder `path`.

    Raises:
        UserError: No format has that ending, or the folder holds no DICOM files.
    """
    ending = ending_of(path.name)
    if ending in FILES:
        return FILES[ending]
    if ending == DICOM and not path.is_dir():
        image = path.is_file() and not dicom_seg.is_segmentation(path)
        return dicom.FORMAT if image else dicom_seg.FORMAT
    if dicom.is_series_folder(path):
        return dicom.FORMAT
    if not path.exists():
        raise UserError(f"{path} does not exist. Check the name, or restore the file.")
    found = "holds no DICOM files" if path.is_dir() else "is of no known format"
    raise UserError(f"{path} {found}. Expected a DICOM series, or a name that ends in {', '.join(ENDINGS)}.")


def is_scan(path: Path) -> bool:
    """Whether `path` looks like a file or folder that `format_of` knows; hidden files are nobody's data."""
    return not path.name.startswith(".") and (ending_of(path.name) != "" or dicom.is_series_folder(path))


def tells_by_name(path: Path) -> bool:
    """Whether the mask at `path` names its classes and may leave out slices without any, as DICOM-SEG does."""
    return format_of(path).read_onto is not None


def count_channels(path: Path) -> int:
    """How many channels a scan's file holds: 1, but 3 for a picture in colour; from its header alone.

    Raises:
        UserError: The file is missing, cannot be read, or is of no known format.
    """
    count = format_of(path).count_channels
    return 1 if count is None else count(path)


def ending_of(name: str) -> str:
    """The ending of a file's name in lower case; nothing where no format has it."""
    return next((ending for ending in ENDINGS if name.lower().endswith(ending)), "")


def without_ending(name: str) -> str:
    """The name of a file without the ending that tells its format."""
    return name[: len(name) - len(ending_of(name))]


def mask_ending(ending: str) -> str:
    """What the masks that are written for scans with `ending` end in: where it can be, the same."""
    return FILES[ending].masks_as.get(ending, ending) if ending in FILES else DICOM


def map_ending(ending: str) -> str:
    """What the maps of real numbers that are written for scans with `ending` end in."""
    return FILES[ending].maps_as.get(ending, mask_ending(ending)) if ending in FILES else ".nii.gz"
