"""Verbs that look at data sets: check and import."""

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from patchcl.config import PathLike, SettingsArguments, make_settings
from patchcl.core.console import progress_bar
from patchcl.data.check import CheckReport, check_data
from patchcl.data.importers.registry import ImportOptions, import_dataset, require_ours
from patchcl.data.importers.writer import ImportResult


def check(data: PathLike, **settings: Unpack[SettingsArguments]) -> CheckReport:
    """Open every scan and mask of a data set, and say what was understood and what is wrong with it.

    Args:
        data: A folder in nnU-Net raw layout.
        settings: See `SettingsArguments`.

    Returns:
        `problems` and `warnings`, one line each; `dataset`, `split` and `plan` as training would see them.

    Raises:
        UserError: `data` is not laid out as a data set, or a setting is wrong.

    Example:
        >>> patchcl.check(data).problems
        ()
    """
    require_ours(Path(data))
    chosen = make_settings(**settings)
    with progress_bar("Reading scans") as on_progress:
        decided = chosen.augment.flip is not None
        return check_data(Path(data), chosen.split, chosen.plan, on_progress, decided)


def import_data(
    source: PathLike,
    out: PathLike,
    *,
    layout: str | None = None,
    structures: Sequence[str] | None = None,
    channels: Sequence[str] | None = None,
    images: str | None = None,
    masks: str | None = None,
    series: str | None = None,
    spacing: Sequence[float] | None = None,
    threshold: float | None = None,
    objects: bool = False,
) -> ImportResult:
    """Turn images and masks that are laid out otherwise into a data set that patchcl reads, with its split.

    Args:
        source: The folder of a data set; for a table, its CSV file.
        out: A new folder.
        layout: How `source` is laid out; by default it is looked at.
        structures: Names of the values 1, 2, ... in the masks, or NAME=VALUE.
        channels: Names of the channels.
        images: For `plain` and `stacks`: the folder in `source` with images.
        masks: For `plain` and `stacks`: the folder in `source` with masks.
        series: For `dicom`: part of the description of the series to take, or its UID.
        spacing: For `arrays` and `stacks`: mm along x, y and z, since their files hold none.
        threshold: For masks with grey edges: the structure is what has this grey, or a brighter one.
        objects: For masks that number objects: they become one structure, and the numbers go to instancesTr.

    Raises:
        UserError: `source` has another layout, a file cannot be read, or `out` cannot be written.

    Example:
        >>> patchcl.import_data(pictures, out, layout="plain", structures=["gland"]).masks
        2
    """
    names, kinds = (None if listed is None else tuple(listed) for listed in (structures, channels))
    spacing = None if spacing is None else tuple(spacing)
    options = ImportOptions(names, kinds, images, masks, series, spacing, threshold, objects or None)
    with progress_bar("Importing scans") as on_progress:
        return import_dataset(Path(source), Path(out), layout, options, on_progress)
