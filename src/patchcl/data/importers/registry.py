"""Foreign data sets become ours: `patchcl import`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, get_args

from patchcl.core.errors import UserError
from patchcl.core.parallel import ProgressCallback
from patchcl.data.importers import crag, decathlon, dicom_export, kits19, pymic, ssl4mis
from patchcl.data.importers import csv_table as table
from patchcl.data.importers import image_mask_folders as plain
from patchcl.data.importers.writer import FoundDataset, Imported, write_raw_folder

Layout = Literal["plain", "table", "dicom", "crag", "kits19", "decathlon", "ssl4mis", "pymic"]
READERS: dict[Layout, Callable[[Path], FoundDataset]] = {
    "plain": plain.read,
    "table": table.read,
    "dicom": dicom_export.read,
    "crag": crag.read,
    "kits19": kits19.read,
    "decathlon": decathlon.read,
    "ssl4mis": ssl4mis.read,
    "pymic": pymic.read,
}


def import_dataset(
    source: Path,
    out: Path,
    layout: Layout,
    structures: Sequence[str] | None = None,
    channels: Sequence[str] | None = None,
    on_progress: ProgressCallback | None = None,
    images: str | None = None,
    masks: str | None = None,
    series: str | None = None,
) -> Imported:
    """Write the data set in `source` to the new folder `out`, with its split in split.json if it has one.

    Args:
        source: The folder of the foreign data set; for a table, its file.
        out: A folder that does not exist yet, or is empty; it appears when all went well.
        layout: How `source` is laid out.
        structures: Names of the values 1, 2, ... in the masks, or NAME=VALUE.
        channels: Names of the channels; a name with CT in it means Hounsfield units.
        on_progress: Told how many scans of all are done.
        images: The folder in `source` with images, where it has no usual name; for `plain`.
        masks: The folder in `source` with masks, where it has no usual name; for `plain`.
        series: Finds something in the description of the series to take, or is its UID; for `dicom`.

    Raises:
        UserError: `source` is not laid out so, a file cannot be read, or `out` cannot be written.
    """
    if layout not in READERS:
        raise UserError(f"--layout {layout} is not known; choose one of {', '.join(get_args(Layout))}.")
    if not source.is_dir() and not (layout == "table" and source.is_file()):
        raise UserError(f"{source} is no folder. Name the folder of the data set.")
    if layout != "plain" and (images or masks):
        raise UserError(
            f"--images and --masks go with --layout plain; {layout} has folders of its own. Leave them out."
        )
    if layout != "dicom" and series is not None:
        raise UserError(f"--series goes with --layout dicom, and {layout} has no series. Leave it out.")
    found = _read(source, layout, structures, images, masks, series)
    if channels is not None:
        if len(channels) != len(found.channels):
            raise UserError(
                f"--channels names {len(channels)}, but scans have {len(found.channels)}. Name each of them."
            )
        found = found._replace(channels=tuple(channels))
    return write_raw_folder(found, out, structures, on_progress)


def _read(
    source: Path,
    layout: Layout,
    structures: Sequence[str] | None,
    images: str | None,
    masks: str | None,
    series: str | None,
) -> FoundDataset:
    """What `source` holds; two layouts can be told more of it than where it is."""
    if layout == "plain":
        return plain.read(source, images, masks)
    if layout == "dicom":
        return dicom_export.read(source, series or "", structures)
    return READERS[layout](source)


def describe(imported: Imported) -> str:
    """What a user should know of it: how much there is, and what became of the values in the masks."""
    counted = f"{imported.scans} scans, {imported.masks} with masks; classes: {', '.join(imported.labels)}."
    changes = [
        f"{value} became {imported.labels[name]} ({name})"
        for name, value in imported.was.items()
        if value != imported.labels[name]
    ]
    return counted + (f" Values in the masks: {', '.join(changes)}." if changes else "")


def likely_layout(folder: Path) -> Layout | None:
    """The foreign layout that `folder` seems to have; None if it has none, or is a data set of ours."""
    if not folder.is_dir():
        return None
    if (folder / "dataset.json").exists():
        return "decathlon" if decathlon.is_task(folder) else None
    lists = sorted(folder.glob("*.csv"))
    signs: dict[Layout, bool] = {
        "crag": crag.is_crag(folder),
        "kits19": any((case / kits19.IMAGE).is_file() for case in kits19.case_folders(folder)),
        "ssl4mis": (folder / "data").is_dir() and any(folder.glob("train*.list")),
        "table": len(lists) == 1 and table.is_table(lists[0]),
        "pymic": pymic.has_lists(folder),
        "plain": plain.has_folders(folder),
        "dicom": dicom_export.is_export(folder),
    }
    return next((layout for layout, there in signs.items() if there), None)


def require_ours(folder: Path) -> None:
    """Refuse a data set that must be imported first.

    Raises:
        UserError: It has a foreign layout; the message says how to import it.
    """
    layout = likely_layout(folder)
    if layout is not None:
        raise UserError(
            f"{folder} is not laid out as patchcl reads it, but looks like the layout {layout}. Import it first: "
            f"patchcl import {folder} -o NEW_FOLDER --layout {layout}"
        )
