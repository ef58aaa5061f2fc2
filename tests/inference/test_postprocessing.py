"""Masks that were drawn by hand, and what becomes of them."""

import json

import numpy as np
import pytest

from patchcl.core.errors import UserError
from patchcl.data.geometry import Grid
from patchcl.data.preprocessing.plan import Plan
from patchcl.inference.postprocessing import (
    NO_POSTPROCESSING,
    Postprocessing,
    describe,
    postprocess,
    read_postprocessing,
)
from patchcl.runs.folder import RunFolder

PLAN = Plan(
    dimensions=2, fit="resize", size=(8, 8), normalise="min_max", channels=("MRI",), classes=("background", "a", "b")
)
VOLUMES = PLAN.model_copy(update={"dimensions": 3, "size": (8, 8, 8)})


def drawn(picture: str) -> np.ndarray:
    return np.array([[int(pixel) for pixel in row] for row in picture.split()], np.uint8)


def cleaned(mask: np.ndarray, plan: Plan = PLAN, spacing_mm: tuple[float, ...] = (1, 1, 1), **steps) -> np.ndarray:
    grid = Grid(mask.shape, np.eye(4), spacing_mm[: mask.ndim])
    before = mask.copy()
    result = postprocess(mask, grid, plan, Postprocessing(**steps))
    np.testing.assert_array_equal(mask, before)  # what is given stays as it is
    assert result.dtype == mask.dtype
    return result


def test_nothing_is_done_unless_something_was_chosen():
    assert not NO_POSTPROCESSING
    mask = drawn("1020 0000 1110")
    np.testing.assert_array_equal(cleaned(mask), mask)


def test_the_largest_component_of_each_structure_that_is_named_stays():
    mask = drawn("11020 11000 00220 10220 00000")
    np.testing.assert_array_equal(cleaned(mask, largest_of=("a",)), drawn("11020 11000 00220 00220 00000"))
    np.testing.assert_array_equal(cleaned(mask, largest_of=("a", "b")), drawn("11000 11000 00220 00220 00000"))


def test_the_largest_component_of_all_structures_together_stays():
    """The smaller part of a is kept where it touches b, whose side is the larger one."""
    mask = drawn("1110000 1110022 0000022 0000122 2000000")
    kept = drawn("0000000 0000022 0000022 0000122 0000000")
    np.testing.assert_array_equal(cleaned(mask, largest_together=True), kept)


def test_of_components_of_one_size_the_first_stays():
    mask = drawn("0011 1100 0000 0011")
    np.testing.assert_array_equal(cleaned(mask, largest_of=("a",)), drawn("0011 1100 0000 0000"))  # a corner connects
    apart = drawn("0011 0000 1100")
    np.testing.assert_array_equal(cleaned(apart, largest_of=("a",)), drawn("0011 0000 0000"))
    np.testing.assert_array_equal(cleaned(apart, largest_together=True), drawn("0011 0000 0000"))


def test_a_structure_is_one_across_slices():
    mask = np.zeros((4, 4, 3), np.uint8)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[1, 1, 2] = 1  # 3 voxels, through corners
    mask[3, 2:4, 0] = 1
    kept = cleaned(mask, largest_of=("a",))
    assert kept.sum() == 3
    assert not kept[3].any()


def test_a_missing_structure_stays_missing():
    mask = drawn("000 010 000")
    np.testing.assert_array_equal(
        cleaned(mask, largest_of=("a", "b"), largest_together=True, filled=("a", "b"), smallest_object_mm=0.5), mask
    )
    nothing = np.zeros((3, 3), np.uint8)
    np.testing.assert_array_equal(
        cleaned(nothing, largest_of=("a",), largest_together=True, filled=("a",), smallest_object_mm=9), nothing
    )


def test_small_fragments_go_by_their_size_in_mm():
    mask = drawn("11000 11000 00000 00110 10000")
    np.testing.assert_array_equal(cleaned(mask, smallest_object_mm=2), drawn("11000 11000 00000 00110 00000"))
    np.testing.assert_array_equal(cleaned(mask, smallest_object_mm=2.5), drawn("11000 11000 00000 00000 00000"))
    np.testing.assert_array_equal(
        cleaned(mask, spacing_mm=(2, 0.5), smallest_object_mm=2.5), drawn("11000 11000 00000 00000 00000")
    )
    np.testing.assert_array_equal(cleaned(mask, spacing_mm=(2, 2), smallest_object_mm=4), mask)


def test_holes_are_filled_where_one_structure_alone_surrounds_them():
    mask = drawn("11111 10101 11111 00000")
    np.testing.assert_array_equal(cleaned(mask, filled=("a",)), drawn("11111 11111 11111 00000"))
    np.testing.assert_array_equal(cleaned(mask, filled=("b",)), mask)
    shared = drawn("11111 10021 11111")
    np.testing.assert_array_equal(cleaned(shared, filled=("a", "b")), shared)
    within = drawn("11111 12221 12021 12221 11111")
    np.testing.assert_array_equal(cleaned(within, filled=("a",)), within)
    np.testing.assert_array_equal(cleaned(within, filled=("b",)), drawn("11111 12221 12221 12221 11111"))
    open_to_the_edge = drawn("111 101 101")
    np.testing.assert_array_equal(cleaned(open_to_the_edge, filled=("a",)), open_to_the_edge)
    corner = drawn("0111 1011 1111 1111")  # a hole is connected by faces, and this one meets the outside at a corner
    np.testing.assert_array_equal(cleaned(corner, filled=("a",)), drawn("0111 1111 1111 1111"))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_holes_are_those_of_slices_where_the_network_sees_slices(axis):
    ring = drawn("00000 01110 01010 01110 00000")
    tube = np.stack([ring] * 3, axis=axis)
    sliced = PLAN.model_copy(update={"slice_axis": axis})
    full = np.stack([np.maximum(ring, drawn("00000 00000 00100 00000 00000"))] * 3, axis=axis)
    np.testing.assert_array_equal(cleaned(tube, sliced, filled=("a",)), full)
    np.testing.assert_array_equal(cleaned(tube, VOLUMES, filled=("a",)), tube)  # open at both ends
    closed = np.concatenate([full.take([0], axis), tube, full.take([0], axis)], axis=axis)
    ends = np.pad(closed, [(1, 1) if along == axis else (0, 0) for along in range(3)])
    assert (cleaned(ends, VOLUMES, filled=("a",)) != ends).sum() == 3


def test_slices_are_those_of_the_orientation_that_the_network_sees():
    ring = drawn("00000 01110 01010 01110 00000")
    tube = np.stack([ring] * 3, axis=0)  # stored as SPR: the third axis of RAS first
    affine = np.array([[0, 0, 1, 0], [0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])
    grid = Grid(tube.shape, affine, (1, 1, 1))
    for orientation, filled in (("RAS", True), (None, False)):
        sliced = PLAN.model_copy(update={"orientation": orientation})
        result = postprocess(tube, grid, sliced, Postprocessing(filled=("a",)))
        assert (result != tube).any() == filled


def test_what_was_chosen_is_read_from_the_run(tmp_path):
    run = RunFolder(tmp_path)
    assert read_postprocessing(run, PLAN) == NO_POSTPROCESSING  # as of version 0.1
    content = {"postprocessing": {"largest_of": ["a"], "smallest_object_mm": 3.5}, "validation": {}}
    run.postprocessing.write_text(json.dumps(content))
    assert read_postprocessing(run, PLAN) == Postprocessing(largest_of=("a",), smallest_object_mm=3.5)
    content["postprocessing"]["filled"] = ["spleen"]
    run.postprocessing.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"names spleen, but the structures of the run are a, b.*--no-postprocessing"):
        read_postprocessing(run, PLAN)
    run.postprocessing.write_text("{")
    with pytest.raises(UserError, match=r"postprocessing.json cannot be read"):
        read_postprocessing(run, PLAN)


def test_the_steps_are_told_in_words():
    steps = Postprocessing(largest_of=("wall",), smallest_object_mm=2.5, filled=("wall", "pool"))
    told = "largest component of wall; no component below 2.5 mm² or mm³; holes filled in wall, pool"
    assert describe(steps) == told
    assert describe(Postprocessing()) == "none"
