"""Row blocks: a picture too large to be held is prepared some rows at a time."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from patchcl.core.files import atomic_write
from patchcl.data.duplicates import BLOCKS
from patchcl.data.formats.base import RowBlocks
from patchcl.data.geometry import Grid
from patchcl.data.preprocessing.plan import Plan
from patchcl.data.preprocessing.transforms import _geometry, _normalised_channels
from patchcl.data.scan import (
    image_row_blocks,
    read_grid,
)


def network_row_blocks(paths: Sequence[Path], plan: Plan) -> RowBlocks | None:
    """Row blocks (C, rows, columns) of what `to_network_grid` gives for a picture too large to be held.

    None of any other, and where a pixel depends on others: by resampling, padding, or the statistics of its picture.

    Raises:
        UserError: As for `to_network_grid`, also while row blocks are read.
    """
    blocks = _image_row_blocks(paths, plan)
    if blocks is None:
        return None
    read = blocks.read
    return blocks._replace(read=lambda start, stop: _normalised_channels(read(start, stop), plan))


def _save_row_blocks(
    path: Path, shape: tuple[int, int], kind: type[np.generic], blocks: Iterator[tuple[int, np.ndarray]]
) -> None:
    """Write what `_save` would of all `blocks` together, byte for byte: (1, C, *shape), or (1, *shape) of classes.

    Each is written to its place; a memory-mapped array would fill the memory with what has been written.
    """

    def write(unfinished: Path) -> None:
        with unfinished.open("wb") as file:
            first = 0
            for start, block in blocks:
                block = block.astype(kind, copy=False)
                channels = len(block)
                if not first:
                    whole = (1, *([channels] if kind is np.float32 else []), *shape)
                    header = {"descr": np.dtype(kind).str, "fortran_order": False, "shape": whole}
                    np.lib.format.write_array_header_1_0(file, header)
                    first = file.tell()
                for channel, plane in enumerate(block):
                    file.seek(first + (channel * shape[0] + start) * shape[1] * block.itemsize)
                    file.write(np.ascontiguousarray(plane).data)

    atomic_write(path, write)


class _BlockMeans:
    """Means of BLOCKS x BLOCKS squares of a picture that comes in row blocks, as torch's adaptive_avg_pool has them."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self._shape = shape
        self._edges = [
            [(place * length // BLOCKS, -(-(place + 1) * length // BLOCKS)) for place in range(BLOCKS)]
            for length in shape
        ]
        self._sums: np.ndarray | None = None  # (C, BLOCKS, columns)

    def add(self, start: int, block: np.ndarray) -> None:
        """The rows (C, rows, columns) from `start` on."""
        if self._sums is None:
            self._sums = np.zeros((len(block), BLOCKS, self._shape[1]))
        for place, (low, high) in enumerate(self._edges[0]):
            rows = block[:, max(0, low - start) : max(0, high - start)]
            self._sums[:, place] += rows.sum(axis=1, dtype=np.float64)

    def blocks(self) -> np.ndarray:
        """(C, BLOCKS, BLOCKS)."""
        assert self._sums is not None
        sums = np.stack([self._sums[..., low:high].mean(axis=-1) for low, high in self._edges[1]], axis=-1)
        heights = np.array([high - low for low, high in self._edges[0]])
        return np.asarray(sums / heights[:, None], np.float32)


def _image_row_blocks(paths: Sequence[Path], plan: Plan) -> RowBlocks | None:
    """`image_row_blocks` where they can be prepared one by one, else None."""
    blocks = image_row_blocks(paths) if plan.fit == "crop" and plan.dimensions == 2 else None
    return blocks if blocks is None or _pixel_by_pixel(read_grid(paths[0]), plan) else None


def _pixel_by_pixel(grid: Grid, plan: Plan) -> bool:
    """Whether each pixel of a picture is prepared by itself, and stays where it is."""
    if plan.fit != "crop" or not plan.dimensions == len(grid.shape) == 2:
        return False
    geometry = _geometry(grid, plan)
    return geometry.full == geometry.scaled == geometry.padded and {"ct", "rgb"} >= set(plan.normalise_channels)
