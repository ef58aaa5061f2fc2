"""A process alone stays alone, whatever a cluster has left in its environment."""

import os
import subprocess
import sys

import torch

from patchcl.config import load_settings
from patchcl.runs.folder import RunFolder
from patchcl.training.place import Place, place_of

LEFT_BY_A_CLUSTER = {
    **{"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_NODEID": "1"},
    **{"SLURM_JOB_NAME": "train", "SLURM_NNODES": "2", "SLURM_NODELIST": "n[1-2]"},
    **{"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "n[1-2]"},
    **{"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "NODE_RANK": "1", "GROUP_RANK": "1"},
    **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "none"},
}


def test_a_run_is_the_same_in_a_job_of_several_tasks(cardiac, tiny, tmp_path):
    srun = tmp_path / "bin" / "srun"  # installed, as on every login node, and not used
    srun.parent.mkdir()
    srun.write_text("#!/bin/sh\nexit 1\n")
    srun.chmod(0o755)
    options = [part for setting in tiny for part in ("--set", setting)]
    for name, left in {"alone": {}, "job": LEFT_BY_A_CLUSTER}.items():
        call = [
            sys.executable,
            "-W",
            "error",
            "-m",
            "patchcl",
            "train",
            str(cardiac),
            "-o",
            str(tmp_path / name),
            *options,
        ]
        environment = os.environ | left | {"PATH": f"{srun.parent}{os.pathsep}{os.environ['PATH']}"}
        told = subprocess.run(call, capture_output=True, text=True, env=environment, check=False)
        assert (told.returncode, told.stderr) == (0, ""), told.stderr
    alone, job = (RunFolder.open(tmp_path / name) for name in ("alone", "job"))
    assert [len(list(run.tensorboard.iterdir())) for run in (alone, job)] == [1, 1]
    first, second = (torch.load(run.last)["method"] for run in (alone, job))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_these_tests_are_alone():
    two = load_settings(None, ["training.devices=2"]).training
    assert place_of(two) == Place(size=2, starts=True)


def test_these_tests_are_alone_as_a_task_of_a_job_as_well():
    call = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        f"{__file__}::{test_these_tests_are_alone.__name__}",
    ]
    told = subprocess.run(call, capture_output=True, text=True, env=os.environ | LEFT_BY_A_CLUSTER, check=False)
    assert told.returncode == 0, told.stdout
