import tracemalloc
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import zoom

from patchcl.core.errors import UserError
from patchcl.data.geometry import Grid
from patchcl.data.preprocessing.plan import Plan
from patchcl.data.preprocessing.transforms import mask_to_network_grid, prepared_bytes, to_network_grid, to_scan_grid
from patchcl.data.scan import Scan

RANDOM = np.random.default_rng(0)


def plan(dimensions: int, size: tuple[int, ...], **changes: Any) -> Plan:
    settings: dict[str, Any] = {
        "fit": "resize",
        "normalise": "min_max",
        "classes": ("0", "A", "B"),
        "channels": ("MRI",),
    }
    return Plan(dimensions=dimensions, size=size, **settings | changes)


def grid(shape: tuple[int, ...], spacing_mm: tuple[float, ...]) -> Grid:
    return Grid(shape, np.diag([*spacing_mm, *[1.0] * (4 - len(spacing_mm))]), spacing_mm)


def blocks(shape: tuple[int, ...]) -> np.ndarray:
    """A mask of an off-centre ball of class 1 around a ball of class 2, wide on every axis."""
    places = np.meshgrid(*(np.linspace(-1, 1.2, length) for length in shape), indexing="ij")
    radius = np.sqrt(sum(place**2 for place in places))
    return ((radius < 0.8).astype(int) + (radius < 0.5)).astype(np.uint8)


def one_hot(mask: np.ndarray) -> np.ndarray:
    """(N, *S) -> (N, 3, *S)."""
    return np.stack([mask == value for value in range(3)], axis=1).astype(np.float32)


def dice(first: np.ndarray, second: np.ndarray, value: int) -> float:
    return float(2 * ((first == value) & (second == value)).sum() / ((first == value).sum() + (second == value).sum()))


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
def test_slices_are_taken_along_their_axis(slice_axis: int) -> None:
    voxels = RANDOM.random((2, 4, 5, 6)).astype(np.float32)
    voxels[:, 0, 0, 0], voxels[:, 1, 1, 1] = 0, 1  # so that min-max changes nothing
    rest = tuple(np.delete((4, 5, 6), slice_axis).tolist())
    slices = to_network_grid(
        Scan(voxels, grid((4, 5, 6), (1, 1, 1))), plan(2, rest, slice_axis=slice_axis, channels=("T1", "T2"))
    )
    assert slices.shape == ((4, 5, 6)[slice_axis], 2, *rest)
    for index, one in enumerate(slices):
        np.testing.assert_allclose(one, np.take(voxels, index, axis=1 + slice_axis), atol=1e-7)


def _turned(voxels: np.ndarray) -> np.ndarray:
    """The same halving with the axes of the picture swapped."""
    turned = Scan(voxels.swapaxes(1, 2), grid((1, 4), (1, 1)))
    return to_network_grid(turned, plan(2, (1, 2), normalise="ct", window=(0, 8))).swapaxes(2, 3)


def test_halving_averages_pairs_and_doubling_interpolates() -> None:
    voxels = np.array([[[0.0], [4.0], [8.0], [2.0]]], dtype=np.float32)  # one channel, 4 × 1
    half = to_network_grid(Scan(voxels, grid((4, 1), (1, 1))), plan(2, (2, 1), normalise="ct", window=(0, 8)))
    assert half.shape == (1, 1, 2, 1)
    # A tent over four pixels, cut off at the border: weights 3, 3, 1 of 7 on the first pixels.
    np.testing.assert_allclose(half[0, 0, :, 0] * 8, [(0 * 3 + 4 * 3 + 8) / 7, (4 + 8 * 3 + 2 * 3) / 7], rtol=1e-5)
    np.testing.assert_array_equal(half, _turned(voxels))
    double = to_network_grid(Scan(voxels, grid((4, 1), (1, 1))), plan(2, (8, 1), normalise="ct", window=(0, 8)))
    np.testing.assert_allclose(double[0, 0, :, 0] * 8, [0, 1, 3, 5, 7, 6.5, 3.5, 2], rtol=1e-5)


def test_nearest_images_hold_only_values_of_the_scan() -> None:
    voxels = np.array([[[0.0], [4.0], [8.0], [2.0], [6.0]]], dtype=np.float32)
    settings = {"normalise": "ct", "window": (0, 8), "input_interpolation": "nearest"}
    half = to_network_grid(Scan(voxels, grid((5, 1), (1, 1))), plan(2, (2, 1), **settings))
    assert (half.dtype, (half[0, 0, :, 0] * 8).tolist()) == (np.float32, [4.0, 2.0])  # centres 1.25 and 3.75
    double = to_network_grid(Scan(voxels, grid((5, 1), (1, 1))), plan(2, (10, 1), **settings))
    assert (double[0, 0, :, 0] * 8).tolist() == [0, 0, 4, 4, 8, 8, 2, 2, 6, 6]
    volume = RANDOM.random((1, 4, 5, 6)).astype(np.float32)
    seen = to_network_grid(Scan(volume, grid((4, 5, 6), (1, 1, 1))), plan(3, (7, 9, 11), **settings))
    assert set(seen.ravel()) <= set((volume / 8).ravel())


def test_volumes_are_resized_like_scipy_does() -> None:
    smooth = blocks((9, 12, 15)).astype(np.float32) / 2
    ours = to_network_grid(Scan(smooth[None], grid((9, 12, 15), (1, 1, 1))), plan(3, (18, 24, 30)))[0, 0]
    theirs = zoom(smooth, 2, order=1, mode="nearest", grid_mode=True)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_volumes_that_shrink_are_smoothed_along_every_axis(axis: int) -> None:
    """Stripes of one voxel would come out black or white if every fourth voxel were taken; their mean is grey."""
    stripes = np.moveaxis(np.broadcast_to(np.arange(16) % 2, (6, 6, 16)), 2, axis).astype(np.float32)
    size = tuple(4 if other == axis else 6 for other in range(3))
    seen = to_network_grid(Scan(stripes[None], grid(stripes.shape, (1, 1, 1))), plan(3, size))[0, 0]
    np.testing.assert_allclose(seen, 0.5, atol=0.05)


@pytest.mark.parametrize(
    ("normalise", "expected"),
    [
        ("min_max", [0, 0.1, 0.5, 1]),
        ("ct", [0, 0.2, 1, 1]),
        ("z_score", (np.array([0, 10, 50, 100]) - 40) / np.sqrt(1550)),
        ("percentile", [0, (10 - 0.15) / 99.1, (50 - 0.15) / 99.1, 1]),
    ],
)
def test_intensities(normalise: str, expected: list[float]) -> None:
    voxels = np.array([0, 10, 50, 100], dtype=np.float32).reshape(1, 2, 2)
    done = to_network_grid(Scan(voxels, grid((2, 2), (1, 1))), plan(2, (2, 2), normalise=normalise, window=(0, 50)))
    np.testing.assert_allclose(done.ravel(), expected, atol=1e-5)


def test_what_is_not_background_keeps_its_grey_values() -> None:
    """Two voxels in a thousand are seen, as in PET; where less than half is background, nothing changes."""
    voxels = np.zeros((1, 20, 50), np.float32)
    voxels[0, 3, 4], voxels[0, 7, 9] = 300, 4000
    scan, before = Scan(voxels, grid((20, 50), (1, 1))), plan(2, (20, 50), normalise="percentile")
    after = before.model_copy(update={"background": "ignored"})
    expected = np.percentile([300, 4000], 99.5)
    assert set(to_network_grid(scan, before).ravel().tolist()) == {0, 1}
    np.testing.assert_allclose(sorted(set(to_network_grid(scan, after).ravel().tolist())), [0, 300 / expected, 1])
    voxels[0, :10] = 500 + RANDOM.random((10, 50))
    np.testing.assert_array_equal(to_network_grid(scan, before), to_network_grid(scan, after))
    one = Scan(np.pad(np.full((1, 2, 2), 300, np.float32), ((0, 0), (0, 18), (0, 48))), scan.grid)
    assert set(to_network_grid(one, after).ravel().tolist()) == {0, 1}


@pytest.mark.parametrize("normalise", ["min_max", "percentile", "z_score"])
def test_a_constant_image_stays_finite(normalise: str) -> None:
    voxels = np.full((1, 4, 4), 7, dtype=np.float32)
    assert (to_network_grid(Scan(voxels, grid((4, 4), (1, 1))), plan(2, (4, 4), normalise=normalise)) == 0).all()


def test_channels_are_normalised_by_themselves() -> None:
    voxels = RANDOM.random((1, 4, 4)).astype(np.float32)
    scan = Scan(np.concatenate([voxels, 100 * voxels]), grid((4, 4), (1, 1)))
    both = to_network_grid(scan, plan(2, (4, 4), channels=("T1", "T2")))
    np.testing.assert_allclose(both[:, 0], both[:, 1], atol=1e-6)


def test_each_channel_can_be_normalised_in_its_own_way() -> None:
    voxels = np.array([[[-200.0, -100.0, 0.0, 100.0]], [[-200.0, -100.0, 0.0, 200.0]]], dtype=np.float32)
    mixed = plan(2, (1, 4), normalise=("ct", "min_max"), window=(-100.0, 300.0), channels=("CT", "PET"))
    done = to_network_grid(Scan(voxels, grid((1, 4), (1, 1))), mixed)
    np.testing.assert_allclose(done[0, :, 0], [[0, 0, 0.25, 0.5], [0, 0.25, 0.5, 1]], atol=1e-6)


def test_colours_are_divided_by_full_colour_and_never_stretched() -> None:
    pale = Scan(np.array([[[51.0, 102.0]], [[0.0, 255.0]], [[204.0, 204.0]]], dtype=np.float32), grid((1, 2), (1, 1)))
    mine = plan(2, (1, 2), normalise="rgb", window=(0.0, 255.0), channels=("R", "G", "B"))
    np.testing.assert_allclose(to_network_grid(pale, mine)[0, :, 0], [[0.2, 0.4], [0, 1], [0.8, 0.8]], atol=1e-6)
    with pytest.raises(UserError, match="has the value 5100, but full colour is 255"):
        to_network_grid(pale._replace(voxels=pale.voxels * 50), mine)


def test_a_scan_with_other_channels_is_refused() -> None:
    with pytest.raises(UserError, match="A scan of 1 channels cannot be prepared for T1, T2"):
        to_network_grid(Scan(np.ones((1, 4, 4)), grid((4, 4), (1, 1))), plan(2, (4, 4), channels=("T1", "T2")))


@pytest.mark.parametrize(
    ("mine", "shape", "expected"),
    [
        (plan(2, (8, 6), slice_axis=0), (5, 40, 30), 5 * 8 * 6 * 5),
        (plan(2, (8, 6), channels=("T1", "T2")), (40, 30), 8 * 6 * 9),
        (plan(3, (8, 6, 4), fit="crop", spacing_mm=(2.0, 2.0, 2.0)), (40, 10, 2), 20 * 6 * 4 * 5),
    ],
)
def test_how_large_prepared_scans_are_is_known_before(mine: Plan, shape: tuple[int, ...], expected: int) -> None:
    """Four bytes for every voxel of an image, one for that of the mask."""
    assert prepared_bytes(grid(shape, (1.0,) * len(shape)), mine) == expected


def test_cropping_resamples_to_the_spacing_and_pads_evenly() -> None:
    ones = Scan(np.ones((1, 10, 20, 2), dtype=np.float32), grid((10, 20, 2), (2, 1, 5)))
    mine = plan(2, (25, 16), fit="crop", spacing_mm=(1.0, 1.0), normalise="ct", window=(0, 1))
    done = to_network_grid(ones, mine)
    assert done.shape == (2, 1, 25, 20)
    np.testing.assert_array_equal(done[0, 0, :, 0], [0] * 2 + [1] * 20 + [0] * 3)
    mask = mask_to_network_grid(np.full((10, 20, 2), 2, dtype=np.uint8), ones.grid, mine)
    np.testing.assert_array_equal(mask, 2 * done[:, 0])
    assert mask.dtype == np.uint8


GEOMETRIES = [
    (plan(2, (24, 26), slice_axis=2), (24, 26, 7)),
    (plan(2, (24, 26), slice_axis=0), (7, 24, 26)),
    (plan(2, (26, 7), slice_axis=0), (24, 26, 7)),
    (plan(2, (24, 26), slice_axis=1), (24, 7, 26)),
    (plan(2, (24, 26)), (24, 26)),
    (plan(3, (24, 26, 16)), (24, 26, 16)),
    (plan(2, (32, 36), fit="crop", spacing_mm=(1.0, 1.0)), (24, 26, 7)),
    (plan(3, (16, 30, 40), fit="crop", spacing_mm=(1.0, 1.0, 1.0)), (24, 26, 16)),
]


@pytest.mark.parametrize("output_interpolation", ["linear", "nearest"])
@pytest.mark.parametrize(("mine", "shape"), GEOMETRIES)
def test_a_mask_comes_back_equal_where_nothing_is_resized(
    mine: Plan, shape: tuple[int, ...], output_interpolation: str
) -> None:
    mine = mine.model_copy(update={"output_interpolation": output_interpolation})
    mask, place = RANDOM.integers(0, 3, shape).astype(np.uint8), grid(shape, (1.0,) * len(shape))
    back = to_scan_grid(one_hot(mask_to_network_grid(mask, place, mine)), place, mine)
    assert back.shape == (3, *shape)
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back.argmax(axis=0), mask)


RESIZED = [
    (plan(2, (64, 96), slice_axis=2), (51, 60, 7)),
    (plan(2, (64, 96), slice_axis=0), (7, 51, 60)),
    (plan(2, (64, 96), slice_axis=1), (51, 7, 60)),
    (plan(2, (64, 48)), (51, 60)),
    (plan(3, (48, 64, 48)), (51, 40, 45)),
    (plan(2, (48, 96), fit="crop", spacing_mm=(1.1, 1.3)), (51, 60, 7)),
    (plan(3, (32, 64, 48), fit="crop", spacing_mm=(1.2, 1.3, 1.1)), (51, 40, 45)),
]


@pytest.mark.parametrize("output_interpolation", ["linear", "nearest"])
@pytest.mark.parametrize(("mine", "shape"), RESIZED)
def test_a_mask_comes_back_alike_where_it_is_resized(
    mine: Plan, shape: tuple[int, ...], output_interpolation: str
) -> None:
    mine = mine.model_copy(update={"output_interpolation": output_interpolation})
    mask, place = blocks(shape), grid(shape, (1.5, 1.4, 1.3)[: len(shape)])
    back = to_scan_grid(one_hot(mask_to_network_grid(mask, place, mine)), place, mine)
    for value in (1, 2):
        assert dice(back.argmax(axis=0), mask, value) > 0.95
    np.testing.assert_allclose(back.sum(axis=0), 1, atol=1e-5)
    assert (set(np.unique(back)) == {0, 1}) == (output_interpolation == "nearest")


def test_image_and_mask_stay_on_top_of_each_other() -> None:
    mask = blocks((51, 60, 7))
    for mine in (plan(2, (64, 96)), plan(2, (96, 128), fit="crop", spacing_mm=(1.1, 1.3))):
        place = grid(mask.shape, (1.5, 1.4, 8.0))
        image = to_network_grid(Scan((mask > 0)[None].astype(np.float32), place), mine)[:, 0] > 0.5
        assert dice(image, mask_to_network_grid(mask, place, mine) > 0, True) > 0.98


def test_a_slice_does_not_fit_a_plan_for_volumes() -> None:
    with pytest.raises(UserError, match="is a slice, but the plan is for volumes"):
        to_network_grid(Scan(np.ones((1, 4, 4), dtype=np.float32), grid((4, 4), (1, 1))), plan(3, (4, 4, 4)))


def test_a_large_picture_is_held_twice_at_most():
    """What is read and, beside it, what is made of it; one channel at a time needs a little more."""
    plan = Plan(
        dimensions=2, fit="crop", size=(64, 64), spacing_mm=(1, 1), normalise="rgb", window=(0, 255),
        channels=("R", "G", "B"), classes=("background", "gland"),
    )  # fmt: skip
    voxels = np.random.default_rng(0).integers(0, 256, (3, 400, 500)).astype(np.float32)
    scan = Scan(voxels, Grid((400, 500), np.eye(4), (1.0, 1.0)))
    tracemalloc.start()
    image = to_network_grid(scan, plan)
    _, peak = tracemalloc.get_traced_memory()
    probs = np.stack([image[:, 0], 1 - image[:, 0]], axis=1)
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    restored = to_scan_grid(probs, scan.grid, plan)
    _, restoring = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert image.nbytes < peak < 2.1 * voxels.nbytes
    assert restoring - before < 0.1 * restored.nbytes
    np.testing.assert_array_equal(restored, probs[0])
