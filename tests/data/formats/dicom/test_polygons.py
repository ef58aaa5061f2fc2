import numpy as np
import pytest
from matplotlib.path import Path as Outline

from patchcl.data.formats.dicom.polygons import filled


def corners(*points: tuple[float, float]) -> np.ndarray:
    return np.array(points, dtype=np.float64)


def box(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    return corners((left, top), (right, top), (right, bottom), (left, bottom))


def test_a_box_with_a_hole_by_hand() -> None:
    found = filled([box(0.5, 0.5, 5.5, 4.5), box(1.5, 1.5, 3.5, 2.5)], (7, 6))
    expected = np.zeros((7, 6), bool)
    expected[1:6, 1:5] = True
    expected[2:4, 2] = False
    np.testing.assert_array_equal(found, expected)


def test_an_island_in_a_hole_belongs_and_so_does_a_hole_that_a_channel_joins() -> None:
    rings = [box(0.5, 0.5, 7.5, 7.5), box(1.5, 1.5, 6.5, 6.5), box(2.5, 2.5, 5.5, 5.5)]
    found = filled(rings, (9, 9))
    assert found.sum() == 7 * 7 - 5 * 5 + 3 * 3
    assert found[4, 4]
    outer, inner = rings[:2]
    keyhole = np.concatenate([outer, outer[:1], inner[[0, 3, 2, 1, 0]], outer[:1]])
    np.testing.assert_array_equal(filled([keyhole], (9, 9)), filled([outer, inner], (9, 9)))


@pytest.mark.parametrize("noise", [0, 4e-4, -4e-4])
def test_centres_on_a_line_belong_on_every_side_whatever_rounding_did(noise: float) -> None:
    found = filled([box(1 + noise, 1 - noise, 4 + noise, 3 - noise)], (6, 5))
    expected = np.zeros((6, 5), bool)
    expected[1:5, 1:4] = True
    np.testing.assert_array_equal(found, expected)
    slanted = filled([corners((0, 0), (4, 2), (0, 4))], (5, 5))
    assert slanted[2, 1]
    assert slanted[4, 2]
    assert not slanted[3, 1]


def test_what_reaches_beyond_the_picture_is_cut_off() -> None:
    assert filled([box(-50, -1e6, 1e6, 50)], (4, 3)).all()
    assert filled([box(-9.5, 0.5, 1.5, 9)], (4, 3)).tolist() == [[False, True, True]] * 2 + [[False] * 3] * 2
    assert not filled([box(10, 10, 20, 20), box(-20, 0, -10, 2)], (4, 3)).any()


def test_random_polygons_agree_with_matplotlib() -> None:
    """Each by itself, away from lines, where programs differ on purpose; together by the even-odd rule."""
    random = np.random.default_rng(0)
    centres = np.stack(np.meshgrid(np.arange(12), np.arange(9), indexing="ij"), axis=-1).reshape(-1, 2)
    for _ in range(50):
        triangles = [random.uniform(-3, 13, (3, 2)) for _ in range(3)]
        outlines = [Outline([*one, one[0]], closed=True) for one in triangles]
        near, far = ([one.contains_points(centres, radius=by) for one in outlines] for by in (-0.01, 0.01))
        sure = np.equal(near, far).all(axis=0)
        np.testing.assert_array_equal(filled(triangles, (12, 9)).ravel()[sure], (np.sum(near, axis=0) % 2 == 1)[sure])
        assert sure.mean() > 0.9
