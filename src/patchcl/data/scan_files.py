"""Which files are one scan, where there is no dataset.json to say so."""

import re
from pathlib import Path

from patchcl.data.formats import ENDINGS, is_scan, without_ending
from patchcl.data.formats.dicom import is_series_folder
from patchcl.errors import UserError


def find_scans(source: Path) -> dict[str, tuple[Path, ...]]:
    """The files of every case in a folder, or of the one case that `source` belongs to, in the order of channels.

    A file here is the folder of the series where a scan is a DICOM series.

    Raises:
        UserError: There is no scan.
    """
    if not source.exists():
        raise UserError(f"{source} does not exist. Name a scan, or a folder of scans.")
    source = source.absolute()  # whose parent is known, also of "."
    alone = source.is_file() or is_series_folder(source)
    cases: dict[str, tuple[Path, ...]] = {}
    for path in sorted(source.parent.iterdir() if alone else source.iterdir()):
        if (not alone or case_name(path) == case_name(source)) and is_scan(path):
            cases[case_name(path)] = (*cases.get(case_name(path), ()), path)
    if not cases or (alone and not is_scan(source)):
        raise UserError(
            f"{source} holds no scan: expected files such as CASE_0000.nii.gz, or folders of DICOM series. "
            f"Names of files end in {', '.join(ENDINGS)}."
        )
    if alone and not channel_of(source):
        return {case_name(source): (source,)}
    return cases


def case_name(path: Path) -> str:
    """The case that a scan's file belongs to: its name without the ending and without the channel, such as _0000."""
    return re.sub(r"_00\d\d$", "", without_ending(path.name))


def channel_of(path: Path) -> str:
    """The four digits that name the channel, such as 0000; nothing where there are none."""
    found = re.search(r"_(00\d\d)$", without_ending(path.name))
    return found.group(1) if found else ""
