"""What files hold, by their hashes: of scans and masks as they lie on disk, and of what was prepared of them.

A manifest is a JSON file in the cache, one for each case. Of a source it keeps size, times and hash, so that the file
is read again only when one of these has changed; the time of change goes with every write, whoever sets the others
back. Nothing but a clock that is set back deceives it.
Of a prepared file it keeps the hash alone, which is compared whenever a run begins.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from patchcl.core.documents import DocumentError, parse_json
from patchcl.core.errors import UserError
from patchcl.core.files import write_json
from patchcl.data.formats.base import require_file
from patchcl.data.formats.detached import DETACHED, files_beside

Entry = dict[str, Any]


def file_hashes(files: Sequence[Path], manifest: Path) -> list[str]:
    """The sha256 of every file; one whose size and times are those in `manifest` is not read again.

    Raises:
        UserError: A file is missing, or cannot be read.
    """
    known = read_manifest(manifest)
    entries = {str(file.absolute()): file_entry(file, known.get(str(file.absolute()))) for file in files}
    if any(known.get(file) != entry for file, entry in entries.items()):
        write_json(manifest, read_manifest(manifest) | entries)
    return [entries[str(file.absolute())]["sha256"] for file in files]


def known_hashes(files: Sequence[Path], manifest: Path) -> list[str] | None:
    """The sha256 of every file by `manifest`, where size and times of all are those; None if one has to be read."""
    known = read_manifest(manifest)
    entries = [known.get(str(file.absolute()), {}) for file in files]
    try:
        if all(_unchanged(entry, _state(_parts(file))) for file, entry in zip(files, entries, strict=True)):
            return [str(entry["sha256"]) for entry in entries]
    except OSError:  # which is told by who reads it
        pass
    return None


def file_entry(file: Path, known: Mapping[str, Any] | None = None) -> Entry:
    """Size, times and sha256 of `file`, which may be the folder of a DICOM series; `known` if that is as it was.

    Raises:
        UserError: It is missing, or cannot be read.
    """
    try:
        parts = _parts(file)
        state = _state(parts)
        if known is not None and _unchanged(known, state):
            return dict(known)
        for part in parts:
            require_file(part, "a scan or mask")
        return state | {"sha256": _sha256(parts)}
    except OSError as error:
        raise UserError(f"{file} cannot be opened: {error.strerror}. Restore it, or remove the scan.") from error


def seal(files: Sequence[Path], manifest: Path) -> None:
    """Keep the hashes of prepared `files` in `manifest`, by which `intact` knows them again."""
    write_json(manifest, read_manifest(manifest) | {file.name: {"sha256": _sha256([file])} for file in files})


def intact(file: Path, sealed: Mapping[str, Entry]) -> bool:
    """Whether a prepared file holds what was sealed."""
    try:
        return file.name in sealed and _sha256([file]) == sealed[file.name].get("sha256")
    except OSError:  # it is not there, or cannot be read
        return False


def read_manifest(path: Path) -> dict[str, Entry]:
    """The entries of a manifest; none of one that is missing or damaged."""
    try:
        content = parse_json(path.read_bytes())
    except (OSError, DocumentError):
        return {}
    return (
        {key: entry for key, entry in content.items() if isinstance(entry, dict)} if isinstance(content, dict) else {}
    )


def _state(parts: Sequence[Path]) -> Entry:
    stats = [part.stat() for part in parts]
    return {
        "bytes": sum(stat.st_size for stat in stats),
        "modified_ns": max((stat.st_mtime_ns for stat in stats), default=0),
        "changed_ns": max((stat.st_ctime_ns for stat in stats), default=0),
    }


def _unchanged(known: Mapping[str, Any], state: Entry) -> bool:
    """Windows keeps the time of creation instead of that of change, which tells nothing."""
    return "sha256" in known and os.name != "nt" and known.items() >= state.items()


def _sha256(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            while piece := content.read(2**20):  # files may be larger than memory
                digest.update(piece)
    return digest.hexdigest()


def _parts(file: Path) -> list[Path]:
    """What `file` is made of: the files in the folder of a DICOM series, or a header and the voxels it names."""
    if file.is_dir():
        return sorted(part for part in file.iterdir() if part.is_file())
    beside = {file}
    if file.suffix.lower() in DETACHED:
        beside |= {other for other in file.parent.iterdir() if other.name.startswith(f"{file.stem}.")}
    named = files_beside(file)
    there = {Path(os.path.realpath(other)) for other in beside} if named else ()
    return [*sorted(beside), *(other for other in named if other not in there)]
