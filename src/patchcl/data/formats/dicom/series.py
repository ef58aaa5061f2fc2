"""DICOM images: a folder that holds one series, or one file; read, never written.

Axes are (columns, rows, slices), the order of NIfTI's x, y, z.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from patchcl.core.errors import UserError
from patchcl.data.formats.base import Format, is_litter, reading
from patchcl.data.formats.dicom.frames import KIND, Dataset, frames_of, is_dicom, read_header, says_segmentation
from patchcl.data.formats.dicom.pixels import values_of
from patchcl.data.formats.dicom.stack import Stack, stacked
from patchcl.data.geometry import Grid

ENDINGS = (".dcm",)


class Series(NamedTuple):
    """Files that were acquired together."""

    uid: str
    description: str
    modality: str
    files: dict[Path, Dataset]  # their headers

    @property
    def line(self) -> str:
        """How a list of series shows it."""
        slices = sum(_number(file, header, "NumberOfFrames") for file, header in self.files.items())
        return f"  {self.modality} {self.description!r}, {slices} slices, UID {self.uid}"

    @property
    def channels(self) -> int:
        """How many numbers each pixel has: 3 in colour, else 1."""
        return max(_number(file, header, "SamplesPerPixel") for file, header in self.files.items())


class Contents(NamedTuple):
    """What DICOM files hold."""

    series: list[Series]  # of images
    others: dict[Path, Dataset]  # headers of what is no image: segmentations, plans, reports


def is_series_folder(path: Path, others: tuple[str, ...] = ()) -> bool:
    """Whether `path` is a folder with a DICOM file in it; those with one of the endings of `others` are not opened."""
    return path.is_dir() and any(is_dicom(file) for file in _files(path) if not file.name.lower().endswith(others))


def holds_single_scans(path: Path) -> bool:
    """Whether the DICOM files in the folder `path` are images called .dcm, each a series of its own, as X-rays."""
    seen: set[str] = set()
    for file in (file for file in _files(path) if is_dicom(file)):
        try:
            header = read_header(file)
            single = file.suffix.lower() in ENDINGS and header.get("SeriesInstanceUID", "") not in seen
        except UserError:  # a damaged one keeps nobody from the others
            continue
        if not single:
            return False
        seen |= {str(header.get("SeriesInstanceUID", ""))} if _is_image(file, header) else set()
    return len(seen) > 1


def strangers_in(path: Path, below: bool = False) -> list[Path]:
    """The files in the folder `path` that are no DICOM; with `below`, those in its folders as well."""
    return [file for file in _files(path, below) if not is_dicom(file)]


def contents_of(path: Path, below: bool = False) -> Contents:
    """What the files in the folder `path` hold, or the file `path`; with `below`, those in its folders as well.

    Raises:
        UserError: A file is damaged, or there is no image.
    """
    found: dict[str, Series] = {}
    others: dict[Path, Dataset] = {}
    for file in _dicom_files(path, below):
        header = read_header(file)
        with reading(file, KIND):  # also of what may only look as if it were no image
            keywords = ("SeriesInstanceUID", "SeriesDescription", "Modality")
            uid, description, modality = (str(header.get(keyword, "")) for keyword in keywords)
        if _is_image(file, header):
            found.setdefault(uid, Series(uid, description, modality, {})).files[file] = header
        else:
            others[file] = header
    if not found and others and not path.is_dir():
        raise UserError(_no_image(path, str(others[path].get("Modality", "")) or "of no modality"))
    if not found:
        but = _passed_over(path, others, below)
        raise UserError(f"{path} holds no DICOM image{but}. Put the files of one series there.")
    return Contents(list(found.values()), others)


def chosen_series(path: Path, series: str = "", below: bool = False) -> Series:
    """The one series in `path` whose UID is `series`, or whose description the regular expression `series` finds.

    With `below`, also of those in its folders.

    Raises:
        UserError: None or several remain; all are listed.
    """
    found = contents_of(path, below).series
    fitting = fitting_series(found, series)
    if len(fitting) == 1:
        return fitting[0]
    raise UserError(
        f"{listing(path, found, series)}\n"
        "Choose one by a part of its description, or by its UID: patchcl predict RUN SCANS -o OUT --series PATTERN, or "
        "for scans to learn from patchcl import SOURCE -o OUT --layout dicom --series PATTERN. Or keep the files of "
        "one series in the folder."
    )


def fitting_series(found: Sequence[Series], series: str) -> list[Series]:
    """Those whose UID is `series`, or else those whose description the regular expression `series` finds.

    Raises:
        UserError: `series` is no regular expression.
    """
    return [one for one in found if series == one.uid] or [one for one in found if finds(series, one.description)]


def finds(pattern: str, description: str) -> bool:
    """Whether the regular expression `pattern` finds something in the description of a series.

    Raises:
        UserError: It is none.
    """
    try:
        return re.search(pattern, description) is not None
    except re.error as error:
        raise UserError(f"{pattern!r} is no regular expression: {error}. Correct it, or name the UID.") from error


def listing(path: Path, found: Sequence[Series], series: str) -> str:
    """Says that `series` does not choose one of those `found` in `path`, with a line for each."""
    asked = f", and {len(fitting_series(found, series))} of them fit {series!r}" if series else ""
    lines = "\n".join(sorted(one.line for one in found))
    return f"{path} holds {len(found)} series{asked}; one was expected:\n{lines}"


def read_stack(path: Path) -> Stack:
    """Frames and grid of the series in `path`, from headers alone.

    Raises:
        UserError: There is not exactly one series, or its slices make no regular grid.
    """
    return stack_of(chosen_series(path).files, path)


def stack_of(files: Mapping[Path, Dataset], where: Path) -> Stack:
    """Frames and grid of one series from its `files` with their headers; `where` it is, for messages.

    Raises:
        UserError: Its slices make no regular grid.
    """
    return stacked([frame for file, header in files.items() for frame in frames_of(file, header)], where)


def read_grid(path: Path) -> Grid:
    """The grid of the series in `path`; see `read_stack`."""
    return read_stack(path).grid


def read_values(path: Path) -> np.ndarray:
    """The voxels (C, *shape) of the series in `path`; see `read_stack` and `values_of`."""
    return values_of(read_stack(path))


def count_channels(path: Path) -> int:
    """3 for colour, else 1, as the first image says; no file after it is opened.

    Raises:
        UserError: There is no such image.
    """
    file, header = _first_image(path)
    return _number(file, header, "SamplesPerPixel")


def modality_of(path: Path) -> str:
    """The kind of image, such as CT or MR, as the first one says; nothing where it says nothing.

    Raises:
        UserError: There is no such image.
    """
    file, header = _first_image(path)
    with reading(file, KIND):
        return str(header.get("Modality") or "")


def _first_image(path: Path) -> tuple[Path, Dataset]:
    for file in _dicom_files(path):
        if _is_image(file, header := read_header(file)):
            return file, header
    return next(iter(chosen_series(path).files.items()))


def write_like(path: Path, values: np.ndarray, like: Path) -> None:
    """Refuse: masks are written as DICOM-SEG, and scans not at all.

    Raises:
        UserError: Always.
    """
    raise UserError(f"{path} cannot be written as a DICOM series. Choose a name that ends in .nii.gz.")


def _number(path: Path, header: Dataset, keyword: str) -> int:
    """A whole number that the header of the file at `path` may hold; else 1."""
    with reading(path, KIND):  # pydicom looks at a field when it is asked for
        return int(header.get(keyword) or 1)


def _is_image(path: Path, header: Dataset) -> bool:
    return "Rows" in header and not says_segmentation(path, header)


def _files(path: Path, below: bool = False) -> Iterator[Path]:
    """The files of a folder that may be DICOM, by name; with `below`, also those in its folders and in linked ones."""
    for file in sorted(_files_below(path) if below else path.iterdir()):
        litter = any(is_litter(part) for part in file.relative_to(path).parts)
        if not litter and file.is_file() and file.name.upper() != "DICOMDIR":
            yield file


def _files_below(path: Path) -> Iterator[Path]:
    """All files in a folder and its folders, each of which is entered once wherever links lead."""
    entered = set()
    for folder, folders, files in os.walk(path, followlinks=True):
        folders.sort()
        if os.path.realpath(folder) in entered:
            folders.clear()
        else:
            entered.add(os.path.realpath(folder))
            yield from (Path(folder, name) for name in files)


def _dicom_files(path: Path, below: bool = False) -> Iterator[Path]:
    """The file `path`, or the DICOM files in the folder `path`; what is called as they are must be one of them."""
    strangers, names = [], set()
    for file in _files(path, below) if path.is_dir() else [path]:
        if is_dicom(file):
            names.add(_numbered(file))
            yield file
        elif file == path or file.suffix.lower() in ENDINGS or file.stat().st_size == 0:
            raise _no_dicom(file)
        else:
            strangers.append(file)
    for file in strangers:
        if _numbered(file) in names:
            raise _no_dicom(file)


def _numbered(file: Path) -> str:
    """The name of a file, whatever its numbers: slices differ by them alone."""
    return re.sub(r"\d+", "0", file.name)


def _no_dicom(file: Path) -> UserError:
    return UserError(
        f"{file} is no DICOM file: the mark DICM is missing, and it does not begin as DICOM without one does. "
        "Copy or export it again; if it is something else, move it elsewhere."
    )


def _no_image(path: Path, modality: str) -> str:
    """What to do with a file that is DICOM but no image."""
    if modality == "RTSTRUCT":
        return (
            f"{path} is a structure set (RTSTRUCT): contours, and no voxels. Put it and its series into one folder for "
            "each scan, and import these: patchcl import FOLDERS -o NEW_FOLDER --layout dicom makes masks of contours."
        )
    return f"{path} is DICOM without an image ({modality}). Put a DICOM image or, for a mask, a DICOM-SEG there."


def _passed_over(path: Path, others: Mapping[Path, Dataset], below: bool) -> str:
    """What else lies there, for the message that no image does."""
    strange = len(strangers_in(path, below)) if path.is_dir() else 0
    names = [f"{file.name} ({header.get('Modality', 'no modality')})" for file, header in others.items()]
    parts = [", ".join(names[:5]) + (", ..." if len(names) > 5 else "")] if names else []
    parts += [f"{strange} files that are no DICOM"] if strange else []
    return f", but {' and '.join(parts)}" if parts else ""


FORMAT = Format("DICOM", ENDINGS, read_grid, read_values, write_like, count_channels=count_channels)
