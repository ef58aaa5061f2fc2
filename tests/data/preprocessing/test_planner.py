from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import yaml

from patchcl.core.errors import UserError
from patchcl.data.dataset import read_dataset
from patchcl.data.preprocessing.plan import Plan, PlanSettings, load_plan, save_plan
from patchcl.data.preprocessing.planner import fingerprint_for, make_plan

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
        ((40, 1, 50), (1.0, 1.0, 2.5), 2, 1),
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
    decided = {"dimensions", "slice_axis", "fit", "spacing_mm", "size", "normalise", "background", "patch_fraction"}
    decided |= {"orientation"}
    assert set(plan.reasons) == decided


def test_lost_spacing_is_not_trusted(make_dataset: Make) -> None:
    root = make_dataset({"a": False}, shape=(40, 40, 4), spacing_mm=(1, 1, 10))
    make_dataset({"b": False}, shape=(400, 400, 4), spacing_mm=(1, 1, 10))
    assert plan_of(root).fit == "resize"


def test_volumes_of_1_mm_are_taken_as_they_are(make_dataset: Make) -> None:
    """Many are; and where it was lost, voxels are still what there is, in pieces that need not be squeezed."""
    root = make_dataset({"a": False}, shape=(40, 60, 30), spacing_mm=(1, 1, 1))
    assert plan_of(root).fit == "resize"  # all of each scan
    make_dataset({"b": False}, shape=(40, 34, 30), spacing_mm=(1, 1, 1))
    assert (plan_of(root).fit, plan_of(root).spacing_mm) == ("crop", (1.0, 1.0, 1.0))


def test_volumes_know_about_what_their_voxels_measure_when_they_are_resized(make_dataset: Make) -> None:
    plan = plan_of(make_dataset({"a": False}, shape=(160, 40, 30), spacing_mm=(0.6, 1, 1.6)))
    assert (plan.fit, plan.size, plan.spacing_mm) == ("resize", (160, 32, 32), (0.6, 1.25, 1.5))
    assert "spacing_mm" in plan.reasons


def test_volumes_that_are_too_large_for_the_memory_are_not_squeezed_but_seen_in_pieces(make_dataset: Make) -> None:
    root = make_dataset({"a": False}, shape=(60, 70, 40), spacing_mm=(1, 1, 1.2))
    assert (plan_of(root).fit, plan_of(root).labeled_per_batch) == ("resize", None)
    plan = plan_of(root, memory_gib=0.1)
    assert (plan.fit, plan.size, plan.spacing_mm) == ("crop", (32, 32, 16), (1.0, 1.0, 1.2))
    assert plan.labeled_per_batch == plan.unlabeled_per_batch == 2
    assert "memory_gib" in plan.reasons["labeled_per_batch"]
    assert plan_of(root, memory_gib=0.1, labeled_per_batch=5).labeled_per_batch == 5


def test_sizes_are_capped_multiples(make_dataset: Make) -> None:
    assert plan_of(make_dataset({"a": False}, shape=(700, 20, 2))).size == (256, 32)
    root = make_dataset({"a": False}, shape=(130, 41, 30), spacing_mm=(1, 1, 1.5), root=make_dataset({}).with_name("v"))
    assert plan_of(root).size == (128, 48, 32)


def test_settings_decide_over_the_data(make_dataset: Make) -> None:
    root = make_dataset({"a": False})
    chosen = {"fit": "crop", "spacing_mm": (2, 3), "size": (40, 50), "normalise": "z_score", "slice_axis": 0}
    plan = plan_of(root, **chosen, input_interpolation="nearest", output_interpolation="nearest")
    assert plan.model_dump(include={*chosen, "output_interpolation"}) == chosen | {"output_interpolation": "nearest"}
    assert (plan.input_interpolation, plan_of(root).input_interpolation, plan_of(root).output_interpolation) == (
        "nearest",
        "linear",
        "linear",
    )
    assert plan.reasons["size"] == "set by the user."


@pytest.mark.parametrize(
    ("channels", "normalise"),
    [
        (("CT", "CTA"), "ct"),
        (("CT",), "ct"),
        (("non-contrast ct",), "ct"),
        (("CTA",), "ct"),
        (("CT", "PET"), ("ct", "percentile")),
        (("zscore", "rescale_to_0_1", "T1"), ("z_score", "min_max", "percentile")),
        (("zscore", "zscore"), "z_score"),
        (("R", "G", "B"), "rgb"),
        (("T1-section",), "percentile"),
    ],
)
def test_each_channel_is_normalised_by_what_it_is(
    make_dataset: Make, channels: tuple[str, ...], normalise: str | tuple[str, ...]
) -> None:
    plan = plan_of(make_dataset({"a": False}, channels=channels))
    assert plan.normalise == normalise
    assert plan.normalise_channels == ((normalise,) * len(channels) if isinstance(normalise, str) else normalise)
    assert ("window" in plan.reasons) == bool({"ct", "rgb"} & set(plan.normalise_channels))
    assert (plan.background == "ignored") == ("percentile" in plan.normalise_channels)


def test_the_window_of_ct_is_that_of_the_labeled_structures(make_dataset: Make) -> None:
    root = make_dataset({"a": True, "b": True}, channels=("CT",))
    dataset = read_dataset(root)
    values = []
    for name in ("a", "b"):
        image = np.asarray(nib.load(root / "imagesTr" / f"{name}_0000.nii.gz").dataobj)
        values.append(image[np.asarray(nib.load(root / "labelsTr" / f"{name}.nii.gz").dataobj) > 0])
    expected = np.percentile(np.concatenate(values), [0.5, 99.5]).round(1)
    plan = make_plan(dataset, PlanSettings())
    assert plan.window == pytest.approx(tuple(expected))
    assert "labeled masks" in plan.reasons["window"]
    alone = make_plan(dataset, PlanSettings(), fingerprint_for(dataset, PlanSettings(), labeled=["a"]))
    assert alone.window == pytest.approx(tuple(np.percentile(values[0], [0.5, 99.5]).round(1)))


def test_masks_that_show_nothing_leave_the_window_of_soft_tissue(make_dataset: Make) -> None:
    plan = plan_of(make_dataset({"a": False}, channels=("CT",)))
    assert plan.window == (-175, 250)
    assert plan.reasons["window"].startswith("soft tissue")


def test_no_image_is_read_where_the_window_is_given(make_dataset: Make) -> None:
    root = make_dataset({"a": True}, channels=("CT",))
    image = root / "imagesTr" / "a_0000.nii.gz"
    image.write_bytes(image.read_bytes()[:-200])  # the header alone is left of it
    assert plan_of(root, window=(-100, 400)).window == (-100, 400)
    assert plan_of(root, normalise="z_score").window == (-175, 250)
    with pytest.raises(UserError, match=r"a_0000\.nii\.gz cannot be read"):
        plan_of(root)


def test_colour_pictures_are_cropped_and_keep_their_colours(make_dataset: Make) -> None:
    root = make_dataset({"a": False}, channels=("R", "G", "B"), shape=(64, 96), spacing_mm=(1.0, 1.0))
    plan = plan_of(root)
    assert (plan.fit, plan.size, plan.spacing_mm) == ("crop", (64, 96), (1, 1))
    assert (plan.normalise, plan.window) == ("rgb", (0, 65535))  # the scans of this data set reach 999


@pytest.mark.parametrize(
    ("thick", "expected"),
    [
        ((8.0,) * 10 + (2.5,), (1.0, 1.0, 8.0)),
        ((8.0,) * 9 + (2.5,) * 2, (1.0, 1.0, 2.5)),
        ((8.0, 8.0, 0.5, 0.5, 8.0), (1, 1, 1)),
    ],
)
def test_thick_slices_are_brought_to_the_thin_ones(
    make_dataset: Make, tmp_path: Path, thick: tuple[float, ...], expected: tuple[float, ...]
) -> None:
    """The 10th percentile of eleven scans is the second thinnest; it never is finer than the pixels."""
    for number, between in enumerate(thick):
        make_dataset({f"p{number}": False}, shape=(40, 40, 30), spacing_mm=(1.0, 1.0, between))
    plan = plan_of(tmp_path / "data", dimensions=3, fit="crop")
    assert plan.spacing_mm == pytest.approx(expected)


def test_slightly_thicker_slices_keep_the_median(make_dataset: Make, tmp_path: Path) -> None:
    for number, between in enumerate((2.9, 2.9, 1.0)):
        make_dataset({f"p{number}": False}, shape=(40, 40, 30), spacing_mm=(1.0, 1.0, between))
    assert plan_of(tmp_path / "data", dimensions=3, fit="crop").spacing_mm == (1.0, 1.0, 2.9)


def test_a_saved_plan_fixes_every_line_that_no_setting_names(make_dataset: Make, tmp_path: Path) -> None:
    root = make_dataset({"a": False}, shape=(64, 64, 4))
    saved = plan_of(root, input_interpolation="nearest", window=(0, 9))
    save_plan(tmp_path / "plan.yaml", saved)
    make_dataset({"b": False, "c": False}, shape=(200, 40, 40), spacing_mm=(1.0, 4.0, 1.0))
    assert plan_of(root).size != saved.size
    assert plan_of(root, file=tmp_path / "plan.yaml") == saved
    changed = plan_of(root, file=tmp_path / "plan.yaml", size=(32, 96))
    assert changed == saved.model_copy(update={"size": (32, 96), "reasons": changed.reasons})
    assert changed.reasons == saved.reasons | {"size": "set by the user."}


def test_a_plan_for_other_data_is_refused(make_dataset: Make, tmp_path: Path) -> None:
    root = make_dataset({"a": False})
    save_plan(tmp_path / "plan.yaml", plan_of(root))
    other = make_dataset({"a": False}, channels=("T1", "T2"), root=tmp_path / "other")
    with pytest.raises(
        UserError, match=r"plan\.yaml is a plan for other data: its channels are MRI, those of .* T1, T2"
    ):
        plan_of(other, file=tmp_path / "plan.yaml")
    with pytest.raises(UserError, match=r"gone\.yaml cannot be read"):
        plan_of(other, file=tmp_path / "gone.yaml")


def test_a_plan_that_cannot_be_written_is_told(make_dataset: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match=r"The plan cannot be written to .*plan\.yaml"):
        save_plan(tmp_path / "file" / "plan.yaml", plan_of(make_dataset({"a": False})))


@pytest.mark.parametrize("channel", ["MRI", "CT"])
def test_no_mask_but_those_of_the_labeled_and_no_test_scan_is_opened(make_dataset: Make, channel: str) -> None:
    root = make_dataset({"a": True, "hidden": True}, ("b",), {"c": True}, channels=(channel,))
    dataset, settings = read_dataset(root), PlanSettings()
    expected = make_plan(dataset, settings, fingerprint_for(dataset, settings, labeled=["a"]))
    for file in [root / "labelsTr" / "hidden.nii.gz", *root.glob("labelsTs/*"), *root.glob("imagesTs/*")]:
        file.write_bytes(b"poison")
    assert make_plan(dataset, settings, fingerprint_for(dataset, settings, labeled=["a"])) == expected
    (root / "labelsTr" / "a.nii.gz").write_bytes(b"poison")
    with pytest.raises(UserError, match=r"a\.nii\.gz cannot be read"):
        fingerprint_for(dataset, settings, labeled=["a"])


def boxes(root: Path, name: str, shape: tuple[int, ...], **sides: tuple[int, ...]) -> None:
    """Make the mask of a scan one box of each class, in opposite corners."""
    mask = np.zeros(shape, dtype=np.uint8)
    for label, side in enumerate((sides["A"], sides["B"]), start=1):
        corner = tuple(slice(length) if label == 1 else slice(-length, None) for length in side)
        mask[corner] = label
    path = root / "labelsTr" / f"{name}.nii.gz"
    nib.save(nib.Nifti1Image(mask, nib.load(path).affine), path)


@pytest.mark.parametrize(
    ("smaller", "fraction", "said"),
    [
        ((20, 8, 2), 0.25, "a quarter of the image, one every half side; the smallest structure, B, spans 20%"),
        ((5, 10, 2), 0.25, "a quarter"),  # its longer side is an eighth of the image
        ((9, 3, 2), 0.1875, "twice the smallest structure, which so lies whole in one"),  # of 0.18 the next sixteenth
        ((10, 3, 2), 0.25, "a quarter"),
        ((7, 3, 2), 0.1875, "twice"),
        ((3, 12, 2), 0.25, "a quarter"),
        ((6, 2, 2), 0.125, "an eighth of the image, the least"),
        ((5, 10, 4), 0.25, "a quarter"),
    ],
)
def test_patches_are_a_quarter_or_twice_the_smallest_structure(
    make_dataset: Make, smaller: tuple[int, ...], fraction: float, said: str
) -> None:
    """Of slices of 100 x 80 pixels; how many of them show the structure does not matter."""
    root = make_dataset({"a": True}, shape=(100, 80, 4))
    boxes(root, "a", (100, 80, 4), A=(50, 40, 3), B=smaller)
    plan = plan_of(root)
    assert (plan.dimensions, plan.patch_fraction) == (2, fraction)
    assert plan.reasons["patch_fraction"].startswith(said)
    assert "one every half side" in plan.reasons["patch_fraction"]


def test_pieces_of_a_scan_are_what_patches_are_a_share_of(make_dataset: Make) -> None:
    """Six pixels of 1.5 mm are 9 % of a piece of 50 pixels of 2 mm."""
    root = make_dataset({"a": True}, shape=(400, 400, 4))
    boxes(root, "a", (400, 400, 4), A=(200, 200, 4), B=(6, 6, 4))
    plan = plan_of(root, fit="crop", size=(50, 50), spacing_mm=(2.0, 2.0))
    assert plan.patch_fraction == 0.1875
    assert "B, spans 9%" in plan.reasons["patch_fraction"]
    assert (
        plan_of(root, fit="crop", size=(4, 4), spacing_mm=(1.5, 1.5))
        .reasons["patch_fraction"]
        .endswith("100% of the image.")
    )


def test_volumes_are_measured_as_volumes(make_dataset: Make) -> None:
    root = make_dataset({"a": True}, shape=(40, 40, 40), spacing_mm=(1.5, 1.5, 1.5))
    boxes(root, "a", (40, 40, 40), A=(20, 20, 20), B=(2, 2, 3))
    plan = plan_of(root)
    assert (plan.dimensions, plan.patch_fraction) == (3, 0.1875)
    assert plan_of(root, dimensions=2).patch_fraction == 0.125  # in its three slices it is two pixels long


def test_sizes_are_those_of_most_labeled_scans(make_dataset: Make) -> None:
    root = make_dataset({"a": True, "b": True, "c": True}, shape=(100, 100, 2))
    for name, side in (("a", 6), ("b", 9), ("c", 60)):
        boxes(root, name, (100, 100, 2), A=(50, 50, 2), B=(side, 5, 1))
    assert plan_of(root).patch_fraction == 0.1875
    dataset, settings = read_dataset(root), PlanSettings()
    assert make_plan(dataset, settings, fingerprint_for(dataset, settings, labeled=["a"])).patch_fraction == 0.125


def test_without_masks_patches_are_a_quarter(make_dataset: Make) -> None:
    plan = plan_of(make_dataset({"a": False}))
    assert plan.patch_fraction == 0.25
    assert "no labeled mask tells" in plan.reasons["patch_fraction"]


def test_what_is_set_decides_over_the_sizes_of_structures(make_dataset: Make, tmp_path: Path) -> None:
    root = make_dataset({"a": True})
    save_plan(tmp_path / "plan.yaml", plan_of(root, patch_fraction=0.4))
    assert plan_of(root, file=tmp_path / "plan.yaml").patch_fraction == 0.4
    changed = plan_of(root, file=tmp_path / "plan.yaml", patch_fraction=0.3)
    assert (changed.patch_fraction, changed.reasons["patch_fraction"]) == (0.3, "set by the user.")


def test_plans_that_were_saved_before_there_were_patches_in_them_are_read(make_dataset: Make, tmp_path: Path) -> None:
    root = make_dataset({"a": True})
    new = {"patch_fraction", "labeled_per_batch", "unlabeled_per_batch"}
    plan = plan_of(root)
    old = plan.model_dump(mode="json", exclude=new)
    del old["reasons"]["patch_fraction"]
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(old))
    assert load_plan(tmp_path / "plan.yaml").patch_fraction is None
    assert plan_of(root, file=tmp_path / "plan.yaml") == plan


def test_the_batch_of_a_saved_plan_is_none_of_the_next(make_dataset: Make, tmp_path: Path) -> None:
    root = make_dataset({"a": True})
    plan = plan_of(root)
    reasons = plan.reasons | {"labeled_per_batch": "it fits."}
    save_plan(tmp_path / "plan.yaml", plan.model_copy(update={"labeled_per_batch": 3, "reasons": reasons}))
    assert load_plan(tmp_path / "plan.yaml").labeled_per_batch == 3
    assert plan_of(root, file=tmp_path / "plan.yaml") == plan


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
        ({"spacing_mm": (1.0, -1.0)}, "spacing_mm must be 2 positive lengths"),
        ({"window": (3, 3)}, "window must rise"),
        ({"normalise": ("ct", "z_score")}, "normalise must be one word or 1"),
    ],
)
def test_contradicting_settings_are_refused(make_dataset: Make, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan_of(make_dataset({"a": True}), **settings)


def test_volumes_cannot_be_made_of_slices(make_dataset: Make) -> None:
    with pytest.raises(UserError, match=r"plan\.dimensions is 3, but .* two-dimensional"):
        plan_of(make_dataset({"a": True}, shape=(40, 40), spacing_mm=(1, 1)), dimensions=3)
