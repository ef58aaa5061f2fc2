from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from patchcl.core.errors import UserError
from patchcl.data.preprocessing.plan import Plan, load_plan, save_plan

SLICES: dict[str, Any] = {
    "dimensions": 2,
    "fit": "resize",
    "size": (8, 8),
    "normalise": "min_max",
    "channels": ("MRI",),
    "classes": ("0", "A"),
}


def test_ct_and_colours_cannot_share_a_window() -> None:
    with pytest.raises(ValidationError, match="cannot hold both ct and rgb"):
        Plan(**SLICES | {"channels": ("CT", "R"), "normalise": ("ct", "rgb")})


@pytest.mark.parametrize("wrong", [(4,), (0, 4), (4, 9), (4, 4, 4)])
def test_windows_overlap_or_touch_and_only_crops_have_any(wrong: tuple[int, ...]) -> None:
    pieces = SLICES | {"fit": "crop", "spacing_mm": (1, 1)}
    assert Plan(**pieces, window_stride=(1, 8)).window_stride == (1, 8)
    with pytest.raises(
        ValidationError, match=r"window_stride must be 2 whole lengths from 1 to those of size \[8, 8\]"
    ):
        Plan(**pieces, window_stride=wrong)
    with pytest.raises(ValidationError, match=r"and fit crop, not .* and resize"):
        Plan(**SLICES, window_stride=(4, 4))


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


def test_a_plan_of_version_0_1_is_read_as_what_it_meant(tmp_path: Path) -> None:
    plan = Plan(**SLICES, input_interpolation="nearest", output_interpolation="nearest", patch_fraction=0.125)
    save_plan(tmp_path / "plan.yaml", plan)
    text = (tmp_path / "plan.yaml").read_text()
    old_text = text.replace("input_interpolation", "resample").replace("output_interpolation", "restore")
    (tmp_path / "plan.yaml").write_text(old_text.replace("patch_fraction", "patch_share"))
    assert load_plan(tmp_path / "plan.yaml") == plan
