"""Which process of a run this is, and whether the devices that were asked for are there.

On one machine the first process starts the others. Under `torchrun` or `srun`, which start all of them, each learns
from these which one it is. Their variables count only where several devices or nodes are asked for, and must agree.
"""

import os
from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.distributed as dist

from patchcl.config import Settings, TrainingSettings
from patchcl.core.devices import best_device
from patchcl.core.errors import UserError


class Place(NamedTuple):
    """Which process of a run this is, and where they meet."""

    rank: int = 0
    size: int = 1  # how many processes there are
    local: int = 0  # its number on this machine
    address: str = "127.0.0.1"
    port: int = 0  # 0: one that is free
    hosted: bool = False  # somebody else keeps the store where they meet, as torchrun does
    starts: bool = False  # whether this process has to start the others


def place_of(training: TrainingSettings, environment: Mapping[str, str] = os.environ) -> Place:
    """What this process is in a run of so many devices and nodes.

    Raises:
        UserError: Nothing has started as many processes as are asked for.
    """
    count = training.devices * training.nodes
    if count == 1:
        return Place()
    started = _torchrun(environment) or _srun(environment)
    if started is not None and started.size == count:
        return started
    asked = f"--devices {training.devices} --nodes {training.nodes} asks for {count} processes"
    if started is not None:
        raise UserError(
            f"{asked}, and {'torchrun' if started.hosted else 'srun'} started {started.size}. Let it start {count} "
            f"({training.devices} a node), or one alone where all are on one machine."
        )
    if training.nodes > 1:
        raise UserError(
            f"{asked}, and nothing started them on their nodes. Start the same command with srun or torchrun, as "
            "docs/cluster.md shows, or use --nodes 1."
        )
    return Place(size=count, starts=True)


def _torchrun(environment: Mapping[str, str]) -> Place | None:
    names = ("TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    if not all(environment.get(name) for name in names) or environment["WORLD_SIZE"] == "1":
        return None
    rank, count, local, port = (int(environment[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT"))
    hosted = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return Place(rank, count, local, environment["MASTER_ADDR"], port, hosted)


def _srun(environment: Mapping[str, str]) -> Place | None:
    """A task of a job step; what a batch script finds in its environment is none."""
    names = ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_JOB_ID", "SLURM_STEP_NODELIST")
    if not all(environment.get(name) for name in names) or environment["SLURM_STEP_NUM_TASKS"] == "1":
        return None
    from lightning.fabric.plugins.environments import SLURMEnvironment

    count, rank, local, job = (int(environment[name]) for name in names[:4])
    address = environment.get("MASTER_ADDR") or SLURMEnvironment.resolve_root_node_address(environment[names[4]])
    return Place(rank, count, local, address, int(environment.get("MASTER_PORT") or 20000 + job % 10000))


def require_shares(settings: Settings, count: int) -> None:
    """Refuse a batch that `count` processes cannot share evenly, and a memory too short for what all add in a step.

    The shares that a process takes its batch in, `training.batch_shares`, count like processes.

    Raises:
        UserError: Names the setting, and what would do.
    """
    training, contrast = settings.training, settings.method.contrast
    whom, count = "devices" if training.batch_shares == 1 else "shares", count * training.batch_shares
    if contrast is not None and count > 1 and contrast.memory_length < contrast.patches_per_class * count:
        raise UserError(
            f"method.contrast.memory_length is {contrast.memory_length}, and {count} {whom} add up to "
            f"{contrast.patches_per_class * count} patches of a class in a step. Set it to that at least."
        )
    for name in ("labeled_per_batch", "unlabeled_per_batch"):
        images = getattr(training, name)
        if images % count:
            more, less = -(-images // count) * count, images // count * count
            raise UserError(
                f"training.{name} is {images}, the images of a whole step, which {count} {whom} cannot share evenly. "
                f"Set it to {f'{less} or {more}' if less else more}, or take another number of {whom}."
            )


def require_device(training: TrainingSettings, place: Place) -> torch.device:
    """The device of this process.

    Raises:
        UserError: It is not there, or cannot train together with others.
    """
    kind = best_device(training.device).type
    if training.sync_batch_norm and kind != "cuda":
        raise UserError(
            f"training.sync_batch_norm needs CUDA devices, and this run computes on {kind.upper()}. Leave it out, or "
            "set network.norm=instance, which looks at each image alone."
        )
    if kind == "cpu" or place.size == 1:
        return torch.device(kind)
    if kind == "mps":
        raise UserError("An MPS device trains alone. Use --devices 1, or --device cpu.")
    if not dist.is_nccl_available():
        raise UserError("This torch has no NCCL, by which CUDA devices talk. Use --devices 1, or install one with it.")
    here = torch.cuda.device_count()
    own = here == 1 and not place.starts  # a launcher may show every process its own device only
    if training.devices > here and not own:
        raise UserError(
            f"--devices {training.devices} asks for more devices than there are: torch finds {here} here. "
            f"Use --devices {here}, or --device cpu."
        )
    device = torch.device("cuda", 0 if own else place.local)
    torch.cuda.set_device(device)
    return device
