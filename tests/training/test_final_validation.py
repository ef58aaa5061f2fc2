"""Post-processing is chosen where it helps, and nowhere else."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from rich.console import Console

from patchcl.core.errors import UserError
from patchcl.data.dataset import read_dataset
from patchcl.data.preprocessing.plan import Plan
from patchcl.data.splits import cases_of, load_split
from patchcl.inference.postprocessing import NO_POSTPROCESSING, Postprocessing, read_postprocessing
from patchcl.inference.trained_run import open_run
from patchcl.runs.folder import RunFolder
from patchcl.training.experiment import resume
from patchcl.training.final_validation import (
    FRAGMENTS,
    SegmentedCase,
    choose_for,
    choose_on_validation,
    choose_postprocessing,
    dice_after,
)

PLAN = Plan(
    dimensions=2, fit="resize", size=(8, 8), normalise="min_max", channels=("MRI",), classes=("background", "a", "b")
)
GLANDS = PLAN.model_copy(update={"classes": ("background", "gland")})


def drawn(picture: str) -> np.ndarray:
    return np.array([[int(pixel) for pixel in row] for row in picture.split()], np.uint8)


@pytest.fixture
def segment(tmp_path):
    """Writes pairs of predictions and references, one patient each unless named."""

    def write(*pairs: tuple[str, str], patients: str = "") -> list[SegmentedCase]:
        cases = []
        for number, pair in enumerate(pairs):
            files = [tmp_path / f"{number}_{side}.nii.gz" for side in ("predicted", "reference")]
            for file, picture in zip(files, pair, strict=True):
                nib.save(nib.Nifti1Image(drawn(picture), np.eye(4)), file)
            cases.append(SegmentedCase(patients[number] if patients else str(number), *files))
        return cases

    return write


def kept(choice) -> dict[str, bool]:
    return {decision["step"]: decision["kept"] for decision in choice.validation["decisions"]}


def test_a_stray_component_of_one_structure_goes_and_the_other_is_let_alone(segment):
    true = "110022 110022 000000 220000 000000"  # b is in two parts by nature, which meet nowhere
    found = "110022 110022 000000 220001 000000"
    choice = choose_for(segment((found, true), (true, true)), PLAN)
    assert choice.postprocessing == Postprocessing(largest_of=("a",))
    assert kept(choice) == {
        "largest component of all structures together": False,
        "largest component: a": True,
        "largest component: b": False,
        "holes filled: a": False,
        "holes filled: b": False,
    }
    helped = next(each for each in choice.validation["decisions"] if each["kept"])
    assert helped["dice_before"] == {"a": pytest.approx((8 / 9 + 1) / 2)}
    assert helped["dice_after"] == {"a": 1.0}
    assert choice.validation["patients"] == 2


def test_the_largest_of_all_together_goes_first(segment):
    true, found = "112200 112200 000000 000000", "112200 112200 000000 000012"
    choice = choose_for(segment((found, true)), PLAN)
    assert choice.postprocessing == Postprocessing(largest_together=True)  # and by structure nothing is left to do
    together = choice.validation["decisions"][0]
    assert together["dice_before"] == {name: pytest.approx(8 / 9) for name in ("a", "b", "mean")}
    assert together["dice_after"] == {"a": 1.0, "b": 1.0, "mean": 1.0}


def test_holes_are_filled_where_that_is_right(segment):
    ring, disk = "1110222 1010202 1110222 0000000", "1110222 1110202 1110222 0000000"
    choice = choose_for(segment((ring, disk)), PLAN)
    assert choice.postprocessing == Postprocessing(filled=("a",))


def test_what_raises_the_mean_and_harms_a_structure_is_not_kept():
    gains = np.array([[0.10, -0.01], [0.10, -0.01]])

    def dice_of(steps):
        return 0.5 + gains * steps.largest_together

    chosen, decisions = choose_postprocessing(dice_of, ("a", "b"))
    assert chosen == NO_POSTPROCESSING
    assert decisions[0].dice_after["mean"] > decisions[0].dice_before["mean"]
    gains[:, 1] = 0
    assert choose_postprocessing(dice_of, ("a", "b"))[0] == Postprocessing(largest_together=True)


def test_what_changes_nothing_or_lowers_the_mean_is_not_kept():
    chosen, _ = choose_postprocessing(lambda steps: np.full((3, 2), 0.5), ("a", "b"))
    assert chosen == NO_POSTPROCESSING

    def one_wins_two_lose(steps):
        return 0.5 + bool(steps.largest_of) * np.array([[0.1], [-0.06], [-0.06]])

    assert choose_postprocessing(one_wins_two_lose, ("a",))[0] == NO_POSTPROCESSING


def test_steps_are_tried_on_top_of_those_that_were_kept():
    tried = []

    def dice_of(steps):
        tried.append(steps)
        return np.array([[0.5 + 0.1 * steps.largest_together, 0.5 + 0.1 * ("b" in steps.filled)]])

    chosen, _ = choose_postprocessing(dice_of, ("a", "b"))
    assert chosen == Postprocessing(largest_together=True, filled=("b",))
    assert all(steps.largest_together for steps in tried[1:])


def test_fragments_below_a_size_that_validation_gives_are_removed_from_objects(segment):
    true = "111110000 111110000 111110000 000000000 000011111 000011111 000011111"
    found = "111110001 111110000 111110000 000000000 000011111 000011111 000011111"
    choice = choose_for(segment((found, true), (true, true)), GLANDS)
    assert choice.postprocessing == Postprocessing(smallest_object_mm=15 / 8)  # the first above its one pixel
    assert 1 / 8 in FRAGMENTS
    assert "largest component of all structures together" not in kept(choice)
    assert kept(choice)["largest component: gland"] is False


def test_fragments_are_not_tried_where_there_is_one_object_or_several_structures(segment):
    one = segment(("110 110 001", "110 110 000"))
    assert "small fragments removed" not in kept(choose_for(one, GLANDS))
    two = segment(("110 000 001", "110 000 001"))
    assert "small fragments removed" in kept(choose_for(two, GLANDS))
    assert "small fragments removed" not in kept(choose_for(two, PLAN))


def test_dice_is_that_of_annotated_voxels_and_of_patients(segment):
    cases = segment(("110", "100"), ("100", "100"), ("100", "110"), patients="AAB")
    by_hand = np.array([[(2 / 3 + 1) / 2], [2 / 3]])
    np.testing.assert_allclose(dice_after(NO_POSTPROCESSING, cases, GLANDS), by_hand)
    partly = segment(("110", "170"))
    np.testing.assert_allclose(dice_after(NO_POSTPROCESSING, partly, GLANDS.model_copy(update={"ignore": 7})), 1)


def test_a_finished_run_has_chosen(trained):
    run = RunFolder(trained)
    content = json.loads(run.postprocessing.read_text())
    opened = open_run(run)
    assert content["validation"]["step"] == 6
    assert content["validation"]["symmetries"] == len(opened.inference.symmetries) == 8
    assert content["validation"]["patients"] == len(load_split(run.split).validation)
    assert "touch at a corner" in content["connectivity"]
    assert opened.inference.postprocessing == Postprocessing.model_validate(content["postprocessing"])
    kept = {each["step"] for each in content["validation"]["decisions"] if each["kept"]}
    assert bool(kept) == bool(opened.inference.postprocessing)


def test_a_run_of_before_chooses_when_it_is_resumed_and_its_weights_stay(trained, tmp_path):
    run = RunFolder(shutil.copytree(trained, tmp_path / "run"))
    before, weights = run.postprocessing.read_text(), run.last.read_bytes()
    run.postprocessing.unlink()
    assert read_postprocessing(run, open_run(run).plan) == NO_POSTPROCESSING
    resume(run.root, Console(quiet=True))
    assert run.postprocessing.read_text() == before
    assert run.last.read_bytes() == weights


def test_without_validation_patients_nothing_is_chosen(trained, tmp_path):
    run = RunFolder(shutil.copytree(trained, tmp_path / "run"))
    run.postprocessing.unlink()
    choose_on_validation(run, [], open_run(run).device)
    assert not run.postprocessing.exists()


def test_a_scan_that_cannot_be_segmented_is_named(trained, cardiac, tmp_path):
    run = RunFolder(shutil.copytree(trained, tmp_path / "run"))
    data = shutil.copytree(cardiac, tmp_path / "data")
    cases = cases_of(read_dataset(data), load_split(run.split).validation, masked=True)
    cases[0].images[0].write_bytes(b"no image")
    with pytest.raises(UserError, match=cases[0].images[0].name):
        choose_on_validation(run, cases, open_run(run).device)
