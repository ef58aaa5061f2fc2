"""Volumes in all 48 orders of axes, as nibabel makes them, against one of them."""

from collections.abc import Callable
from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from patchcl.data.check import check_data
from patchcl.data.dataset import read_dataset
from patchcl.data.geometry import Grid
from patchcl.data.preprocessing.orientation import (
    common_orientation,
    different_orientations,
    file_axis,
    orientation_of,
    oriented,
    oriented_grid,
    restored,
)
from patchcl.data.preprocessing.plan import Plan, PlanSettings, save_plan
from patchcl.data.preprocessing.planner import fingerprint_for, make_plan
from patchcl.data.preprocessing.transforms import mask_to_network_grid, prepared_bytes, to_network_grid, to_scan_grid
from patchcl.data.scan import Scan, read_grid, read_image, read_mask
from patchcl.data.splits import SplitSettings

ORDERS = sorted({"".join(letters) for pairs in product("RL", "AP", "SI") for letters in permutations(pairs)})
SHAPE = (7, 6, 4)
VOXELS = np.random.default_rng(0).integers(0, 1000, SHAPE).astype(np.int16)
MASK = np.random.default_rng(1).integers(0, 3, SHAPE).astype(np.uint8)
AFFINE = np.array([[1.5, 0.1, 0, -20], [-0.1, 1.4, 0.2, 10], [0.1, 0, 6, 5], [0, 0, 0, 1]])
Make = Callable[..., Path]


def in_order(voxels: np.ndarray, order: str, affine: np.ndarray = AFFINE) -> Any:
    """An image of nibabel's with the axes of `voxels`, which run as in RAS, in another order."""
    image = nib.Nifti1Image(voxels, affine)
    to = nib.orientations.axcodes2ornt(order)
    return image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(image.affine), to))


def grid_of(image: Any, **changes: Any) -> Grid:
    spacing = tuple(np.sqrt((image.affine[:3, :3] ** 2).sum(axis=0)).tolist())
    return Grid(image.shape, image.affine, spacing)._replace(**changes)


def plan(dimensions: int, size: tuple[int, ...] = (6, 7, 5)) -> Plan:
    return Plan(
        dimensions=dimensions,
        orientation="RAS",
        fit="resize",
        size=size[:dimensions],
        normalise="min_max",
        channels=("MRI",),
        classes=("0", "A", "B"),
    )


@pytest.mark.parametrize("order", ORDERS)
def test_every_order_becomes_the_canonical_one_as_in_nibabel_and_back(order: str) -> None:
    image, canonical = in_order(VOXELS, order), nib.Nifti1Image(VOXELS, AFFINE)
    grid = grid_of(image)
    assert orientation_of(grid) == order
    voxels = np.asarray(image.dataobj)[None]
    np.testing.assert_array_equal(oriented(voxels, grid, "RAS")[0], VOXELS)
    found = oriented_grid(grid, "RAS")
    assert found.shape == SHAPE
    np.testing.assert_allclose(found.affine, canonical.affine, atol=1e-12)
    np.testing.assert_allclose(found.spacing_mm, grid_of(canonical).spacing_mm)
    np.testing.assert_array_equal(restored(VOXELS[None], grid, "RAS"), voxels)
    back = in_order(VOXELS, "PIR")
    np.testing.assert_array_equal(oriented(voxels, grid, "PIR")[0], np.asarray(back.dataobj))
    assert grid.spacing_mm[file_axis(2, grid, "RAS")] == max(grid.spacing_mm)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("order", ORDERS)
def test_the_network_sees_one_order_and_masks_return_to_their_own(order: str, dimensions: int) -> None:
    chosen = plan(dimensions)
    image, mask = (in_order(voxels, order) for voxels in (VOXELS.astype(np.float32), MASK))
    grid, same = grid_of(image), grid_of(nib.Nifti1Image(VOXELS, AFFINE))
    seen = to_network_grid(Scan(np.asarray(image.dataobj)[None], grid), chosen)
    np.testing.assert_array_equal(seen, to_network_grid(Scan(VOXELS[None].astype(np.float32), same), chosen))
    classes = np.asarray(mask.dataobj)
    np.testing.assert_array_equal(mask_to_network_grid(classes, grid, chosen), mask_to_network_grid(MASK, same, chosen))
    assert prepared_bytes(grid, chosen) == prepared_bytes(same, chosen)
    whole = plan(dimensions, SHAPE)
    hot = np.stack([mask_to_network_grid(classes, grid, whole) == value for value in range(3)], axis=1)
    for interpolation in ("linear", "nearest"):
        probs = to_scan_grid(
            hot.astype(np.float32), grid, whole.model_copy(update={"output_interpolation": interpolation})
        )
        np.testing.assert_array_equal(probs.argmax(axis=0), classes)


def test_plans_of_before_take_files_as_they_are() -> None:
    image = in_order(VOXELS.astype(np.float32), "SPR")
    chosen = plan(3, image.shape).model_copy(update={"orientation": None})
    seen = to_network_grid(Scan(np.asarray(image.dataobj)[None], grid_of(image)), chosen)
    np.testing.assert_allclose(
        seen[0, 0] * (VOXELS.max() - VOXELS.min()), np.asarray(image.dataobj) - VOXELS.min(), 1e-5
    )


def turned(degrees: float) -> Grid:
    angle = np.radians(degrees)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return grid_of(nib.Nifti1Image(VOXELS, turn @ np.diag([1.5, 1.5, 6, 1])))


def test_what_is_oblique_or_does_not_say_how_it_lies_has_no_orientation() -> None:
    assert orientation_of(turned(30)) == "RAS"
    assert orientation_of(turned(40)) is None
    assert orientation_of(turned(0)._replace(placed=False)) is None
    assert orientation_of(turned(0)._replace(shape=(7, 6), spacing_mm=(1.5, 1.5))) is None
    np.testing.assert_array_equal(oriented_grid(turned(40), "LPS").affine, turned(40).affine)
    np.testing.assert_array_equal(oriented(VOXELS[None], turned(40), "LPS"), VOXELS[None])


def test_the_orientation_of_all_is_their_own_or_the_canonical_one() -> None:
    lps, spr, isotropic = (grid_of(in_order(VOXELS, order)) for order in ("LPS", "SPR", "LPS"))
    assert common_orientation([lps, lps]) == "LPS"
    assert common_orientation([lps, spr]) == "RAS"
    assert common_orientation([lps, turned(40)]) is None
    assert common_orientation([lps, spr._replace(placed=False)]) is None
    assert common_orientation([]) is None
    lost = [grid._replace(spacing_mm=(1.0, 1.0, 1.0)) for grid in (lps, spr)]
    assert common_orientation(lost) is None
    sagittal = grid_of(in_order(VOXELS, "ASR", np.diag([6, 1.5, 1.5, 1])))
    assert common_orientation([sagittal, isotropic]) is None  # slices along two axes
    assert different_orientations([lps, spr, turned(40)]) == ["LPS", "SPR"]
    assert different_orientations([lps, turned(40)]) == []


@pytest.fixture
def mixed(make_dataset: Make) -> Path:
    """Two scans as they were made, and two in another order."""
    root = make_dataset(dict.fromkeys("abcd", True), ("u",), shape=(12, 10, 4), spacing_mm=(1.5, 1.5, 8.0))
    for name in ("imagesTr/a_0000", "labelsTr/a", "imagesTr/b_0000", "labelsTr/b", "imagesUn/u_0000"):
        image = nib.load(root / f"{name}.nii.gz")
        nib.save(in_order(np.asarray(image.dataobj), "SPR", image.affine), root / f"{name}.nii.gz")
    return root


def test_a_data_set_of_several_orders_is_learned_from_in_one(mixed: Path, make_dataset: Make, tmp_path: Path) -> None:
    dataset = read_dataset(mixed)
    fingerprint = fingerprint_for(dataset, PlanSettings())
    made = make_plan(dataset, PlanSettings(), fingerprint)
    same = make_dataset(dict.fromkeys("abcd", True), ("u",), root=tmp_path / "same")
    expected = fingerprint_for(read_dataset(same), PlanSettings())
    assert (made.orientation, made.slice_axis) == ("RAS", 2)
    assert "RAS, SPR" in made.reasons["orientation"]
    assert [scan.orientation for scan in fingerprint.scans] == ["SPR", "SPR", "RAS", "RAS", "SPR"]
    own = {"scans": tuple(scan.model_copy(update={"orientation": "RAS"}) for scan in fingerprint.scans)}
    assert fingerprint.model_copy(update=own) == expected
    for name in "abcd":
        case, like = dataset.case(name), read_dataset(same).case(name)
        assert case.mask is not None
        assert like.mask is not None
        np.testing.assert_array_equal(
            to_network_grid(read_image(case.images), made), to_network_grid(read_image(like.images), made)
        )
        masks = [mask_to_network_grid(read_mask(one, 3), read_grid(one), made) for one in (case.mask, like.mask)]
        np.testing.assert_array_equal(*masks)
    assert not [
        line for line in check_data(mixed, SplitSettings(), PlanSettings()).warnings if "different orders" in line
    ]
    save_plan(tmp_path / "old.yaml", made.model_copy(update={"orientation": None}))
    old = PlanSettings(file=tmp_path / "old.yaml")
    assert make_plan(dataset, old, fingerprint).orientation is None
    (warning,) = [line for line in check_data(mixed, SplitSettings(), old).warnings if "different orders" in line]
    assert "(RAS, SPR), and are taken as they are stored" in warning
