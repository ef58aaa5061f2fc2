import csv
import json
import math
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from patchcl.config import Settings, load_settings, read_settings, settings_yaml
from patchcl.core.errors import UserError
from patchcl.core.files import write_json
from patchcl.data.dataset import read_dataset
from patchcl.data.preprocessing.plan import PlanSettings, save_plan
from patchcl.data.preprocessing.planner import make_plan
from patchcl.data.splits import SplitSettings, make_split
from patchcl.evaluation.evaluate import evaluate_folders, evaluate_run, evaluate_trained, settings_hash
from patchcl.evaluation.metrics import EMPTY_POLICY, IGNORE_POLICY, SURFACE_POLICY
from patchcl.evaluation.scores import (
    METRICS,
    OBJECT_METRICS,
    SURFACE_METRICS,
    read_evaluation,
    summarise,
    write_evaluation,
)
from patchcl.evaluation.tables import score_table
from patchcl.inference.trained_run import open_run
from patchcl.networks import NetworkSettings, build_network
from patchcl.runs.folder import RunFolder
from patchcl.runs.provenance import origin

CLASSES = ("background", "left", "right")


def make_run(root: Path, data: Path, seed: int = 0) -> RunFolder:
    """A run as training leaves it behind, but for the training."""
    dataset, network = read_dataset(data), NetworkSettings(features=(4, 8))
    plan = make_plan(dataset, PlanSettings(size=(32, 32), fit="resize"))
    split = make_split(dataset, SplitSettings())
    run = RunFolder.create(root)
    run.settings.write_text(settings_yaml(Settings(data=data, network=network)))
    save_plan(run.plan, plan)
    write_json(run.split, {**split.model_dump(mode="json"), "hash": split.hash})
    torch.manual_seed(seed)
    parts = {name: build_network(network, 1, len(plan.classes), plan.size) for name in ("student", "teacher")}
    for part in parts.values():
        nn.init.zeros_(part.classify.bias)  # else one class wins everywhere
    torch.save({"method": nn.ModuleDict(parts).state_dict(), "step": 7}, run.last)
    return run


def test_every_scan_and_structure_is_scored(folders):
    evaluation = evaluate_folders(*folders, CLASSES)
    dice = {(score.case, score.structure): score.dice for score in evaluation.scores}
    assert dice == {
        ("anna_frame01", "left"): 1,
        ("anna_frame01", "right"): 1,
        ("anna_frame02", "left"): 0.5,
        ("anna_frame02", "right"): 1,
        ("bert_frame01", "left"): 1,
        ("bert_frame01", "right"): 0,
    }
    assert evaluation.unit == "mm"
    missed = next(score for score in evaluation.scores if score.dice == 0)
    assert missed.hd95_mm == missed.asd_mm == pytest.approx(math.sqrt(12**2 + 10**2 + 12**2))


def test_voxels_that_nobody_annotated_are_not_scored(boxes, write_case, folders):
    predictions, masks = folders
    beside = (slice(5, 8), slice(0, 10), slice(0, 6))  # what the moved prediction adds on the far side of `left`
    for path in masks.iterdir():
        write_case(path, {3: beside, 1: boxes["left"], 2: boxes["right"]})
    with pytest.raises(UserError, match="holds the value 3"):
        evaluate_folders(predictions, masks, CLASSES)
    evaluation = evaluate_folders(predictions, masks, CLASSES, ignore=3)
    dice = {(score.case, score.structure): score.dice for score in evaluation.scores}
    assert dice["anna_frame02", "left"] == 2 * 32 / (32 + 64)  # 0.5 where the 32 voxels beside it are scored
    assert dice["anna_frame01", "left"] == 1
    assert evaluation.provenance["ignored_voxels"] == 3 * 3 * 10 * 6
    assert IGNORE_POLICY in str(score_table(evaluation).caption)
    labels = {"background": 0, "left": 1, "right": 2, "ignore": 3}
    description = {"channel_names": {"0": "MRI"}, "labels": labels}
    (masks.parent / "dataset.json").write_text(json.dumps(description))
    (masks.parent / "imagesTr").mkdir()
    shutil.copy(masks / "bert_frame01.nii.gz", masks.parent / "imagesTr" / "bert_frame01_0000.nii.gz")
    assert evaluate_folders(predictions, masks).scores == evaluation.scores


def test_a_mask_of_which_nothing_is_annotated_is_refused(write_case, folders):
    write_case(folders[1] / "bert_frame01.nii.gz", {3: (slice(None),)})
    with pytest.raises(UserError, match=r"bert_frame01.* says of every voxel"):
        evaluate_folders(*folders, CLASSES, ignore=3)


def test_maps_beside_the_predictions_are_left_aside(folders):
    before = evaluate_folders(*folders, CLASSES)
    for name in ("anna_frame01_uncertainty", "anna_frame01_probabilities_left"):
        shutil.copy(folders[0] / "anna_frame01.nii.gz", folders[0] / f"{name}.nii.gz")
    assert evaluate_folders(*folders, CLASSES) == before


@pytest.mark.parametrize("lost", [0, 1], ids=["prediction", "mask"])
def test_a_missing_file_is_named(folders, lost):
    (folders[lost] / "anna_frame02.nii.gz").unlink()
    with pytest.raises(UserError, match=rf"{folders[lost].name} holds no mask called anna_frame02"):
        evaluate_folders(*folders, CLASSES)


@pytest.mark.parametrize(("prediction", "mask"), [("a.png", "a.tif"), ("a.nii.gz", "a.png"), ("a.PNG", "a.bmp")])
def test_predictions_and_masks_may_be_of_any_format(tmp_path, prediction, mask):
    reference, found = np.zeros((2, 8, 6), np.uint8)  # rows and columns
    reference[2:6, 1:5] = 1
    found[2:4, 1:5] = 1
    for folder, name, pixels in (("predictions", prediction, found), ("masks", mask, reference)):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / name
        if name.endswith("nii.gz"):
            nib.save(nib.Nifti1Image(pixels, np.eye(4)), path)
        else:
            Image.fromarray(pixels).save(path)
    (score,) = evaluate_folders(tmp_path / "predictions", tmp_path / "masks", ("background", "gland")).scores
    assert (score.case, score.dice, score.jaccard) == ("a", pytest.approx(2 / 3), 0.5)


def test_a_prediction_on_another_grid_is_refused(boxes, write_case, folders):
    write_case(folders[0] / "anna_frame01.nii.gz", {1: boxes["left"]}, spacing=(1.0, 1.0, 3.0))
    with pytest.raises(UserError, match="anna_frame01"):
        evaluate_folders(*folders, CLASSES)


def test_distances_are_in_voxels_where_the_spacing_was_lost(boxes, write_case, tmp_path):
    for folder in ("predictions", "masks"):
        write_case(tmp_path / folder / "anna.nii.gz", {1: boxes["left"]}, spacing=(1.0, 1.0, 1.0))
    evaluation = evaluate_folders(tmp_path / "predictions", tmp_path / "masks", CLASSES)
    assert evaluation.unit == "voxels"
    write_evaluation(evaluation, tmp_path / "scores")
    assert (
        (tmp_path / "scores.csv").read_text().startswith("patient,case,structure,dice,jaccard,hd95_voxels,asd_voxels")
    )


def test_distances_are_in_voxels_where_one_asks_for_them(folders):
    in_mm, in_voxels = (evaluate_folders(*folders, CLASSES, voxels=voxels) for voxels in (False, True))
    assert (in_mm.unit, in_voxels.unit) == ("mm", "voxels")
    assert [score.dice for score in in_mm.scores] == [score.dice for score in in_voxels.scores]
    assert any(a.hd95_mm > b.hd95_mm for a, b in zip(in_mm.scores, in_voxels.scores, strict=True))


def test_the_classes_are_those_of_the_data_set(cardiac):
    evaluation = evaluate_folders(cardiac / "labelsTs", cardiac / "labelsTs")
    assert evaluation.structures == read_dataset(cardiac).classes[1:]
    assert summarise(evaluation, "dice") == (1, 0)


def test_masks_without_class_names_are_explained(folders):
    with pytest.raises(UserError, match=r"no dataset\.json beside it"):
        evaluate_folders(*folders)


def test_a_run_is_scored_on_its_test_scans(cardiac, tmp_path):
    run = make_run(tmp_path / "run", cardiac)
    seen, scored = [], []
    trained = open_run(run)
    evaluation = evaluate_trained(
        trained, on_progress=lambda *at: seen.append(at), on_scored=lambda *at: scored.append(at)
    )
    dataset = read_dataset(cardiac)
    names = sorted(case.name for case in dataset.cases if case.folder == "imagesTs")
    assert sorted({score.case for score in evaluation.scores}) == names
    averaged, count = len(trained.inference.symmetries), len(names)
    assert averaged > 1
    ends = [
        *range(1, count + 1),
        *(count + averaged * (scan + 1) for scan in range(count)),
    ]
    assert seen == [(end, count * (1 + averaged)) for end in ends]
    assert scored == [(done, 2 * count) for done in range(1, 2 * count + 1)]
    apart = evaluate_folders(run.predictions / "test_last", cardiac / "labelsTs", dataset.classes)
    assert apart.scores == evaluation.scores
    assert len({score.dice for score in evaluation.scores}) > 2
    assert evaluation.name == "patchcl"
    assert evaluation.provenance["on"] == "test"
    assert evaluation.provenance["step"] == 7
    assert evaluation.provenance["weights"] == "teacher"
    assert evaluation.provenance["split_hash"] == json.loads(run.split.read_text())["hash"]
    assert evaluation.provenance["settings_hash"] == settings_hash(read_settings(run.settings))
    assert origin(torch.device("cpu")).items() < evaluation.provenance.items()
    assert evaluation.provenance["trained_commit"] is None


def test_scores_say_where_the_run_was_trained(cardiac, tmp_path):
    run = make_run(tmp_path / "run", cardiac)
    write_json(run.provenance, {"commit": "abc", "torch": "2.6", "hardware": "H200", "seconds": 1.0})
    evaluate_run(run)
    facts = json.loads((run.evaluation / "test_last.json").read_text())["provenance"]
    assert {key: facts[key] for key in facts if key.startswith("trained")} == {
        "trained_commit": "abc", "trained_torch": "2.6", "trained_hardware": "H200",
    }  # fmt: skip


def test_scores_say_that_a_run_is_unfinished(cardiac, tmp_path):
    run = make_run(tmp_path / "run", cardiac)
    steps = read_settings(run.settings).training.steps
    unfinished = evaluate_run(run)
    assert (
        json.loads((run.evaluation / "test_last.json").read_text())["provenance"]["unfinished"] == f"step 7 of {steps}"
    )
    assert f"Training is unfinished: scored at step 7 of {steps}." in score_table(unfinished).caption
    run.settings.write_text(run.settings.read_text().replace(f"steps: {steps}", "steps: 7"))
    finished = evaluate_run(run)
    assert "unfinished" not in finished.provenance
    assert "unfinished" not in score_table(finished).caption


def test_settings_are_the_same_wherever_the_files_lie(tmp_path):
    settings = load_settings(overrides=["data=/here", "cache=/there", "split.file=/s.json", "split.seed=3"])
    known = settings_hash(settings)
    moved = ["data=/elsewhere", "split.file=/t.json", "split.seed=3", "split.fold=2"]
    assert settings_hash(load_settings(overrides=moved)) == known
    for other in ("split.seed=4", "training.steps=7", "method.teacher_decay=0.5", "plan.input_interpolation=nearest"):
        assert settings_hash(load_settings(overrides=[*moved, other])) != known
    assert len(known) == 64


def test_the_scores_of_a_run_are_kept(cardiac, tmp_path):
    run = make_run(tmp_path / "run", cardiac)
    evaluation = evaluate_run(run)
    assert read_evaluation(run.evaluation / "test_last.json") == evaluation
    path = run.evaluation / "test_last.json"
    path.write_text(
        path.read_text()
        .replace('"split_hash"', '"split_fingerprint"')
        .replace('"settings_hash"', '"settings_fingerprint"')
    )
    assert '"split_hash"' not in path.read_text()  # as version 0.1 wrote it
    assert read_evaluation(path) == evaluation
    rows = list(csv.DictReader((run.evaluation / "test_last.csv").read_text().splitlines()))
    content = json.loads((run.evaluation / "test_last.json").read_text())
    summary = content["summary"]["structures"]
    for structure in evaluation.structures:
        by_hand = [float(row["dice"]) for row in rows if row["structure"] == structure]
        assert summary[structure]["dice"]["mean"] == pytest.approx(np.mean(by_hand))
    assert content["summary"]["empty_policy"] == EMPTY_POLICY
    assert content["summary"]["surface_policy"] == SURFACE_POLICY


def test_the_student_is_scored_apart(cardiac, tmp_path):
    run = make_run(tmp_path / "run", cardiac)
    student, teacher = evaluate_run(run, weights="student"), evaluate_run(run)
    assert student.scores != teacher.scores
    assert {path.name for path in run.evaluation.glob("*.json")} == {"test_last.json", "test_last_student.json"}


def test_a_run_without_test_masks_is_scored_on_validation(cardiac, tmp_path):
    data = shutil.copytree(cardiac, tmp_path / "data")
    shutil.rmtree(data / "labelsTs")
    run = make_run(tmp_path / "run", data)
    evaluation = evaluate_run(run)
    assert set(evaluation.patients) == set(json.loads(run.split.read_text())["validation"])
    assert (run.evaluation / "validation_last.csv").is_file()
    with pytest.raises(UserError, match="--on validation"):
        evaluate_run(run, on="test")


def test_a_scan_that_cannot_be_predicted_stops_the_evaluation(cardiac, tmp_path):
    data = shutil.copytree(cardiac, tmp_path / "data")
    run = make_run(tmp_path / "run", data)
    broken = next(iter(sorted((data / "imagesTs").iterdir())))
    broken.write_bytes(b"no image")
    with pytest.raises(UserError, match=broken.name):
        evaluate_run(run)
    assert not run.evaluation.exists()


def test_a_run_whose_data_are_gone_says_how_to_name_their_place(cardiac, tmp_path):
    run = make_run(tmp_path / "run", shutil.copytree(cardiac, tmp_path / "data"))
    shutil.rmtree(tmp_path / "data")
    with pytest.raises(UserError, match=r"run cannot be scored: .*data holds no data set.*patchcl resume .*run --data"):
        evaluate_run(run)


def test_single_objects_are_scored_where_one_asks_for_them(folders, tmp_path):
    """`left` of anna's second scan is moved by half its side; `right` of bert is missed."""
    evaluation = evaluate_folders(*folders, CLASSES, objects=True)
    assert evaluation.metrics == METRICS + SURFACE_METRICS + OBJECT_METRICS
    assert {(score.case, score.structure): score.object_dice for score in evaluation.scores} == {
        ("anna_frame01", "left"): 1, ("anna_frame01", "right"): 1, ("anna_frame02", "left"): 0.5,
        ("anna_frame02", "right"): 1, ("bert_frame01", "left"): 1, ("bert_frame01", "right"): 0,
    }  # fmt: skip
    moved, missed = (next(s for s in evaluation.scores if s.dice == dice) for dice in (0.5, 0))
    assert (moved.object_f1, moved.object_hausdorff_mm) == (0, 2)
    assert missed.object_hausdorff_mm == missed.hd95_mm
    assert evaluation.pooled["left"].object_f1 == pytest.approx(2 / 3)
    assert evaluation.pooled["right"].object_f1 == pytest.approx(2 * 2 / (2 + 3))
    write_evaluation(evaluation, tmp_path / "scores")
    assert read_evaluation(tmp_path / "scores.json") == evaluation
    summary = json.loads((tmp_path / "scores.json").read_text())["summary"]["structures"]
    assert summary["left"]["object_f1"]["mean"] == pytest.approx((0.5 + 1) / 2)
    rows = list(csv.DictReader((tmp_path / "scores.csv").read_text().splitlines()))
    assert [float(row["object_hausdorff_mm"]) for row in rows] == [s.object_hausdorff_mm for s in evaluation.scores]


def test_objects_of_the_reference_are_told_apart_by_their_ids(folders, tmp_path):
    """Beside the masks each half of `left` is an object of its own: the prediction of one is right about one."""
    masks = folders[1].rename(tmp_path / "labelsTr")
    for path in masks.iterdir():
        ids = np.asarray(nib.load(path).dataobj).astype(np.uint8)
        ids[1:3, 1:5, 1:5] *= 7
        (tmp_path / "instancesTr").mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(ids, np.diag([1.0, 1.0, 2.0, 1.0])), tmp_path / "instancesTr" / path.name)
    evaluation = evaluate_folders(folders[0], masks, CLASSES, objects=True)
    first = next(score for score in evaluation.scores if (score.case, score.structure) == ("anna_frame01", "left"))
    assert (first.dice, first.object_f1) == (1, pytest.approx(2 / 3))


def test_a_run_is_scored_by_its_objects(cardiac, tmp_path):
    run = make_run(tmp_path / "run", cardiac)
    plain, evaluation = evaluate_run(run), evaluate_run(run, objects=True)
    assert [score.dice for score in plain.scores] == [score.dice for score in evaluation.scores]
    assert read_evaluation(run.evaluation / "test_last.json").pooled == evaluation.pooled != {}
