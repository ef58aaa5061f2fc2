"""From a folder of scans to a finished run: what is kept, what is never opened, and what a stop costs."""

import io
import json
import os
import shutil
import signal
import threading
import time

import nibabel
import numpy as np
import pytest
import torch
from rich.console import Console

from patchcl.comparison.spec import build_spec
from patchcl.config import load_settings, read_settings
from patchcl.core.errors import UserError
from patchcl.data.check import check_data, render
from patchcl.data.doubts import NOTHING_TO_LEARN
from patchcl.data.preprocessing.plan import load_plan
from patchcl.data.splits import load_split
from patchcl.evaluation.evaluate import evaluate_run
from patchcl.evaluation.tables import score_table
from patchcl.methods import method_names
from patchcl.reports.run_report import write_report
from patchcl.runs.folder import RunFolder
from patchcl.runs.log import read_rows
from patchcl.training.experiment import _build, resume, start
from patchcl.training.ranks import Ranks
from patchcl.training.rescue import DivergedError, FiniteWatch

QUIET = Console(quiet=True)
VOLUMES = ("plan.dimensions=3", "plan.size=[32, 32, 8]")
ASKED_FOR = (
    "network.features=[4, 4, 8, 8]",
    "network.encoder_dropout=[0.1, 0.1, 0.2, 0.5]",
    "network.residual_encoder=true",
    "network.deep_supervision=true",
    "training.foreground_fraction=0.5",
    "plan.fit=crop",
    "plan.spacing_mm=[2.0, 2.0]",
)
"""What networks and sampling have beside their defaults."""


def run(data, root, tiny, *more):
    return start(data, root, load_settings(None, [*tiny, *more]), QUIET)


def weights(root):
    return torch.load(RunFolder(root).last)["method"]


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_leaves_everything_one_would_look_for(trained):
    run = RunFolder.open(trained)
    for path in (run.plan, run.split, run.log_jsonl, run.log_csv, run.tensorboard, run.last, run.best):
        assert path.exists(), path
    assert len(json.loads(run.fingerprint.read_text())["scans"]) == 4 + 5  # test scans are left alone
    assert [path.name for path in sorted(run.pictures.iterdir())] == [
        "pseudo_masks_step_000003.png",
        "pseudo_masks_step_000006.png",
    ]
    facts = json.loads(run.provenance.read_text())
    assert facts["steps_per_second"] > 0
    assert {"commit", "torch", "hardware", "command"} <= facts.keys()
    validations = [row for row in read_rows(run) if "validation_dice" in row]
    assert [row["step"] for row in validations] == [3, 6]
    assert {"step", "validation_dice", *(f"validation_dice_{s}" for s in ("RV", "MYO", "LV"))} <= set(validations[0])


def test_the_settings_beside_a_run_are_those_it_was_made_with(cardiac, trained, tiny):
    settings = read_settings(RunFolder(trained).settings)
    assert settings.data == cardiac.resolve()
    settled = ["training.precision=32-true", "training.compile=false", "augment.flip=true", "augment.rotate_90=true"]
    asked = load_settings(None, [*tiny, *settled])  # on a CPU, of structures without sides
    assert settings.model_copy(update={"data": None, "cache": None}) == asked


def test_a_run_compares_the_patches_of_its_plan_and_tells_so(cardiac, tmp_path, tiny):
    """A side of a half is 16 of 32 pixels here, one of a quarter 8."""
    for name, fraction in (("plan.patch_fraction", 0.5), ("method.contrast.patch_fraction", 0.25)):
        outcome = run(cardiac, tmp_path / name, tiny, f"{name}={fraction}")
        settings, plan = read_settings(outcome.run.settings), load_plan(outcome.run.plan)
        assert settings.method.contrast.patch_fraction == plan.patch_fraction == fraction
        assert plan.reasons["patch_fraction"] == "set by the user."
    assert not same(*(weights(tmp_path / name) for name in ("plan.patch_fraction", "method.contrast.patch_fraction")))


def test_small_structures_make_small_patches(cardiac, tmp_path, tiny):
    data = shutil.copytree(cardiac, tmp_path / "data")
    for path in (data / "labelsTr").iterdir():
        image = nibabel.load(path)
        mask = np.zeros(image.shape, dtype=np.uint8)
        mask[10:40, 10:40], mask[5:9, 5:9], mask[41:48, 5:9] = 1, 2, 3
        nibabel.save(nibabel.Nifti1Image(mask, image.affine), path)
    outcome = run(data, tmp_path / "run", tiny)
    contrast = read_settings(outcome.run.settings).method.contrast
    assert contrast.patch_fraction == 0.1875  # twice 4 of about 48 pixels, up to the next sixteenth
    smallest = json.loads(outcome.run.fingerprint.read_text())["classes"][2]
    assert smallest["side_fraction"] == pytest.approx([4 / 48] * 2, rel=0.1)


@pytest.mark.parametrize("method", method_names())
def test_the_same_command_twice_gives_the_same_weights(method, cardiac, tmp_path, tiny):
    for name in ("one", "other"):
        run(cardiac, tmp_path / name, tiny, f"method.name={method}")
    assert same(weights(tmp_path / "one"), weights(tmp_path / "other"))
    run(cardiac, tmp_path / "third", tiny, f"method.name={method}", "training.seed=1")
    assert not same(weights(tmp_path / "one"), weights(tmp_path / "third"))


@pytest.mark.parametrize(
    ("method", "plan"), [*((method, ()) for method in method_names()), ("patchcl", VOLUMES), ("patchcl", ASKED_FOR)]
)
def test_hidden_and_test_masks_are_never_opened(method, plan, cardiac, tmp_path, tiny):
    """Every mask that training has no right to is replaced by bytes that no reader survives."""
    poisoned = shutil.copytree(cardiac, tmp_path / "poisoned")
    limited = ("split.labeled=1", f"method.name={method}", *plan)
    run(cardiac, tmp_path / "clean", tiny, *limited, f"cache={tmp_path / 'cache_clean'}")
    split = load_split(RunFolder(tmp_path / "clean").split)
    hidden = [
        path
        for folder in ("labelsTr", "labelsTs")
        for path in (poisoned / folder).iterdir()
        if path.name.split("_")[0] not in (*split.labeled, *split.validation)
    ]
    assert len(hidden) == 2 + 3
    for path in hidden:
        path.write_bytes(b"\x00 no mask at all")
    for path in (poisoned / "imagesTs").iterdir():
        path.write_bytes(b"\x00 no scan at all")

    with pytest.raises(UserError):  # the poison works on whoever may open the masks
        run(poisoned, tmp_path / "greedy", tiny, f"cache={tmp_path / 'cache_greedy'}")
    run(poisoned, tmp_path / "blind", tiny, *limited, f"cache={tmp_path / 'cache_blind'}")
    assert same(weights(tmp_path / "clean"), weights(tmp_path / "blind"))


def test_whatever_training_has_no_right_to_is_not_even_opened(cardiac, tmp_path, tiny):
    """Files that can be listed but not opened, in every folder: hidden masks, and all of the test patients.

    The split names two test patients whose scans and masks lie among those for training.
    """
    data = shutil.copytree(cardiac, tmp_path / "data")
    masked = sorted({path.name.split("_")[0] for path in (data / "labelsTr").iterdir()})
    held_out = sorted({path.name.split("_")[0] for path in (data / "imagesTs").iterdir()})
    unlabeled = sorted({path.name.split("_")[0] for path in (data / "imagesUn").iterdir()})
    sides = {"train": [*masked[:2], *unlabeled[:-1]], "validation": [masked[2]]}
    (tmp_path / "split.json").write_text(json.dumps(sides | {"test": [masked[3], unlabeled[-1], *held_out]}))
    settings = (*tiny, f"split.file={tmp_path / 'split.json'}", "split.labeled=1")
    run(data, tmp_path / "clean", settings, f"cache={tmp_path / 'cache_clean'}")

    tested = [path for path in data.glob("*/*") if path.name.split("_")[0] in (masked[3], unlabeled[-1], *held_out)]
    hidden = list((data / "labelsTr").glob(f"{masked[1]}_*"))
    assert (len(tested), len(hidden)) == (2 + 1 + 2 * len(held_out), 1)
    for path in (*tested, *hidden):
        path.unlink()
        path.symlink_to(tmp_path / "nowhere")
    run(data, tmp_path / "blind", settings, f"cache={tmp_path / 'cache_blind'}")
    assert same(weights(tmp_path / "clean"), weights(tmp_path / "blind"))
    with pytest.raises(UserError, match="where no file is"):  # the one mask alone would be seen
        run(data, tmp_path / "greedy", tiny, *settings[len(tiny) : -1], f"cache={tmp_path / 'cache_greedy'}")


@pytest.mark.parametrize("asked_for", [(), ASKED_FOR], ids=["", "networks and sampling"])
def test_a_signal_leaves_a_run_that_resumes_to_the_same_weights(asked_for, cardiac, tmp_path, tiny):
    more = ("training.steps=40", "training.validate_every=40", *asked_for)
    run(cardiac, tmp_path / "straight", tiny, *more)

    def interrupt():
        log = RunFolder(tmp_path / "stopped").log_jsonl
        while not (log.exists() and log.stat().st_size):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=interrupt).start()
    outcome = run(cardiac, tmp_path / "stopped", tiny, *more)
    assert outcome.stop
    assert outcome.stop.exit_code == 128 + signal.SIGTERM
    assert 2 <= outcome.steps_done < 40
    outcome = resume(tmp_path / "stopped", QUIET)
    assert (bool(outcome.stop), outcome.steps_done) == (False, 40)
    assert same(weights(tmp_path / "straight"), weights(tmp_path / "stopped"))


@pytest.mark.parametrize(
    "plan",
    [
        ("plan.fit=crop", "plan.spacing_mm=[2.0, 2.0]"),
        VOLUMES,
        ("plan.dimensions=3", "plan.size=[16, 16, 8]", "plan.fit=crop", "plan.spacing_mm=[2.0, 2.0, 8.0]"),
    ],
    ids=["crops", "volumes", "crops of volumes"],
)
def test_crops_and_volumes_train_too(plan, cardiac, tmp_path, tiny):
    outcome = run(cardiac, tmp_path / "run", tiny, *plan)
    assert outcome.steps_done == 6
    assert all(0 <= row["validation_dice"] <= 1 for row in read_rows(outcome.run) if "validation_dice" in row)


def test_the_batch_of_large_volumes_is_that_of_the_plan(cardiac, tmp_path, tiny):
    small = ("plan.dimensions=3", "plan.memory_gib=0.3", "method=supervised", "training.steps=1")
    kept = [setting for setting in tiny if not setting.startswith(("plan.", "training.labeled", "training.unlabeled"))]
    run(cardiac, tmp_path / "run", kept, *small)
    plan, settings = load_plan(tmp_path / "run" / "plan.yaml"), read_settings(tmp_path / "run" / "settings.yaml")
    assert settings.training.labeled_per_batch == plan.labeled_per_batch < 12


def test_the_split_in_the_data_set_is_used_and_said_by_every_verb(cardiac, tmp_path, tiny):
    data = shutil.copytree(cardiac, tmp_path / "data")
    (first, second, third, *_) = sorted({path.name.partition("_")[0] for path in (data / "labelsTr").iterdir()})
    (data / "split.json").write_text(json.dumps({"train": [first], "validation": [third], "test": [second]}))
    console, said = Console(record=True, width=400, file=io.StringIO()), "in the data set; --set split.file=null"
    settings = load_settings(None, [*tiny, "training.steps=1", "method.name=supervised"])
    done = start(data, tmp_path / "run", settings, console)
    assert load_split(done.run.split).model_dump() == {
        "labeled": (first,),
        "unlabeled": (),
        "validation": (third,),
        "test": (second,),
    }
    assert read_settings(done.run.settings).split.file == data / "split.json"
    render(check_data(data, settings.split, settings.plan), console)
    spec = build_spec(data, ["supervised"], [None], [0, 1], overrides=tiny)
    assert set(spec.splits.values()) == {load_split(done.run.split).hash}
    assert console.export_text().count(said) == 2  # train and check
    drawn = build_spec(data, ["supervised"], [None], [0, 1], overrides=[*tiny, "split.file=null"])
    assert len(set(drawn.splits.values())) == 2


def test_two_runs_are_never_mixed(cardiac, trained, tiny):
    before = RunFolder(trained).settings.read_bytes()
    with pytest.raises(UserError, match="not empty"):
        run(cardiac, trained, tiny)
    assert RunFolder(trained).settings.read_bytes() == before


def test_a_mistake_leaves_no_run_behind(cardiac, tmp_path, tiny):
    with pytest.raises(UserError, match=r"split\.labeled"):
        run(cardiac, tmp_path / "run", tiny, "split.labeled=50")
    assert not (tmp_path / "run").exists()


def masks_without(data, *labels):
    for path in (data / "labelsTr").iterdir():
        image = nibabel.load(path)
        mask = np.asarray(image.dataobj).astype(np.uint8)
        nibabel.save(nibabel.Nifti1Image(np.where(np.isin(mask, labels), 0, mask).astype(np.uint8), image.affine), path)


def test_masks_without_a_single_structure_are_refused_before_the_first_step(cardiac, tmp_path, tiny):
    data = shutil.copytree(cardiac, tmp_path / "data")
    masks_without(data, 1, 2, 3)
    with pytest.raises(UserError, match="No labeled mask holds any structure"):
        run(data, tmp_path / "run", tiny)
    assert not (tmp_path / "run").exists()
    settings = load_settings(None, tiny)
    assert NOTHING_TO_LEARN in check_data(data, settings.split, settings.plan).problems


def test_a_structure_that_no_labeled_mask_holds_is_warned_of_as_by_check(cardiac, tmp_path, tiny):
    data = shutil.copytree(cardiac, tmp_path / "data")
    masks_without(data, 2)
    (data / "imagesUn" / "notes.txt").write_text("who was scanned")
    settings = load_settings(None, [*tiny, "training.steps=1"])
    console = Console(file=io.StringIO(), width=200)
    start(data, tmp_path / "run", settings, console)
    assert "Warning: imagesUn/notes.txt is not used" in console.file.getvalue()
    line = "No labeled mask holds MYO, so that cannot be learned."
    assert f"Warning: {line}" in console.file.getvalue()
    assert line in check_data(data, settings.split, settings.plan).warnings


def test_diverged_training_leaves_the_reason_in_the_provenance(cardiac, tmp_path, tiny):
    with pytest.raises(DivergedError):
        run(cardiac, tmp_path / "run", tiny, "training.weight_decay=1e30", "method.name=supervised")
    assert "Training diverged" in json.loads(RunFolder(tmp_path / "run").provenance.read_text())["diverged"]


def test_a_rescued_run_is_marked_in_provenance_evaluation_and_report(cardiac, tmp_path, tiny, monkeypatch):
    """The third step diverges once, whatever the weights."""
    original, left = FiniteWatch.diverged_at, [1]

    def diverged_at(watch, done):
        return left.pop() * done if done == 3 and left else original(watch, done)

    monkeypatch.setattr(FiniteWatch, "diverged_at", diverged_at)
    outcome = run(cardiac, tmp_path / "run", tiny, "method.name=supervised")
    assert outcome.steps_done == 6
    assert json.loads(outcome.run.provenance.read_text())["rescues"] == 1
    evaluation = evaluate_run(outcome.run)
    assert evaluation.provenance["trained_rescues"] == 1
    assert "was rescued" in score_table(evaluation).caption
    write_report([outcome.run], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "1 (training diverged)" in page
    assert "rescued with clipped gradients" in page


def test_half_precision_learns_the_same_within_tolerance(cardiac, trained, tmp_path, tiny):
    losses = [row["supervised"] for row in read_rows(RunFolder(trained)) if "loss" in row]
    outcome = run(cardiac, tmp_path / "half", tiny, "training.precision=bf16-mixed")
    assert [row["supervised"] for row in read_rows(outcome.run) if "loss" in row] == pytest.approx(losses, rel=0.03)


def test_a_lack_of_memory_is_told_with_what_to_do(cardiac, tmp_path, tiny, monkeypatch):
    def lacking(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr("patchcl.training.experiment.train", lacking)  # no machine can be relied on to be too small
    with pytest.raises(UserError, match=r"memory of cpu is full.*labeled_per_batch"):
        run(cardiac, tmp_path / "run", tiny)
    assert not (tmp_path / "run").exists()


def test_synchronised_batch_norm_has_the_same_weights_and_only_several_processes_have_it(trained, tiny):
    plan = load_plan(RunFolder(trained).plan)
    settings = load_settings(None, [*tiny, "training.sync_batch_norm=true"])
    alone, together = (_build(settings, plan, Ranks(0, count)) for count in (1, 2))
    found = [any(isinstance(m, torch.nn.SyncBatchNorm) for m in method.modules()) for method in (alone, together)]
    assert found == [False, True]
    assert same(alone.state_dict(), together.state_dict())
