"""The scripts of examples/slurm, run on the SLURM that SLURM_CONF names; skipped where none answers."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch

from patchcl.runs.folder import RunFolder

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = EXAMPLES / "slurm"
PATIENCE = 400  # seconds
STEPS = 120
SEEDS = ("labeled_2/supervised/seed_0", "labeled_2/supervised/seed_1")


def slurm(*call: str) -> str:
    return subprocess.run(call, capture_output=True, text=True, check=True, timeout=30).stdout.strip()


def answers() -> bool:
    return bool(os.environ.get("SLURM_CONF") and shutil.which("sinfo")) and "idle" in slurm("sinfo", "--noheader")


def wait_for(what: str, happened) -> None:
    limit = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < limit, f"no {what} after {PATIENCE} seconds"
        time.sleep(0.5)


pytestmark = [pytest.mark.slurm, pytest.mark.skipif(not answers(), reason="no SLURM answers here")]


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder that both nodes see, to work in, with the programs `patchcl` and `dask` on the path."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, module in (("patchcl", "patchcl"), ("dask", "dask")):
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n')
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")  # where the names of the nodes do not resolve
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def keys(site, monkeypatch):
    """Dask's keys."""
    subprocess.run(["bash", EXAMPLES / "dask_keys.sh", site / "keys"], check=True)
    monkeypatch.setenv("DASK_CONFIG", str(site / "keys"))


@pytest.fixture
def options(tiny):
    """Those of a run that takes some seconds."""
    long = [*tiny, f"training.steps={STEPS}", "training.validate_every=60"]
    return [part for setting in long for part in ("--set", setting)]


@contextmanager
def submitted(script: str, placed: list[str], *arguments: str):
    """A job of one core a task; its number."""
    here = ["--gres=none", "--cpus-per-task=1", "--mem=3G", "--time=10", "--output=job.out", *placed]
    job = slurm("sbatch", "--parsable", *here, str(SCRIPTS / script), *arguments)
    try:
        yield job
    except BaseException:
        print(Path("job.out").read_text())
        slurm("scancel", job)
        raise


def shown(job: str) -> str:
    """What SLURM says of a job; nothing while it is too busy to answer."""
    call = ("scontrol", "show", "job", job)
    return subprocess.run(call, capture_output=True, text=True, check=False, timeout=30).stdout


def preempt(job: str) -> None:
    """SIGTERM, as in a preemption, and a second turn in the queue."""
    slurm("scancel", "--signal=TERM", job)
    wait_for("second turn in the queue", lambda: "PENDING" in shown(job))


def begin_again(job: str) -> None:
    slurm("scontrol", "update", f"JobId={job}", "StartTime=now")
    wait_for("end of the job", lambda: "COMPLETED" in shown(job))


def steps_logged(root: Path) -> int:
    """Rows in the log of a run, with the line of names."""
    log = RunFolder(root).log_csv
    return len(log.read_text().splitlines()) if log.exists() else 0


def same_weights(first: Path, second: Path) -> bool:
    one, other = (torch.load(RunFolder(root).last)["method"] for root in (first, second))
    return all(torch.equal(value, other[name]) for name, value in one.items())


def kill_a_worker(job: str) -> None:
    """SIGKILL to a Dask worker in a job; the process that started it lives to see that."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            of_job = f"SLURM_JOB_ID={job}\0".encode() in (process / "environ").read_bytes()
            if of_job and b"--no-dashboard" in (process / "cmdline").read_bytes():
                os.kill(worker_of(process), signal.SIGKILL)
                return
    pytest.fail(f"no worker in job {job}")


def worker_of(nanny: Path) -> int:
    """The child that works, beside one that multiprocessing has for itself."""
    children = [child for file in nanny.glob("task/*/children") for child in file.read_text().split()]
    (worker,) = (child for child in children if "tracker" not in Path(f"/proc/{child}/cmdline").read_text())
    return int(worker)


@pytest.mark.parametrize(
    ("script", "placed", "alone"),
    [("train.sh", [], []), ("train_nodes.sh", ["--nodes=2", "--ntasks-per-node=1"], ["--devices", "2"])],
    ids=["one process", "two nodes"],
)
def test_a_job_that_is_preempted_queues_again_and_ends_with_the_same_weights(
    script, placed, alone, cardiac, options, site
):
    with submitted(script, placed, str(cardiac), "job", *options) as job:
        wait_for("row in the log", lambda: steps_logged(site / "job") > 2)
        preempt(job)
        stopped = torch.load(RunFolder(site / "job").last)["step"]
        begin_again(job)
    assert 0 < stopped < STEPS
    subprocess.run(["patchcl", "train", cardiac, "-o", "alone", *alone, *options], check=True, capture_output=True)
    assert same_weights(site / "job", site / "alone")


@pytest.mark.parametrize(
    ("jobs", "verb", "runs"),
    [
        (
            1,
            ["compare", "--methods", "supervised", "--seeds", "0,1", "--labeled", "2"],
            [f"runs/{seed}" for seed in SEEDS],
        ),
        (2, ["train", "--method", "supervised", "--folds", "2"], ["fold_0", "fold_1"]),
    ],
    ids=["compare", "folds"],
)
def test_runs_on_workers_that_are_jobs_lose_nothing_when_one_is_killed_and_one_cancelled(
    jobs, verb, runs, cardiac, options, site, keys
):
    size = ["--jobs", str(jobs), "--cores", "1", "--memory", "3GB", "--time", "00:10:00", "--sbatch=--gres=none"]
    command = [verb[0], str(cardiac), *verb[1:], *options]

    def jobs_there() -> list[str]:
        return slurm("squeue", "--noheader", "--format=%i", "--name=dask-worker", "--states=running").split()

    with (
        Path("said").open("w") as said,
        subprocess.Popen(
            [sys.executable, SCRIPTS / "dask_jobs.py", *size, *command, "-o", "jobs"], stdout=said, stderr=said
        ) as process,
    ):
        try:
            wait_for("row in the log", lambda: steps_logged(site / "jobs" / runs[0]) > 2)
            first = jobs_there()
            kill_a_worker(first[0])
            wait_for("row in the log", lambda: steps_logged(site / "jobs" / runs[0]) > 10)
            slurm("scancel", first[0])
            wait_for("other job", lambda: process.poll() is not None or set(jobs_there()) - set(first))
            assert process.wait(PATIENCE) == 0
        except BaseException:
            print(Path("said").read_text(), *(path.read_text() for path in Path("dask-jobs").iterdir()))
            process.terminate()
            raise
    assert not jobs_there()
    subprocess.run(["patchcl", *command, "-o", "here"], check=True, capture_output=True)
    assert all(same_weights(site / "jobs" / run, site / "here" / run) for run in runs)


def test_a_folder_of_scans_goes_on_after_a_killed_worker_and_a_preempted_job(cardiac, trained, site, keys):
    """Two nodes; what was done before the job was preempted is not done again."""
    scan, count, masks = next((cardiac / "imagesTs").iterdir()), 300, site / "masks"
    (site / "scans").mkdir()
    for number in range(count):
        shutil.copy(scan, site / "scans" / f"p{number:03d}_0000.nii.gz")

    def done() -> dict[str, int]:
        names = [record.stem for record in (masks / ".segmented").glob("p*.json")]
        return {name: (masks / f"{name}.nii.gz").stat().st_mtime_ns for name in names}

    two = ["--nodes=2", "--ntasks-per-node=1"]
    with submitted("predict_nodes.sh", two, str(trained), "scans", "-o", "masks") as job:
        wait_for("mask", done)
        kill_a_worker(job)
        there = len(done())
        wait_for("further mask", lambda: len(done()) > there)
        preempt(job)
        before = done()
        begin_again(job)
    assert 0 < len(before) < count
    after = done()
    assert len(after) == count
    assert {name: after[name] for name in before} == before
    assert len((masks / "predictions.csv").read_text().splitlines()) >= count + 1
    assert not list(site.glob("dask-*.json"))
