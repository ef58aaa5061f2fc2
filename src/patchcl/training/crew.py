"""The crew of a run: its processes are started, find one another, and end together."""

import os
import subprocess  # nosec B404  # for our own processes, without a shell
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import PrefixStore

from patchcl.config import Settings
from patchcl.core.console import errors
from patchcl.core.errors import UserError
from patchcl.core.loading import program
from patchcl.core.settings import FrozenSettings
from patchcl.core.threads import usable_cores
from patchcl.training.place import Place, place_of, require_device, require_shares
from patchcl.training.ranks import ALONE, Ranks
from patchcl.training.watch import LostProcessError, Watch, end

JOIN_SECONDS = 120.0
"""How long processes wait for one another at the start."""
FOREVER = timedelta(days=30)
"""One process may wait for another as long as that shows signs of life: it may have scans to prepare."""


class Task(FrozenSettings):
    """What a process that the first one starts has to know."""

    place: Place
    settings: Settings


@contextmanager
def crew_of(settings: Settings, place: Place | None = None) -> Iterator[Ranks]:
    """The processes of a run, all of them there; inside, the end of one ends the others within a minute.

    Args:
        settings: Of the run.
        place: What this process is; by default it is found out.

    Raises:
        UserError: The devices are not there, the batch cannot be shared evenly, or not all processes came.
        LostProcessError: One of them ended before the others did.
    """
    place = place_of(settings.training) if place is None else place
    device = require_device(settings.training, place)
    require_shares(settings, place.size)
    _warn_of_few_cores(settings.training.devices, place, device)
    if place.size == 1:
        yield ALONE
        return
    with _meeting(place, settings) as (store, watch), _group(place, store, device), _threads(settings, device):
        try:
            yield Ranks(place.rank, place.size, device.index or 0)
            dist.all_reduce(torch.zeros(1))  # the end, which all reach together
        except RuntimeError as error:
            if not _says_that_one_is_gone(error):
                raise
            raise LostProcessError(watch.explained()) from error


def _warn_of_few_cores(devices: int, place: Place, device: torch.device) -> None:
    """Say in a line that the processes which we start have to share cores; a launcher gives each its own."""
    cores = max(1, int(usable_cores()))
    if place.starts and device.type == "cpu" and devices > cores:
        line = f"Warning: --devices {devices} makes more processes than there are cores ({cores}), which gains nothing."
        errors.print(line, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _meeting(place: Place, settings: Settings) -> Iterator[tuple[PrefixStore, Watch]]:
    """The store where all processes of a run meet, with those started that are ours to start."""
    host, wait, port = place.rank == 0 and not place.hosted, timedelta(seconds=JOIN_SECONDS), place.port
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if place.hosted else "0"
    local: list[subprocess.Popen[bytes]] = []
    watch = None
    try:
        meeting = TCPStore(place.address, port, place.size, host, wait, wait_for_workers=False)
        port = meeting.port
        local += _started(place, settings, port) if place.starts else []
        beside = TCPStore(place.address, port, place.size, False, wait, False)  # as the first may wait for long
        watch = Watch(PrefixStore(attempt, beside), place, local)
        watch.start()
        store = PrefixStore(attempt, meeting)
        store.set(f"here/{place.rank}", "yes")
        store.wait([f"here/{rank}" for rank in range(place.size)], wait)
    except RuntimeError as error:
        end(local)
        gone = watch.end() if watch is not None else ""
        raise UserError(
            f"Not all {place.size} processes of this run came to {place.address}:{port} within "
            f"{JOIN_SECONDS:.0f} seconds{gone and f': {gone}'}. All nodes must start it at one time and reach that "
            "address; MASTER_ADDR and MASTER_PORT name another."
        ) from error
    try:
        yield store, watch
    finally:
        watch.end()
        end(local)  # they have nothing to save


def _started(place: Place, settings: Settings, port: int) -> list[subprocess.Popen[bytes]]:
    """The other processes on this machine; what each has to know comes by its standard input."""
    environment = {
        "TORCH_CPP_LOG_LEVEL": "ERROR"
    } | os.environ  # else torch logs a stack trace when the first one is gone
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    command, started = [sys.executable, *program("patchcl.training.member")], []
    for rank in range(1, place.size):
        task = Task(place=place._replace(rank=rank, local=rank, port=port, starts=False), settings=settings)
        process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE)  # nosec B603  # this very Python
        started.append(process)
        assert process.stdin is not None  # it was asked for
        with process.stdin as task_line:
            task_line.write(task.model_dump_json().encode())
    return started


@contextmanager
def _group(place: Place, store: PrefixStore, device: torch.device) -> Iterator[None]:
    """The connections between all processes, tried out once."""
    backend = "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl"
    group = PrefixStore("group", store)
    try:
        dist.init_process_group(backend, store=group, rank=place.rank, world_size=place.size, timeout=FOREVER)
        dist.all_reduce(torch.zeros(1, device=device))
    except RuntimeError as error:
        raise UserError(
            f"The {place.size} processes of this run have met but cannot talk by {backend}: {error}. On several "
            "nodes, GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME name the network to take; one device serves one process."
        ) from error
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def _threads(settings: Settings, device: torch.device) -> Iterator[None]:
    """This process's part of the cores, where it computes on them."""
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(max(1, before // settings.training.devices))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _says_that_one_is_gone(error: RuntimeError) -> bool:
    said = str(error).lower()
    return isinstance(error, dist.DistError) or any(word in said for word in ("gloo", "nccl", "connection"))
