"""Contours of phantoms whose volumes are known."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from patchcl.core.errors import UserError
from patchcl.data.formats.dicom import series as dicom
from patchcl.data.formats.dicom.contours import painted, read_structure_set
from patchcl.data.geometry import Grid

pydicom = pytest.importorskip("pydicom")

SHAPE, SPACING, ORIGIN = (24, 20, 12), (1.5, 2.0, 2.5), (-10.0, -20.0, 30.0)
AXIAL, OBLIQUE = (1, 0, 0, 0, 1, 0), (0.8, 0.6, 0.0, -0.36, 0.48, 0.8)
Make = Callable[..., Any]


def mm(corners: np.ndarray, level: float, orientation: tuple[float, ...] = AXIAL) -> np.ndarray:
    """Corners (N, 2) in pixels of the slice `level` as points in the patient."""
    directions = np.array([orientation[:3], orientation[3:], np.cross(orientation[:3], orientation[3:])])
    pixels = np.column_stack([corners, np.full(len(corners), level)])
    return np.asarray(ORIGIN) + (pixels * SPACING) @ directions


def box(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], dtype=np.float64)


BOX, HOLE = box(2.5, 3.5, 9.5, 12.5), box(4.5, 5.5, 6.5, 9.5)


@pytest.fixture
def grid(write_series: Make) -> Grid:
    folder = write_series(np.zeros(SHAPE, np.int16), AXIAL, ORIGIN, SPACING)
    return dicom.read_grid(folder)


@pytest.fixture
def draw(write_structures: Make, grid: Grid, tmp_path: Path) -> Make:
    """The mask of structures, each given as its contours."""

    def mask(rois: dict[str, list[np.ndarray]], *names: str, in_order: bool = False, **fields: Any) -> np.ndarray:
        found = read_structure_set(write_structures(tmp_path / "rs.dcm", rois, **fields))
        return painted(found, grid, ("background", *(names or rois)), in_order)

    return mask


def test_a_box_with_a_hole_is_exact(draw: Make) -> None:
    contours = [mm(corners, level) for level in range(2, 7) for corners in (BOX, HOLE)]
    found = draw({"bone": contours})
    expected = np.zeros(SHAPE, np.uint8)
    expected[3:10, 4:13, 2:7] = 1
    expected[5:7, 6:10, 2:7] = 0
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)
    assert found.sum() * np.prod(SPACING) == (7 * 9 - 2 * 4) * 5 * 7.5  # mm³


@pytest.mark.parametrize("orientation", [AXIAL, OBLIQUE])
def test_a_sphere_has_its_volume(
    write_series: Make, write_structures: Make, orientation: tuple[float, ...], tmp_path: Path
) -> None:
    grid = dicom.read_grid(write_series(np.zeros(SHAPE, np.int16), orientation, ORIGIN, SPACING))
    centre, radius = np.array([11.3, 9.6, 5.4]) * SPACING, 12.0
    angles = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    contours = []
    for level in range(SHAPE[2]):
        height = level * SPACING[2] - centre[2]
        if abs(height) < radius:
            edge = (centre[:2] + circle * np.sqrt(radius**2 - height**2)) / SPACING[:2]
            contours.append(mm(edge, level, orientation))
    found = read_structure_set(write_structures(tmp_path / "rs.dcm", {"ball": contours}))
    mask = painted(found, grid, ("background", "ball"), in_order=False)
    assert mask.sum() * np.prod(SPACING) == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.02)
    distance = np.linalg.norm(np.stack(np.indices(SHAPE), -1) * SPACING - centre, axis=-1)
    assert mask[distance < radius - 0.1].all()
    assert not mask[distance > radius].any()


def test_contours_between_slices_go_to_the_nearest_one(draw: Make) -> None:
    near = draw({"a": [mm(BOX, 3.4), mm(BOX, 4.4), mm(BOX, -0.4)]})
    assert np.flatnonzero(near.any(axis=(0, 1))).tolist() == [0, 3, 4]
    with pytest.raises(UserError, match=r"rs\.dcm: a contour of 'a' lies beside its series, at the voxels .* 12\.0\]"):
        draw({"a": [mm(BOX, 12)]})
    with pytest.raises(UserError, match="'a' lies beside its series"):
        draw({"a": [mm(BOX - 30, 3)]})


def test_of_finer_planes_the_nearest_counts_and_they_make_no_holes(draw: Make) -> None:
    planes = [mm(BOX if level % 1 == 0 else HOLE, level) for level in np.arange(2, 5.1, 0.25)]
    expected = draw({"a": [mm(BOX, level) for level in range(2, 6)]})
    np.testing.assert_array_equal(draw({"a": planes}), expected)


def test_planes_across_slices_and_stripes_are_refused(draw: Make) -> None:
    upright = np.array([(0, 0, 0), (5, 0, 0), (5, 0, 9), (0, 0, 9)]) + ORIGIN
    with pytest.raises(UserError, match=r"a contour of 'a' runs across the slices 0\.0 to 3\.6"):
        draw({"a": [upright]})
    with pytest.raises(UserError, match=r"'a' is drawn on 3 slices, of which no two are next to each other"):
        draw({"a": [mm(BOX, level) for level in (2, 4, 6)]})


def test_overlaps_are_refused_unless_an_order_is_given(draw: Make) -> None:
    rois = {"tumour": [mm(HOLE, 3)], "liver": [mm(BOX, 3)], "BODY": [mm(BOX, 3)]}
    with pytest.raises(UserError, match=r"'tumour' and 'liver' \(8 voxels\); .* --structures tumour,liver,BODY$"):
        draw(rois)
    found = draw(rois, "Liver", "TUMOUR", in_order=True)
    assert [int((found == value).sum()) for value in range(3)] == [np.prod(SHAPE) - 63, 55, 8]
    with pytest.raises(UserError, match="nothing is left of tumour beside the classes that come later"):
        draw(rois, "tumour", "liver", in_order=True)
    with pytest.raises(UserError, match="has none of the structures spleen; it has tumour, liver, BODY"):
        draw(rois, "spleen", in_order=True)


def test_points_are_no_structures(write_structures: Make, tmp_path: Path) -> None:
    path = write_structures(tmp_path / "rs.dcm", {"iso": [mm(BOX, 3)]}, kind="POINT")
    assert (read_structure_set(path).drawn, read_structure_set(path).without_inside) == ([], ["iso"])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"ContourData": [1.0] * 7}, r"a contour of 'a' holds 7 numbers; expected 3 for each of 4 points"),
        (
            {"ContourData": ["1"] * 11 + ["1e300"]},
            r"holds 12 numbers; expected 3 for each of 4 points, below 1e\+06 mm",
        ),
        ({"ContourData": None}, "cannot be read as a DICOM file"),
    ],
)
def test_damaged_contours_are_named(
    write_structures: Make, tmp_path: Path, wrong: dict[str, Any], message: str
) -> None:
    path = write_structures(tmp_path / "rs.dcm", {"a": [mm(BOX, 3)]})
    content = pydicom.dcmread(path)
    (contour,) = content.ROIContourSequence[0].ContourSequence
    for keyword, value in wrong.items():
        if value is None:
            delattr(contour, keyword)
        else:
            with pydicom.config.disable_value_validation():
                setattr(contour, keyword, value)
    content.save_as(path)
    with pytest.raises(UserError, match=message):
        read_structure_set(path)


def test_what_is_drawn_must_be_described(write_structures: Make, change: Make, tmp_path: Path) -> None:
    path = write_structures(tmp_path / "rs.dcm", {"a": [mm(BOX, 3)]})
    change(path, StructureSetROISequence=None)
    with pytest.raises(UserError, match="draws the ROI 3, which it does not describe"):
        read_structure_set(path)
