"""Register of the importers: `patchcl import` turns every layout that is named here into a data set of ours.

A new layout is a module beside this one that holds its IMPORTER, and one line in LAYOUTS. The modules are loaded when
they are needed, so that the command line learns the names without their libraries.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from patchcl.core.errors import UserError
from patchcl.core.parallel import ProgressCallback

if TYPE_CHECKING:
    from patchcl.data.importers.writer import ImportResult, SourceDataset

LAYOUTS = {
    "plain": "image_mask_folders",
    "table": "csv_table",
    "dicom": "dicom_export",
    "crag": "crag",
    "kits19": "kits19",
    "decathlon": "decathlon",
    "ssl4mis": "ssl4mis",
    "pymic": "pymic",
    "arrays": "arrays",
    "stacks": "stacks",
}
"""What `--layout` takes -> the module with its importer."""
UNUSED = 10
"""So many folders and kinds of files that were not used are named in a summary."""


class ImportOptions(NamedTuple):
    """What a user may say of a data set beyond where it is; None where nothing was said."""

    structures: tuple[str, ...] | None = None  # names of the values 1, 2, ... in the masks, or NAME=VALUE
    channels: tuple[str, ...] | None = None  # their names; one with CT in it means Hounsfield units
    images: str | None = None  # the folder of images, where it has no usual name
    masks: str | None = None  # the folder of masks, where it has no usual name
    series: str | None = None  # finds something in the description of the DICOM series to take, or is its UID
    spacing: tuple[float, ...] | None = None  # mm along x, y and z, where files hold none
    threshold: float | None = None  # the grey from which on masks show their one structure
    objects: bool | None = None  # whether masks number the objects of their one structure


NO_OPTIONS = ImportOptions()


class Importer(NamedTuple):
    """The reader of one layout."""

    name: str  # as LAYOUTS has it
    description: str  # what a folder of this layout holds
    detect: Callable[[Path], bool]  # whether a folder has this layout; never fails
    convert: Callable[[Path, ImportOptions], "SourceDataset"]  # what to write; UserError if the layout is not kept
    options: tuple[str, ...] = ()  # fields of ImportOptions that it takes beside structures and channels
    takes_file: bool = False  # whether the source may be a file instead of a folder
    certainty: int = 2  # of `detect`: 2 by files that are made for this layout, 1 by usual names, 0 by endings alone


def require_layout(name: str) -> None:
    """Whether there is a layout `name`.

    Raises:
        UserError: There is no such layout.
    """
    if name not in LAYOUTS:
        raise UserError(f"--layout {name} is not known; choose one of {', '.join(LAYOUTS)}.")


def load_importer(name: str) -> Importer:
    """The importer of the layout `name`.

    Raises:
        UserError: There is no such layout.
    """
    require_layout(name)
    importer: Importer = importlib.import_module(f"patchcl.data.importers.{LAYOUTS[name]}").IMPORTER
    return importer


def detect_layouts(source: Path) -> list[str]:
    """Names of the layouts that `source` seems to have, with equal certainty; none for a data set of ours."""
    described = (source / "dataset.json").exists()  # it is ours, or a task of the Decathlon
    importers = [load_importer(name) for name in (("decathlon",) if described else LAYOUTS)]
    likely = [reader for reader in importers if (source.is_dir() or reader.takes_file) and reader.detect(source)]
    return [reader.name for reader in likely if reader.certainty == max(other.certainty for other in likely)]


def import_dataset(
    source: Path,
    out: Path,
    layout: str | None = None,
    options: ImportOptions = NO_OPTIONS,
    on_progress: ProgressCallback | None = None,
) -> "ImportResult":
    """Write the data set in `source` to the new folder `out`, with its split in split.json if it has one.

    Args:
        source: The folder of the foreign data set; for a table, its file.
        out: A folder that does not exist yet, or is empty; it appears when all went well.
        layout: How `source` is laid out; None to detect it.
        options: What else there is to say of it.
        on_progress: Told how many scans of all are done.

    Raises:
        UserError: `source` is not laid out so, or no layout or several were detected; an option is not for this
            layout; a file cannot be read, or `out` cannot be written.
    """
    from patchcl.data.colour_maps import require_one_colour_map
    from patchcl.data.importers.leftovers import left_over
    from patchcl.data.importers.writer import write_raw_folder

    importer = load_importer(_only_layout(source) if layout is None else layout)
    if not source.is_dir() and not (importer.takes_file and source.is_file()):
        raise UserError(f"{source} is no folder. Name the folder of the data set.")
    _require_taken(options, importer)
    dataset = importer.convert(source, options)
    if options.channels is not None:
        if len(options.channels) != len(dataset.channels):
            raise UserError(
                f"--channels names {len(options.channels)}, but scans have {len(dataset.channels)}. Name each of them."
            )
        dataset = dataset._replace(channels=options.channels)
    require_one_colour_map([file for scan in dataset.scans for file in scan.mask_files])
    written = write_raw_folder(dataset, out, options.structures, on_progress)
    used = (*dataset.lists, *(file for scan in dataset.scans for file in scan.files))
    return written._replace(unused=left_over(source, used, out) if source.is_dir() else ())


def describe(result: "ImportResult") -> str:
    """Summary of an import: how much there is, what became of the values in masks, what to know, what was not used."""
    counts = f"{result.scans} scans, {result.masks} with masks; classes: {', '.join(result.labels)}."
    changes = [
        f"{value} became {result.labels[name]} ({name})"
        for name, value in result.source_values.items()
        if value != result.labels[name]
    ]
    lines = [counts + (f" Values in the masks: {', '.join(changes)}." if changes else ""), *result.notes]
    return "\n".join(lines) + _unused(result)


def _unused(result: "ImportResult") -> str:
    """A line that names what was not used, the first of it."""
    if not result.unused:
        return ""
    more = f"; and {len(result.unused) - UNUSED} more" if len(result.unused) > UNUSED else ""
    return f"\nNot used of the source: {'; '.join(result.unused[:UNUSED])}{more}."


def require_ours(folder: Path) -> None:
    """Refuse a data set that must be imported first.

    Raises:
        UserError: It has a foreign layout; the message says how to import it.
    """
    layouts = detect_layouts(folder)
    if layouts:
        raise UserError(
            f"{folder} is not laid out as patchcl reads it, but looks like the layout {' or '.join(layouts)}. Import "
            f"it first: patchcl import {folder} -o NEW_FOLDER --layout {layouts[0]}"
        )


def _only_layout(source: Path) -> str:
    """The one layout that `source` has.

    Raises:
        UserError: It has none or several; the message lists all there are.
    """
    from patchcl.data.dataset import preview

    if not source.exists():
        raise UserError(f"{source} is no folder. Name the folder of the data set.")
    layouts = detect_layouts(source)
    if len(layouts) == 1:
        return layouts[0]
    inside = sorted(path.name for path in source.iterdir()) if source.is_dir() else [source.name]
    seen = (
        f"looks like {' and '.join(layouts)}" if layouts else f"has no known layout; it holds {preview(inside) or '-'}"
    )
    known = "\n".join(f"  {name}: {load_importer(name).description}" for name in LAYOUTS)
    raise UserError(f"{source} {seen}. Say by --layout which one it has:\n{known}")


def _require_taken(options: ImportOptions, importer: Importer) -> None:
    """Refuse options that are not for this layout."""
    taken = ("structures", "channels", *importer.options)
    given = [name for name, value in options._asdict().items() if value is not None]
    others = [f"--{name}" for name in given if name not in taken]
    if others:
        names = ", ".join(f"--{name}" for name in taken)
        raise UserError(f"--layout {importer.name} takes {names}. Leave out {' and '.join(others)}.")
    structures = options.structures or ()
    said = [f"--threshold {options.threshold:g}"] if options.threshold is not None else []
    said += ["--objects"] if options.objects else []
    if len(said) > 1:
        raise UserError(f"{' and '.join(said)} exclude each other: masks hold greys, or numbers. Leave out one.")
    if said and (len(structures) > 1 or any("=" in name for name in structures)):
        raise UserError(
            f"{said[0]} makes one structure of masks, but --structures names {','.join(structures)}. Give it one name, "
            "without a value."
        )
