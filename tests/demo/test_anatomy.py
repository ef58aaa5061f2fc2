"""The heart of the generated scans: chambers inside walls, and geometry that distances and fields keep to."""

import numpy as np
import pytest

from patchcl.demo.anatomy import LAYERS, LV, MYO, RV, Canvas, Plane, class_mask, distances_to, draw_heart

SLICES = 3


@pytest.fixture
def plane() -> Plane:
    return Plane(np.random.default_rng(0), (40, 50), SLICES, pixel_mm=2.0)


def test_voxels_lie_in_layers_from_base_to_apex(plane: Plane) -> None:
    assert plane.x.shape == plane.y.shape == (SLICES * LAYERS, 40, 50)
    assert (np.diff(plane.depth[:, 0, 0]) > 0).all()
    assert np.diff(plane.x.mean(axis=(0, 2))).mean() == pytest.approx(2.0, abs=0.3)


def test_the_distance_to_an_ellipse_is_negative_inside_and_in_mm_across(plane: Plane) -> None:
    distance = plane.ellipse((0.0, 0.0), (10.0, 10.0))
    radius = np.hypot(plane.x, plane.y)
    assert np.allclose(distance, radius - 10)
    turned = plane.ellipse((0.0, 0.0), (20.0, 5.0), np.pi / 2)  # now long along y
    assert np.allclose(turned, plane.ellipse((0.0, 0.0), (5.0, 20.0)))


def test_paint_covers_the_inside_and_half_of_the_edge(plane: Plane) -> None:
    canvas = Canvas(plane)
    distance = np.zeros(plane.x.shape)
    distance[:, :10], distance[:, 10:20] = -5.0, 5.0
    canvas.paint(distance, 0.8)
    assert np.allclose(canvas.picture[:, :10], 0.8)
    assert np.allclose(canvas.picture[:, 10:20], 0.0)
    assert np.allclose(canvas.picture[:, 20:], 0.4)


@pytest.mark.parametrize("seed", range(5))
def test_the_left_chamber_lies_in_its_wall_and_the_right_one_beside_it(seed: int) -> None:
    random = np.random.default_rng(seed)
    heart, plane = draw_heart(random), Plane(random, (64, 64), SLICES, 2.5)
    distances = distances_to(plane, heart)
    assert (distances.outside < distances.pool).all()
    mask = class_mask(distances)
    assert mask.dtype == np.uint8
    assert {LV, MYO, RV} <= set(np.unique(mask[: LAYERS * SLICES // 2]))
    assert ((mask == LV) == (distances.pool < 0)).all()
    assert ((mask == MYO) == ((distances.outside < 0) & (distances.pool >= 0))).all()
    assert not (distances.right[mask == MYO] < 0).any()
