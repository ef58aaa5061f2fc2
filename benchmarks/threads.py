"""How threads of torch should wait: turning, asleep, or as `patchcl` chooses; alone and beside another program.

    python benchmarks/threads.py --json threads.json

Steps of a small U-Net are timed in processes of their own, as the choice is made before torch is loaded. All ways take
turns, A B A B. The other program multiplies matrices on all cores. Medians of wall time, and the smallest and largest.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from patchcl.core.files import write_json
from timing import spread, table

WAYS = {"turning": "ACTIVE", "asleep": "PASSIVE", "chosen": None}
"""Name -> OMP_WAIT_POLICY; None: left to `choose_wait_policy`."""
STEP = """
import json, os, sys, time
from patchcl.core.threads import choose_wait_policy
asleep = choose_wait_policy() or os.environ.get("OMP_WAIT_POLICY") == "PASSIVE"
import torch
from patchcl.networks import NetworkSettings, build_network
torch.manual_seed(0)
network = build_network(NetworkSettings(features=(16, 32, 64)), 1, 4, (96, 96))
image, times = torch.rand(4, 1, 96, 96), []
for _ in range({steps} + 2):
    started = time.perf_counter()
    network(image).square().mean().backward()
    times.append(1000 * (time.perf_counter() - started))
print(json.dumps([asleep, times[2:]]))
"""
OTHER = "import torch\nmatrix = torch.rand(1500, 1500)\nprint('ready', flush=True)\nwhile True: matrix @ matrix"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="timed in each process")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures")
    chosen = parser.parse_args()
    found = {"load_before": os.getloadavg()[0], "cores": os.cpu_count()}
    found |= {"alone": rounds(chosen.rounds, chosen.steps)}
    with another_program():
        found |= {"beside another program": rounds(chosen.rounds, chosen.steps)}
    print(markdown(found))
    if chosen.json is not None:
        write_json(chosen.json, found)


def rounds(count: int, steps: int) -> dict[str, Any]:
    """Of every way, the median step of each round, and how often its threads slept."""
    found: dict[str, Any] = {name: {"ms": [], "asleep": 0} for name in WAYS}
    for _ in range(count):
        for name, policy in WAYS.items():
            asleep, times = json.loads(python(STEP.format(steps=steps), policy))
            found[name]["ms"].append(round(median(times), 3))
            found[name]["asleep"] += asleep
    return found


def python(code: str, policy: str | None) -> str:
    """What a new process prints."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {} if policy is None else {"OMP_WAIT_POLICY": policy}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    ).stdout


@contextmanager
def another_program() -> Iterator[None]:
    """Inside, it works on all cores."""
    with subprocess.Popen([sys.executable, "-c", OTHER], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        other.stdout.readline()
        try:
            yield
        finally:
            other.kill()


def markdown(found: dict[str, Any]) -> str:
    """The table."""
    rows = []
    for where in ("alone", "beside another program"):
        for name, way in found[where].items():
            rows.append([where, name, spread(way["ms"], "{:.1f}".format), f"{way['asleep']} of {len(way['ms'])}"])
    return table(["", "threads wait", "ms a step", "asleep"], rows)


if __name__ == "__main__":
    main()
