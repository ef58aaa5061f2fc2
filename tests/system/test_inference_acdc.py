"""A network that is worth it, as version 0.1 wrote it, on one real validation patient in all three ways."""

import zipfile

import pytest

from patchcl.data.dataset import read_dataset
from patchcl.data.preprocessing.plan import load_plan, save_plan
from patchcl.data.splits import cases_of, load_split
from patchcl.evaluation.evaluate import evaluate_run
from patchcl.evaluation.scores import summarise
from patchcl.inference.trained_run import open_run
from patchcl.runs.folder import RunFolder
from patchcl.training.final_validation import choose_on_validation

NAME = "acdc_p1_7_patchcl_tuned_without_contrast"


@pytest.fixture
def published(acdc, tmp_path) -> RunFolder:
    """The run, with one validation patient, whose masks return to the grid of the scan linearly."""
    packed = acdc.parents[1] / "runs" / f"{NAME}.zip"
    if not packed.is_file():
        pytest.skip("the trained run is not here")
    with zipfile.ZipFile(packed) as files:
        files.extractall(tmp_path)
    run = RunFolder.open(tmp_path)
    run.settings.write_text(run.settings.read_text().replace("../shared/data/Dataset027_ACDC", str(acdc)))
    plan = load_plan(run.plan)
    assert plan.output_interpolation == "nearest"  # the preset says so, and it is kept unless somebody changes it
    save_plan(run.plan, plan.model_copy(update={"output_interpolation": "linear"}))
    return run


@pytest.mark.realdata
def test_averages_and_the_choice_do_no_harm_to_a_patient(published, acdc, monkeypatch):
    opened = open_run(published)
    assert len(opened.inference.symmetries) == 8
    assert not opened.inference.postprocessing
    split = load_split(published.split)
    one = cases_of(read_dataset(acdc), split.validation[:1], masked=True)
    monkeypatch.setattr("patchcl.evaluation.evaluate._held_out", lambda _, run, *__: ("validation", [(run, one)]))
    choose_on_validation(published, one, opened.device)
    evaluation = evaluate_run(published, voxels=True)
    dice = [rows["mean"]["dice"]["mean"] for rows in evaluation.columns.values()]
    assert len(evaluation.scores) == 3 * len(one)
    assert dice[0] > 0.85
    assert dice[1] > dice[0] - 0.005
    assert dice[-1] >= dice[1]  # by what this very patient chose
    assert dice[-1] == summarise(evaluation, "dice").mean
