"""What the network sees at once follows from the scans and a fixed memory, and so does the batch of volumes."""

import math

import numpy as np
import pytest

from patchcl.data.preprocessing.sizes import VOXEL_BYTES, batch_of_volumes, network_size, seen_whole


def size_of(shape, spacing_mm, memory_gib=8.0, fit="crop"):
    plan = {"dimensions": len(shape), "fit": fit, "spacing_mm": spacing_mm}
    return network_size(np.array([shape], float), np.array([spacing_mm], float), plan, memory_gib)[0]


@pytest.mark.parametrize("memory_gib", [0.5, 2.0, 8.0])
@pytest.mark.parametrize("shape", [(180, 220, 88), (512, 512, 300), (600, 40, 40)])
def test_pieces_of_large_volumes_take_the_memory_of_two_and_two(shape, memory_gib):
    size = size_of(shape, (1.0, 1.0, 1.0), memory_gib)
    room = memory_gib * 2**30 / VOXEL_BYTES / 4
    assert math.prod(size) <= room
    assert all(length % 16 == 0 and length <= full + 8 for length, full in zip(size, shape, strict=True))
    assert batch_of_volumes(size, memory_gib)[0] >= 2
    assert not seen_whole(np.array([shape], float), 2.0) or shape == (600, 40, 40)


def test_pieces_are_about_as_long_in_mm_along_every_axis():
    assert size_of((180, 220, 88), (1.0, 1.0, 1.0)) == (128, 128, 96)
    size = size_of((512, 512, 300), (0.8, 0.8, 1.6))
    sides = np.array(size) * (0.8, 0.8, 1.6)
    assert sides.max() - sides.min() <= 16 * 1.6


def test_volumes_that_fit_are_seen_whole_and_leave_the_batch_to_the_settings():
    shape = (40, 56, 40)
    assert seen_whole(np.array([shape], float), 8.0)
    assert size_of(shape, (1.0, 1.0, 1.0), fit="resize") == (32, 64, 32)
    assert batch_of_volumes((32, 64, 32), 8.0) == (None, "")


def test_one_volume_is_the_least_batch():
    assert batch_of_volumes((256, 256, 256), 0.5)[0] == 1


def test_slices_are_capped_multiples():
    assert size_of((700, 20), (1.0, 1.0), fit="resize") == (256, 32)
