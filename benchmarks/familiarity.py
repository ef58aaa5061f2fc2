"""Whether prediction tells scans unlike training from others, and whether its mean confidence ranks scans by Dice.

    python benchmarks/familiarity.py DATA RUN [RUN ...]        # 5 minutes for each run on one core

DATA is the data set of all runs, wherever it lay when they were trained; a RUN is a folder, or zipped. What training
saw is made from its labeled and unlabeled scans, as training makes it. The validation patients are looked at as they
are (`own`) and changed: intensities turned round, noise of a fifth of their range added, dark tissue brightened (a
power of 0.4), the middle half of each side of the slices alone, pixels said to be twice as wide, axes turned by a
quarter. Confidence and Dice are those of `patchcl predict`, with averages over symmetries, without post-processing.
No test scan is opened. Runs are not measured again that the file of results holds.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from inference import RESULTS, opened
from patchcl.config import read_settings
from patchcl.core.devices import CPU
from patchcl.core.files import write_json, write_text
from patchcl.data.dataset import Case, read_dataset
from patchcl.data.geometry import Grid
from patchcl.data.preprocessing.plan import Plan, load_plan
from patchcl.data.preprocessing.transforms import to_network_grid, to_scan_grid
from patchcl.data.scan import Scan, read_image, read_mask
from patchcl.data.splits import cases_of, load_split
from patchcl.inference.case_summary import Confidences
from patchcl.inference.familiarity import Familiarity, Look, lines_of, look_at, unlike
from patchcl.inference.sliding_window import network_probs
from patchcl.inference.trained_run import TrainedRun, open_run
from patchcl.runs.folder import RunFolder
from patchcl.runs.provenance import origin

SETS, SET_SIZES = 20, (3, 7, 14, 40, 60)
"""How often patients are drawn, and how many."""


def main() -> None:
    """Measure every run, and keep what was found."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("data", type=Path)
    arguments.add_argument("runs", type=Path, nargs="+")
    arguments.add_argument("--results", type=Path, default=RESULTS / "familiarity_acdc.json", help="the file to write")
    chosen = arguments.parse_args()
    done = json.loads(chosen.results.read_text(encoding="utf-8"))["runs"] if chosen.results.exists() else {}
    found: dict[str, Any] = {run.stem: done[run.stem] for run in chosen.runs if run.stem in done}
    for run in chosen.runs:
        if run.stem in found:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            found[run.stem] = measure(opened(run, Path(scratch)), chosen.data) | {"origin": origin(CPU)}
        write_json(chosen.results, {"data": chosen.data.name, "runs": found})
    with tempfile.TemporaryDirectory() as scratch:
        sets = random_sets(opened(chosen.runs[0], Path(scratch)), chosen.data)
    write_json(chosen.results, {"data": chosen.data.name, "runs": found, "sets": sets, "sets_origin": origin(CPU)})
    write_text(chosen.results.with_suffix(".md"), table(found, sets))
    sys.stdout.write(table(found, sets))


def measure(folder: RunFolder, data: Path) -> dict[str, Any]:
    """The share flagged of the validation scans as they are and changed, and how confidence ranks them."""
    trained = open_run(folder, postprocessing=False)
    trained.network.to(memory_format=torch.channels_last)  # a third faster on one core
    dataset, split = read_dataset(data, trained.settings.split.patient_pattern), load_split(folder.split)
    learned = cases_of(dataset, split.labeled, masked=True)
    if trained.settings.method.name != "supervised":
        learned += cases_of(dataset, split.unlabeled, masked=None)
    looks = tuple(look(read_image(case.images), trained.plan) for case in learned)
    known = Familiarity(patients=len({case.patient for case in learned}), scans=looks)
    cases = cases_of(dataset, split.validation, masked=True)
    flags = {name: list(flags_of(cases, change, known, trained.plan)) for name, change in CHANGES.items()}
    scored = [confidence_and_dice(trained, case) for case in cases]
    return {
        "flagged": {name: float(np.mean([bool(kinds) for kinds in each])) for name, each in flags.items()},
        "flags": flags,
        "spearman": float(spearmanr(*zip(*scored, strict=True)).statistic),
        "confidence_and_dice": {case.name: each for case, each in zip(cases, scored, strict=True)},
        "patients": known.patients,
        "scans": len(cases),
    }


def random_sets(folder: RunFolder, data: Path) -> dict[int, float]:
    """The share flagged of all scans but those of some patients drawn at random, if training had seen these alone."""
    plan, split = load_plan(folder.plan), load_split(folder.split)
    sides = [*split.labeled, *split.unlabeled, *split.validation]
    cases = cases_of(read_dataset(data, read_settings(folder.settings).split.patient_pattern), sides, masked=None)
    looks: dict[str, list[Look]] = {}
    for case in cases:
        looks.setdefault(case.patient, []).append(look(read_image(case.images), plan))
    shares = {}
    for count in SET_SIZES:
        flagged = []
        for seed in range(SETS):
            drawn = np.random.default_rng(seed).permutation(len(looks))
            patients = [list(looks)[place] for place in drawn]
            seen = tuple(each for patient in patients[:count] for each in looks[patient])
            known = Familiarity(patients=count, scans=seen)
            others = [each for patient in patients[count:] for each in looks[patient]]
            flagged += [bool(unlike(known, each, plan.channels)) for each in others]
        shares[count] = float(np.mean(flagged))
    return shares


def table(found: dict[str, Any], sets: dict[int, float]) -> str:
    """Of each network the shares of scans flagged, as they are and changed, and the rank correlation."""
    heads = ["", "patients learned from", *CHANGES, "confidence and Dice"]
    lines = [heads, ["---"] * len(heads)]
    for name, run in found.items():
        shares = [f"{100 * run['flagged'][change]:.0f} %" for change in CHANGES]
        lines.append([f"`{name}`", str(run["patients"]), *shares, f"{run['spearman']:.2f}"])
    source = next(iter(found.values()))["origin"]
    rows = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    shares = ", ".join(f"{100 * share:.1f} % where it saw {count}" for count, share in sets.items())
    drawn = (
        f"Had training seen random patients alone, of the others' scans would be flagged ({SETS} draws each): {shares}."
    )
    return f"{rows}\n\n{drawn}\n\nCommit {source['commit']}, torch {source['torch']}, {source['hardware']}.\n"


def look(scan: Scan, plan: Plan) -> Look:
    """What can be compared of a scan."""
    return look_at(scan.grid, lines_of(to_network_grid(scan, plan)))


def flags_of(
    cases: Sequence[Case], change: Callable[[Scan], Scan], known: Familiarity, plan: Plan
) -> Iterator[list[str]]:
    """The kinds of what is flagged in each changed scan."""
    for case in cases:
        yield list(unlike(known, look(change(read_image(case.images)), plan), plan.channels))


def confidence_and_dice(trained: TrainedRun, case: Case) -> tuple[float, float]:
    """Mean confidence in a scan, and the mean Dice over structures."""
    assert case.mask is not None  # validation scans have one
    scan, plan = read_image(case.images), trained.plan
    image = torch.from_numpy(to_network_grid(scan, plan))
    probs = network_probs(trained.network, image, plan, symmetries=trained.inference.symmetries).numpy()
    confidence = Confidences()
    for part in probs:
        confidence = confidence.with_part(part)
    mask = to_scan_grid(probs, scan.grid, plan).argmax(axis=0)
    reference = read_mask(case.mask, plan.classes, scan.grid, plan.ignore)
    return confidence.mean, float(np.mean([dice(mask == k, reference == k) for k in range(1, len(plan.classes))]))


def dice(first: np.ndarray, second: np.ndarray) -> float:
    """Of two sets of voxels; 1 if both are empty."""
    total = int(first.sum() + second.sum())
    return 2 * int((first & second).sum()) / total if total else 1.0


def inverted(scan: Scan) -> Scan:
    """Bright is dark."""
    return scan._replace(voxels=scan.voxels.max() - scan.voxels)


def noisy(scan: Scan) -> Scan:
    """Normal noise, whose deviation is a fifth of the range from the first to the 99th percentile."""
    low, high = np.percentile(scan.voxels, (1, 99))
    noise = np.random.default_rng(0).normal(0, 0.2 * (high - low), scan.voxels.shape)
    return scan._replace(voxels=(scan.voxels + noise).astype(np.float32))


def brightened(scan: Scan) -> Scan:
    """Other contrast: dark tissue becomes brighter."""
    low, high = scan.voxels.min(), scan.voxels.max()
    return scan._replace(voxels=((scan.voxels - low) / (high - low)) ** np.float32(0.4))


def cut(scan: Scan) -> Scan:
    """The middle half of each side of the slices."""
    rows, columns = (slice(length // 4, length - length // 4) for length in scan.grid.shape[:2])
    voxels = scan.voxels[:, rows, columns]
    return Scan(voxels, scan.grid._replace(shape=voxels.shape[1:]))


def widened(scan: Scan) -> Scan:
    """Pixels that are said to be twice as wide, as where the spacing is wrong."""
    factors = np.array([2, 2, 1])
    affine = scan.grid.affine @ np.diag([*factors, 1])
    spacing = tuple((factors * scan.grid.spacing_mm).tolist())
    return scan._replace(grid=scan.grid._replace(affine=affine, spacing_mm=spacing))


def turned(scan: Scan) -> Scan:
    """The same scan with its first two axes in the other order."""
    across, down, along = scan.grid.spacing_mm
    voxels = np.ascontiguousarray(scan.voxels.swapaxes(1, 2))
    return Scan(voxels, Grid(voxels.shape[1:], scan.grid.affine[:, [1, 0, 2, 3]], (down, across, along)))


CHANGES: dict[str, Callable[[Scan], Scan]] = {
    "own": lambda scan: scan,
    "inverted": inverted,
    "noise": noisy,
    "other contrast": brightened,
    "cut field of view": cut,
    "wrong spacing": widened,
    "axes turned": turned,
}


if __name__ == "__main__":
    main()
