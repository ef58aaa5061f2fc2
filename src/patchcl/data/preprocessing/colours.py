"""Colours: whether the channels of a data set are those of pictures, and what full colour is."""

from collections.abc import Sequence
from pathlib import Path

from patchcl.data.dataset import Case, Dataset
from patchcl.data.scan import image_row_blocks, read_image

PICTURES = 16
"""Colour pictures in which the largest value is looked for."""
COLOURS = ({"r", "g", "b"}, {"red", "green", "blue"}, {"rgb_to_0_1"})
"""Names of channels that are colours; the last is how data sets for nnU-Net say so."""


def are_colours(dataset: Dataset, cases: Sequence[Case]) -> bool:
    """By the names of the channels, or because one file fills several."""
    names = {channel.casefold() for channel in dataset.channels}
    return names in COLOURS or any(len(case.images) < len(dataset.channels) for case in cases)


def full_scale(cases: Sequence[Case]) -> float:
    """The value of full colour in the first of `cases`: 1, 255 or 65535."""
    largest = max(_largest(case.images) for case in cases[:PICTURES])
    return next((full for full in (1.0, 255.0) if largest <= full), 65535.0)


def _largest(paths: Sequence[Path]) -> float:
    blocks = image_row_blocks(paths)
    if blocks is None:
        return float(read_image(paths).voxels.max())
    return max(float(block.max()) for _, block in blocks.all())
