"""The scripts of examples/slurm, run on the SLURM that SLURM_CONF names; skipped where none answers."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from patchcl.runs.folder import RunFolder

SCRIPTS = Path(__file__).parents[2] / "examples" / "slurm"
PATIENCE = 400  # seconds


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


@pytest.mark.parametrize(
    ("script", "placed", "alone"),
    [("train.sh", [], []), ("train_nodes.sh", ["--nodes=2", "--ntasks-per-node=1"], ["--devices", "2"])],
    ids=["one process", "two nodes"],
)
def test_a_job_that_is_preempted_queues_again_and_ends_with_the_same_weights(
    script, placed, alone, cardiac, tiny, tmp_path, monkeypatch
):
    program = tmp_path / "bin" / "patchcl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m patchcl "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")  # where the names of the nodes do not resolve
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    long = [*tiny, "training.steps=120", "training.validate_every=60"]
    options = [part for setting in long for part in ("--set", setting)]
    here = [
        "--gres=none",
        "--cpus-per-task=1",
        "--mem=3G",
        "--time=10",
        "--output=job.out",
        f"--chdir={tmp_path}",
        *placed,
    ]
    job = slurm("sbatch", "--parsable", *here, str(SCRIPTS / script), str(cardiac), "job", *options)
    log = RunFolder(tmp_path / "job").log_csv
    try:
        wait_for("row in the log", lambda: log.exists() and len(log.read_text().splitlines()) > 2)
        slurm("scancel", "--signal=TERM", job)
        wait_for("second turn in the queue", lambda: "PENDING" in slurm("scontrol", "show", "job", job))
        stopped = torch.load(RunFolder(tmp_path / "job").last)["step"]
        slurm("scontrol", "update", f"JobId={job}", "StartTime=now")
        wait_for("end of the job", lambda: "COMPLETED" in slurm("scontrol", "show", "job", job))
    except BaseException:
        print((tmp_path / "job.out").read_text())
        slurm("scancel", job)
        raise
    assert 0 < stopped < 120
    subprocess.run([program, "train", cardiac, "-o", "alone", *alone, *options], check=True, capture_output=True)
    job_weights, alone_weights = (torch.load(RunFolder(tmp_path / name).last)["method"] for name in ("job", "alone"))
    assert all(torch.equal(value, alone_weights[name]) for name, value in job_weights.items())
