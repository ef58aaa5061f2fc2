"""Foreign data sets become ours: `patchcl import`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from patchcl.data.sources import pymic, ssl4mis
from patchcl.data.sources.raw_folder import Report, write_raw_folder
from patchcl.errors import UserError

Layout = Literal["ssl4mis", "pymic"]
READERS = {"ssl4mis": ssl4mis.read, "pymic": pymic.read}


def import_dataset(
    source: Path,
    out: Path,
    layout: Layout,
    structures: Sequence[str] | None = None,
    channels: Sequence[str] | None = None,
    report: Report = None,
) -> Path:
    """Write the data set in `source` to the new folder `out`, with its split in split.json, and return `out`.

    Args:
        source: The folder of the foreign data set.
        out: A folder that does not exist yet, or is empty; it appears when all went well.
        layout: How `source` is laid out.
        structures: Names of the values 1, 2, ... in the masks.
        channels: Names of the channels; a name with CT in it means Hounsfield units.
        report: Told how many scans of all are done.

    Raises:
        UserError: `source` is not laid out so, a file cannot be read, or `out` cannot be written.
    """
    if layout not in READERS:
        raise UserError(f"--layout {layout} is not known; choose one of {', '.join(get_args(Layout))}.")
    if not source.is_dir():
        raise UserError(f"{source} is no folder. Name the folder of the data set.")
    found = READERS[layout](source)
    if channels is not None:
        if len(channels) != len(found.channels):
            raise UserError(
                f"--channels names {len(channels)}, but scans have {len(found.channels)}. Name each of them."
            )
        found = found._replace(channels=tuple(channels))
    return write_raw_folder(found, out, structures, report)
