"""Which process of a run this is: said by options, found where a launcher put it, refused where both disagree."""

import pytest
import torch

from patchcl.config import load_settings
from patchcl.core.errors import UserError
from patchcl.training.place import Place, place_of, require_device, require_shares

TORCHRUN = {
    **{"TORCHELASTIC_RUN_ID": "none", "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"},
    **{"MASTER_ADDR": "n1", "MASTER_PORT": "29400", "TORCHELASTIC_USE_AGENT_STORE": "True"},
}
SRUN = {
    **{"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "123456"},
    **{"SLURM_STEP_NODELIST": "n[7-8]"},
}


def settings(*changes):
    return load_settings(None, ["training.device=cpu", *changes])


def training(devices, nodes=1):
    return settings(f"training.devices={devices}", f"training.nodes={nodes}").training


@pytest.mark.parametrize(
    ("environment", "devices", "nodes", "expected"),
    [
        ({}, 1, 1, Place()),
        (TORCHRUN | SRUN | {"RANK": "no number"}, 1, 1, Place()),
        ({}, 4, 1, Place(size=4, starts=True)),
        (TORCHRUN, 2, 2, Place(3, 4, 1, "n1", 29400, hosted=True)),
        (SRUN, 2, 2, Place(2, 4, 0, "n7", 23456)),
        (SRUN | {"MASTER_ADDR": "10.0.0.7", "MASTER_PORT": "9"}, 2, 2, Place(2, 4, 0, "10.0.0.7", 9)),
        (SRUN | {"SLURM_STEP_NUM_TASKS": "1"}, 4, 1, Place(size=4, starts=True)),
        (TORCHRUN | {"WORLD_SIZE": "1"}, 4, 1, Place(size=4, starts=True)),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "RANK": "3", "WORLD_SIZE": "4"}, 2, 1, Place(size=2, starts=True)),
    ],
)
def test_options_say_how_many_and_the_launcher_which(environment, devices, nodes, expected):
    assert place_of(training(devices, nodes), environment) == expected


@pytest.mark.parametrize(
    ("environment", "nodes", "told"),
    [
        (SRUN, 1, "srun started 4. Let it start 3"),
        (TORCHRUN, 1, "torchrun started 4"),
        ({}, 2, "with srun or torchrun"),
    ],
)
def test_a_launcher_that_started_other_numbers_or_is_missing_is_one_message(environment, nodes, told):
    with pytest.raises(UserError, match=told):
        place_of(training(3, nodes), environment)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("training.labeled_per_batch=2", "labeled_per_batch is 2, .* 3 devices cannot share evenly. Set it to 3,"),
        ("training.unlabeled_per_batch=10", "unlabeled_per_batch is 10, .* Set it to 9 or 12,"),
        ("method.contrast.memory_length=40", "memory_length is 40, and 3 devices add up to 48 patches"),
    ],
)
def test_a_batch_that_cannot_be_shared_and_a_memory_that_is_too_short_are_one_message(change, told):
    require_shares(settings(), 3)
    with pytest.raises(UserError, match=told):
        require_shares(settings(change), 3)


def test_shares_count_like_devices():
    """A batch of 12 and four patches of a class a process make the case."""
    halves = "training.batch_shares=2"
    require_shares(settings(halves), 3)
    with pytest.raises(UserError, match=r"labeled_per_batch is 9, .* 6 shares cannot share evenly. Set it to 6 or 12"):
        require_shares(settings(halves, "training.labeled_per_batch=9"), 3)
    with pytest.raises(UserError, match="memory_length is 95, and 6 shares add up to 96 patches"):
        require_shares(settings(halves, "method.contrast.memory_length=95"), 3)


def test_devices_that_are_not_there_are_one_message(monkeypatch):
    four, place = settings("training.devices=4").training, Place(1, 4, 1)
    assert require_device(four, place).type == "cpu"
    with pytest.raises(UserError, match="sync_batch_norm needs CUDA devices, and this run computes on CPU"):
        require_device(four.model_copy(update={"sync_batch_norm": True}), Place())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    four = four.model_copy(update={"device": "cuda"})
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)
    with pytest.raises(UserError, match="has no NCCL"):
        require_device(four, place)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)
    with pytest.raises(UserError, match=r"torch finds 2 here. Use --devices 2, or --device cpu"):
        require_device(four, place)
    two = four.model_copy(update={"devices": 2})
    assert require_device(two, Place(1, 2, 1)) == torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert require_device(two, Place(1, 2, 1)) == torch.device("cuda", 0), "the one that its launcher shows it"
