"""What speed.py measures beside steps: prediction of files, reading from the disk, a trace, contrast by classes."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from patchcl.augment import AugmentSettings
from patchcl.data.preprocessing.plan import Plan
from patchcl.inference.predict import Inference, predict_cases
from patchcl.inference.sliding_window import BATCH_SIZE, CPU_DIVISOR
from patchcl.inference.test_time_augmentation import symmetries_of
from timing import Call

SCANS, SIDE = 10, 256
"""Files to segment, and the side of their slices in pixels, whatever the network takes: both as ACDC has them."""
COUNTS = Path("/proc/self/io")
LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx", "cudaGraphLaunch")


def predicting(network: nn.Module, plan: Plan, folder: Path, slices: int, device: torch.device) -> dict[str, Call]:
    """SCANS files read, segmented with symmetries and written; as many passes of the bare network on as many slices."""
    (folder / "scans").mkdir()
    draws, scans = np.random.default_rng(0), {}
    for number in range(SCANS):
        path = folder / "scans" / f"scan{number}_0000.nii.gz"
        nib.save(nib.Nifti1Image(draws.integers(0, 1000, (SIDE, SIDE, slices), np.int16), np.eye(4)), path)
        scans[f"scan{number}"] = (path,)
    inference = Inference(symmetries_of(AugmentSettings(), plan))
    out, network = folder / "masks", network.to(device).eval()
    out.mkdir()
    at_once = BATCH_SIZE // (CPU_DIVISOR if device.type == "cpu" else 1)
    batch = torch.rand(slices, 1, *plan.size, device=device)

    @torch.inference_mode()
    def bare() -> None:
        for _ in range(SCANS * len(inference.symmetries)):
            for part in batch.split(at_once):
                network(part)

    return {
        "prediction": lambda: predict_cases(network, plan, scans, out, device=device, inference=inference),
        "bare network": bare,
    }


def on_disk_alone(files: Sequence[Path]) -> bool:
    """Drops files from the memory in which Linux keeps what was read; false where that cannot be.

    Whoever reads them next waits for the disk, as for those of a data set larger than memory.
    """
    if not hasattr(os, "posix_fadvise"):
        return False
    for file in files:
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True


def written_out(files: Sequence[Path]) -> None:
    """Waits until the disk has them; before, they cannot be dropped."""
    for file in files:
        with file.open("rb+") as opened:
            os.fsync(opened.fileno())


def mb_from_disk() -> float:
    """What this process has read from disks so far, by Linux; 0 elsewhere."""
    if not COUNTS.exists():
        return 0.0
    counts = dict(line.split(": ") for line in COUNTS.read_text(encoding="ascii").splitlines())
    return int(counts["read_bytes"]) / 2**20


def traced(step: Call, file: Path, device: torch.device) -> dict[str, Any]:
    """Writes a trace of one step, for chrome://tracing, and gives how often the host launched something on a GPU."""
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=kinds) as found:
        step()
    file.parent.mkdir(parents=True, exist_ok=True)
    found.export_chrome_trace(str(file))
    counts = Counter(event.name for event in found.events())
    return {"launches": sum(counts[name] for name in LAUNCHES)} if device.type == "cuda" else {}


def share_rows(row_of: Callable[[int], dict[str, Any]], classes: tuple[int, ...] = (3, 104)) -> list[dict[str, Any]]:
    """What contrast takes of a step, in time and memory, at few classes and at many."""
    kept = ("step_ms", "contrast_share", "contrast_share_of_memory")
    return [{"classes": count, **{key: row_of(count)[key] for key in kept}} for count in classes]
