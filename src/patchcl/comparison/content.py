"""What the scans and masks of several runs hold, by their hashes, so that runs on other ones do not join them."""

from collections.abc import Mapping
from pathlib import Path

from patchcl.core.files import write_json
from patchcl.core.parallel import in_parallel
from patchcl.data.dataset import Dataset
from patchcl.data.preprocessing.manifest import Entry, file_entry, read_manifest

MANIFEST = "files.json"
"""The file beside the runs that tells which scans and masks were read when, and what they held."""

Files = Mapping[str, Entry]  # by their path in the data set


def files_of(dataset: Dataset, root: Path) -> Files:
    """Size, times and hash of every scan and mask; what nobody wrote to since `keep_files` is not read again.

    Args:
        dataset: Of which it takes the masks that are not hidden.
        root: The folder of all runs, with the manifest.

    Raises:
        UserError: A file cannot be read.
    """
    files = [file for case in dataset.cases for file in (*case.images, case.mask) if file is not None]
    known = read_manifest(root / MANIFEST)
    found = in_parallel(files, lambda file: file_entry(file, known.get(str(file.absolute()))))
    return {file.relative_to(dataset.root).as_posix(): entry for file, entry in zip(files, found, strict=True)}


def keep_files(files: Files, data: Path, root: Path) -> None:
    """Write the manifest into `root`: these are the files of the data set in `data`."""
    write_json(root / MANIFEST, {str((data / path).absolute()): entry for path, entry in files.items()})


def kept_files(data: Path, root: Path) -> Files:
    """What `keep_files` wrote last of the data set in `data`; nothing if there is no manifest."""
    known = {Path(path): entry for path, entry in read_manifest(root / MANIFEST).items()}
    within = data.absolute()
    return {path.relative_to(within).as_posix(): known[path] for path in known if path.is_relative_to(within)}


def hashes_of(files: Files) -> dict[str, str]:
    """The sha256 of every file, by its path in the data set."""
    return {path: str(entry.get("sha256")) for path, entry in files.items()}
