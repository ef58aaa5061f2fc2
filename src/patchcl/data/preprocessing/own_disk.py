"""Prepared images on a node's own disk, where the folder that all nodes share is slow."""

import os
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from patchcl.core.files import atomic_write
from patchcl.core.parallel import in_parallel
from patchcl.data.preprocessing.cache import PreparedCase, manifest_in
from patchcl.data.preprocessing.manifest import intact, read_manifest


def on_own_disk(
    prepared: Sequence[PreparedCase], folder: str, say: Callable[[str], object]
) -> tuple[PreparedCase, ...]:
    """The files of `prepared` below `folder`, copied unless they are there already and hold what was prepared.

    Names tell plan and content, so that runs share the copies; they stay until somebody removes the folder. Where they
    cannot lie there the run goes on from the shared folder: a job that waited for days should not end for a full disk.

    Args:
        prepared: In the folder that is shared.
        folder: Names of environment variables in it are filled in here, such as $TMPDIR.
        say: Told in one line why there are no copies.
    """
    place = Path(os.path.expandvars(folder)).expanduser()
    copies = {file: place / file.parent.name / file.name for case in prepared for file in _files_of(case)}
    manifests = [read_manifest(manifest_in(case.image.parent, case.name)) for case in prepared]
    sealed = {file: entry for manifest in manifests for file, entry in manifest.items()}
    missing = [file for file, copy in copies.items() if not intact(copy, sealed)]
    try:
        place.mkdir(parents=True, exist_ok=True)
        needed, free = sum(file.stat().st_size for file in missing), shutil.disk_usage(place).free
        if needed > free:
            raise OSError(f"{needed / 2**30:.1f} GiB are needed there, and {free / 2**30:.1f} are free")
        in_parallel(missing, lambda file: atomic_write(copies[file], partial(shutil.copyfile, file)))
    except OSError as error:
        say(f"Prepared images are read from {prepared[0].image.parent}, not from {place}: {error.strerror or error}.")
        return tuple(prepared)
    return tuple(
        case._replace(image=copies[case.image], mask=None if case.mask is None else copies[case.mask])
        for case in prepared
    )


def _files_of(case: PreparedCase) -> list[Path]:
    return [case.image, case.signature, *([case.mask] if case.mask is not None else [])]
