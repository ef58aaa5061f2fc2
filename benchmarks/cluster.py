"""Do many workers lose a scan or do one twice? Scans segmented, and a comparison, while workers are killed.

    python benchmarks/cluster.py           # 10,000 scans, 60 runs, a kill every 30 s; two workers; hours on one core
    python benchmarks/cluster.py --quick   # the same with a handful, in two minutes

Every scan is its own made-up noise of 32 x 32 x 4 voxels. A worker is ended with SIGKILL every 30 seconds, or later:
not before something was done since the last. Time of the processor is what the operating system counted for the command
and its processes, those of Dask aside, and hardly depends on what else the machine does; seconds on the clock do. At
the end 100,000 tiny scans are checked. Parts that `--on` leaves out stay as they were.
"""

import argparse
import csv
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from many_cases import origin_here, resident, save
from patchcl.core.documents import parse_json
from patchcl.core.files import write_json, write_text

RESULTS = Path(__file__).parent / "results"
SHAPE = (32, 32, 4)
TINY = (12, 12, 2)
SHORT = (
    *("plan.dimensions=2", "plan.fit=resize", "plan.size=[32, 32]", "network.features=[8, 16]"),
    *("training.labeled_per_batch=2", "training.unlabeled_per_batch=2", "training.steps=4", "training.device=cpu"),
    *("training.validate_every=1000", "training.loggers=[]"),
)
LOCAL, DASK = "two processes", "two Dask workers"
Nannies = list[subprocess.Popen[bytes]] | None
"""The processes that start Dask's workers anew; None where the command has workers of its own."""
PARTS = ("predict", "dask", "compare", "scaling", "check")


class Sizes(NamedTuple):
    """How much is done of each."""

    scans: int = 10_000
    cells: int = 60
    kill_every: float = 30.0  # seconds
    scaled: int = 400  # scans that one and two processes share
    files: int = 100_000  # scans that are checked


QUICK = Sizes(scans=40, cells=2, kill_every=1.0, scaled=8, files=100)


class Ran(NamedTuple):
    """What a command took."""

    seconds: float
    cpu_seconds: float  # of all its processes
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
        with dask(folder) as (address, workers, scheduler):
            place = ["--cluster", address]
            yield DASK, many_scans(run, scans, folder / "dask", sizes, place, workers, scheduler)
    if "compare" in parts:
        yield "compare", many_runs(data, folder / "grid", sizes)
    if "scaling" in parts:
        few = folder / "few"
        write_scans(few, sizes.scaled)
        yield "scaling", scaling(run, few, folder)
    if "check" in parts:
        many = folder / "many"
        write_data(many, 8)
        write_scans(many / "imagesUn", sizes.files, TINY, first=8)
        yield "check", {"scans": sizes.files, **ran("check", str(many))._asdict()}


def many_scans(
    run: Path,
    scans: Path,
    out: Path,
    sizes: Sizes,
    workers: list[str],
    nannies: Nannies = None,
    scheduler: int | None = None,
) -> dict[str, Any]:
    """All scans under kills, and the same call once more."""
    killer = Killer(sizes.kill_every, out, "*.nii.gz", nannies)
    with killer:
        first = ran("predict", str(run), str(scans), "-o", str(out), *workers, killer=killer, scheduler=scheduler)
    times = {path.name: path.stat().st_mtime_ns for path in out.glob("[!.]*.nii.gz")}
    again = ran("predict", str(run), str(scans), "-o", str(out), *workers)
    rows = [row["case"] for row in csv.DictReader((out / "predictions.csv").read_text().splitlines())]
    expected = {path.name.removesuffix("_0000.nii.gz") for path in scans.iterdir()}
    return {
        "scans": sizes.scans,
        **first._asdict(),
        "lost": len(expected - {name.removesuffix(".nii.gz") for name in times}) + len(expected - set(rows)),
        "twice": len(rows) - len(set(rows)) + len({*times} - {f"{name}.nii.gz" for name in expected}),
        "left_half_written": len(list(out.glob(".unfinished*"))),
        "again_seconds": again.seconds,
        "made_again": sum(times[path.name] != path.stat().st_mtime_ns for path in out.glob("[!.]*.nii.gz")),
        "cpu_ms_a_scan": 1000 * first.cpu_seconds / sizes.scans,
    }


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


class Killer:
    """Ends a worker of a command with SIGKILL every few seconds, if another file like `done` has come below `out`."""

    def __init__(
        self, every: float, out: Path, done: str, workers: list[subprocess.Popen[bytes]] | None = None
    ) -> None:
        self.every, self.out, self.done, self.nannies = every, out, done, workers
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
        if self.nannies is None:
            return [child for child in children(self.pid) if "unit_process" in line_of(child)]
        found = [child for worker in self.nannies for child in children(worker.pid)]
        return [child for child in found if "resource_tracker" not in line_of(child)]


def children(parent: int) -> list[int]:
    """The processes that `parent` has started, as Linux tells."""
    listed = [path.read_text().split() for path in Path(f"/proc/{parent}/task").glob("*/children")]
    return [int(child) for some in listed for child in some]


def line_of(process: int) -> str:
    """The command line of a process; nothing if it is gone."""
    try:
        return Path(f"/proc/{process}/cmdline").read_text()
    except OSError:
        return ""


def ran(*arguments: str, killer: Killer | None = None, scheduler: int | None = None) -> Ran:
    """One command of patchcl in a process of its own."""
    started, before = time.perf_counter(), processor()
    seen: list[tuple[float, float]] = []
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen([sys.executable, "-m", "patchcl", *arguments], stdout=said, stderr=said)
        if killer is not None:
            killer.pid = process.pid
        while process.poll() is None:
            seen.append((own_mib(process.pid), 0.0 if scheduler is None else own_mib(scheduler)))
            time.sleep(0.2)
        if process.returncode:
            said.seek(0)
            sys.exit(f"patchcl {arguments[0]} ended with {process.returncode}: {said.read().decode()}")
    quarter = max(1, len(seen) // 4)
    early, late = np.max(seen[:quarter], axis=0), np.max(seen[-quarter:], axis=0)
    seconds, cpu = time.perf_counter() - started, processor() - before
    kills = 0 if killer is None else killer.kills
    return Ran(round(seconds, 1), round(cpu, 1), kills, *np.round([early[0], late[0], early[1], late[1]], 1).tolist())


def processor() -> float:
    """Seconds of the processor that all ended children have had, theirs included."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def own_mib(process: int) -> float:
    """Anonymous memory."""
    return resident(process).get("RssAnon", 0) / 1024


@contextmanager
def dask(folder: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]], int]]:
    """A scheduler and two workers on the loopback: where they are, the workers, and the scheduler's process."""
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
        yield json.loads(file.read_text())["address"], started[1:], started[0].pid
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
