"""How many runs this machine trains side by side: by its cores, or by what a card holds."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import torch

from patchcl.config import Settings, planned
from patchcl.core.console import console
from patchcl.core.parallel import in_parallel
from patchcl.core.threads import usable_cores
from patchcl.data.dataset import read_dataset
from patchcl.data.preprocessing.planner import make_plan
from patchcl.data.scan import read_grid
from patchcl.data.splits import make_split, visible_to_training, with_split_of
from patchcl.training.memory_estimate import GIB, MemoryEstimate, estimate_memory, taken

Jobs = int | Literal["auto"]
"""Runs at a time; `auto` is what the machine has room for."""
MOST_ON_A_CARD = 4
"""More runs on one card gain nothing: three to four keep it busy."""
PROCESS_BYTES = 0.6 * GIB
"""What a process takes beside its training: its libraries on a CPU, its context on a card."""


def count_at_once(jobs: Jobs, data: Path, settings: Sequence[Settings], runs: int) -> int:
    """`jobs`, or for `auto` as many as fit, which is told; never more than there are `runs`.

    Args:
        jobs: What the user asked for.
        data: The data set of all runs.
        settings: Of the runs, each kind once; the largest decides.
        runs: How many there are.

    Raises:
        UserError: The data set is not laid out as one, or no plan can be made for it.
    """
    if jobs != "auto":
        return jobs
    estimates = list(_estimates(data, settings))
    largest = max(estimates, key=_bytes_of)
    count = max(1, min(fitting(largest, _cores_for_runs(), torch.cuda.device_count()), runs))
    told = f"{_bytes_of(largest) / GIB:.1f} GiB for the largest on {largest.device}"
    console.print(f"{count} run{'s' if count > 1 else ''} at a time ({told}).", highlight=False)
    return count


def fitting(estimate: MemoryEstimate, cores: int, cards: int) -> int:
    """How many runs that take as much as the estimated one fit; at least one, which may have to stream.

    Args:
        estimate: Of the largest run.
        cores: That this process may use, divided by the threads of a run.
        cards: On this machine; runs are shared out over all.
    """
    places = {"cpu": cores, "cuda": MOST_ON_A_CARD}.get(estimate.device, 1)
    if estimate.available_bytes is not None:
        places = min(places, int(estimate.available_bytes / _bytes_of(estimate)))
    return max(1, places) * (max(1, cards) if estimate.device == "cuda" else 1)


def _bytes_of(estimate: MemoryEstimate) -> float:
    return taken(estimate, estimate.batch) + PROCESS_BYTES


def _cores_for_runs() -> int:
    """Cores by the threads that the user gives a run; one is the least waste."""
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    return int(usable_cores() / max(1, int(threads) if threads.isdecimal() else 1))


def _estimates(data: Path, settings: Sequence[Settings]) -> Iterator[MemoryEstimate]:
    """Of each kind of run what it takes; a plan is made once for those that ask for the same."""
    first = settings[0].split
    dataset = read_dataset(data, first.patient_pattern)
    visible = visible_to_training(dataset, make_split(dataset, with_split_of(data, first)[0]))
    grids = in_parallel([case.images[0] for case in visible.cases], read_grid)
    plans = {asked: make_plan(visible, asked) for asked in dict.fromkeys(each.plan for each in settings)}
    for each in settings:
        plan = plans[each.plan]
        yield estimate_memory(planned(each, plan), plan, grids)
