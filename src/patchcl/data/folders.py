"""The folders of a data set: which files in them may be scans and masks, and what nobody uses.

Nothing is left out without a word.
"""

import os
from collections.abc import Collection, Iterable, Sequence
from itertools import islice
from pathlib import Path

from patchcl.core.errors import UserError
from patchcl.data.formats import DICOM, ENDINGS, ending_of
from patchcl.data.formats.base import is_litter
from patchcl.data.formats.detached import files_beside
from patchcl.data.formats.dicom.frames import is_dicom
from patchcl.data.formats.dicom.series import contents_of, is_series_folder

SHOWN = 3
"""Names that a line shows of many."""
LOOKED_AT = 1000
"""Files of a folder that are looked at for a scan."""


def require_description(root: Path) -> Path:
    """The dataset.json of a folder.

    Raises:
        UserError: There is none, so that this is no data set.
    """
    path = root / "dataset.json"
    if not path.is_file():
        raise UserError(
            f"{path} does not exist. A data set is a folder with dataset.json, imagesTr and labelsTr, like nnU-Net's."
        )
    return path


def files_in(folder: Path, endings: Sequence[str]) -> list[Path]:
    """Files in `folder` and, for DICOM, folders; none if there is no such folder."""
    found = _entries(folder)
    return [path for path in found if ending_of(path.name) in endings or (DICOM in endings and path.is_dir())]


def mask_files(folder: Path) -> list[Path]:
    """What may be a mask in `folder`; a folder is one if it is called as a file, or holds DICOM."""
    return [path for path in files_in(folder, ENDINGS) if ending_of(path.name) or is_series_folder(path)]


def unused_below(root: Path, ending: str, folders: Collection[tuple[str, str | None]]) -> tuple[list[str], list[str]]:
    """What is left out of the data set in `root`: scans and masks, a line each; and whatever else, a line for a kind.

    Files of a known ending directly in the folders are the business of whoever pairs scans with masks.

    Args:
        root: The data set.
        ending: What names of scans end in.
        folders: Those of images, each with that of their masks or None.
    """
    images = {folder: (files_in(root / folder, (ending,)), f"names of scans end in {ending}") for folder, _ in folders}
    places = {folder: mask_files(root / folder) for _, folder in folders if folder is not None}
    masks = {folder: (files, f"names of masks end in {', '.join(ENDINGS)}") for folder, files in places.items()}
    found = [_unused_in(root / folder, set(known), names) for folder, (known, names) in (images | masks).items()]
    beside = _unused_beside(root, {*images, *masks})
    return [line for lines, _ in found for line in lines], beside + [line for _, lines in found for line in lines]


def _unused_in(folder: Path, known: Collection[Path], expected: str) -> tuple[list[str], list[str]]:
    """What lies in `folder` and is not in `known`: folders with scans or masks, and anything else.

    `expected` says what names are like there: "names of scans end in .nii.gz".
    """
    others = [path for path in _entries(folder) if path not in known and (path.is_dir() or not ending_of(path.name))]
    voxels = voxels_of(known)
    unused = [path for path in others if not is_beside(path, voxels)]
    files = [path for path in unused if not path.is_dir()]
    folders = [path for path in unused if path.is_dir()]
    dropped = [path for path in folders if _scan_below(path)]
    rest = [f"{folder.name}/{path.name} is not used: it is a folder." for path in folders if path not in dropped]
    return [_line_of(path) for path in dropped], [*rest, *_grouped(files, folder.name, expected)]


def voxels_of(scans: Iterable[Path]) -> set[Path]:
    """The files, without links on the way, in which the voxels of `scans` lie that are headers alone."""
    return {file for scan in scans for file in files_beside(scan)}


def is_beside(path: Path, voxels: Collection[Path]) -> bool:
    """Whether `path` is one of the `voxels` of headers, or a folder with nothing else in it."""
    files = [_real(file) for file in (_files_below(path) if path.is_dir() else [path])]
    return bool(files) and all(file in voxels for file in files)


def unused_in_series(path: Path, out: Path | None = None) -> list[str]:
    """What lies in the folder `path` of a series and is no DICOM: a line for all files of a kind, and for each folder.

    What was written to the folder `out` is none of it.
    """
    if not path.is_dir():
        return []
    where = f"{path.parent.name}/{path.name}"
    written = None if out is None else out.absolute()
    entries = [e for e in _entries(path) if e.name.upper() != "DICOMDIR" and e.absolute() != written]
    folders = [entry.name for entry in entries if entry.is_dir() and _files_below(entry)]
    lines = [f"{where}/{name} is not used: all files of a series lie in one folder." for name in folders]
    strangers = [entry for entry in entries if entry.is_file() and not _may_be_dicom(entry)]
    return [*lines, *_grouped(strangers, where, "files of a series are DICOM")]


def beside_images(path: Path) -> list[str]:
    """A line for segmentations, structure sets, plans and reports beside the images of the series in the folder `path`.

    None where something is wrong, which reading the series tells.
    """
    try:
        others = contents_of(path).others if path.is_dir() else {}
    except UserError:
        return []
    return _grouped(others, f"{path.parent.name}/{path.name}", "DICOM without an image")


def _unused_beside(root: Path, known: Collection[str]) -> list[str]:
    """A line for each folder of `root` that is called as one of images or masks may be, but is not in `known`."""
    folders = (path for path in _entries(root) if path.is_dir() and path.name not in known)
    return [
        f"{path.name} is not used: folders of a data set are called {', '.join(sorted(known))}. Rename it if it is one."
        for path in folders
        if path.name.casefold().startswith(("images", "labels"))
    ]


def shortened(names: Sequence[str]) -> str:
    """The first of `names`, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _grouped(files: Iterable[Path], where: str, expected: str) -> list[str]:
    """One line for all files with one ending."""
    kinds: dict[str, list[str]] = {}
    for file in files:
        kinds.setdefault(file.suffix.lower(), []).append(file.name)
    return [
        f"{where}/{shortened(names)} {'are' if len(names) > 1 else 'is'} not used: {expected}."
        for names in kinds.values()
    ]


def _line_of(folder: Path) -> str:
    names = [str(file.relative_to(folder)) for file in _files_below(folder)]
    place = folder.parent.name
    return (
        f"{place}/{folder.name} is not used, with {shortened(names)} in it: files lie directly in {place}. Move them "
        "up, or the folder elsewhere"
    )


def _entries(folder: Path) -> list[Path]:
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in entries if not is_litter(path.name)]


def _files_below(folder: Path) -> list[Path]:
    """The first files in a folder and its folders."""
    first = islice(folder.rglob("*"), LOOKED_AT)
    paths = (path for path in first if not any(is_litter(part) for part in path.relative_to(folder).parts))
    return sorted(path for path in paths if path.is_file())


def _scan_below(folder: Path) -> bool:
    """Whether a file below looks like a scan or a mask."""
    return any(ending_of(file.name) != "" or _may_be_dicom(file) for file in _files_below(folder))


def _may_be_dicom(file: Path) -> bool:
    try:
        return is_dicom(file)
    except UserError:  # it may not be opened
        return False


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))
