"""Voxels that nobody annotated: `IGNORED` in prepared masks, IGNORE where methods learn and are judged."""

from pathlib import Path

import numpy as np
from torch import Tensor

from patchcl.core.batch import IGNORE
from patchcl.core.errors import UserError
from patchcl.data.scan import IGNORED


def classes_of(prepared: Tensor) -> Tensor:
    """The classes, int64, of a prepared mask, uint8; IGNORE where nobody annotated."""
    return prepared.long().masked_fill(prepared == IGNORED, IGNORE)


def demand_annotated(mask: np.ndarray, path: Path) -> None:
    """Refuse a mask, as `read_mask` gives it, that says nothing at all.

    Raises:
        UserError: Every voxel is ignored.
    """
    if (mask == IGNORED).all():
        raise UserError(
            f"{path} says of every voxel that nobody annotated it (ignore), so nothing can be learned from it or "
            "scored on it. Annotate some of it, or remove the file: a scan without a mask is unlabeled."
        )
