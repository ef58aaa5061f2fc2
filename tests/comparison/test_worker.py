"""One run: trained and scored once, whatever was there before, and measured."""

import json
import os
import resource
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from patchcl.comparison.spec import job_of
from patchcl.comparison.worker import (
    Job,
    complete,
    finished,
    peak_mib,
    scores_file,
    scores_of,
    sessions_of,
    validated,
    work,
)
from patchcl.config import load_settings, read_settings
from patchcl.core.errors import UserError
from patchcl.data.splits import load_split
from patchcl.evaluation.evaluate import evaluate_run
from patchcl.runs.checkpoint import CheckpointWriter
from patchcl.runs.folder import RunFolder
from patchcl.training.experiment import start

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def done(cardiac, tmp_path_factory) -> Job:
    """A run that was worked on."""
    tiny = ("plan.size=[32, 32]", "plan.fit=resize", "network.features=[8, 16]", "training.device=cpu")
    few = ("training.steps=4", "training.validate_every=2", "training.labeled_per_batch=2", "method.name=supervised")
    settings = load_settings(None, [*tiny, *few, "training.log_every=1"])
    root = tmp_path_factory.mktemp("done") / "runs" / "seed_0"
    settings = settings.model_copy(update={"data": cardiac, "cache": root.parent / "prepared"})
    job = Job(root=root, settings=settings, on="test", voxels=True, at_once=1)
    work(job, QUIET)
    return job


def test_it_is_trained_and_scored_with_both_checkpoints(done):
    assert finished(done.root, "test", 4, done.options)
    assert not finished(done.root, "validation", 4, done.options)  # with its best checkpoint, too
    for checkpoint in ("last", "best"):
        scores = scores_of(done.root, "test", checkpoint, done.options)
        assert scores.unit == "voxels"
        assert scores.provenance["checkpoint"] == checkpoint
        assert len(scores.patients) == 3


def test_validation_patients_score_the_last_checkpoint_to_choose_between_methods(done, tmp_path):
    split = load_split(RunFolder(done.root).split)
    assert set(scores_of(done.root, "validation", "last", done.options).patients) == set(split.validation)
    assert complete(done)
    job = done.model_copy(update={"root": shutil.copytree(done.root, tmp_path / "seed_0")})
    RunFolder(job.root).evaluation.joinpath("validation_last_voxels.json").unlink()
    kept = scores_file(job.root, "test", "last", job.options).stat().st_mtime_ns
    assert not complete(job)
    work(job, QUIET)
    assert complete(job)
    assert scores_file(job.root, "test", "last", job.options).stat().st_mtime_ns == kept
    RunFolder(job.root).evaluation.joinpath("validation_last_voxels.json").unlink()
    RunFolder(job.root).postprocessing.unlink()  # as where nobody validates
    assert validated(job.root, 4, job.options)


def test_a_run_goes_on_where_its_data_were_moved_to(done, cardiac, tmp_path):
    before = shutil.copytree(cardiac, tmp_path / "before")
    job = done.model_copy(
        update={"root": tmp_path / "run", "settings": done.settings.model_copy(update={"data": before})}
    )
    work(job, QUIET)
    shutil.rmtree(RunFolder(job.root).evaluation)
    after = before.rename(tmp_path / "after")
    moved = job.model_copy(update={"settings": job.settings.model_copy(update={"data": after})})
    work(moved, QUIET)
    assert complete(moved)
    assert read_settings(RunFolder(job.root).settings).data == after


def test_what_it_cost_is_kept(done):
    (session,) = sessions_of(done.root)
    notes = json.loads(RunFolder(done.root).provenance.read_text())
    assert (session.steps, session.at_once, session.threads) == (4, 1, torch.get_num_threads())
    assert session.hardware == notes["hardware"]
    assert session.seconds == notes["seconds"] > 0
    assert 50 < session.peak_mib < 100_000


def test_what_is_done_is_not_done_again(done):
    before = {path: path.stat().st_mtime_ns for path in done.root.rglob("*") if path.is_file()}
    work(done, QUIET)
    assert before == {path: path.stat().st_mtime_ns for path in done.root.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("side", "checkpoint"), [("test", "last"), ("test", "best"), ("validation", "last")])
@pytest.mark.parametrize("text", ["", "[" * 20_000])
def test_damaged_scores_are_none_and_to_be_made_anew(done, tmp_path, side, checkpoint, text):
    job = done.model_copy(update={"root": shutil.copytree(done.root, tmp_path / "seed_0")})
    assert complete(job)
    scores_file(job.root, side, checkpoint, job.options).write_text(text)
    assert not complete(job)
    assert finished(job.root, "test", 4, job.options) == (side == "validation")


@pytest.mark.parametrize("asked", [{"voxels": False}, {"voxels": True, "fast": True}, {"postprocessing": False}])
def test_scores_that_somebody_makes_with_other_options_lie_beside_those_of_the_comparison(done, tmp_path, asked):
    job = done.model_copy(update={"root": shutil.copytree(done.root, tmp_path / "seed_0")})
    before = {path: path.read_bytes() for path in RunFolder(job.root).evaluation.iterdir()}
    other = evaluate_run(RunFolder(job.root), "test", **{"voxels": True} | asked)
    assert complete(job)
    assert {path: path.read_bytes() for path in before} == before
    assert scores_of(job.root, "test", "last", other.provenance["options"]) == other
    assert scores_of(job.root, "test", "last", job.options).provenance["options"] == "--voxels"


def test_scores_of_before_have_all_options_under_one_name(done, tmp_path):
    job = done.model_copy(update={"root": shutil.copytree(done.root, tmp_path / "seed_0")})
    for path in RunFolder(job.root).evaluation.glob("*_voxels.json"):
        path.rename(path.with_name(path.name.replace("_voxels", "")))
    assert complete(job)
    assert scores_file(job.root, "test", "last", job.options).name == "test_last.json"
    assert not complete(job.model_copy(update={"fast": True}))


def test_scores_of_before_do_not_say_how_they_were_made_and_are_kept(done, tmp_path):
    job = done.model_copy(update={"root": shutil.copytree(done.root, tmp_path / "seed_0")})
    for path in RunFolder(job.root).evaluation.glob("*.json"):
        content = json.loads(path.read_text())
        del content["provenance"]["options"]
        path.unlink()
        path.with_name(path.name.replace("_voxels", "")).write_text(json.dumps(content))
    assert complete(job)
    assert complete(job.model_copy(update={"fast": True}))


def test_another_side_is_scored_without_training(done, tmp_path):
    job = done.model_copy(update={"root": shutil.copytree(done.root, tmp_path / "seed_0"), "on": "validation"})
    before = RunFolder(job.root).last.stat().st_mtime_ns
    work(job, QUIET)
    assert finished(job.root, "validation", 4, job.options)
    assert RunFolder(job.root).last.stat().st_mtime_ns == before
    assert len(sessions_of(job.root)) == 1


def test_a_start_that_was_cut_short_is_made_anew(done, tmp_path):
    job = done.model_copy(update={"root": shutil.copytree(done.root, tmp_path / "seed_0")})
    RunFolder(job.root).provenance.unlink()
    shutil.rmtree(job.root / "evaluation")
    work(job, QUIET)
    assert finished(job.root, "test", 4, job.options)
    assert [session.steps for session in sessions_of(job.root)] == [4]


def test_a_stopped_run_goes_on_and_half_a_run_is_not_finished(done, tmp_path, monkeypatch):
    """Asked to while it saves step 2, it stops after step 3 of 4; scores of that do not pass for those of its end."""
    job = done.model_copy(update={"root": tmp_path / "seed_0"})
    save = CheckpointWriter.save

    def save_and_ask_to_stop(*saved):
        save(*saved)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(CheckpointWriter, "save", save_and_ask_to_stop)
    with pytest.raises(SystemExit) as stop:
        work(job, QUIET)
    assert stop.value.code == 128 + signal.SIGTERM
    monkeypatch.undo()
    assert [session.steps for session in sessions_of(job.root)] == [3]
    for checkpoint in ("best", "last"):
        evaluate_run(RunFolder(job.root), "test", checkpoint)
    assert not finished(job.root, "test", 4, job.options)

    work(job, QUIET)
    assert finished(job.root, "test", 4, job.options)
    assert [session.steps for session in sessions_of(job.root)] == [3, 1]
    straight, stopped = (torch.load(RunFolder(root).last)["method"] for root in (done.root, job.root))
    assert all(torch.equal(straight[name], stopped[name]) for name in straight)


def test_a_trained_run_without_a_choice_makes_it_before_it_is_scored(done, tmp_path):
    job = done.model_copy(update={"root": shutil.copytree(done.root, tmp_path / "seed_0")})
    run = RunFolder(job.root)
    chosen, weights = run.postprocessing.read_text(), run.last.read_bytes()
    run.postprocessing.unlink()
    shutil.rmtree(run.evaluation)
    work(job, QUIET)
    assert run.postprocessing.read_text() == chosen
    assert run.last.read_bytes() == weights
    assert finished(job.root, "test", 4, job.options)


@pytest.mark.parametrize(("fast", "symmetries"), [(True, 1), (False, 8)])
def test_one_pass_is_scored_where_one_asks_for_it(done, tmp_path, fast, symmetries):
    root = shutil.copytree(done.root, tmp_path / "seed_0")
    shutil.rmtree(RunFolder(root).evaluation)
    job = done.model_copy(update={"root": root, "fast": fast, "postprocessing": False})
    work(job, QUIET)
    for checkpoint in ("last", "best"):
        facts = scores_of(root, "test", checkpoint, job.options).provenance
        assert (facts["symmetries"], facts["postprocessing"]) == (symmetries, "none")


def test_a_run_without_data_is_explained(done, tmp_path):
    settings = done.settings.model_copy(update={"data": None})
    with pytest.raises(UserError, match="where the data are"):
        work(done.model_copy(update={"root": tmp_path / "seed_0", "settings": settings}), QUIET)


def test_a_job_survives_the_pipe(done, make_spec, tmp_path):
    spec = make_spec(("mean_teacher+contrast",))
    for job in (done, job_of(spec, spec.runs[0], tmp_path, 2)):
        assert Job.model_validate_json(job.model_dump_json()) == job


def test_the_peak_is_that_of_the_resident_set():
    before = peak_mib(torch.device("cpu"))
    assert before == pytest.approx(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10, rel=0.02)
    held = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
    block = np.ones(int(before - held + 100) * 2**17)
    assert peak_mib(torch.device("cpu")) > before + 50
    del block
    assert peak_mib(torch.device("cpu")) > before + 50


def test_start_is_the_one_of_any_run(done, cardiac, tmp_path):
    """A run is an ordinary run: the same settings without the grid give the same weights."""
    start(cardiac, tmp_path / "run", done.settings, QUIET)
    one, other = (torch.load(RunFolder(root).last)["method"] for root in (done.root, tmp_path / "run"))
    assert all(torch.equal(one[name], other[name]) for name in one)
