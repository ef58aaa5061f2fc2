"""Discovery of scans: which files are one scan, where there is no dataset.json to say so."""

import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from patchcl.core.errors import UserError
from patchcl.data.folders import beside_images, is_beside, shortened, unused_in_series, voxels_of
from patchcl.data.formats import ENDINGS, FILES, is_scan, without_ending
from patchcl.data.formats.base import is_litter
from patchcl.data.formats.dicom.series import (
    chosen_series,
    finds,
    holds_single_scans,
    is_series_folder,
    stack_of,
    strangers_in,
)


def find_scans(source: Path) -> dict[str, tuple[Path, ...]]:
    """The files of every case in a folder, or of the one case that `source` belongs to, in the order of channels.

    A file here is the folder of the series where a scan is a DICOM series; in a folder of single DICOM images, such as
    X-rays, each is a scan. Of files that are numbered alike but from
    _0001 on, each is a case, which has its number in its name: channels begin with _0000.

    Raises:
        UserError: There is no scan.
    """
    if not source.exists():
        raise UserError(f"{source} does not exist. Name a scan, or a folder of scans.")
    source = source.absolute()  # whose parent is known, also of "."
    alone = _is_one_scan(source)
    cases: dict[str, tuple[Path, ...]] = {}
    for path in sorted(source.parent.iterdir() if alone else source.iterdir()):
        if (not alone or case_name(path) == case_name(source)) and is_scan(path):
            cases[case_name(path)] = (*cases.get(case_name(path), ()), path)
    if not cases or (alone and not is_scan(source)):
        raise UserError(
            f"{source} holds no scan: expected files such as CASE_0000.nii.gz, or folders of DICOM series. "
            f"Names of files end in {', '.join(ENDINGS)}. DICOM files may lie deeper in the folder of each scan, or "
            "several series in it, if you choose one: --series PATTERN."
        )
    if alone and not channel_of(source):
        return {case_name(source): (source,)}
    scans = {name: files for case, paths in cases.items() for name, files in _counted(case, paths).items()}
    return {name: files for name, files in scans.items() if not alone or source in files}


def _is_one_scan(source: Path) -> bool:
    return source.is_file() or (is_series_folder(source, tuple(FILES)) and not holds_single_scans(source))


def _counted(case: str, paths: tuple[Path, ...]) -> dict[str, tuple[Path, ...]]:
    """The files of a case; of one whose numbers count scans, each as a case of its own."""
    numbers = [channel_of(path) for path in paths]
    if len(paths) == 1 or "" in numbers or "0000" in numbers:
        return {case: paths}
    return {without_ending(path.name): (path,) for path in paths}


def passed_over(source: Path, scans: Mapping[str, tuple[Path, ...]], out: Path) -> Iterator[tuple[str, str]]:
    """The name of everything in the folder `source` that belongs to none of `scans`, and a line that says why.

    Of a DICOM series also what is no DICOM in its folder. Hidden files, those that systems leave in folders, and
    the folder `out` are no data; files in which the voxels of a header lie belong to its scan.
    """
    used = {path for paths in scans.values() for path in paths} | {out.absolute()}
    for path in sorted(used - {out.absolute()}):
        yield from ((path.name, f"{path.parent.parent}/{line}") for line in unused_in_series(path, out))
    alone, voxels = _is_one_scan(source), voxels_of(used)
    for path in () if alone else sorted(source.absolute().iterdir()):
        if path in used or is_litter(path.name) or is_beside(path, voxels):
            continue
        if path.is_dir():
            yield path.name, f"{path} is a folder, but no DICOM series. Segment it by itself, or move its scans up."
        else:
            known = ", ".join(ENDINGS)
            yield path.name, f"{path} is no scan: its name should end in {known}. Convert it, or move it elsewhere."


def no_scans_beside(scans: Mapping[str, tuple[Path, ...]]) -> list[str]:
    """A line for DICOM without an image in the folders of series, such as structure sets, whose mask nobody misses."""
    return [
        f"{path.parent.parent}/{line}"
        for path in sorted({path for paths in scans.values() for path in paths})
        for line in beside_images(path)
    ]


def passed_over_by_series(source: Path, out: Path) -> Iterator[tuple[str, str]]:
    """Files in the folder `source` that `link_series` does not look at, or that are no DICOM; as `passed_over`.

    Other series than the one that was asked for are left aside on purpose.
    """
    for folder in [source] if is_series_folder(source) else _folders_in(source, out):
        files = [
            file for file in strangers_in(folder, below=True) if not file.absolute().is_relative_to(out.absolute())
        ]
        strangers = [str(file.relative_to(folder)) for file in files]
        if strangers:
            be = "are" if len(strangers) > 1 else "is"
            yield folder.name, f"{folder}/{shortened(strangers)} {be} not used: files of a series are DICOM."
    for path in [] if is_series_folder(source) else sorted(source.iterdir()):
        if path.is_file() and not is_litter(path.name) and path.name.upper() != "DICOMDIR":
            yield path.name, f"{path} is not used: --series takes a series of each folder. Put it into one of its own."


def link_series(source: Path, series: str, links: Path) -> tuple[dict[str, tuple[Path, ...]], list[tuple[str, str]]]:
    """One DICOM series of each folder in `source`, or of the folder `source` itself: what a PACS exports.

    Args:
        source: Folders with files in them, or in their folders of any depth.
        series: A regular expression that finds something in the description of the series to take, or its UID.
        links: An empty folder. It gets links to the files of each series, under the whole path of the scan's folder.

    Returns:
        These folders by the name of their case, in the order of channels as `find_scans` gives them; and the names of
        cases with a folder that has not exactly one such series, with what was found.

    Raises:
        UserError: There is no folder, or `series` is no regular expression.
    """
    finds(series, "")
    folders = [source] if is_series_folder(source) else _folders_in(source)
    if not folders:
        raise UserError(f"{source} holds no folder; expected a folder of DICOM files for each scan.")
    scans: dict[str, tuple[Path, ...]] = {}
    failed = []
    for folder in folders:
        try:
            files = chosen_series(folder, series, below=True).files
            stack_of(files, folder)
        except UserError as error:
            failed.append((case_name(folder), str(error)))
            continue
        linked = links / folder.absolute().relative_to(folder.absolute().anchor)
        linked.mkdir(parents=True)
        for number, file in enumerate(files):  # files of one name may come from several folders
            _link(file.absolute(), linked / f"{number:06d}_{file.name}")
        scans[case_name(folder)] = (*scans.get(case_name(folder), ()), linked)
    return scans, failed


def without_links(message: str, links: Path) -> str:
    """`message` with every file that `link_series` linked below `links` under its own name."""
    for link in links.rglob("*"):
        if link.is_symlink():
            message = message.replace(str(link), str(link.readlink()))
    return message.replace(str(links), "")


def case_name(path: Path) -> str:
    """The case that a scan's file belongs to: its name without the ending and without the channel, such as _0000."""
    return re.sub(r"_00\d\d$", "", without_ending(path.name))


def channel_of(path: Path) -> str:
    """The four digits that name the channel, such as 0000; nothing where there are none."""
    found = re.search(r"_(00\d\d)$", without_ending(path.name))
    return found.group(1) if found else ""


def _folders_in(source: Path, out: Path | None = None) -> list[Path]:
    """The folders in `source`, but `out`; none where it is none."""
    inside = sorted(source.iterdir()) if source.is_dir() else []
    place = None if out is None else out.absolute()
    return [path for path in inside if path.is_dir() and not is_litter(path.name) and path.absolute() != place]


def _link(file: Path, link: Path) -> None:
    try:
        link.symlink_to(file)
    except OSError:  # a system that knows no links, or grants them to few
        shutil.copyfile(file, link)
