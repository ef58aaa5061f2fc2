"""What averages over symmetries and post-processing add to trained networks, on their validation patients.

    python benchmarks/inference.py DATA RUN [RUN ...] --masks DIR        # 5 minutes for each run on one core

DATA is the data set of all runs, wherever it lay when they were trained; a RUN is a folder, or zipped. Post-processing
is chosen on the patients that it is scored on, as training does; beside it stands the same with every patient scored by
what the others chose, which is fair. Distances are in voxels. No test scan is opened. Masks in DIR are not made again,
nor are runs measured again that the file of results holds.
"""

import argparse
import json
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from patchcl.core.devices import CPU
from patchcl.core.files import write_json
from patchcl.data.dataset import Case, read_dataset
from patchcl.data.preprocessing.plan import Plan
from patchcl.data.preprocessing.transforms import to_network_grid, to_scan_grid
from patchcl.data.scan import read_grid, read_image, read_mask, write_mask
from patchcl.data.splits import cases_of, load_split
from patchcl.evaluation.evaluate import evaluate_folders
from patchcl.evaluation.paired import compare
from patchcl.evaluation.scores import MEAN, Evaluation, summary_rows
from patchcl.inference.postprocessing import Postprocessing, describe, postprocess
from patchcl.inference.sliding_window import network_probs
from patchcl.inference.trained_run import TrainedRun, open_run
from patchcl.runs.folder import RunFolder
from patchcl.runs.provenance import origin
from patchcl.training.final_validation import SegmentedCase, choose_for, choose_postprocessing, dice_after

RESULTS = Path(__file__).parent / "results"
FIRST, LINEAR, SYMMETRIES = "one pass", "one pass, linear", "symmetries"
"""Gains are measured from the first, which returns to the scan as the plan says; the others return linearly."""


def main() -> None:
    """Measure every run, and keep what was found."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("data", type=Path)
    arguments.add_argument("runs", type=Path, nargs="+")
    arguments.add_argument("--results", type=Path, default=RESULTS / "inference_acdc.json", help="the file to write")
    arguments.add_argument(
        "--masks", type=Path, required=True, help="a folder for masks; what it holds is not made again"
    )
    chosen = arguments.parse_args()
    done = json.loads(chosen.results.read_text(encoding="utf-8"))["runs"] if chosen.results.exists() else {}
    found: dict[str, Any] = {run.stem: done[run.stem] for run in chosen.runs if run.stem in done}
    for run in chosen.runs:
        if run.stem in found:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            found[run.stem] = measure(opened(run, Path(scratch)), chosen.data, chosen.masks / run.stem)
        found[run.stem]["origin"] = origin(CPU)
        write_json(chosen.results, {"data": chosen.data.name, "runs": found})
        sys.stdout.write(f"{run.stem}: {json.dumps(found[run.stem]['dice'])}\n")


def opened(run: Path, scratch: Path) -> RunFolder:
    """The run, unpacked if need be."""
    if run.suffix != ".zip":
        return RunFolder.open(run)
    with zipfile.ZipFile(run) as packed:
        packed.extractall(scratch / "run")
    return RunFolder.open(scratch / "run")


def measure(folder: RunFolder, data: Path, masks: Path) -> dict[str, Any]:
    """Scores of one network in all ways, and what each adds to one pass."""
    trained = open_run(folder, postprocessing=False)
    trained.network.to(memory_format=torch.channels_last)  # a third faster on one core
    dataset = read_dataset(data, trained.settings.split.patient_pattern)
    cases = cases_of(dataset, load_split(folder.split).validation, masked=True)
    folders = {name: masks / name for name in (FIRST, LINEAR, SYMMETRIES)}
    for case in cases:
        if not (folders[SYMMETRIES] / f"{case.name}.nii.gz").exists():  # the last that is written
            predict(trained, case, folders)
    chosen = {}
    for name, before in (("one pass, post-processed", FIRST), ("symmetries, post-processed", SYMMETRIES)):
        choice = choose_for(segmented(cases, folders[before]), trained.plan)
        chosen[name] = choice.model_dump(mode="json") | {"in_words": describe(choice.postprocessing)}
        steps = dict.fromkeys((case.patient for case in cases), choice.postprocessing)
        folders[name] = clean(cases, folders[before], masks / name, trained.plan, steps)
    fair = chosen_by_others(cases, folders[SYMMETRIES], trained.plan)
    folders["symmetries, chosen by others"] = clean(cases, folders[SYMMETRIES], masks / "fair", trained.plan, fair)
    return {**scored(cases, folders, masks / "reference", trained), "chosen": chosen}


def predict(trained: TrainedRun, case: Case, folders: dict[str, Path]) -> None:
    """The masks of a scan, every view of which passes through the network once."""
    scan, plan = read_image(case.images), trained.plan
    linear = plan.model_copy(update={"output_interpolation": "linear"})
    image = torch.from_numpy(to_network_grid(scan, plan))
    views = [network_probs(trained.network, image, plan, symmetries=[view]) for view in trained.inference.symmetries]
    average = torch.stack(views).mean(dim=0)
    for name, probs, back in ((FIRST, views[0], plan), (LINEAR, views[0], linear), (SYMMETRIES, average, linear)):
        mask = to_scan_grid(probs.numpy(), scan.grid, back).argmax(axis=0).astype("uint8")
        write_mask(folders[name] / f"{case.name}.nii.gz", mask, case.images[0], plan.classes)


def segmented(cases: Sequence[Case], folder: Path) -> list[SegmentedCase]:
    """The masks in `folder` with their references."""
    return [
        SegmentedCase(case.patient, folder / f"{case.name}.nii.gz", case.mask)
        for case in cases
        if case.mask is not None
    ]


def chosen_by_others(cases: Sequence[Case], folder: Path, plan: Plan) -> dict[str, Postprocessing]:
    """For every patient what the other patients choose."""
    all_dice = cache(partial(dice_after, cases=segmented(cases, folder), plan=plan))
    patients = list(dict.fromkeys(case.patient for case in cases))

    def dice_of_others(steps: Postprocessing, place: int) -> np.ndarray:
        return np.delete(all_dice(steps), place, axis=0)

    return {
        patient: choose_postprocessing(partial(dice_of_others, place=place), plan.classes[1:])[0]
        for place, patient in enumerate(patients)
    }


def clean(cases: Sequence[Case], folder: Path, out: Path, plan: Plan, steps: dict[str, Postprocessing]) -> Path:
    """The masks after the steps of their patient."""
    for case in cases:
        file = folder / f"{case.name}.nii.gz"
        grid = read_grid(file)
        mask = postprocess(read_mask(file, plan.classes, grid), grid, plan, steps[case.patient])
        write_mask(out / file.name, mask, file, plan.classes)
    return out


def scored(cases: Sequence[Case], folders: dict[str, Path], masks: Path, trained: TrainedRun) -> dict[str, Any]:
    """Scores of every folder, the paired difference of each from the first, and where the network comes from."""
    masks.mkdir(exist_ok=True)
    for case in cases:
        if case.mask is not None:
            shutil.copyfile(case.mask, masks / f"{case.name}.nii.gz")
    pattern = trained.settings.split.patient_pattern
    evaluations = {
        name: evaluate_folders(folder, masks, trained.plan.classes, pattern, voxels=True)
        for name, folder in folders.items()
    }
    return {
        "dice": {name: summary_rows(each)[MEAN]["dice"]["mean"] for name, each in evaluations.items()},
        "summary": {name: summary_rows(each) for name, each in evaluations.items()},
        "gain": {name: gain(evaluations[FIRST], each) for name, each in evaluations.items() if name != FIRST},
        "patients": {name: each.by_patient("dice") for name, each in evaluations.items()},
        "symmetries": len(trained.inference.symmetries),
        "trained": json.loads(trained.folder.provenance.read_text(encoding="utf-8")),
        "step": trained.step,
    }


def gain(first: Evaluation, second: Evaluation) -> dict[str, float]:
    """The paired difference in Dice with its interval."""
    return compare(first, second).overall.interval._asdict()


if __name__ == "__main__":
    main()
