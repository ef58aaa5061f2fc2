import io
import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from rich.console import Console

from patchcl.core.errors import UserError
from patchcl.data.check import CheckReport, check_data, render
from patchcl.data.preprocessing.plan import PlanSettings
from patchcl.data.splits import SplitSettings

Make = Callable[..., Path]
MASKED = {f"p{number}": True for number in range(4)}


def check(root: Path, split: SplitSettings | None = None, plan: PlanSettings | None = None) -> CheckReport:
    return check_data(root, split or SplitSettings(), plan or PlanSettings())


def shown(report: CheckReport) -> str:
    console = Console(file=io.StringIO(), width=160)
    render(report, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def replace(path: Path, voxels: np.ndarray, affine: np.ndarray | None = None) -> None:
    nib.save(nib.Nifti1Image(voxels, nib.load(path).affine if affine is None else affine), path)


def voxels(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj, dtype=np.float32)


def test_a_sound_data_set_is_described(make_dataset: Make) -> None:
    root = make_dataset(MASKED, ("u0_frame1", "u0_frame2"), {"t": True}, shape=(12, 10, 4))
    make_dataset({}, ("v",), shape=(14, 10, 4), spacing_mm=(1.5, 2.0, 8.0))
    told: list[tuple[int, int]] = []
    report = check_data(root, SplitSettings(), PlanSettings(), lambda *done: told.append(done))
    assert (report.problems, report.warnings) == ((), ())
    assert report.sides == {"labeled": (3, 3), "unlabeled": (2, 3), "validation": (1, 1), "test": (1, 1)}
    assert told == [(count, 8) for count in range(1, 9)]
    text = shown(report)
    for fact in ("Tiny", "3 patients, 3 scans", "2 patients, 3 scans", "12-14 × 10 × 4 voxels", "1.5 × 1.5-2 × 8 mm"):
        assert fact in text
    assert report.split is not None
    assert report.split.hash[:16] in text
    assert "slices, because they are 5.3 times thicker" in text
    assert "No problems found." in text


def test_classes_are_counted_over_the_labeled_masks_alone(make_dataset: Make) -> None:
    root = make_dataset(MASKED, ("u",))
    split = check(root).split
    assert split is not None
    for patient in split.labeled:
        mask = np.zeros((12, 10, 4), dtype=np.uint8)
        mask[:6, :5], mask[6:] = 1, 2
        replace(root / "labelsTr" / f"{patient}.nii.gz", mask)
    report = check(root)
    assert report.class_fractions == pytest.approx({"background": 0.25, "A": 0.25, "B": 0.5})
    assert "25.00%" in shown(report)


def test_voxels_that_nobody_annotated_are_counted_apart(make_dataset: Make) -> None:
    root = make_dataset(MASKED, ("u",))
    description = json.loads((root / "dataset.json").read_text())
    labels = description["labels"] | {"ignore": 3}
    (root / "dataset.json").write_text(json.dumps(description | {"labels": labels}))
    for path in (root / "labelsTr").iterdir():
        mask = np.full((12, 10, 4), 3, dtype=np.uint8)
        mask[:, :, 0] = 1
        mask[:3, :, 0] = 0
        replace(path, mask)
    report = check(root)
    assert report.problems == ()
    assert report.class_fractions == pytest.approx({"background": 0.25, "A": 0.75, "B": 0})
    assert report.ignored_fraction == 0.75
    assert "75.00% of all voxels, left out above" in shown(report)
    assert report.plan is not None
    assert report.plan.ignore == 3
    replace(root / "labelsTr" / "p2.nii.gz", np.full((12, 10, 4), 3, dtype=np.uint8))
    assert [line for line in check(root).problems if "p2.nii.gz says of every voxel" in line]


def test_everything_that_is_wrong_is_told_at_once(make_dataset: Make) -> None:
    names = [f"p{number}" for number in range(9)]
    root = make_dataset(dict.fromkeys(names, True), ("u0", "u1"), {"t": True}, channels=("T1", "T2"))
    images, masks = root / "imagesTr", root / "labelsTr"
    mask = np.ones((12, 10, 4))
    (images / "p0_0001.nii.gz").write_bytes(b"garbage")
    replace(images / "p1_0000.nii.gz", np.where(mask * np.arange(4) > 2, np.nan, 1.0))
    replace(root / "imagesUn" / "u0_0000.nii.gz", 3 * mask)
    replace(images / "p2_0001.nii.gz", np.random.default_rng(0).random((12, 10, 5)))
    replace(masks / "p3.nii.gz", mask[:8])
    replace(masks / "p4.nii.gz", mask, np.diag([1.5, 1.5, 8.5, 1]))
    replace(masks / "p5.nii.gz", 3 * mask)
    replace(masks / "p6.nii.gz", -1 * mask)
    replace(masks / "p7.nii.gz", 0.5 * mask)
    replace(masks / "p8.nii.gz", 0 * mask)
    (root / "labelsTs" / "t.nii.gz").write_bytes(b"garbage")
    expected = {
        "p0_0001.nii.gz": "cannot be read",
        "p1_0000.nii.gz": "120 voxels that are NaN or infinite",
        "u0_0000.nii.gz": "holds 3 in every voxel",
        "p2_0001.nii.gz": "has size 12 × 10 × 5, but p2_0000.nii.gz has 12 × 10 × 4",
        "p3.nii.gz": "has size 8 × 10 × 4, but p3_0000.nii.gz has 12 × 10 × 4",
        "p4.nii.gz": "lies up to 1.5 mm away",
        "p5.nii.gz": "holds the value 3",
        "p6.nii.gz": "holds the value -1",
        "p7.nii.gz": "holds the value 0.5",
        "t.nii.gz": "cannot be read",
    }
    report = check(root)
    assert len(report.problems) == len(expected)
    for name, fault in expected.items():
        (line,) = [line for line in report.problems if f"{name} " in line.partition(" but ")[0]]
        assert fault in line
        assert "\n" not in line
    (warning,) = report.warnings
    assert "p8.nii.gz holds background only" in warning
    text = shown(report)
    assert all(line in text for line in (*report.problems, *report.warnings))
    assert "No problems found" not in text


def test_one_unreadable_header_is_one_problem(make_dataset: Make) -> None:
    root = make_dataset(MASKED)
    (root / "imagesTr" / "p1_0000.nii.gz").write_bytes(b"garbage")
    report = check(root)
    assert report.plan is None
    assert len(report.problems) == 1
    assert "p1_0000.nii.gz cannot be read" in report.problems[0]
    assert "p1_0000.nii.gz cannot be read" in shown(report)


def test_a_mask_may_be_wrong_in_two_ways(make_dataset: Make) -> None:
    root = make_dataset(MASKED)
    replace(root / "labelsTr" / "p0.nii.gz", np.full((3, 3, 3), 7.0))
    assert len(check(root).problems) == 2


def test_files_are_checked_even_if_no_split_can_be_made(make_dataset: Make) -> None:
    root = make_dataset({"a": True, "b": False})
    replace(root / "labelsTr" / "a.nii.gz", np.full((12, 10, 4), 9.0))
    report = check(root)
    assert report.split is None
    assert report.sides == {"imagesTr": (2, 2)}
    assert any("at least 2 are needed" in line for line in report.problems)
    assert any("a.nii.gz holds the value 9" in line for line in report.problems)
    assert "imagesTr" in shown(report)


def test_what_is_merely_odd_is_a_warning(make_dataset: Make, tmp_path: Path) -> None:
    root = make_dataset(MASKED)
    assert any("no unlabeled scans" in line for line in check(root).warnings)
    for number in range(4):
        replace(root / "labelsTr" / f"p{number}.nii.gz", np.eye(12, 10)[..., None] * np.ones(4))
    (tmp_path / "split.json").write_text('{"train": ["p0"], "validation": ["p1"], "test": []}')
    report = check(root, SplitSettings(file=tmp_path / "split.json"))
    assert not report.problems
    assert any("No labeled mask holds B" in line for line in report.warnings)
    assert any("2 patients on no side" in line and "p2, p3" in line for line in report.warnings)


def test_one_image_on_two_sides_is_a_problem_and_on_one_a_warning(make_dataset: Make) -> None:
    root = make_dataset(MASKED, ("u0", "u1"), {"t": True})
    images, split = root / "imagesTr", check(root).split
    assert split is not None
    (chosen,) = split.validation
    taught = split.labeled[0]
    replace(root / "imagesTs" / "t_0000.nii.gz", voxels(images / f"{taught}_0000.nii.gz") * 2)
    noisy = voxels(images / f"{chosen}_0000.nii.gz") + np.random.default_rng(0).integers(-9, 10, (12, 10, 4))
    replace(root / "imagesUn" / "u0_0000.nii.gz", noisy)
    report = check(root)
    assert len(report.problems) == 2
    assert report.warnings == ()
    leaked, near = report.problems
    assert (
        f"{taught}_0000.nii.gz (labeled) and {root / 'imagesTs' / 't_0000.nii.gz'} (test) are the same image" in leaked
    )
    assert "u0_0000.nii.gz (unlabeled) and " in near
    assert f"{chosen}_0000.nii.gz (validation) look the same (correlation 0.99" in near
    for name in ("imagesTs/t", "imagesUn/u0"):
        replace(root / f"{name}_0000.nii.gz", voxels(root / "imagesUn" / "u1_0000.nii.gz"))
    report = check(root)
    assert ["(unlabeled) and" in line and "(test)" in line for line in report.problems] == [True, True]
    assert [f"{taught}_" in line for line in report.warnings] == [False]
    assert "(unlabeled) are the same image. They count twice" in report.warnings[0]


def test_channels_that_cannot_be_compared_are_left_aside(make_dataset: Make) -> None:
    """Two scans that share one channel are two scans, and a broken channel is one problem, not two."""
    root = make_dataset(MASKED, channels=("T1", "T2"))
    images = root / "imagesTr"
    for number in range(1, 4):
        replace(images / f"p{number}_0000.nii.gz", voxels(images / "p0_0000.nii.gz"))
    assert check(root).problems == ()
    for number in range(4):
        replace(images / f"p{number}_0001.nii.gz", np.full((12, 10, 4), 5.0))
    assert ["holds 5 in every voxel" in line for line in check(root).problems] == [True] * 4


def test_classes_with_sides_bring_a_warning_unless_mirrors_were_asked_for(make_dataset: Make) -> None:
    root = make_dataset({f"p{number}": True for number in range(3)}, ("u",))
    description = json.loads((root / "dataset.json").read_text())

    def said(*names: str, decided: bool = False) -> list[str]:
        labels = {name: value for value, name in enumerate(("background", *names))}
        (root / "dataset.json").write_text(json.dumps(description | {"labels": labels}))
        report = check_data(root, SplitSettings(), PlanSettings(), mirrors_decided=decided)
        return [line for line in report.warnings if "augment.flip" in line]

    (both,) = said("left kidney", "right kidney")
    assert both.startswith("left kidney, right kidney differ by their side, so images are neither mirrored nor turned")
    (alone,) = said("left kidney", "liver")
    assert alone.startswith("left kidney is on one side, and the other side is no class.")
    assert said("left kidney", "right kidney", decided=True) == said("left kidney", "liver", decided=True) == []


def test_a_channel_that_is_nearly_all_background_is_told_once(make_dataset: Make) -> None:
    root = make_dataset(MASKED, ("u",), shape=(16, 16, 4), channels=("T1", "PET"))
    assert not any("not background" in line for line in check(root).warnings)
    for number, path in enumerate(sorted((root / "imagesTr").glob("*_0001.nii.gz"))):
        hot = np.zeros((16, 16, 4))
        hot[number, :4, 0], hot[number, 4, 0] = 300, 4000
        replace(path, hot)
    (line,) = (line for line in check(root).warnings if "not background" in line)
    assert "In 4 of 5 scans fewer than 0.5% of the voxels of PET are not background, for example 0.49% in p0." in line
    assert "The 99.5 percentile of those few becomes 1." in line
    assert not any("not background" in line for line in check(root, plan=PlanSettings(normalise="z_score")).warnings)


def test_patients_whom_two_folders_share_are_named(make_dataset: Make) -> None:
    root = make_dataset(MASKED | {"a_frame1": True}, ("u",), {"a_frame2": True})
    assert any("other folders as well; all of them are held out: a." in line for line in check(root).warnings)


def test_files_that_are_not_used_are_named(make_dataset: Make) -> None:
    root = make_dataset(MASKED)
    (root / "labelsTr" / "notes.txt").write_text("who drew what")
    assert check(root).problems == ()
    assert any(line.startswith("labelsTr/notes.txt is not used: names of masks") for line in check(root).warnings)
    (root / "labelsTr" / "deep").mkdir()
    (root / "labelsTr" / "p0.nii.gz").rename(root / "labelsTr" / "deep" / "p0.nii.gz")
    assert [line for line in check(root).problems if "labelsTr/deep is not used, with p0.nii.gz in it" in line]


def test_the_plan_is_the_one_that_training_makes(make_dataset: Make, tmp_path: Path) -> None:
    """A test patient outside imagesTs takes no part in it."""
    root = make_dataset(MASKED, shape=(64, 64, 4))
    make_dataset({"big": True}, shape=(640, 640, 4))
    (tmp_path / "split.json").write_text('{"train": ["p0", "p1"], "validation": ["p2"], "test": ["p3", "big"]}')
    report = check(root, SplitSettings(file=tmp_path / "split.json"))
    assert report.plan is not None
    assert (report.plan.fit, report.plan.size) == ("resize", (64, 64))


def test_windows_and_channels_are_shown_as_such(make_dataset: Make) -> None:
    root = make_dataset(MASKED, channels=("CT", "PET"))
    text = shown(check_data(root, SplitSettings(), PlanSettings(window=(-100, 40))))
    assert "-100.0 to 40.0" in text
    assert "ct, percentile" in text
    assert "32 × 32" in text


def test_the_window_is_found_in_the_masks_that_training_is_shown(make_dataset: Make) -> None:
    root = make_dataset(MASKED, channels=("CT",))
    report = check(root, SplitSettings(labeled=1))
    assert report.split is not None
    assert report.plan is not None
    (taught,) = report.split.labeled
    replace(root / "imagesTr" / f"{taught}_0000.nii.gz", np.full((12, 10, 4), 60.0) + np.eye(12, 10)[..., None])
    changed = check(root, SplitSettings(labeled=1)).plan
    assert changed is not None
    assert changed.window == (60, 61) != report.plan.window


def test_names_in_brackets_are_printed_as_they_are(make_dataset: Make) -> None:
    root = make_dataset({"p[red]": True, "q": True})
    replace(root / "labelsTr" / "p[red].nii.gz", np.full((12, 10, 4), 9.0))
    assert "p[red].nii.gz holds the value 9" in shown(check(root))


def test_a_folder_that_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dataset\.json does not exist"):
        check(tmp_path)
