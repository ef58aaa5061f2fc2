"""Voxels that lie in other files than their header: which ones a header names, and that they belong to its data set.

A header is a text that anybody may have written, and could name any file of this machine as an image.
"""

import os
import re
from glob import escape
from pathlib import Path

from patchcl.core.errors import UserError
from patchcl.data.formats.base import require_file

NRRD = (".nrrd", ".nhdr")
DETACHED = (".mhd", ".nhdr")
"""Endings of headers whose voxels lie in other files."""
HEADERS = (*NRRD, ".mhd", ".mha")
"""Endings of all headers that may name other files."""
LONGEST_HEADER = 2**24
"""Bytes; a list of files may be long."""
SHORT_HEADER = 2**16
"""Bytes, in which most headers end, and voxels begin."""
END_OF_NRRD = re.compile(r"(\r\n|\n|\r(?!\n))[\r\n]")
NAMED_DATA = re.compile(r"(?m)^\s*ElementDataFile\s*[=:][ \t]*([^\r\n]*)")


def require_inside(path: Path) -> None:
    """Refuse a header at `path` whose voxels lie outside its data set, or its folder where there is none.

    Raises:
        UserError: Names the file that it points to.
    """
    named = _named_files(path)
    home = path.absolute().parent
    if (home.parent / "dataset.json").is_file():
        home = home.parent
    for name in named:
        file = path.absolute().parent / name
        if not _belongs(file, path, home):
            raise UserError(
                f"{path} says that its voxels lie in {os.path.normpath(file)}, outside of {home}. Such files are not "
                "read: copy it there and name it in the header, or export the image as a single file."
            )
        require_file(file, "the voxels of an image")


def files_beside(path: Path) -> list[Path]:
    """The files, without links on the way, that a header at `path` names; none of what cannot be read as one."""
    if path.suffix.lower() not in HEADERS:
        return []
    try:
        named = [path.absolute().parent / name for name in _named_files(path)]
        found = [other for file in named for other in file.parent.glob(re.sub("%[0-9]*d", "*", escape(file.name)))]
    except (UserError, OSError, ValueError):  # reading it tells what is wrong
        return []
    return sorted(Path(os.path.realpath(file)) for file in found if file.is_file())


def _belongs(file: Path, header: Path, home: Path) -> bool:
    """Whether `file` lies in `home`; or beside the header where both are links to files that lie together."""
    real = Path(os.path.realpath(file))
    if real.is_relative_to(os.path.realpath(home)):
        return True
    inside = Path(os.path.normpath(file)).is_relative_to(home)
    return inside and header.is_symlink() and real.parent == Path(os.path.realpath(header)).parent


def _named_files(path: Path) -> list[str]:
    """The other files that a header names; of a numbered series the pattern, which leads to the same folder."""
    text = _beginning(path)
    names = _of_nrrd(text) if path.suffix.lower() in NRRD else _of_meta_image(text, path)
    return [_pattern(name, path) for name in names]


def _beginning(path: Path) -> str:
    """The header at `path`, and some of the voxels behind it; little is read where it ends soon and lists no files."""
    with path.open("rb") as file:
        text = file.read(SHORT_HEADER).decode("latin-1")
        if path.suffix.lower() in NRRD:
            ended = END_OF_NRRD.search(text) is not None
        else:
            named = NAMED_DATA.search(text)
            ended = named is not None and named.end() < len(text) and not _is_list(named[1])
        return text if ended else text + file.read(LONGEST_HEADER - SHORT_HEADER).decode("latin-1")


def _of_nrrd(text: str) -> list[str]:
    """Lines may end in any way; the header ends at the first empty one."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").partition("\n\n")[0].split("\n")
    names: list[str] = []
    for number, line in enumerate(lines):
        found = re.match(r"(?i)\s*data ?file\s*:=?\s*(.*?)\s*$", line)
        if found is None:
            continue
        if re.match(r"(?i)list\b", found[1]):
            return [*names, *(below.strip() for below in lines[number + 1 :] if below.strip())]
        names.append(found[1])
    return names


def _of_meta_image(text: str, path: Path) -> list[str]:
    """The line that names the data is the last of the header, and every header has it."""
    found = NAMED_DATA.search(text)
    if found is None:
        raise UserError(f"{path} cannot be read: its header has no line ElementDataFile. Export it again.")
    name = found[1].strip()
    if _is_list(name):
        return [line.strip() for line in text[found.end() :].splitlines() if line.strip()]
    return [] if name.upper() == "LOCAL" else [name]


def _is_list(name: str) -> bool:
    """Whether the names of files are the lines that follow."""
    return re.match(r"(?i)\s*list\b", name) is not None


def _pattern(name: str, path: Path) -> str:
    """`name`, without the numbers behind it where it is the pattern of a series: `a%03d.raw 1 20 1`.

    Libraries hand the pattern to a function of C, in which another one than of numbers does harm.
    """
    if "%" not in name:
        return name
    if not re.fullmatch(r"[^%]*%[0-9]{0,3}d[^%]*( +-?[0-9]+){2,4}", name):
        raise UserError(f"{path} names files by {name!r}; expected one name, or a pattern such as a%03d.raw 1 20 1.")
    return re.sub(r"( +-?[0-9]+){2,4}$", "", name)
