"""What averages over symmetries and post-processing add to trained networks, on their validation patients.

    python benchmarks/inference.py DATA RUN [RUN ...]        # runs as folders, or zipped; minutes per run on one core

DATA is the data set of all runs, wherever it lay when they were trained. Post-processing is chosen on the patients that
it is scored on, as training does; beside it stands the same with every patient scored by what the others chose, which
is fair. Distances are in voxels. No test scan is opened.
"""

import argparse
import json
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from patchcl.core.devices import CPU
from patchcl.core.files import write_json
from patchcl.data.dataset import Case, read_dataset
from patchcl.data.preprocessing.plan import Plan
from patchcl.data.scan import read_grid, read_mask, write_mask
from patchcl.data.splits import cases_of, load_split
from patchcl.evaluation.evaluate import evaluate_folders
from patchcl.evaluation.paired import compare
from patchcl.evaluation.scores import MEAN, Evaluation, summary_rows
from patchcl.inference.postprocessing import Postprocessing, describe, postprocess
from patchcl.inference.predict import PLAIN, Files, Inference, predict_cases
from patchcl.inference.trained_run import TrainedRun, open_run
from patchcl.runs.folder import RunFolder
from patchcl.runs.provenance import origin
from patchcl.training.final_validation import SegmentedCase, choose_for

RESULTS = Path(__file__).parent / "results"
FIRST = "one pass"
"""What gains are measured from: the plan's own way back to the grid of the scan."""


def main() -> None:
    """Measure every run, and keep what was found."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("data", type=Path)
    arguments.add_argument("runs", type=Path, nargs="+")
    arguments.add_argument("--results", type=Path, default=RESULTS / "inference_acdc.json", help="the file to write")
    chosen = arguments.parse_args()
    found: dict[str, Any] = {}
    for run in chosen.runs:
        with tempfile.TemporaryDirectory() as scratch:
            found[run.stem] = measure(opened(run, Path(scratch)), chosen.data, Path(scratch))
        write_json(chosen.results, {"data": chosen.data.name, "origin": origin(CPU), "runs": found})
        sys.stdout.write(f"{run.stem}: {json.dumps(found[run.stem]['dice'])}\n")


def opened(run: Path, scratch: Path) -> RunFolder:
    """The run, unpacked if need be."""
    if run.suffix != ".zip":
        return RunFolder.open(run)
    with zipfile.ZipFile(run) as packed:
        packed.extractall(scratch / "run")
    return RunFolder.open(scratch / "run")


def measure(folder: RunFolder, data: Path, scratch: Path) -> dict[str, Any]:
    """Scores of one network in all ways, and what each adds to one pass."""
    trained = open_run(folder, postprocessing=False)
    dataset = read_dataset(data, trained.settings.split.patient_pattern)
    cases = cases_of(dataset, load_split(folder.split).validation, masked=True)
    linear = trained.plan.model_copy(update={"output_interpolation": "linear"})
    folders = {
        FIRST: predict(trained, trained.plan, PLAIN, cases, scratch / "one_pass"),
        "one pass, linear": predict(trained, linear, PLAIN, cases, scratch / "linear"),
        "symmetries": predict(trained, linear, trained.inference, cases, scratch / "symmetries"),
    }
    chosen = {}
    for name, before in (("one pass, post-processed", FIRST), ("symmetries, post-processed", "symmetries")):
        choice = choose_for(segmented(cases, folders[before]), trained.plan)
        chosen[name] = choice.model_dump(mode="json") | {"in_words": describe(choice.postprocessing)}
        steps = dict.fromkeys((case.patient for case in cases), choice.postprocessing)
        folders[name] = clean(cases, folders[before], scratch / name, trained.plan, steps)
    fair = chosen_by_others(cases, folders["symmetries"], trained.plan)
    folders["symmetries, chosen by others"] = clean(cases, folders["symmetries"], scratch / "fair", trained.plan, fair)
    return {**scored(cases, folders, scratch / "masks", trained), "chosen": chosen}


def predict(trained: TrainedRun, plan: Plan, inference: Inference, cases: Sequence[Case], out: Path) -> Path:
    """A folder of masks."""
    scans = {case.name: case.images for case in cases}
    summary = predict_cases(trained.network, plan, scans, out, Files(output="nifti"), inference=inference)
    if summary.failed:
        raise RuntimeError(str(summary.failed))
    return out


def segmented(cases: Sequence[Case], folder: Path, without: str | None = None) -> list[SegmentedCase]:
    """The masks in `folder` with their references, but for one patient."""
    return [
        SegmentedCase(case.patient, folder / f"{case.name}.nii.gz", case.mask)
        for case in cases
        if case.mask is not None and case.patient != without
    ]


def chosen_by_others(cases: Sequence[Case], folder: Path, plan: Plan) -> dict[str, Postprocessing]:
    """For every patient what the other patients choose."""
    patients = dict.fromkeys(case.patient for case in cases)
    return {patient: choose_for(segmented(cases, folder, patient), plan).postprocessing for patient in patients}


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
    masks.mkdir()
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
