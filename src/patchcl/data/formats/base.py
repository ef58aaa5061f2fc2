"""The interface of a file format, and the messages about files that cannot be read."""

import importlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from patchcl.core.errors import UserError
from patchcl.data.geometry import Grid

DEFLATE_RATIO = 1100
"""More than the 1032 bytes that one byte of gzip, zlib or PNG can stand for."""
CUT_SHORT = re.compile(
    r"truncated|ended before|\beof\b|cut off|got only|wrong size|hit end of|end of (file|data|input)|incomplete|"
    r"too short|short file|not enough|less than expected|premature|could the file be damaged",
    re.IGNORECASE,
)
"""What libraries say of files that end too early."""
DAMAGED = re.compile(r"\bcrc\b|checksum|data check|broken|corrupt|while decompressing", re.IGNORECASE)
"""What they say of files in which something else lies than was written."""
BEGINNINGS = (
    (0, b"\x89PNG", "a PNG picture", "picture"),
    (0, b"\xff\xd8\xff", "a JPEG picture", "picture"),
    (0, b"GIF8", "a GIF picture", "picture"),
    (0, b"II*\0", "a TIFF picture", "picture"),
    (0, b"MM\0*", "a TIFF picture", "picture"),
    (0, b"NRRD", "an NRRD file", "NRRD"),
    (128, b"DICM", "a DICOM file", "DICOM"),
    (0, b"\x89HDF", "an HDF5 file", "HDF5"),
    (0, b"\x1f\x8b", "a file packed by gzip", "NIfTI"),
    (0, b"PK", "a ZIP archive", "NumPy"),
    (0, b"%PDF", "a PDF document", "PDF"),
    (0, b"<", "a page or document of the web", "XML"),
)
"""Where known contents begin with which bytes, what they are, and a word in the kinds that they are right for."""
SAME: Mapping[str, str] = MappingProxyType({})


LITTER = ("thumbs.db", "desktop.ini", "__macosx")
"""What systems leave in folders, in lower case, beside what is hidden."""


class RowBlocks(NamedTuple):
    """Row blocks: a picture that is too large to be held, some rows at a time."""

    shape: tuple[int, int]  # rows and columns
    step: int  # rows that are best read at once
    read: Callable[[int, int], np.ndarray]  # (C, rows, columns) from one row to before another

    def all(self) -> Iterator[tuple[int, np.ndarray]]:
        """All row blocks from above, each with the number of its first row."""
        for start in range(0, self.shape[0], self.step):
            yield start, self.read(start, min(start + self.step, self.shape[0]))


class Format(NamedTuple):
    """A family of files that one module reads and writes."""

    name: str  # as messages call it: "NIfTI"
    endings: tuple[str, ...]  # lower case with the dot, longest first
    read_grid: Callable[[Path], Grid]  # from the header alone
    read_values: Callable[[Path], np.ndarray]  # (C, *shape) of the file's own type, scaled; C > 1 for colour only
    write_like: Callable[[Path, np.ndarray, Path], None]  # (path, values (*shape), like): on the very grid of `like`
    read_classes: Callable[[Path], np.ndarray] | None = None  # (*shape) of a mask, where `read_values` would not do
    read_onto: Callable[[Path, Grid, Sequence[str]], np.ndarray] | None = None
    # the classes, (*grid.shape) on the grid of an image, of a mask that tells them by name and may hold a part of it
    count_channels: Callable[[Path], int] | None = None  # from the header, where files can hold more than one
    value_row_blocks: Callable[[Path], RowBlocks | None] | None = None  # `read_values` of what is too large, else None
    class_row_blocks: Callable[[Path], RowBlocks | None] | None = None  # `read_classes` of it
    masks_as: Mapping[str, str] = SAME  # ending of a scan -> of masks written for it, where that is another
    maps_as: Mapping[str, str] = SAME  # the same for maps of real numbers, where they are not written as masks are


def is_litter(name: str) -> bool:
    """Whether a file or folder called `name` is nobody's data: hidden, or left by a system."""
    return name.startswith(".") or name.lower() in LITTER


@contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Turn whatever goes wrong while reading `path` as `kind`, "a NIfTI image", into one message that names it.

    Raises:
        UserError: Instead of any other exception.
    """
    try:
        require_file(path, kind)
        path.open("rb").close()  # not every library tells a missing or forbidden file from a damaged one
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{error.filename or path} does not exist. Check the name, or restore the file.") from error
    except PermissionError as error:
        raise UserError(
            f"{error.filename or path} may not be read by you. Change its permissions, or copy it."
        ) from error
    except Exception as error:  # libraries raise whatever they like on damaged files
        raise UserError(
            f"{path} cannot be read as {kind} ({_last_line(error)}). {_way_out(path, kind, error)}"
        ) from error


def require_file(path: Path, kind: str) -> None:
    """Refuse what has the name of a file but is none, such as a pipe, on which reading would wait for ever.

    Raises:
        UserError: `path` is a folder, a link that leads nowhere, or no ordinary file; not where it is missing.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder, but {kind} is a file. Name the file itself, or remove the folder.")
    if path.is_file():
        return
    if path.is_symlink():
        raise UserError(f"{path} is a link to {path.readlink()}, where no file is. Put the file itself there.")
    if path.exists():
        raise UserError(f"{path} is no ordinary file, and {kind} is one. Remove it, or put the file itself there.")


def require_content(path: Path, claimed: int, ratio: float = 1) -> None:
    """Refuse a file whose header claims more than it can hold, before memory is asked for.

    Args:
        path: The file.
        claimed: Bytes of voxels that its header promises.
        ratio: How many bytes one byte of the file can stand for, at the most.

    Raises:
        UserError: The file is too small for what it claims.
    """
    held = path.stat().st_size
    if claimed > held * ratio:
        raise UserError(
            f"{path} cannot be read: its header claims {claimed} bytes of voxels, but the file has {held} bytes. "
            "It may be incomplete: copy or export it again."
        )


def require_upright(path: Path, orientation: int) -> None:
    """Refuse a picture that viewers turn or mirror, as EXIF tells them to.

    Raises:
        UserError: It is stored otherwise than it is shown.
    """
    if orientation != 1:
        raise UserError(
            f"{path} is stored turned or mirrored (orientation {orientation}), and a mask drawn on what viewers show "
            "would not fit. Save it upright, without this mark."
        )


def require_opaque(path: Path, opaque: bool) -> None:
    """Refuse a picture with something behind it.

    Raises:
        UserError: It is not `opaque`.
    """
    if not opaque:
        raise UserError(f"{path} has transparent pixels, whose colour nobody can know. Save it without transparency.")


def require_eight_bits(path: Path, bits: int) -> None:
    """Refuse a picture in colours of another depth than screens show.

    Raises:
        UserError: `bits` of a colour are not 8.
    """
    if bits != 8:
        raise UserError(
            f"{path} has colours of {bits} bits; expected 8. Convert it, or save each colour as a grey file."
        )


def require_grey(path: Path, colours: str) -> None:
    """Refuse a mask whose pixels are `colours`; "" where they are numbers or indices.

    Raises:
        UserError: They are.
    """
    if colours:
        raise UserError(
            f"{path} holds colours ({colours}); a mask has one number per pixel, its class. "
            "Save it as grey values or with a colour map."
        )


def library(name: str, path: Path, kind: str, extra: str) -> Any:  # noqa: ANN401 - a module
    """The optional library `name`, which reading `path` needs because it is `kind`.

    Raises:
        UserError: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{path} is {kind}, which needs {name}: pip install 'patchcl[{extra}]'") from error


def _way_out(path: Path, kind: str, error: Exception) -> str:
    """What is wrong with a file that could not be read as `kind`, and what to do about it."""
    with path.open("rb") as file:
        start = file.read(132)
    if not start:
        return "It is empty: copy or export it again."
    for offset, beginning, content, right in BEGINNINGS:
        if start[offset:].startswith(beginning) and right not in kind:
            return f"It begins as {content} does: give it the ending of what it is, or convert it."
    if isinstance(error, EOFError) or CUT_SHORT.search(str(error)):
        return "It may be incomplete: copy or export it again."
    if DAMAGED.search(str(error)):
        return "It is damaged: copy or export it again."
    return (
        "It is damaged, or of a kind that is not supported; docs/data.md says what patchcl reads of NIfTI, NRRD, "
        "MetaImage, DICOM, PNG, JPEG, BMP, TIFF, GIF and WebP. Export it again, or convert it."
    )


def _last_line(error: Exception) -> str:
    """What matters of a message: libraries in C++ begin with where in their source it arose."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1]
