"""The executor of a cluster: Dask `distributed` hands units to its workers, and again where a worker was killed.

Two things that Dask leaves to its user are added: a unit that runs can be asked to stop, and a worker that cannot do
the work, because it has another version of patchcl or does not see the folder, is refused.
"""

import asyncio
import logging
import os
import pickle  # nosec B403  # as Dask itself, between programs that trust one scheduler
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NamedTuple, TypeVar

from patchcl.core.documents import DocumentError, parse_json
from patchcl.core.errors import UserError
from patchcl.core.executor import RETRIES, UnitExecutor
from patchcl.core.loading import loading
from patchcl.core.memory import keep_freed_memory
from patchcl.core.threads import choose_wait_policy
from patchcl.core.unit_process import LostWorkerError, asking
from patchcl.core.version import __version__

CONNECT_SECONDS = 20.0
"""How long a scheduler may take to answer."""
COUNT_SECONDS = 2.0
"""How old the number of workers may be."""
SEES = os.path.isfile
"""What a worker is asked of a file in the folder; like `resolve_name`, a version of patchcl need not have it."""
LEAVING = ("closing_gracefully", "closing", "closed", "failed")
"""What Dask says of a worker that was asked to end, or has lost its scheduler."""
STOPPED: set[str] = set()
"""In a worker: the programs whose units are to stop."""

Found = TypeVar("Found")


class Sender(NamedTuple):
    """The program that hands out units, and what it asks of a worker."""

    session: str
    version: str
    folder: str


class ClusterExecutor(UnitExecutor):
    """The workers of a Dask scheduler, all of which have been looked at."""

    def __init__(self, cluster: str, folder: Path, say: Callable[[str], object]) -> None:
        self.client = _client(cluster)
        self.sender = Sender(uuid.uuid4().hex, __version__, os.path.realpath(folder))
        self.executor = self.client.get_executor(retries=RETRIES, pure=False)
        self.counted, self.places = 0.0, 0
        try:
            _require_workers(self.client, self.sender)
        except BaseException:
            self.client.close()
            raise
        there = f"{self.slots()} units at a time" if self.client.nthreads() else "no worker yet, waiting for one"
        say(f"Cluster {self.client.scheduler.address}: {there}. Dashboard: {self.client.dashboard_link}")

    def submit(self, fn: Callable[..., Found], /, *args: Any, **kwargs: Any) -> "Future[Found]":  # noqa: ANN401
        """Have a worker call `fn`, which it imports by its name."""
        call = pickle.dumps(partial(fn, *args, **kwargs))  # apart, as what it imports may load torch
        future: Future[Found] = self.executor.submit(in_worker, self.sender, call)
        return future

    def slots(self) -> int:
        """The threads of all workers that are there now; one while there are none. A busy scheduler may not say."""
        if time.monotonic() - self.counted > COUNT_SECONDS:
            with suppress(OSError, TimeoutError):
                self.places = sum(self.client.nthreads().values())
            self.counted = time.monotonic()
        return max(1, self.places)

    def stop(self) -> None:
        """Begin no unit any more, and ask those that run to end; with no worker left, nothing is waited for."""
        with suppress(OSError, TimeoutError):  # workers end with a scheduler that is gone
            self.client.run(stop_units_of, self.sender.session, on_error="ignore")
            if not self.client.nthreads():
                self.executor.shutdown(wait=False)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Leave the scheduler, after what its workers do for this program or at once."""
        self.executor.shutdown(wait=wait)
        self.client.close()


def stop_units_of(session: str) -> None:
    """In a worker: ask the units of a program to end."""
    STOPPED.add(session)


def in_worker(sender: Sender, call: bytes) -> Any:  # noqa: ANN401 - whatever the call returns
    """Work on a unit, a pickled call, in a worker, which may have come after all others were looked at.

    Raises:
        UserError: The worker has another version of patchcl, or does not see the folder.
        LostWorkerError: The worker was taken off meanwhile, and the unit may have ended early for that.
    """
    from distributed import get_worker
    from distributed.worker import thread_state

    worker, key = get_worker(), thread_state.key
    _require({worker.address: __version__}, {worker.address: Path(sender.folder).is_dir()}, sender)

    def leaves() -> bool:
        return worker.status.name in LEAVING

    def asked() -> bool:
        task = worker.state.tasks.get(key)
        gone = task is None or task.state == "cancelled"  # the program that wanted it
        return sender.session in STOPPED or leaves() or gone

    with asking(asked):
        if asked():
            raise CancelledError
        if "torch" not in sys.modules:
            choose_wait_policy()
        keep_freed_memory()
        with loading():
            work = pickle.loads(call)  # nosec B301  # of the program that the scheduler serves
        found = work()
    if leaves():
        raise LostWorkerError(f"the worker at {worker.address} was taken off")
    return found


def _client(cluster: str) -> Any:  # noqa: ANN401 - of Dask, which need not be installed
    """A client of the scheduler at the address `cluster`, or at the one that the file of this name holds."""
    try:
        from distributed import Client
    except ImportError as error:
        raise UserError("--cluster needs Dask. Install it with: pip install 'patchcl[cluster]'") from error
    address = _address(cluster)
    with ThreadPoolExecutor(1) as apart:  # a notebook has a loop of its own in this thread
        apart.submit(asyncio.run, _require_scheduler(address)).result()
    logging.getLogger("distributed.client").setLevel(
        logging.CRITICAL
    )  # when it loses the scheduler, we say so in a line
    return Client(address, timeout=CONNECT_SECONDS, set_as_default=False, name="patchcl")


def _address(cluster: str) -> str:
    """What a scheduler file says, or `cluster` itself."""
    if not (cluster.endswith(".json") or Path(cluster).is_file()):
        return cluster
    try:
        return str(parse_json(Path(cluster).read_bytes())["address"])
    except (OSError, DocumentError, KeyError, TypeError) as error:
        raise UserError(
            f"--cluster {cluster} is not the file of a Dask scheduler ({error}). Give the file that dask scheduler "
            "--scheduler-file FILE has written, or an address such as tcp://node1:8786."
        ) from error


async def _require_scheduler(address: str) -> None:
    """Ask who is at `address`, before a client tries to stay in touch with it."""
    from distributed import Security, rpc

    try:
        keys = Security().get_connection_args("client")
        async with rpc(address, connection_args=keys, timeout=CONNECT_SECONDS) as there:
            kind = (await asyncio.wait_for(there.identity(), CONNECT_SECONDS))["type"]
    except Exception as error:  # whatever else may be there says anything
        raise UserError(
            f"No Dask scheduler answered at {address} within {CONNECT_SECONDS:g} seconds: "
            f"{str(error) or type(error).__name__}. Start one with dask scheduler, or correct --cluster."
        ) from error
    if kind != "Scheduler":
        raise UserError(f"At {address} is a Dask {kind}, not a scheduler. Give the scheduler's address to --cluster.")


def _require_workers(client: Any, sender: Sender) -> None:  # noqa: ANN401
    """Refuse workers of another version, or that do not see the folder, in which a file is left for them to find."""
    mark = Path(sender.folder) / f".seen-{sender.session}"
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()
    try:
        versions = client.run(resolve_name, "patchcl:__version__", on_error="return")
        sees = client.run(SEES, str(mark), on_error="return")
    finally:
        mark.unlink()
    _require(versions, sees, sender)


def _require(versions: Mapping[str, object], sees: Mapping[str, object], sender: Sender) -> None:
    """Whether workers, by their addresses, can do what the program asks of them."""
    for worker, version in versions.items():
        if version != sender.version:
            found = f"patchcl {version}" if isinstance(version, str) else f"no patchcl ({version})"
            raise UserError(
                f"The worker at {worker} has {found}, and this is patchcl {sender.version}. Install the same on all "
                "workers."
            )
    for worker, seen in sees.items():
        if seen is not True:
            raise UserError(
                f"The worker at {worker} does not see {sender.folder}. Choose a folder that all workers share."
            )
