"""Volumes that no step could hold whole: the plan that they get, and that training and prediction keep within it.

    python benchmarks/large_volumes.py FOLDER        # 6 generated volumes of 180 x 220 x 88, 4 with masks

A small network, so that a CPU is done in minutes: the plan is made for the default one, whatever network follows.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from patchcl.core.files import write_json
from patchcl.data.preprocessing.plan import load_plan
from patchcl.runs.provenance import origin

RESULTS = Path(__file__).parent / "results"
SHAPE, SPACING = (180, 220, 88), (1.0, 1.0, 1.1)
STEPS = 4
TINY = ("network.features=[4,8,16]", "training.validate_every=4", "training.log_every=1")


def main() -> None:
    """Make the volumes, train on them, segment one without a mask, and keep what that took."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=Path, help="for the volumes, which stay, and the run")
    arguments.add_argument("--results", type=Path, default=RESULTS, help="where the figures go")
    chosen = arguments.parse_args()
    data, run = chosen.folder / "data", chosen.folder / "run"
    if not data.exists():
        make(data)
    set_ = [part for setting in TINY for part in ("--set", setting)]
    train = call("train", data, "-o", run, "--method", "mean_teacher", "--steps", STEPS, "--device", "cpu", *set_)
    predict = call("predict", run, data / "imagesUn" / "patient004_0000.nii.gz", "-o", chosen.folder / "out", "--fast")
    plan = load_plan(run / "plan.yaml").model_dump(mode="json")
    kept = {key: plan[key] for key in ("dimensions", "fit", "size", "spacing_mm")}
    found = {"origin": origin(torch.device("cpu")), "plan": kept, "steps": STEPS, "train": train, "predict": predict}
    write_json(chosen.results / "large_volumes.json", json.loads(json.dumps(found)))


def call(*arguments: object) -> dict[str, float]:
    """Call patchcl in a process of its own: seconds, those of the processor, and the most memory of any so far."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", "patchcl", *map(str, arguments)], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    seconds, peak = time.perf_counter() - started, after.ru_maxrss / 2**20
    return {"seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1), "peak_gib": round(peak, 2)}


def make(root: Path) -> None:
    """A ball with a core somewhere in each volume, the last two without a mask."""
    for folder in ("imagesTr", "labelsTr", "imagesUn"):
        (root / folder).mkdir(parents=True)
    labels = {"background": 0, "ball": 1, "core": 2}
    write_json(root / "dataset.json", {"channel_names": {"0": "MRI"}, "labels": labels, "file_ending": ".nii.gz"})
    random, affine = np.random.default_rng(0), np.diag([*SPACING, 1.0])
    places = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"))
    for number in range(6):
        centre, radius = np.array(SHAPE) / 2 + random.uniform(-15, 15, 3), random.uniform(20, 30)
        distance = np.sqrt(((places - centre[:, None, None, None]) ** 2).sum(axis=0))
        mask = (distance < radius).astype(np.uint8) + (distance < radius / 2)
        image = (200.0 * mask + random.normal(0, 40, SHAPE) + 100).astype(np.int16)
        name, masked = f"patient{number:03d}", number < 4
        nib.save(nib.Nifti1Image(image, affine), root / ("imagesTr" if masked else "imagesUn") / f"{name}_0000.nii.gz")
        if masked:
            nib.save(nib.Nifti1Image(mask.astype(np.uint8), affine), root / "labelsTr" / f"{name}.nii.gz")


if __name__ == "__main__":
    main()
