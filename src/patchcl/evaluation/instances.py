"""Which objects the reference of a case has: the ids in a file beside its mask, where somebody told them apart."""

from pathlib import Path

import numpy as np

from patchcl.core.errors import UserError
from patchcl.data.geometry import Grid
from patchcl.data.scan import IGNORED, read_ids


def instances_beside(mask_file: Path, mask: np.ndarray, grid: Grid) -> np.ndarray | None:
    """The ids (*shape) of the objects in `mask`, from instancesTr for a mask in labelsTr; None without that folder.

    Raises:
        UserError: The folder lacks the file, which cannot be read or marks other voxels than the mask.
    """
    folder = mask_file.parent.with_name(mask_file.parent.name.replace("labels", "instances"))
    if folder == mask_file.parent or not folder.is_dir():
        return None
    path = folder / mask_file.name
    if not path.exists():
        raise UserError(f"{path} is missing: with --objects each mask needs its ids there, or none has any.")
    ids = read_ids(path, grid)
    differing = int(np.count_nonzero(((ids > 0) != (mask > 0)) & (mask != IGNORED)))
    if differing:
        raise UserError(
            f"{path} and {mask_file} disagree at {differing} voxels on what is an object and what is background. "
            "Correct one of them."
        )
    return ids
