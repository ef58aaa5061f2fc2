"""Runs that are killed, and disks that are full: what is left must go on to the weights of a run that never stopped.

A run is killed with SIGKILL after a part of its time, or just before Python makes, opens, links or renames a file. It
is a process of its own, forked from one that has loaded everything, and `patchcl train --resume-if-there` is called
again afterwards. A full disk is a small one in memory that a balloon fills; then the balloon is removed.
"""

import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from attempts import Attempt, Copy, Ended, call, predict, same_weights, train
from patchcl.methods import method_names
from patchcl.runs.folder import RunFolder
from patchcl.runs.log import read_rows

STEPS = ("training.steps=6", "training.validate_every=2", "training.log_every=1", "training.checkpoint_minutes=1e-9")
"""A checkpoint after every step, a validation after every other."""
PRELOADED = (
    *(
        "patchcl.api.runs",
        "patchcl.api.training",
        "patchcl.training.experiment",
        "patchcl.runs.loggers",
        "torch.utils.tensorboard",
    ),
    *("matplotlib.figure", "scipy.ndimage", "nibabel", "monai.inferers", "monai.networks.blocks"),
)
PARTS_OF_TIME = (0.1, 0.3, 0.45, 0.6, 0.75, 0.9)
OPERATIONS = (
    *(
        ("os.rename", r"prepared/.*\.npy", 1),
        ("os.rename", r"prepared/.*\.json", 3),
        ("os.mkdir", r"run/checkpoints", 1),
        ("os.link", r"[^/]*\.lock-1", 1),
        ("os.link", r"[^/]*\.lock-1", 2),
    ),
    *(("os.rename", r"settings\.yaml", 1), ("os.rename", r"split\.json", 1), ("os.rename", r"plan\.yaml", 1)),
    *(
        ("os.rename", r"contents\.json", 1),
        ("os.rename", r"provenance\.json", 1),
        ("os.rename", r"provenance\.json", 2),
    ),
    *(("open", r"log\.jsonl", 1), ("open", r"tensorboard/.*", 1), ("os.rename", r"fingerprint\.json", 1)),
    *(
        ("os.rename", r"previous\.ckpt", 1),
        ("os.rename", r"previous\.ckpt", 2),
        ("os.link", r"\.unfinished\S*previous\.ckpt", 1),
    ),
    *(("open", r"\.unfinished\S*last\.ckpt", 1), ("open", r"\.unfinished\S*last\.ckpt", 4)),
    *(("os.rename", r"last\.ckpt", 1), ("os.rename", r"last\.ckpt", 3), ("os.rename", r"last\.ckpt", 6)),
    *(("open", r"\.unfinished\S*best\.ckpt", 1), ("os.rename", r"best\.ckpt", 1)),
    *(("open", r"\.unfinished\S*postprocessing\.json", 1), ("os.rename", r"postprocessing\.json", 1)),
)
"""What Python is about to ask of the system, of which file, and the how-many-th time it does."""


class Call(NamedTuple):
    """How a process of its own ended, and how long it took."""

    code: int  # below 0: minus the number of the signal
    said: str
    seconds: float


def kills_by_time() -> Iterator[Attempt]:
    """Of every method, after parts of the time that a run takes."""
    for method in method_names():
        for part in PARTS_OF_TIME:
            act = partial(killed_and_resumed, method=method, part=part)
            yield Attempt(f"{method}: after {part:.0%} of its time", nothing, partial(equal, method=method), act)


def kills_by_operation() -> Iterator[Attempt]:
    """Of every method, just before something is done to a file."""
    for method in method_names():
        for operation in OPERATIONS:
            event, pattern, count = operation
            act = partial(killed_and_resumed, method=method, operation=operation)
            name = f"{method}: before {event} of {pattern}, {count}"
            yield Attempt(name, nothing, partial(equal, method=method), act)


def nothing(_: Copy) -> None:
    """The harm is done while it runs."""


def killed_and_resumed(
    copy: Copy, method: str, part: float = 0.0, operation: tuple[str, str, int] | None = None
) -> Ended:
    """A run that is killed once, then gone on with; if it could not be killed, that is no attempt that held."""
    whole = reference(copy.root.parent, method)
    fresh(copy)
    first = in_process(copy.root, method, part * whole, operation)
    while first.code == 0 and part > 0.01:  # it was faster than the reference
        part /= 2
        fresh(copy)
        first = in_process(copy.root, method, part * whole)
    if first.code != -signal.SIGKILL:
        return Ended(-1, f"was not killed but ended with {first.code}: {first.said}")
    return Ended(*in_process(copy.root, method)[:2])


def fresh(copy: Copy) -> None:
    """Nothing but the data, so that preparing them is attacked as well."""
    for folder in (copy.run.root, copy.root / "prepared"):
        shutil.rmtree(folder, ignore_errors=True)


def reference(base: Path, method: str) -> float:
    """The seconds that a run takes that is never stopped, which lies beside the copies from now on."""
    root = base / f"whole_{method}"
    if not root.exists():
        root.mkdir()
        (root / "data").symlink_to(base / "data")
        ended = in_process(root, method)
        if ended.code:
            raise RuntimeError(ended.said)
        (root / "seconds").write_text(str(ended.seconds))
    return float((root / "seconds").read_text())


def equal(copy: Copy, ended: Ended, method: str) -> bool:
    """It ended well, with the weights and log rows of the run that never stopped, and left nothing half written."""
    if ended.code != 0:
        return False
    whole = RunFolder(copy.root.parent / f"whole_{method}" / "run")
    rows, expected = ([{**row, "seconds_per_step": 0} for row in read_rows(run)] for run in (copy.run, whole))
    left = list(copy.run.last.parent.glob(".unfinished-*"))
    return same_weights(copy.run, whole) and rows == expected and not left


def in_process(root: Path, method: str, kill_after: float = 0.0, operation: tuple[str, str, int] | None = None) -> Call:
    """Begin the run in `root`, or go on with it, in a process of its own, which is perhaps killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(root, method, operation, theirs))
    started = time.perf_counter()
    process.start()
    theirs.close()
    if kill_after and not ours.poll(kill_after) and process.pid is not None:
        os.kill(process.pid, signal.SIGKILL)
    try:
        said = str(ours.recv())
    except EOFError:
        said = ""
    process.join()
    return Call(process.exitcode or 0, said, time.perf_counter() - started)


def work(
    root: Path, method: str, operation: tuple[str, str, int] | None, pipe: "multiprocessing.connection.Connection"
) -> None:
    """What the other process does."""
    torch.set_num_threads(1)
    if operation is not None:
        kill_before(*operation)
    options = [part for each in STEPS for part in ("--set", each)]
    ended = train(root / "data", root / "run", "--method", method, "--resume-if-there", *options)
    pipe.send(ended.said)
    pipe.close()
    os._exit(ended.code & 0xFF)


def kill_before(event: str, pattern: str, count: int) -> None:
    """Have this process killed just before it does `event` to a file of that name for the `count`-th time."""
    left = count

    def look(name: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        if name != event:
            return
        path = str(arguments[1] if event in ("os.rename", "os.link") else arguments[0])
        if (event != "open" or writes(arguments)) and re.search(rf"(^|/){pattern}$", path):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(look)


def writes(arguments: tuple[object, ...]) -> bool:
    """Whether a file is opened to be written."""
    mode, flags = arguments[1], arguments[2]
    return any(letter in mode for letter in "wax") if isinstance(mode, str) else bool(int(str(flags)) & os.O_CREAT)


# Full disks

MEBIBYTES = 16
ROOMS = (0, 8, 40, 120, 200, 280, 340, 400, 480, 560)
"""KiB that are left on the disk when training begins; it needs a little more than the last."""
ON_SMALL_DISK = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import kills
print(json.dumps(kills.on_small_disk(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))))
"""


def full_disks() -> Iterator[Attempt]:
    """Training from the first file to the last, and what is done with a run."""
    for room in ROOMS:
        yield full_disk("train", room)
    for verb, room in (("resume", 0), ("resume", 100), ("predict", 0), ("predict", 8), ("evaluate", 0), ("report", 0)):
        yield full_disk(verb, room)


def full_disk(verb: str, room: int) -> Attempt:
    """A verb where `room` KiB are left."""
    return Attempt(f"{verb}, {room} KiB left", nothing, went_on, partial(with_small_disk, verb=verb, room=room))


def can_mount() -> bool:
    """Whether this machine lets us have a disk of our own."""
    command = ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return (
        shutil.which("unshare") is not None
        and subprocess.run(command, capture_output=True, check=False).returncode == 0
    )


def with_small_disk(copy: Copy, verb: str, room: int) -> Ended:
    """Do it in a process that alone sees the disk."""
    disk = copy.root / "disk"
    disk.mkdir()
    script = f'mount -t tmpfs -o size={MEBIBYTES}m tmpfs "$1" && shift && exec "$@"'
    there = [sys.executable, "-c", ON_SMALL_DISK, str(Path(__file__).parent), str(copy.root), verb, str(room)]
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", str(disk), *there]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return Ended(-1, done.stdout + done.stderr)
    return Ended(*json.loads(done.stdout.splitlines()[-1]))


def on_small_disk(root: Path, verb: str, room: int) -> Ended:
    """The verb on the full disk, which must say so, and again when there is room."""
    torch.set_num_threads(1)
    copy = Copy(root / "disk")
    shutil.copytree(root / "data", copy.root / "data")
    if verb != "train":
        for folder in ("run", "prepared"):
            shutil.copytree(root / folder, copy.root / folder)
        settings = copy.run.settings
        settings.write_text(settings.read_text().replace(str(root), str(copy.root)))
    if verb == "resume":  # something must be left to do
        copy.run.last.unlink()
        copy.run.best.unlink()
    os.chdir(copy.root)
    balloon = copy.root / "balloon"
    balloon.touch()
    free = shutil.disk_usage(copy.root).free // 1024 - room
    with balloon.open("wb") as out:
        out.write(bytes(1024 * free))
    full = VERBS[verb](copy)
    balloon.unlink()
    again = VERBS[verb](copy)
    code = 1 if verb == "predict" else 2  # which goes on with the other scans
    if full.code != code or not re.search("Make room|No space left", full.said):
        return Ended(-1, f"full: {full.code} {full.said}")
    whole = RunFolder(root.parent / "run")
    if again.code or (verb in ("train", "resume") and not same_weights(copy.run, whole)):
        return Ended(-1, f"again: {again.code} {again.said}")
    return Ended(0, full.said)


VERBS: dict[str, Callable[[Copy], Ended]] = {
    "train": lambda copy: train(copy.root / "data", copy.run.root, "--resume-if-there"),
    "resume": lambda copy: copy.resume(),
    "predict": lambda copy: predict(copy),
    "evaluate": lambda copy: call("evaluate", str(copy.run.root)),
    "report": lambda copy: call("report", str(copy.run.root), "-o", "report.html"),
}


def went_on(_: Copy, ended: Ended) -> bool:
    """All that must hold was looked at where the disk was."""
    return ended.code == 0
