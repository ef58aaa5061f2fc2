from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from patchcl.data.dataset import read_dataset
from patchcl.data.plan import Plan, PlanSettings, load_plan, make_plan, save_plan
from patchcl.errors import UserError

Make = Callable[..., Path]
SLICES: dict[str, Any] = {
    "dimensions": 2,
    "fit": "resize",
    "size": (8, 8),
    "normalise": "min_max",
    "channels": ("MRI",),
    "classes": ("0", "A"),
}


def plan_of(root: Path, **settings: Any) -> Plan:
    return make_plan(read_dataset(root), PlanSettings(**settings))


@pytest.mark.parametrize(
    ("shape", "spacing_mm", "dimensions", "slice_axis"),
    [
        ((40, 50, 30), (1.2, 1.2, 1.5), 3, 2),
        ((40, 50, 30), (1.2, 1.2, 3.5), 3, 2),
        ((40, 50, 30), (1.2, 1.2, 3.7), 2, 2),
        ((40, 50, 23), (1.2, 1.2, 1.2), 2, 2),
        ((30, 50, 40), (5.0, 1.2, 1.2), 2, 0),
        ((50, 10, 40), (1.0, 1.0, 1.0), 2, 1),
        ((20, 20, 20), (1.0, 1.0, 1.0), 2, 2),
        ((40, 50, 1), (1.2, 1.2, 1.0), 2, 2),
        ((40, 50), (1.2, 1.2), 2, 2),
    ],
)
def test_slices_or_volumes(
    make_dataset: Make, shape: tuple[int, ...], spacing_mm: tuple[float, ...], dimensions: int, slice_axis: int
) -> None:
    plan = plan_of(make_dataset({"a": False}, shape=shape, spacing_mm=spacing_mm))
    assert (plan.dimensions, plan.slice_axis) == (dimensions, slice_axis)


def test_scans_of_one_view_are_resized_and_others_cropped(make_dataset: Make) -> None:
    root = make_dataset({"a": False, "b": False}, shape=(100, 70, 4), spacing_mm=(1.1, 1.1, 8))
    make_dataset({"c": False}, shape=(100, 70, 4), spacing_mm=(1.7, 1.1, 8))
    plan = plan_of(root)
    assert (plan.fit, plan.size, plan.spacing_mm) == ("resize", (96, 64), None)
    make_dataset({"c": False}, shape=(100, 70, 4), spacing_mm=(1.8, 1.1, 8))
    plan = plan_of(root)
    assert (plan.fit, plan.size, plan.spacing_mm) == ("crop", (96, 64), (1.1, 1.1))
    assert set(plan.reasons) == {"dimensions", "slice_axis", "fit", "spacing_mm", "size", "normalise"}


def test_lost_spacing_is_not_trusted(make_dataset: Make) -> None:
    root = make_dataset({"a": False}, shape=(40, 40, 4), spacing_mm=(1, 1, 10))
    make_dataset({"b": False}, shape=(400, 400, 4), spacing_mm=(1, 1, 10))
    assert plan_of(root).fit == "resize"


def test_sizes_are_capped_multiples(make_dataset: Make) -> None:
    assert plan_of(make_dataset({"a": False}, shape=(700, 20, 2))).size == (256, 32)
    root = make_dataset({"a": False}, shape=(130, 41, 30), spacing_mm=(1, 1, 1.5), root=make_dataset({}).with_name("v"))
    assert plan_of(root).size == (96, 48, 32)


def test_settings_decide_over_the_data(make_dataset: Make) -> None:
    root = make_dataset({"a": False})
    chosen = {"fit": "crop", "spacing_mm": (2, 3), "size": (40, 50), "normalise": "z_score", "slice_axis": 0}
    plan = plan_of(root, **chosen, resample="nearest", restore="nearest")
    assert plan.model_dump(include={*chosen, "restore"}) == chosen | {"restore": "nearest"}
    assert (plan.resample, plan_of(root).resample, plan_of(root).restore) == ("nearest", "linear", "linear")
    assert plan.reasons["size"] == "set by the user."


@pytest.mark.parametrize(
    ("channels", "normalise"),
    [
        (("CT",), "ct"),
        (("non-contrast ct",), "ct"),
        (("CTA",), "ct"),
        (("CT", "PET"), "percentile"),
        (("T1-section",), "percentile"),
    ],
)
def test_hounsfield_units_are_kept(make_dataset: Make, channels: tuple[str, ...], normalise: str) -> None:
    assert plan_of(make_dataset({"a": False}, channels=channels)).normalise == normalise


def test_no_mask_and_no_test_scan_is_opened(make_dataset: Make) -> None:
    root = make_dataset({"a": True}, ("b",), {"c": True})
    for file in [*root.glob("labelsT?/*"), *root.glob("imagesTs/*")]:
        file.write_bytes(b"poison")
    assert plan_of(root).classes == ("background", "A", "B")


def test_a_broken_header_is_named(make_dataset: Make) -> None:
    root = make_dataset({"a": True})
    (root / "imagesTr" / "a_0000.nii.gz").write_bytes(b"poison")
    with pytest.raises(UserError, match=r"a_0000\.nii\.gz cannot be read"):
        plan_of(root)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": (8, 8, 8)}, "size must be 2 positive lengths"),
        ({"size": (8, 0)}, "size must be 2 positive lengths"),
        ({"fit": "crop", "spacing_mm": (1.0,)}, "crop needs spacing_mm with 2 lengths"),
        ({"spacing_mm": (1.0, -1.0)}, "spacing_mm must be positive"),
        ({"window": (3, 3)}, "window must rise"),
    ],
)
def test_contradicting_settings_are_refused(make_dataset: Make, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan_of(make_dataset({"a": True}), **settings)


def test_volumes_cannot_be_made_of_slices(make_dataset: Make) -> None:
    with pytest.raises(UserError, match=r"plan\.dimensions is 3, but .* two-dimensional"):
        plan_of(make_dataset({"a": True}, shape=(40, 40), spacing_mm=(1, 1)), dimensions=3)


def test_a_plan_comes_back_from_disk(tmp_path: Path) -> None:
    plan = Plan(**SLICES | {"fit": "crop", "spacing_mm": (0.1, 1 / 3)}, reasons={"fit": "Größe: 3 × 3, ok."})
    save_plan(tmp_path / "plan.yaml", plan)
    assert load_plan(tmp_path / "plan.yaml") == plan


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "is not valid YAML"), ("dimensions: 2", "is no plan"), ("- 1", "is no plan"), (None, "cannot be read")],
)
def test_a_file_that_is_no_plan_is_named(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "plan.yaml").write_text(text)
    with pytest.raises(UserError, match=rf"plan\.yaml {message}"):
        load_plan(tmp_path / "plan.yaml")


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(ValidationError, match="spacing"):
        Plan(**SLICES, spacing=3)
