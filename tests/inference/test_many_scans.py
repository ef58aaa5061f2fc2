"""Many scans: the files of one process, nothing done twice, and what is lost with a worker done by another."""

import csv
import os
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from patchcl.core import unit_process
from patchcl.core.errors import UserError
from patchcl.core.files import UNFINISHED
from patchcl.data.preprocessing.plan import Plan
from patchcl.inference import many_scans
from patchcl.inference.case_summary import TABLE
from patchcl.inference.many_scans import Many, StoppedError, predict_many
from patchcl.inference.predict import Files, predict_files
from patchcl.inference.record import FOLDER
from patchcl.inference.scan_folder import PredictionSummary
from patchcl.inference.trained_run import open_run
from patchcl.runs.folder import RunFolder

ALL = Files(probabilities=True, uncertainty=True)
PLAN = Plan(
    dimensions=2, fit="resize", size=(16, 16), normalise="min_max", channels=("MRI",), classes=("background", "A")
)


@pytest.fixture
def here(in_process, monkeypatch):
    monkeypatch.setattr(many_scans.errors, "quiet", True)
    many_scans._opened.cache_clear()
    return in_process(many_scans)


@pytest.fixture
def run(untrained_run, tmp_path) -> RunFolder:
    return untrained_run(tmp_path / "run", PLAN)


@pytest.fixture
def scans(tmp_path) -> Path:
    folder = tmp_path / "scans"
    folder.mkdir()
    for number in range(9):
        write(folder / f"p{number}_0000.nii.gz", number)
    (folder / "broken_0000.nii.gz").write_bytes(b"poison")
    (folder / "notes.txt").touch()
    return folder


def write(path: Path, seed: int) -> None:
    voxels = np.random.default_rng(seed).normal(100, 20, (12, 10, 2)).astype(np.float32)
    nib.save(nib.Nifti1Image(voxels, np.diag([1.0, 1, 8, 1])), path)


def segment(run: RunFolder, scans: Path, out: Path, files: Files = ALL, **chosen) -> PredictionSummary:
    return predict_many(run.root, chosen, scans, out, files, None, Many(2, None))


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}


def times(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in out.glob("*.nii.gz")}


def test_files_table_and_what_is_told_are_those_of_one_process(here, run, scans, tmp_path):
    summary = segment(run, scans, tmp_path / "many")
    trained = open_run(run)
    options = {**ALL._asdict(), "inference": trained.inference}
    alone = predict_files(trained.network, trained.plan, scans, tmp_path / "alone", **options)
    assert summary == alone
    assert contents(tmp_path / "many") == contents(tmp_path / "alone")
    assert here.units > 3
    assert len(list(csv.DictReader((tmp_path / "many" / TABLE).read_text().splitlines()))) == 9


def test_nothing_is_done_twice_and_what_changed_is_done_again(here, run, scans, tmp_path):
    out = tmp_path / "out"
    first, before = segment(run, scans, out), times(out)
    assert segment(run, scans, out) == first
    assert times(out) == before
    write(scans / "p3_0000.nii.gz", 77)
    (out / "p4.nii.gz").unlink()
    (out / "p5_uncertainty.nii.gz").write_bytes(b"damaged")
    (out / FOLDER / "p6.json").write_text("{")
    (left := out / f"{UNFINISHED}1-1-p7.nii.gz").touch()
    os.utime(left, (0, 0))
    segment(run, scans, out)
    assert not left.exists()
    changed = {name.split("_")[0].split(".")[0] for name, time in times(out).items() if before[name] != time}
    assert changed == {"p3", "p4", "p5", "p6"}
    before = times(out)
    segment(run, scans, out, weights="student")
    assert all(before[name] != time for name, time in times(out).items())


def test_what_is_done_takes_no_worker_and_what_is_left_is_shared_out(here, run, scans, tmp_path):
    out, told = tmp_path / "out", []
    (scans / "broken_0000.nii.gz").unlink()
    first, units = segment(run, scans, out), here.units
    assert segment(run, scans, out) == first
    assert here.units == units
    for number in (2, 5):
        (out / f"p{number}_uncertainty.nii.gz").unlink()
    watched = Many(2, None, lambda done, total: told.append((done, total)))
    assert predict_many(run.root, {}, scans, out, ALL, None, watched) == first
    assert told == [(7, 9), (8, 9), (9, 9)]
    assert here.units == units + 2


def test_a_worker_opens_the_network_while_what_is_done_is_looked_at(here, run, scans, tmp_path, monkeypatch):
    out, looked = tmp_path / "out", []
    (scans / "broken_0000.nii.gz").unlink()
    first, units = segment(run, scans, out), here.units
    (out / FOLDER / "p3.json").unlink()
    finished = many_scans._finished
    monkeypatch.setattr(many_scans, "_finished", lambda *given: looked.append(here.units - units) or finished(*given))
    assert segment(run, scans, out) == first
    assert (looked, here.units - units) == ([1], 2)


def test_a_stop_keeps_what_is_done_and_the_same_call_goes_on(here, run, scans, tmp_path, monkeypatch):
    out = tmp_path / "out"
    looked = iter([False, False, True])
    monkeypatch.setattr(many_scans, "CHUNK", 4)
    monkeypatch.setattr(many_scans, "UNITS", 1)
    monkeypatch.setattr(many_scans, "stop_asked", lambda: next(looked, True))
    summary = segment(run, scans, out)  # nobody told the command to stop, so what is left is tried by itself
    assert len(summary.done) == 9
    monkeypatch.setattr(many_scans, "stop_on_signals", stopped)
    with pytest.raises(StoppedError, match=r"^Stopped\. 0 scans are done; the same command") as stop:
        segment(run, scans, tmp_path / "other")
    assert stop.value.exit_code == 143


@contextmanager
def stopped():
    request = many_scans.StopRequest()
    request.signal = 15
    yield request


def test_a_scan_that_ends_every_worker_costs_itself_alone(here, run, scans, tmp_path, monkeypatch):
    segment_cases = many_scans.predict_cases

    def deadly(network, plan, cases, *rest, **options):
        if "p2" in cases:
            raise unit_process.LostWorkerError("its process ended with signal SIGKILL")
        return segment_cases(network, plan, cases, *rest, **options)

    monkeypatch.setattr(many_scans, "predict_cases", deadly)
    summary = segment(run, scans, tmp_path / "out")
    assert len(summary.done) == 8
    assert ("p2", "p2 cannot be segmented: its process ended with signal SIGKILL") in summary.failed


def test_a_run_that_changed_meanwhile_is_refused(here, run, scans, tmp_path):
    chunk = many_scans.Chunk(run.root, (), "another", (), tmp_path, ALL)
    with pytest.raises(UserError, match="changed meanwhile, or a worker sees another one"):
        many_scans.segment_chunk(chunk)


def test_processes_share_the_scans(run, scans, tmp_path):
    out = tmp_path / "out"
    done = predict_many(run.root, {"device": "cpu"}, scans, out, Files(), None, Many(2, None)).done
    assert done == tuple(f"p{number}" for number in range(9))
    assert {path.name for path in out.glob("p*")} == {f"p{number}.nii.gz" for number in range(9)} | {TABLE}
    assert not list(out.glob(".unfinished*"))
