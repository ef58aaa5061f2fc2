"""Validation while training: Dice and quality of pseudo-labels by hand, and a picture that is there."""

import numpy as np
import pytest
import torch

from patchcl.data.preprocessing.cache import PreparedCase
from patchcl.data.preprocessing.plan import Plan
from patchcl.data.scan import IGNORED
from patchcl.methods import build_method, settings_classes
from patchcl.methods.settings import FixMatchSettings, SupervisedSettings
from patchcl.runs.folder import RunFolder
from patchcl.training.ranks import Ranks
from patchcl.training.validation import Validation, picture_steps

CPU = torch.device("cpu")
PLAN = Plan(
    dimensions=2, fit="resize", size=(16, 16), normalise="min_max", channels=("MR",), classes=("background", "a", "b")
)


class Thresholds(torch.nn.Module):
    """Says class 1 from 0.25 on and class 2 from 0.75 on: a network whose answers are known."""

    def forward(self, image):
        return torch.cat([0.25 - image, 0.5 - (image - 0.5).abs() * 2, image - 0.75], dim=1) * 100


def prepared(folder, name, image, mask):
    np.save(folder / f"{name}.npy", image.astype(np.float32))
    np.save(folder / f"{name}_mask.npy", mask.astype(np.uint8))
    return PreparedCase(name, name, folder / f"{name}.npy", folder / f"{name}_mask.npy")


def test_dice_is_that_of_whole_scans_and_absent_structures_count_as_found(tmp_path, make_task):
    image, mask = np.zeros((2, 1, 16, 16)), np.zeros((2, 16, 16))
    image[0, 0, :4], mask[0, 2:6] = 0.5, 1  # 64 found and 64 true, 32 of them both
    image[1, 0, :2], mask[1, :4] = 1.0, 2  # 32 found, 64 true, all found ones right
    both = prepared(tmp_path, "both", image, mask)
    nothing = prepared(tmp_path, "nothing", np.zeros((1, 1, 16, 16)), np.zeros((1, 16, 16)))
    method = build_method(SupervisedSettings(), make_task())
    method.teacher = Thresholds()
    row = Validation([both, nothing], None, PLAN, RunFolder(tmp_path), CPU)(method, 1)
    assert row["validation_dice_a"] == pytest.approx((0.5 + 1) / 2)
    assert row["validation_dice_b"] == pytest.approx((64 / 96 + 1) / 2)
    assert row["validation_dice"] == pytest.approx((row["validation_dice_a"] + row["validation_dice_b"]) / 2)


class Exchange(Ranks):
    """One of two processes, of which the second has what the first one `left`."""

    def __init__(self, rank, left):
        super().__init__(rank, 2)
        self.left = left

    def gathered(self, items):
        self.left.append(list(items))
        return [item for part in self.left for item in part]


def test_patients_are_shared_out_and_all_processes_know_the_figures_of_one_alone(tmp_path, make_task):
    random, cases, left = np.random.default_rng(0), [], []
    for name, patient in (("a1", "a"), ("b1", "b"), ("a2", "a"), ("c1", "c")):
        image, mask = random.random((2, 1, 16, 16)), random.integers(0, 3, (2, 16, 16))
        cases.append(prepared(tmp_path, name, image, mask)._replace(patient=patient))
    method = build_method(SupervisedSettings(), make_task())
    method.teacher = Thresholds()
    shares = [Validation(cases, None, PLAN, RunFolder(tmp_path), CPU, ranks=Exchange(rank, left)) for rank in range(2)]
    _, together = (share(method, 1) for share in shares)
    assert [[cases[place].name for place, _ in part] for part in left] == [["a1", "a2", "c1"], ["b1"]]
    assert together == Validation(cases, None, PLAN, RunFolder(tmp_path), CPU)(method, 1)


def test_a_validation_while_training_is_one_pass(tmp_path, make_task):
    case = prepared(tmp_path, "x", np.zeros((3, 1, 16, 16)), np.zeros((3, 16, 16)))
    method, seen = build_method(SupervisedSettings(), make_task()), []
    method.teacher = Thresholds()
    method.teacher.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    Validation([case], None, PLAN, RunFolder(tmp_path), CPU)(method, 1)
    assert sum(seen) == 3


@pytest.mark.parametrize(("fit", "passes"), [("resize", [3, 4, 2, 1]), ("crop", [1, 2, 4, 2, 1])])
def test_small_scans_pass_through_the_network_together_and_have_the_figures_that_each_has_alone(
    fit, passes, tmp_path, make_task
):
    """Four slices at once on a CPU; pieces of scans of any size are cut from one scan at a time."""
    random, cases = np.random.default_rng(0), []
    for count in (1, 2, 6, 1):
        image, mask = random.random((count, 1, 16, 16)), random.integers(0, 3, (count, 16, 16))
        cases.append(prepared(tmp_path, f"scan{len(cases)}", image, mask))
    method, seen = build_method(SupervisedSettings(), make_task()), []
    method.teacher = Thresholds()
    method.teacher.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    plan = PLAN.model_copy(update={"fit": fit, "spacing_mm": (1.0, 1.0)})
    together = Validation(cases, None, plan, RunFolder(tmp_path), CPU)(method, 1)
    assert seen == passes
    alone = [Validation([case], None, plan, RunFolder(tmp_path), CPU)(method, 1) for case in cases]
    for name in ("validation_dice", "validation_dice_a", "validation_dice_b"):
        assert together[name] == pytest.approx(np.mean([row[name] for row in alone]), rel=1e-6)


def test_without_anybody_held_out_there_is_no_dice(tmp_path, make_task, monkeypatch):
    method = build_method(SupervisedSettings(), make_task()).train()
    monkeypatch.setattr(type(method), "diagnostics", lambda _: {"rank": 3.0, "none": float("nan")})
    assert Validation([], None, PLAN, RunFolder(tmp_path), CPU)(method, 1) == {"rank": 3.0}


def test_what_nobody_annotated_is_not_judged(tmp_path, make_task):
    image, mask = np.zeros((2, 1, 16, 16)), np.zeros((2, 16, 16))
    image[0, 0, :4], mask[0, 2:6] = 0.5, 1  # 64 found and 64 true, 32 of them both
    mask[0, :1], mask[0, 5:] = IGNORED, IGNORED  # 16 of those found are not judged, and 16 of the true ones
    mask[1] = IGNORED
    partly = prepared(tmp_path, "partly", image, mask)
    nothing = prepared(tmp_path, "nothing", image[:1], np.full((1, 16, 16), IGNORED))
    method = build_method(SupervisedSettings(), make_task())
    method.teacher = Thresholds()
    row = Validation([partly, nothing], None, PLAN, RunFolder(tmp_path), CPU)(method, 1)
    assert row["validation_dice_a"] == pytest.approx(2 * 32 / (48 + 48))
    assert row["validation_dice_b"] == 1
    assert row["found_a"] == pytest.approx(32 / 48)
    assert row["found_background"] == pytest.approx(0)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_pseudo_masks_are_drawn_for_the_images_that_are_shown(dimensions, tmp_path, make_task):
    run = RunFolder(tmp_path / "run")
    shown = torch.rand(3, 1, *(16,) * dimensions)
    Validation([], shown, PLAN, run, CPU)._draw(build_method(SupervisedSettings(), make_task(dimensions)), shown, 20)
    assert (run.pictures / "pseudo_masks_step_000020.png").stat().st_size > 1000


def test_only_some_validations_draw_and_the_last_is_one_of_them(tmp_path, make_task, monkeypatch):
    drawn, case = [], prepared(tmp_path, "x", np.zeros((1, 1, 16, 16)), np.zeros((1, 16, 16)))
    steps = picture_steps(steps=100, validate_every=5)
    validation = Validation([case], torch.rand(2, 1, 16, 16), PLAN, RunFolder(tmp_path), CPU, steps)
    monkeypatch.setattr(validation, "_draw", lambda method, shown, step: drawn.append(step))
    method = build_method(SupervisedSettings(), make_task())
    for step in range(5, 101, 5):
        validation(method, step)
    assert drawn == [10, 25, 35, 50, 60, 75, 85, 100]


@pytest.mark.parametrize(
    ("steps", "every", "expected"),
    [(6, 3, {3, 6}), (7, 3, {3, 6, 7}), (5, 100, {5}), (8, 1, set(range(1, 9))), (30000, 200, None)],
)
def test_pictures_are_spread_over_a_run(steps, every, expected):
    found = picture_steps(steps, every)
    assert steps in found
    assert len(found) <= 8
    assert all(step % every == 0 or step == steps for step in found)
    assert expected is None or found == expected
    gaps = np.diff([0, *sorted(found)])
    assert expected is not None or gaps.max() - gaps.min() <= every


def test_a_case_without_a_mask_is_refused(tmp_path, make_task):
    case = prepared(tmp_path, "x", np.zeros((1, 1, 16, 16)), np.zeros((1, 16, 16)))._replace(mask=None)
    with pytest.raises(ValueError, match="x has no mask"):
        Validation([case], None, PLAN, RunFolder(tmp_path), CPU)(build_method(SupervisedSettings(), make_task()), 1)


def test_pseudo_labels_are_held_against_the_masks_at_the_methods_threshold(tmp_path, make_task):
    image, mask = np.zeros((2, 1, 16, 16)), np.zeros((2, 16, 16))
    image[0, 0, :4], mask[0, 2:6] = 0.5, 1  # 64 found and 64 true, 32 of them both
    image[1, 0, :2], mask[1, :4] = 1.0, 2  # 32 found, 64 true, all found ones right
    both = prepared(tmp_path, "both", image, mask)
    nothing = prepared(tmp_path, "nothing", np.zeros((1, 1, 16, 16)), np.zeros((1, 16, 16)))
    method = build_method(FixMatchSettings(confidence_threshold=0.9), make_task())
    method.teacher = Thresholds()
    validation = Validation([both, nothing], None, PLAN, RunFolder(tmp_path), CPU)
    row = {name: value for name, value in validation(method, 1).items() if "dice" not in name}
    assert row == pytest.approx(
        {
            **{f"accepted_{name}": 1.0 for name in PLAN.classes},
            "agreement_background": 608 / 672,
            "agreement_a": 32 / 64,
            "agreement_b": 1.0,
            "found_background": 608 / 640,
            "found_a": 32 / 64,
            "found_b": 32 / 64,
            "ece": 96 / 768,
            "ece_structures": 96 / 160,
        }
    )
    method.confidence_threshold = 1.1
    assert validation(method, 1)["accepted_a"] == validation(method, 1)["found_a"] == 0


def test_what_a_method_knows_about_itself_is_in_the_row_if_it_is_a_number(tmp_path, make_task, monkeypatch):
    case = prepared(tmp_path, "x", np.zeros((1, 1, 16, 16)), np.zeros((1, 16, 16)))
    method = build_method(SupervisedSettings(contrast={"memory_min_size": 2}), make_task())
    validation = Validation([case], None, PLAN, RunFolder(tmp_path), CPU)
    assert {"separability", "effective_rank"} <= set(validation(method, 1))
    monkeypatch.setattr(method, "diagnostics", lambda: {"rank": 3.0, "ratio": float("nan"), "size": float("inf")})
    row = validation(method, 1)
    assert row["rank"] == 3.0
    assert not {"ratio", "size", "separability"} & set(row)


@pytest.mark.parametrize("kind", settings_classes(), ids=lambda kind: kind.model_fields["name"].default)
def test_the_threshold_of_a_method_is_that_of_its_settings(kind, make_task):
    settings = kind(**({"confidence_threshold": 0.625} if "confidence_threshold" in kind.model_fields else {}))
    method = build_method(settings, make_task())
    assert method.confidence_threshold == getattr(settings, "confidence_threshold", 0.0)
    assert settings.contrast is not None or method.diagnostics() == {}
