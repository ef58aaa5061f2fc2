"""What lies in the source of an import and is not part of the data set that was made from it."""

import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from patchcl.data.folders import shortened
from patchcl.data.formats.base import is_litter
from patchcl.data.formats.detached import files_beside


def left_over(source: Path, used: Iterable[Path], out: Path) -> tuple[str, ...]:
    """Each folder in the folder `source` of which nothing was `used`, and the other files by folder and ending.

    Names are relative to `source`. What is nobody's data is passed over, and so is the folder `out`.
    """
    paths = list(used)
    paths += [file for path in paths for file in files_beside(path)]
    taken = {os.path.realpath(path) for path in paths}
    return tuple(_below(source, source, taken, _parents(taken), os.path.realpath(out), ()))


def _below(
    folder: Path, source: Path, taken: Collection[str], parents: Collection[str], out: str, above: tuple[str, ...]
) -> Iterator[str]:
    """As `left_over`, of one folder, which lies in those `above`: no link leads there again."""
    above = (*above, os.path.realpath(folder))
    kinds: dict[str, list[str]] = {}
    for path in sorted(folder.iterdir()):
        real = os.path.realpath(path)
        if is_litter(path.name) or real in taken or real == out:
            continue
        if not path.is_dir():
            kinds.setdefault(path.suffix.lower(), []).append(str(path.relative_to(source)))
        elif real in parents and real not in above:
            yield from _below(path, source, taken, parents, out, above)
        elif count := _count(path):
            yield f"{path.relative_to(source)}/ ({count} file{'s' if count > 1 else ''})"
    yield from map(shortened, kinds.values())


def _parents(taken: Iterable[str]) -> set[str]:
    """Every folder above the files that are `taken`."""
    return {str(parent) for path in taken for parent in Path(path).parents}


def _count(folder: Path) -> int:
    """The files below that are somebody's data; links to folders are not followed."""
    found = 0
    for _, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not is_litter(name)]
        found += sum(not is_litter(name) for name in files)
    return found
