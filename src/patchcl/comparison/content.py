"""What the scans and masks of several runs hold, by their hashes, so that runs on other ones do not join them."""

from pathlib import Path

from patchcl.core.files import write_json
from patchcl.core.parallel import in_parallel
from patchcl.data.dataset import Dataset
from patchcl.data.preprocessing.manifest import file_entry, read_manifest

MANIFEST = "files.json"
"""The file beside the runs that tells which scans and masks were read when, and what they held."""


def hashes_of(dataset: Dataset, root: Path, keep: bool) -> dict[str, str]:
    """The sha256 of every scan and mask by its path in the data set; what nobody wrote to since is not read again.

    Args:
        dataset: Of which it takes the masks that are not hidden.
        root: The folder of all runs, with the manifest.
        keep: Whether to write the manifest; the folder of runs that have not begun stays empty.

    Raises:
        UserError: A file cannot be read.
    """
    files = [file for case in dataset.cases for file in (*case.images, case.mask) if file is not None]
    known = read_manifest(root / MANIFEST)
    found = in_parallel(files, lambda file: file_entry(file, known.get(str(file.absolute()))))
    entries = {str(file.absolute()): entry for file, entry in zip(files, found, strict=True)}
    if keep:
        write_json(root / MANIFEST, entries)
    return {file.relative_to(dataset.root).as_posix(): str(entries[str(file.absolute())]["sha256"]) for file in files}
