"""Do many workers lose a scan or do one twice? Scans segmented, and a comparison, while workers are killed.

    python benchmarks/cluster.py           # 10,000 scans, 60 runs, a kill every 30 s; two workers; hours on one core
    python benchmarks/cluster.py --quick   # the same with a handful, in two minutes

Every scan is its own made-up noise of 32 x 32 x 4 voxels. A worker is ended with SIGKILL every 30 seconds, or later:
not before something was done since the last. The same call again has one scan to do, which was taken away. Time of
the processor is what the operating system counted for the command and all workers, and depends less on what else the
machine does than seconds on the clock; the overhead of a scan is what of it does not go into reading, the network and
writing, as one process does these alone: mostly the start of workers, anew after each kill. At the end 100,000 tiny
scans are checked. Parts that `--on` leaves out stay as they were. Exit code 1: something was lost or done twice, or no
worker killed.
"""

import argparse
import csv
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch

from many_cases import origin_here, resident, save
from patchcl.core.documents import parse_json
from patchcl.core.files import write_json, write_text
from patchcl.data.preprocessing.transforms import to_network_grid, to_scan_grid
from patchcl.data.scan import read_image, write_mask
from patchcl.inference.record import FOLDER
from patchcl.inference.sliding_window import network_probs
from patchcl.inference.trained_run import open_folder
from patchcl.runs.folder import RunFolder
from patchcl.runs.log import read_rows

RESULTS = Path(__file__).parent / "results"
SHAPE = (32, 32, 4)
TINY = (12, 12, 2)
SHORT = (
    *("plan.dimensions=2", "plan.fit=resize", "plan.size=[32, 32]", "network.features=[8, 16]"),
    *("training.labeled_per_batch=2", "training.unlabeled_per_batch=2", "training.steps=4", "training.device=cpu"),
    *("training.validate_every=1000", "training.loggers=[]"),
)
LONGER = (
    *("plan.dimensions=2", "plan.fit=resize", "plan.size=[96, 96]", "network.features=[16, 32, 64]"),
    *("training.labeled_per_batch=8", "training.unlabeled_per_batch=8", "training.device=cpu"),
    *("training.validate_every=1000", "training.loggers=[]"),
)
"""A run with enough to do in a step that two processes may share it."""
LOCAL, DASK = "two processes", "two Dask workers"
WARM = 8
"""Scans before the clock runs, as the first ones take longer."""
PARTS = ("predict", "dask", "compare", "scaling", "check")


class Sizes(NamedTuple):
    """How much is done of each."""

    scans: int = 10_000
    cells: int = 60
    kill_every: float = 30.0  # seconds
    scaled: int = 4000  # scans that one and two processes share
    steps: int = 150  # of a run on one and on two devices
    alone: int = 400  # scans that are read, segmented and written with nothing around it
    files: int = 100_000  # scans that are checked


QUICK = Sizes(scans=40, cells=2, kill_every=1.0, scaled=8, steps=10, alone=8, files=100)


class Dask(NamedTuple):
    """A scheduler, and the processes that start its workers anew."""

    address: str
    nannies: list[subprocess.Popen[bytes]]
    scheduler: int

    def processes(self) -> list[int]:
        """All that is there now."""
        nannies = [nanny.pid for nanny in self.nannies]
        return [self.scheduler, *nannies, *(child for nanny in nannies for child in children(nanny))]


class Ran(NamedTuple):
    """What a command took."""

    seconds: float
    cpu_seconds: float  # of all its processes, and those of Dask
    kills: int
    early_mib: float  # own memory of the command in the first quarter of its time, at most
    late_mib: float  # in the last quarter
    scheduler_early_mib: float = 0.0
    scheduler_late_mib: float = 0.0


def main() -> None:
    """Measure, keep and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--quick", action="store_true", help="a handful of each")
    arguments.add_argument("--scans", type=int, help="so many scans")
    arguments.add_argument("--cells", type=int, help="so many runs of the comparison")
    arguments.add_argument("--on", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure")
    arguments.add_argument("--results", type=Path, default=RESULTS, help="where the table goes")
    chosen = arguments.parse_args()
    sizes = QUICK if chosen.quick else Sizes()
    sizes = sizes._replace(scans=chosen.scans or sizes.scans, cells=chosen.cells or sizes.cells)
    path = chosen.results / "cluster.json"
    kept = parse_json(path.read_bytes())["parts"] if path.is_file() else {}
    with tempfile.TemporaryDirectory() as folder:
        for part, found in measured(Path(folder), sizes, chosen.on):
            kept[part] = {"origin": origin_here(), "load": os.getloadavg()[2], **found}
            write_json(path, {"shape": SHAPE, "kill_every_seconds": sizes.kill_every, "parts": kept})
    table = markdown(kept)
    write_text(chosen.results / "cluster.md", table)
    sys.stdout.write(table)
    sys.exit("\n".join(wrong_in(kept)) or 0)


def wrong_in(parts: dict[str, dict[str, Any]]) -> list[str]:
    """A line for each figure that may not be, or says that nothing was tried."""
    keys = ("lost", "twice", "made_again")
    wrong = [f"{part}: {key} {found[key]}" for part, found in parts.items() for key in keys if found.get(key)]
    unharmed = [part for part, found in parts.items() if "lost" in found and not found["kills"]]
    return wrong + [f"{part}: no worker was killed" for part in unharmed]


def measured(folder: Path, sizes: Sizes, parts: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each of the `parts` in its turn."""
    data, scans, run = folder / "data", folder / "scans", folder / "run"
    write_data(data, 8)
    options = [part for each in SHORT for part in ("--set", each)]
    ran("train", str(data), "-o", str(run), "--method", "supervised", *options)
    if {"predict", "dask", "scaling"} & set(parts):
        write_scans(scans, sizes.scans)
    if "predict" in parts:
        yield LOCAL, many_scans(run, scans, folder / "local", sizes, ["--jobs", "2"])
    if "dask" in parts:
        with dask(folder) as cluster:
            yield DASK, many_scans(run, scans, folder / "dask", sizes, ["--cluster", cluster.address], cluster)
    if "compare" in parts:
        yield "compare", many_runs(data, folder / "grid", sizes)
    if "scaling" in parts:
        few = folder / "few"
        write_scans(few, sizes.scaled)
        yield "scaling", {**scaling(run, few, folder), **scaling_of_run(data, folder, sizes.steps)}
    if "check" in parts:
        many = folder / "many"
        write_data(many, 8)
        write_scans(many / "imagesUn", sizes.files, TINY, first=8)
        found = ran("check", str(many))._asdict()
        yield "check", {"scans": sizes.files, **{key: found[key] for key in found if key != "kills"}}


def many_scans(
    run: Path, scans: Path, out: Path, sizes: Sizes, workers: list[str], cluster: Dask | None = None
) -> dict[str, Any]:
    """All scans under kills, and the same call once more, for one that was taken away."""
    call = ["predict", str(run), str(scans), "-o", str(out), *workers]
    killer = Killer(sizes.kill_every, out, "*.nii.gz", cluster)
    with killer:
        first = ran(*call, killer=killer, cluster=cluster)
    times = {path.name: path.stat().st_mtime_ns for path in out.glob("[!.]*.nii.gz")}
    taken = out / max(times)
    for file in (taken, out / FOLDER / taken.name.replace(".nii.gz", ".json")):
        file.unlink()
    started = time.time()
    again = ran(*call, cluster=cluster)
    rows = [row["case"] for row in csv.DictReader((out / "predictions.csv").read_text().splitlines())]
    expected = {path.name.removesuffix("_0000.nii.gz") for path in scans.iterdir()}
    return {
        "scans": sizes.scans,
        **first._asdict(),
        "lost": len(expected - {name.removesuffix(".nii.gz") for name in times}) + len(expected - set(rows)),
        "twice": len(rows) - len(set(rows)) + len({*times} - {f"{name}.nii.gz" for name in expected}),
        "left_half_written": len(list(out.glob(".unfinished*"))),
        "again_seconds": again.seconds,
        "again_first_mask_seconds": taken.stat().st_mtime - started,
        "made_again": sum(times[path.name] != path.stat().st_mtime_ns for path in out.glob("[!.]*.nii.gz")) - 1,
        "cpu_ms_a_scan": 1000 * first.cpu_seconds / sizes.scans,
        "overhead_ms_a_scan": 1000 * first.cpu_seconds / sizes.scans - alone_ms(run, scans, out / "alone", sizes.alone),
    }


def alone_ms(run: Path, scans: Path, out: Path, count: int) -> float:
    """What of the processor one scan takes that is read, shown to the network and written, with nothing around it."""
    trained = open_folder(run, device="cpu")
    torch.set_num_threads(1)  # as each of several workers has
    out.mkdir()
    paths = list(itertools.islice(itertools.cycle(sorted(scans.iterdir())), WARM + count))
    for number, path in enumerate(paths):
        if number == WARM:
            begun = time.process_time()
        scan = read_image([path])
        image = torch.from_numpy(to_network_grid(scan, trained.plan))
        symmetries = trained.inference.symmetries
        probs = network_probs(trained.network, image, trained.plan, trained.device, symmetries=symmetries).numpy()
        mask = to_scan_grid(probs, scan.grid, trained.plan).argmax(axis=0)
        write_mask(out / path.name, mask, path, trained.plan.classes)
    return 1000 * (time.process_time() - begun) / count


def many_runs(data: Path, out: Path, sizes: Sizes) -> dict[str, Any]:
    """A comparison of so many cells under kills, then the same call once more."""
    seeds = ",".join(map(str, range(sizes.cells)))
    options = [part for each in SHORT for part in ("--set", each)]
    call = ["compare", str(data), "-o", str(out), "--methods", "supervised", "--seeds", seeds, "--jobs", "2", *options]
    killer = Killer(sizes.kill_every, out, "*.ckpt")
    with killer:
        first = ran(*call, killer=killer)
    again = ran(*call)
    scored = list(out.rglob("evaluation/*_last.json"))
    runs = {path.parent.parent for path in scored}
    return {
        "cells": sizes.cells,
        **first._asdict(),
        "lost": sizes.cells - len(runs),
        "again_seconds": again.seconds,
    }


def scaling(run: Path, scans: Path, folder: Path) -> dict[str, Any]:
    """The same scans in the command itself, by one process and by two, without kills."""
    count = len(list(scans.iterdir()))
    by_jobs = {jobs: ran("predict", str(run), str(scans), "-o", str(folder / jobs), "--jobs", jobs) for jobs in "12"}
    one, two = by_jobs.values()
    return {
        "scans": count,
        "seconds": two.seconds,
        "speed_up": one.seconds / two.seconds,
        "cpu_ms_a_scan": 1000 * two.cpu_seconds / count,
        "cpu_ms_a_scan_in_one_process": 1000 * one.cpu_seconds / count,
    }


def scaling_of_run(data: Path, folder: Path, steps: int) -> dict[str, Any]:
    """Steps of a run on one device and on two, each a process with one thread."""
    options = [part for each in (*LONGER, f"training.steps={steps}") for part in ("--set", each)]
    paces = []
    for devices in "12":
        out = folder / f"devices_{devices}"
        call = ["train", str(data), "-o", str(out), "--labeled", "4", "--devices", devices, *options]
        ran(*call, environment={"OMP_NUM_THREADS": "1"})
        paces += [row["seconds_per_step"] for row in read_rows(RunFolder(out)) if "seconds_per_step" in row][-1:]
    return {"run_step_seconds": paces[1], "run_speed_up": paces[0] / paces[1]}


class Killer:
    """Ends a worker of a command with SIGKILL every few seconds, if another file like `done` has come below `out`."""

    def __init__(self, every: float, out: Path, done: str, cluster: Dask | None = None) -> None:
        self.every, self.out, self.done, self.cluster = every, out, done, cluster
        self.kills = self.pid = self.there = 0
        self.ended = threading.Event()

    def __enter__(self) -> "Killer":
        threading.Thread(target=self._go_on, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()

    def _go_on(self) -> None:
        while not self.ended.wait(self.every):
            found, there = self._found(), sum(1 for _ in self.out.rglob(self.done))
            if found and there > self.there:
                os.kill(found[self.kills % len(found)], signal.SIGKILL)
                self.kills, self.there = self.kills + 1, there

    def _found(self) -> list[int]:
        """Processes that work on units: children of the command, or of the nannies of Dask's workers."""
        if self.cluster is None:
            return [child for child in children(self.pid) if "unit_process" in told(child, "cmdline")]
        found = [child for worker in self.cluster.nannies for child in children(worker.pid)]
        return [child for child in found if "resource_tracker" not in told(child, "cmdline")]


def children(parent: int) -> list[int]:
    """The processes that `parent` has started, as Linux tells."""
    listed = [path.read_text().split() for path in Path(f"/proc/{parent}/task").glob("*/children")]
    return [int(child) for some in listed for child in some]


def told(process: int, file: str) -> str:
    """What Linux tells of a process in a file; nothing if it is gone."""
    try:
        return Path(f"/proc/{process}/{file}").read_text()
    except OSError:
        return ""


def ran(
    *arguments: str,
    killer: Killer | None = None,
    cluster: Dask | None = None,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> Ran:
    """One command of patchcl in a process of its own."""
    started, before = time.perf_counter(), processor(cluster)
    seen: list[tuple[float, float]] = []
    with tempfile.TemporaryFile() as said:
        command, given = [sys.executable, "-m", "patchcl", *arguments], {**os.environ, **environment}
        process = subprocess.Popen(command, stdout=said, stderr=said, env=given)
        if killer is not None:
            killer.pid = process.pid
        while process.poll() is None:
            seen.append((own_mib(process.pid), 0.0 if cluster is None else own_mib(cluster.scheduler)))
            time.sleep(0.2)
        if process.returncode:
            said.seek(0)
            sys.exit(f"patchcl {arguments[0]} ended with {process.returncode}: {said.read().decode()}")
    quarter = max(1, len(seen) // 4)
    early, late = np.max(seen[:quarter], axis=0), np.max(seen[-quarter:], axis=0)
    seconds, cpu = time.perf_counter() - started, processor(cluster) - before
    kills = 0 if killer is None else killer.kills
    return Ran(round(seconds, 1), round(cpu, 1), kills, *np.round([early[0], late[0], early[1], late[1]], 1).tolist())


def processor(cluster: Dask | None = None) -> float:
    """Seconds of the processor that all ended children have had, theirs included, and the processes of a cluster."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime + ticks(cluster.processes() if cluster else ()) / os.sysconf("SC_CLK_TCK")


def ticks(processes: Sequence[int]) -> int:
    """What processes and their ended children have had, as Linux counts."""
    stats = [told(process, "stat").rpartition(")")[2].split() for process in processes]
    return sum(int(part) for stat in stats for part in stat[11:15])


def own_mib(process: int) -> float:
    """Anonymous memory."""
    return resident(process).get("RssAnon", 0) / 1024


@contextmanager
def dask(folder: Path) -> Iterator[Dask]:
    """A scheduler and two workers on the loopback."""
    file = folder / "scheduler.json"
    there = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", str(file), "--nthreads", "1"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    started = [subprocess.Popen([*there, "--no-dashboard", "--scheduler-file", str(file)], cwd=folder, **quiet)]
    try:
        while not file.is_file():
            time.sleep(0.1)
        started += [
            subprocess.Popen([*worker, "--no-dashboard", "--local-directory", str(folder / f"w{number}")], **quiet)
            for number in range(2)
        ]
        yield Dask(json.loads(file.read_text())["address"], started[1:], started[0].pid)
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait()


def write_data(data: Path, count: int) -> None:
    """A data set of noise, all with masks."""
    mask = np.zeros(SHAPE, np.uint8)
    mask[8:20, 8:20, 1:3] = 1
    write_scans(data / "imagesTr", count)
    for number in range(count):
        save(data / "labelsTr" / f"p{number:06d}.nii.gz", mask)
    labels = {"background": 0, "box": 1}
    write_json(data / "dataset.json", {"channel_names": {"0": "MRI"}, "labels": labels, "file_ending": ".nii.gz"})


def write_scans(folder: Path, count: int, shape: tuple[int, ...] = SHAPE, first: int = 0) -> None:
    """So many scans, each another noise."""
    random = np.random.default_rng(first)
    for number in range(first, first + count):
        save(folder / f"p{number:06d}_0000.nii.gz", random.integers(0, 1000, shape).astype(np.int16))


def markdown(parts: dict[str, dict[str, Any]]) -> str:
    """A row for each figure, a column for each part."""
    told = dict.fromkeys(key for found in parts.values() for key in found if key != "origin")
    rows = [["", *parts], ["---"] * (len(parts) + 1)]
    rows += [[key.replace("_", " "), *(shown(found.get(key)) for found in parts.values())] for key in told]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def shown(value: object) -> str:
    """A figure in a table."""
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
