"""Does memory stay flat with the number of scans? Peak memory of check, train and predict at 200 and 2,000.

    python benchmarks/many_cases.py        # about 2.5 GB of temporary files, some minutes

Every scan is its own made-up noise of 128 x 128 x 10 voxels, one in ten with a mask. Training streams prepared images
from disk (training.memory_gib=0). Every figure is that of a process of its own, as the operating system counted it:
the peak of all memory, and (on Linux, looked at every 10 ms) of its own memory and of pages of files, such as libraries
and prepared images, which the system takes back when it needs room.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np

from patchcl.core.files import write_json, write_text
from patchcl.runs.provenance import origin

RESULTS = Path(__file__).parent / "results"
SHAPE = (128, 128, 10)
WITH_MASK = 10
"""One scan in so many."""
SHORT = (
    *("plan.dimensions=2", "plan.fit=resize", "plan.size=[128, 128]", "network.features=[8, 16]"),
    *("training.labeled_per_batch=2", "training.unlabeled_per_batch=2", "training.steps=4", "training.device=cpu"),
    *("training.memory_gib=0", "training.validate_every=1000"),
)


class Measured(NamedTuple):
    """What one command took."""

    seconds: float
    peak_mib: float
    own_mib: float | None  # anonymous memory; None but on Linux
    files_mib: float | None  # pages of files


def main() -> None:
    """Measure both counts, keep and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--counts", type=int, nargs="+", default=[200, 2000])
    arguments.add_argument("--results", type=Path, default=RESULTS, help="where the table goes")
    chosen = arguments.parse_args()
    found = {str(count): measure(count) for count in chosen.counts}
    write_json(chosen.results / "many_cases.json", {"shape": SHAPE, "origin": origin_here(), "scans": found})
    table = markdown(found)
    write_text(chosen.results / "many_cases.md", table)
    sys.stdout.write(table)


def measure(count: int) -> dict[str, Measured]:
    """Each job in its turn, on `count` scans."""
    with tempfile.TemporaryDirectory() as folder:
        data, run = Path(folder) / "data", Path(folder) / "run"
        write_noise(data, count)
        train = [*("train", str(data), "-o"), str(run), *(part for each in SHORT for part in ("--set", each))]
        return {
            "check": measured("check", str(data)),
            "prepare and train 4 steps": measured(*train),
            "the same, all prepared": measured(*train[:3], f"{run}_again", *train[4:]),
            "predict": measured("predict", str(run), str(data / "imagesTr"), "-o", str(Path(folder) / "masks")),
        }


def write_noise(data: Path, count: int) -> None:
    """So many scans, each of another patient."""
    random = np.random.default_rng(0)
    mask = np.zeros(SHAPE, dtype=np.uint8)
    mask[40:80, 40:80, 2:8] = 1
    for number in range(count):
        voxels = random.integers(0, 1000, SHAPE).astype(np.int16)
        save(data / "imagesTr" / f"patient{number:05d}_0000.nii.gz", voxels)
        if number % WITH_MASK == 0:
            save(data / "labelsTr" / f"patient{number:05d}.nii.gz", mask)
    labels = {"background": 0, "box": 1}
    write_json(data / "dataset.json", {"channel_names": {"0": "MRI"}, "labels": labels, "file_ending": ".nii.gz"})


def save(path: Path, voxels: np.ndarray) -> None:
    """A NIfTI file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, np.diag([1.5, 1.5, 8.0, 1.0])), path)


def measured(*arguments: str) -> Measured:
    """One command of patchcl in a process of its own."""
    started = time.perf_counter()
    call = [sys.executable, "-c", "from patchcl.cli import main; main()", *arguments]
    own, files = [], []
    with subprocess.Popen(call, stdout=subprocess.DEVNULL) as process:
        ended = 0
        while not ended:
            time.sleep(0.01)
            seen = resident(process.pid)
            own.append(seen.get("RssAnon", 0))
            files.append(seen.get("RssFile", 0))
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"patchcl {arguments[0]} ended with exit code {process.returncode}")
    unit = 2**20 if platform.system() == "Darwin" else 2**10  # of ru_maxrss in a MiB
    parts = (round(max(part) / 2**10, 1) or None for part in (own, files))
    return Measured(round(time.perf_counter() - started, 1), round(usage.ru_maxrss / unit, 1), *parts)


def resident(process: int) -> dict[str, int]:
    """The KiB in memory of a process, by kind, as Linux tells; nothing elsewhere."""
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    except OSError:
        return {}
    return {kind: int(size) for kind, size in re.findall(r"^(Rss\w+):\s+(\d+) kB", status, re.MULTILINE)}


def origin_here() -> dict[str, object]:
    """Commit, versions and hardware."""
    import torch

    return json.loads(json.dumps(origin(torch.device("cpu"))))


def markdown(found: dict[str, dict[str, Measured]]) -> str:
    """Jobs as rows, counts of scans as columns."""
    counts = list(found)
    units = ("seconds", "peak MiB", "own MiB", "files MiB")
    head = ["", *(f"{count} scans: {unit}" for count in counts for unit in units)]
    jobs = [
        [job, *("" if value is None else str(value) for count in counts for value in found[count][job])]
        for job in next(iter(found.values()))
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *jobs)) + "\n"


if __name__ == "__main__":
    main()
