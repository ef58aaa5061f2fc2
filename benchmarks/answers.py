"""How soon is a call for help answered, and a mistake?

    OMP_NUM_THREADS=1 python benchmarks/answers.py --json benchmarks/results/answers.json

Each call is a process of its own; all calls take turns, round after round. The time of the processor is that of the
clock on a machine where nothing else runs.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from patchcl.core.files import write_json
from patchcl.runs.provenance import provenance
from timing import table

CALLS = {
    "--help": "",
    "train --help": "",
    "train --nothing": "an option that there is not",
    "check nowhere": "a folder that is not there",
    "check .": "a folder that is no data set",
    "train . -o new --set training.stepz=3": "a mistyped setting",
    "train . -o new --method patchl": "a mistyped method",
    "compare . -o new --methods patchl": "a mistyped method",
    "compare --show nowhere": "a folder that holds no comparison",
    "report nowhere": "a folder that is not there",
    "predict . . -o new": "a folder that holds no run",
}
"""What is called, in an empty folder, and what is wrong with it."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures")
    chosen = parser.parse_args()
    origin = provenance(torch.device("cpu"))
    origin = {name: value for name, value in origin.items() if name not in ("seconds", "steps_per_second")}
    found = {"provenance": origin, "calls": answers(chosen.rounds)}
    print(markdown(found))
    if chosen.json is not None:
        write_json(chosen.json, found)


def answers(rounds: int) -> list[dict[str, Any]]:
    """Of every call the seconds of each round."""
    found: list[dict[str, Any]] = [
        {"call": call, "mistake": mistake, "cpu_seconds": [], "seconds": []} for call, mistake in CALLS.items()
    ]
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for each in found:
                cpu_seconds, seconds = answered(each["call"].split(), Path(folder), 2 if each["mistake"] else 0)
                each["cpu_seconds"].append(round(cpu_seconds, 3))
                each["seconds"].append(round(seconds, 3))
    return found


def answered(call: list[str], folder: Path, code: int) -> tuple[float, float]:
    """Seconds of the processor and of the clock until the program has ended, as it must, with that exit code."""
    before, started = os.times(), time.perf_counter()
    ended = subprocess.run([sys.executable, "-m", "patchcl", *call], cwd=folder, capture_output=True, check=False)
    after, seconds = os.times(), time.perf_counter() - started
    if ended.returncode != code:
        raise RuntimeError(f"patchcl {' '.join(call)} ended with {ended.returncode}, not {code}")
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return used, seconds


def markdown(found: dict[str, Any]) -> str:
    """The table."""
    rows = [
        [f"patchcl {each['call']}", *(f"{median(each[key]):.2f}" for key in ("cpu_seconds", "seconds"))]
        for each in found["calls"]
    ]
    return table(["", "seconds of the processor", "of the clock"], rows)


if __name__ == "__main__":
    main()
