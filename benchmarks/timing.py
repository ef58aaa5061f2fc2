"""Ways to do a thing take turns, A B A B, so that whatever else the machine does meets them alike.

A figure is the median over these rounds, a ratio the median of the ratios within a round, with the smallest and the
largest beside it. On a single CPU thread the clock is that of the process, which stands still while other programs have
the processor.
"""

import ctypes
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch

PROCESS = Path("/proc/self")
Call = Callable[[], object]
Rounds = dict[str, dict[str, Any]]  # way -> {"ms": one figure a round, "peak_mb": over all, of the device's memory}


def alternate(ways: Mapping[str, Call], device: torch.device, seconds: float, warm_up: bool, least: int = 1) -> Rounds:
    """Every way in turn, round after round, until `seconds` have passed, and at `least` so many rounds.

    Without a warm-up the first call of all counts; that is for ways of which one call takes long.
    """
    if warm_up:
        for call in ways.values():
            call()
    rounds: Rounds = {name: {"ms": [], "peak_mb": 0.0} for name in ways}
    clock = clock_of(device)
    started = clock()
    first = next(iter(rounds.values()))["ms"]
    while len(first) < least or clock() - started < seconds:
        for name, call in ways.items():
            before = memory_mb(device)
            rounds[name]["ms"].append(round(milliseconds(call, device), 4))
            rounds[name]["peak_mb"] = max(rounds[name]["peak_mb"], round(peak_mb(device) - before, 1))
    return rounds


def milliseconds(call: Call, device: torch.device, minimum: float = 0.1) -> float:
    """One call, from as many without a pause as take `least` seconds."""
    clock, count, seconds = clock_of(device), 1, 0.0
    while seconds < minimum:
        count = 2 * count if seconds else 1
        wait_for(device)
        started = clock()
        for _ in range(count):
            call()
        wait_for(device)
        seconds = clock() - started
    return 1000 * seconds / count


def clock_of(device: torch.device) -> Callable[[], float]:
    """Seconds: those of the processor where one thread does everything, else those of the wall."""
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    return time.process_time if alone else time.perf_counter


def memory_mb(device: torch.device) -> float:
    """What is in use now; from here on a new peak is kept."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device) / 2**20
    if PROCESS.exists():
        ctypes.CDLL(None).malloc_trim(0)  # so that what was freed is not used again unseen
        (PROCESS / "clear_refs").write_text("5", encoding="utf-8")
    return status_mb("VmRSS")


def peak_mb(device: torch.device) -> float:
    """The most that was in use since."""
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else status_mb("VmHWM")


def status_mb(field: str) -> float:
    """A figure that Linux keeps about this process; 0 elsewhere."""
    if not PROCESS.exists():
        return 0.0
    lines = (PROCESS / "status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def wait_for(device: torch.device) -> None:
    """Until the device has done all that it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def table(headings: list[str], rows: list[list[str]]) -> str:
    """In Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def shown(times: Mapping[str, Any]) -> str:
    """The median of the rounds, and how many there were."""
    return f"{figure(median(times['ms']))} ({len(times['ms'])})"


def ratio(slow: Mapping[str, Any], fast: Mapping[str, Any]) -> str:
    """How many times as long the first takes."""
    return "" if slow is fast else spread([a / b for a, b in zip(slow["ms"], fast["ms"], strict=True)], figure)


def fraction(without: Mapping[str, Any], whole: Mapping[str, Any]) -> str:
    """How much of the second is not in the first."""
    parts = [1 - a / b for a, b in zip(without["ms"], whole["ms"], strict=True)]
    return "" if without is whole else spread(parts, "{:.1%}".format)


def spread(values: list[float], style: Callable[[float], str]) -> str:
    """The median, and between what the rounds lie."""
    return f"{style(median(values))} ({style(min(values))} to {style(max(values))})".replace("-", "−")


def figure(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
