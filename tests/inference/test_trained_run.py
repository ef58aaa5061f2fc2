"""A run that is opened once: its network, and what it says of scans from files and arrays."""

import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import nn

from patchcl.core.errors import UserError
from patchcl.data.geometry import Grid
from patchcl.data.preprocessing.plan import Plan, load_plan, save_plan
from patchcl.data.preprocessing.transforms import to_network_grid, to_scan_grid
from patchcl.data.scan import Scan
from patchcl.inference.predict import PLAIN, predict_files, uncertainty_of
from patchcl.inference.test_time_augmentation import ONE_PASS
from patchcl.inference.trained_run import open_folder, open_run
from patchcl.runs.folder import RunFolder

PLAN = Plan(
    dimensions=2, fit="resize", size=(16, 16), normalise="min_max", channels=("MRI",),
    classes=("background", "left", "right"),
)  # fmt: skip
AFFINE = np.diag([0.5, 0.5, 8, 1])


def parameters(network: nn.Module) -> torch.Tensor:
    return torch.cat([weight.flatten() for weight in network.parameters()])


def test_teacher_and_student_are_different_networks(untrained_run, tmp_path):
    run = untrained_run(tmp_path / "run", PLAN)
    teacher, student = open_run(run), open_run(run, weights="student")
    state = torch.load(run.last)["method"]
    assert teacher.plan == PLAN
    assert (teacher.weights, student.weights) == ("teacher", "student")
    assert not teacher.network.training
    assert torch.equal(parameters(teacher.network)[-3:], state["teacher.classify.bias"])
    assert torch.equal(parameters(student.network)[-3:], state["student.classify.bias"])
    assert not torch.equal(parameters(teacher.network), parameters(student.network))


def test_a_method_without_a_teacher_predicts_with_its_student(untrained_run, tmp_path):
    run = untrained_run(tmp_path / "run", PLAN, teacher=False)
    teacher, student = (open_run(run, weights=weights) for weights in ("teacher", "student"))
    assert teacher.weights == "student"
    assert torch.equal(parameters(teacher.network), parameters(student.network))


def test_a_checkpoint_of_another_network_is_refused(untrained_run, tmp_path):
    run = untrained_run(tmp_path / "run", PLAN)
    save_plan(run.plan, PLAN.model_copy(update={"classes": ("background", "left")}))
    with pytest.raises(UserError, match="does not fit the network"):
        open_run(run)


def test_weights_that_are_not_finite_never_predict(untrained_run, tmp_path):
    run = untrained_run(tmp_path / "run", PLAN)
    content = torch.load(run.last)
    content["method"]["teacher.classify.bias"][0] = torch.nan
    for path in (run.last, run.best):
        torch.save(content, path)
    for checkpoint in ("last", "best"):
        with pytest.raises(UserError, match=rf"{checkpoint}\.ckpt holds weights that are not finite"):
            open_run(run, checkpoint)


def test_a_damaged_last_checkpoint_is_told_of_and_the_one_before_predicts(untrained_run, tmp_path, capsys):
    run = untrained_run(tmp_path / "run", PLAN)
    run.last.rename(run.previous)
    run.last.write_bytes(b"PK")
    assert open_run(run).step == 7
    said = " ".join(capsys.readouterr().err.split())
    assert "Warning:" in said
    assert "previous.ckpt, is used instead: it is that of step 7" in said


def test_what_was_edited_since_training_is_one_line(trained, tmp_path, capsys):
    run = RunFolder(shutil.copytree(trained, tmp_path / "run"))
    open_folder(run.root, device="cpu")
    assert "Warning" not in capsys.readouterr().err
    save_plan(run.plan, load_plan(run.plan).model_copy(update={"normalise": "z_score"}))
    run.settings.write_text(run.settings.read_text().replace("symmetries: true", "symmetries: false"))
    open_folder(run.root, device="cpu")
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "Warning" in line]
    told = "inference.symmetries was True, now False; plan: normalise was percentile, now z_score."
    assert line == f"Warning: {run.root} is not used as it was trained: {told}"
    run.contents.unlink()  # as in runs of version 0.1
    open_folder(run.root, device="cpu")
    assert "Warning" not in capsys.readouterr().err


def test_an_array_is_segmented_as_its_file_is(untrained_run, tmp_path):
    trained = open_run(untrained_run(tmp_path / "run", PLAN))
    voxels = np.random.default_rng(0).normal(100, 20, (20, 18, 3)).astype(np.float32)
    nib.save(nib.Nifti1Image(voxels, AFFINE), tmp_path / "anna_0000.nii.gz")
    scan, out = tmp_path / "anna_0000.nii.gz", tmp_path / "out"
    predict_files(trained.network, trained.plan, scan, out, uncertainty=True, inference=trained.inference)
    written = np.asarray(nib.load(tmp_path / "out" / "anna.nii.gz").dataobj)
    for prediction in (trained.predict(voxels, AFFINE), trained.predict(str(tmp_path / "anna_0000.nii.gz"))):
        np.testing.assert_array_equal(prediction.mask, written)
        assert prediction.mask.dtype == np.uint8
        assert prediction.probabilities.shape == (3, 20, 18, 3)
        np.testing.assert_allclose(prediction.probabilities.sum(axis=0), 1, atol=1e-5)
        np.testing.assert_array_equal(prediction.uncertainty, uncertainty_of(prediction.probabilities))
        np.testing.assert_array_equal(prediction.grid.affine, AFFINE)


def test_probabilities_are_smooth_where_masks_are_restored_by_nearest_neighbour(untrained_run, tmp_path):
    trained = open_run(untrained_run(tmp_path / "run", PLAN.model_copy(update={"output_interpolation": "nearest"})))
    probabilities = trained.predict(np.random.default_rng(0).random((20, 18), np.float32)).probabilities
    assert ((probabilities > 0.01) & (probabilities < 0.99)).any()


def test_channels_are_files_in_their_order_or_the_first_axis_of_an_array(untrained_run, tmp_path):
    trained = open_run(untrained_run(tmp_path / "run", PLAN.model_copy(update={"channels": ("T1", "T2")})))
    voxels = np.random.default_rng(0).random((2, 20, 18, 3), np.float32)
    files = [tmp_path / f"anna_000{channel}.nii.gz" for channel in range(2)]
    for file, channel in zip(files, voxels, strict=True):
        nib.save(nib.Nifti1Image(channel, AFFINE), file)
    masks = [trained.predict(files).mask, trained.predict(files[0]).mask, trained.predict(voxels, AFFINE).mask]
    assert np.array_equal(masks[0], masks[2])
    assert np.array_equal(masks[0], masks[1])  # the files beside it are its other channels
    with pytest.raises(UserError, match="the network takes 2 channel"):
        trained.predict([files[0], files[1], files[0]])


def test_an_array_that_is_no_scan_is_refused(untrained_run, tmp_path):
    trained = open_run(untrained_run(tmp_path / "run", PLAN))
    with pytest.raises(UserError, match="the array has shape"):
        trained.predict(np.zeros((4, 4, 4, 2), np.float32))
    with pytest.raises(UserError, match="NaN"):
        trained.predict(np.full((20, 18), np.nan, np.float32))


def test_a_run_averages_over_its_symmetries_and_cleans_up_unless_told_otherwise(untrained_run, tmp_path):
    run = untrained_run(tmp_path / "run", PLAN)
    assert len(open_run(run).inference.symmetries) == 8
    assert not open_run(run).inference.postprocessing  # as of version 0.1
    run.postprocessing.write_text('{"postprocessing": {"largest_of": ["left"]}, "validation": {}}')
    assert open_run(run).inference.postprocessing.largest_of == ("left",)
    assert open_run(run, fast=True).inference.symmetries == ONE_PASS
    assert open_run(run, fast=True, postprocessing=False).inference == PLAIN
    settings = run.settings.read_text()
    run.settings.write_text(settings.replace("symmetries: true", "symmetries: false"))
    assert open_run(run).inference == open_run(run, fast=True).inference
    assert open_run(run).inference.postprocessing
    run.settings.write_text(settings.replace("postprocessing: true", "postprocessing: false"))
    assert open_run(run).inference == open_run(run, postprocessing=False).inference
    assert len(open_run(run).inference.symmetries) == 8
    run.settings.write_text(
        settings.replace("flip: null", "flip: false").replace("rotate_90: null", "rotate_90: false")
    )
    assert open_run(run).inference.symmetries == ONE_PASS


def test_masks_are_cleaned_and_probabilities_are_let_alone(untrained_run, tmp_path):
    run = untrained_run(tmp_path / "run", PLAN)
    run.postprocessing.write_text('{"postprocessing": {"largest_of": ["left"]}, "validation": {}}')
    noise, dots = (replace(open_run(run, fast=True, postprocessing=on), network=Dots()) for on in (False, True))
    voxels = np.zeros((16, 16), np.float32)
    voxels[2:5, 2:5] = voxels[10, 10] = 1
    before, after = noise.predict(voxels), dots.predict(voxels)
    assert (before.mask[10, 10], after.mask[10, 10]) == (1, 0)
    assert before.mask.sum() == after.mask.sum() + 1 == 10
    np.testing.assert_array_equal(before.probabilities, after.probabilities)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "anna_0000.nii.gz")
    out = tmp_path / "out"
    predict_files(dots.network, PLAN, tmp_path / "anna_0000.nii.gz", out, inference=dots.inference)
    np.testing.assert_array_equal(np.asarray(nib.load(out / "anna.nii.gz").dataobj), after.mask)


def test_a_run_of_before_predicts_as_before_with_both_off(untrained_run, tmp_path):
    trained = open_run(untrained_run(tmp_path / "run", PLAN), fast=True, postprocessing=False)
    voxels = np.random.default_rng(0).random((20, 18, 3), np.float32)
    scan = Scan(voxels[None], Grid((20, 18, 3), np.eye(4), (1, 1, 1)))
    image = torch.from_numpy(to_network_grid(scan, PLAN))
    with torch.inference_mode():
        probs = torch.cat([trained.network(some).softmax(dim=1) for some in image.split(4)])
    np.testing.assert_array_equal(trained.predict(voxels).probabilities, to_scan_grid(probs.numpy(), scan.grid, PLAN))


class Dots(nn.Module):
    """Bright voxels are class 1."""

    def forward(self, image):
        return torch.cat([0.5 - image, image - 0.5, -image - 1], dim=1) * 20
