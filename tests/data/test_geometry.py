from pathlib import Path

import numpy as np
import pytest

from patchcl.core.errors import UserError
from patchcl.data.geometry import Grid, corner_distance_mm, grid_of, require_same_grid

PATH = Path("a.nii")
AFFINE = np.array([[0, 3.0, 0, 7], [-4.0, 0, 0, 8], [0, 0, 5.0, 9], [0, 0, 0, 1]])


def test_spacing_is_the_length_of_the_columns() -> None:
    grid = grid_of(PATH, (10, 11, 12), AFFINE)
    assert grid == Grid((10, 11, 12), AFFINE, (4.0, 3.0, 5.0))
    assert grid_of(PATH, (10, 11), AFFINE).spacing_mm == (4.0, 3.0)


@pytest.mark.parametrize("shape", [(5,), (5, 6, 7, 8), (5, 0, 7), (5, -6)])
def test_only_slices_and_volumes_have_a_grid(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"a\.nii has shape .* a slice \(2 axes\) or a volume \(3 axes\) was expected"):
        grid_of(PATH, shape, AFFINE)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_a_grid_without_extent_is_refused(value: float) -> None:
    with pytest.raises(UserError, match="no valid spacing"):
        grid_of(PATH, (5, 6, 7), np.diag([2.0, 3.0, value, 1.0]))


def test_the_distance_is_that_of_the_farthest_corner() -> None:
    """A turn by 90° about the third axis moves the corner (9, 0) of a 10 × 11 slice from (9, 0) to (0, 9)."""
    straight, turned = np.eye(4), np.eye(4)
    turned[:2, :2] = [[0, -1], [1, 0]]
    grids = [grid_of(PATH, (10, 11), affine) for affine in (straight, turned)]
    # (9, 10) goes to (-10, 9), which is sqrt(19² + 1²) away; no other corner goes farther.
    assert corner_distance_mm(*grids) == pytest.approx(np.sqrt(19**2 + 1))


@pytest.mark.parametrize(("shift", "same"), [(0.29, True), (0.31, False)])
def test_a_tenth_of_the_smallest_voxel_is_tolerated(shift: float, same: bool) -> None:
    moved = AFFINE.copy()
    moved[2, 3] += shift
    found, expected = grid_of(PATH, (5, 6, 7), moved), grid_of(PATH, (5, 6, 7), AFFINE)
    if same:
        require_same_grid(found, expected, PATH, "b.nii")
    else:
        with pytest.raises(UserError, match=r"a\.nii lies up to 0\.31 mm away from b\.nii"):
            require_same_grid(found, expected, PATH, "b.nii")


def test_sizes_are_compared_first() -> None:
    found, expected = grid_of(PATH, (5, 6), AFFINE), grid_of(PATH, (5, 6, 1), AFFINE)
    with pytest.raises(UserError, match=r"a\.nii has size 5 × 6, but b\.nii has 5 × 6 × 1"):
        require_same_grid(found, expected, PATH, "b.nii")
