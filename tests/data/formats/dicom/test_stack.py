from pathlib import Path
from typing import Any

import numpy as np
import pytest

from patchcl.core.errors import UserError
from patchcl.data.formats.dicom.frames import Frame
from patchcl.data.formats.dicom.stack import depth, grid_between, require_one_plane, stacked

WHERE = Path("series")
AXIAL = np.array([[1.0, 0, 0], [0, 1, 0]])
OBLIQUE = np.array([[0.8, 0.6, 0], [-0.36, 0.48, 0.8]])  # their normal is (0.48, -0.64, 0.6)
UPWARDS = np.array([0.0, 0, 1])


def frame(number: int, position: object, **fields: Any) -> Frame:
    place = None if position is None else np.array(position, dtype=float)
    made = Frame(Path(f"s{number}"), 0, 1, f"1.{number}", (5, 4), place, AXIAL, (0.5, 0.75), 3.0, 1.0, 0.0)
    return made._replace(**fields)


def stack_of(*depths: float) -> list[Frame]:
    return [frame(number, (0, 0, depth)) for number, depth in enumerate(depths)]


def refusal(frames: list[Frame]) -> str:
    with pytest.raises(UserError) as error:
        stacked(frames, WHERE)
    return str(error.value)


def test_slices_come_by_position_and_positions_give_the_spacing() -> None:
    stack = stacked(stack_of(7, 3, 5), WHERE)
    assert [found.name for found in stack.frames] == ["s1", "s2", "s0"]
    assert stack.grid.shape == (5, 4, 3)
    assert stack.grid.spacing_mm == (0.5, 0.75, 2)
    np.testing.assert_array_equal(stack.grid.affine, [[-0.5, 0, 0, 0], [0, -0.75, 0, 0], [0, 0, 2, 3], [0, 0, 0, 1]])


def test_an_oblique_stack_runs_along_its_normal() -> None:
    normal = np.array([0.48, -0.64, 0.6])
    stack = stacked([frame(n, 10 + 2.5 * n * normal, directions=OBLIQUE) for n in (2, 0, 1)], WHERE)
    assert [found.name for found in stack.frames] == ["s0", "s1", "s2"]
    np.testing.assert_allclose(stack.grid.affine[:3, 2], [-1.2, 1.6, 1.5])
    np.testing.assert_allclose(stack.grid.affine[:3, 1], [0.27, -0.36, 0.6])
    np.testing.assert_allclose(stack.grid.affine[:3, 3], [-10, -10, 10])
    np.testing.assert_allclose([depth(found) for found in stack.frames], [4.4, 6.9, 9.4])


def test_rounded_positions_are_even_enough() -> None:
    assert stacked(stack_of(0, 2.05, 4.05, 5.95, 8), WHERE).grid.spacing_mm[2] == 2
    assert "uneven" in refusal(stack_of(0, 2.3, 4, 6, 8))


def test_missing_slices_are_counted_and_placed() -> None:
    message = refusal(stack_of(0, 2, 4, 8, 10, 16))
    assert message.startswith("series: 3 slices are missing: it is 6 mm from s4 to s5, and 2 mm elsewhere.")
    assert refusal(stack_of(0, 2, 6, 8)).startswith("series: 1 slice is missing: it is 4 mm from s1 to s2")
    assert refusal(stack_of(0, 2, 4, 7)).startswith(
        "series has slices at uneven distances: 2 mm at the least, and 3 mm"
    )


def test_a_slice_that_is_missing_at_the_end_of_a_long_series_is_found() -> None:
    assert "1 slice is missing: it is 2 mm from s297 to s298" in refusal(stack_of(*range(298), 299))


def test_copies_duplicates_and_time_points_are_told_apart() -> None:
    frames = stack_of(0, 2, 4)
    assert "s2 and s7 are copies of one image" in refusal([*frames, frames[2]._replace(path=Path("s7"))])
    assert "s1 and s7 lie at the same position, and one slice was expected" in refusal(
        [*frames, frame(7, (0, 0, 2.0001))]
    )
    later = [found._replace(instance=f"2.{n}", path=Path(f"t{n}")) for n, found in enumerate(frames)]
    assert "holds 2 images at each of 3 positions (time points" in refusal(frames + later)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"size": (5, 3)}, "more than one size: s0 has 5 × 4, s9 has 5 × 3"),
        ({"directions": OBLIQUE}, "more than one direction: s0 has [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], s9 has [[0.8"),
        ({"spacing_mm": (0.5, 0.8)}, "more than one pixel spacing: s0 has (0.5, 0.75), s9 has (0.5, 0.8)"),
        ({"position": None}, "s9 has no ImagePositionPatient"),
        ({"directions": None}, "s9 has no ImagePositionPatient or no ImageOrientationPatient"),
    ],
)
def test_strangers_are_named(fields: dict[str, Any], words: str) -> None:
    assert words in refusal([*stack_of(0, 2), frame(9, (0, 0, 4))._replace(**fields)])


def test_a_tilted_gantry_is_refused_with_its_angle() -> None:
    lean = np.tan(np.radians(15))
    message = refusal([frame(n, (0, 2 * n * lean, 2 * n)) for n in range(4)])
    assert message.startswith("series is tilted: its slices lean by 15.00°")


def test_rounding_is_no_tilt_and_stays_in_the_affine() -> None:
    stack = stacked([frame(0, (0, 0, 0)), frame(1, (0.04, 0, 2))], WHERE)
    np.testing.assert_array_equal(stack.grid.affine[:3, 2], [-0.04, 0, 2])
    long = stacked([frame(n, (0.001 * n, 0, 2 * n)) for n in range(200)], WHERE)
    assert long.grid.shape[2] == 200


def test_a_slice_beside_the_line_is_named() -> None:
    frames = [frame(n, (1.0 if n == 2 else 0, 0, 2 * n)) for n in range(5)]
    assert refusal(frames).startswith("series: s2 lies 1 mm beside the line")


def test_single_frames() -> None:
    single = stacked([frame(0, (1, 2, 3))], WHERE).grid
    assert (single.shape, single.spacing_mm) == ((5, 4, 1), (0.5, 0.75, 3))
    flat = stacked([frame(0, None)], WHERE).grid
    assert (flat.shape, flat.spacing_mm) == ((5, 4), (0.5, 0.75))


def test_a_grid_between_two_frames() -> None:
    low, high = stack_of(1, 7)
    assert grid_between(low, high, 4, WHERE).spacing_mm == (0.5, 0.75, 2)
    require_one_plane([low, high], WHERE)
