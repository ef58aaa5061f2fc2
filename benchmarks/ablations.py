"""What every part of PatchCL is worth: one part changed at a time, over seeds, on generated scans and on ACDC.

    python benchmarks/ablations.py                             # generated scans, about an hour a seed on one core
    python benchmarks/ablations.py --acdc Dataset027_ACDC      # ACDC, with its ssl4mis_split.json inside
    python benchmarks/ablations.py --of recipe --acdc Dataset027_ACDC    # what our own ingredients are worth
    python benchmarks/ablations.py --table                     # the tables of what is there, nothing is run

Every run is scored on validation patients, which choose nothing else here: the last checkpoint counts, and no test scan
is opened. A run that is in the runs' folder is not run again, and one that was stopped goes on where it was, so the
work can be spread over processes: `--seeds`, `--only` and `--acdc` divide it.
"""

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from patchcl.config import Settings, load_settings
from patchcl.core.files import write_json, write_text
from patchcl.demo.demo import train_or_continue
from patchcl.demo.phantom import write_cardiac
from patchcl.evaluation.evaluate import evaluate_run
from patchcl.evaluation.intervals import over_patients, seed_interval
from patchcl.evaluation.paired import format_interval
from patchcl.evaluation.scores import MEAN
from patchcl.runs.folder import RunFolder
from patchcl.runs.log import read_rows

RESULTS = Path(__file__).parent / "results"
SCALE = (
    "plan.dimensions=2",
    "plan.fit=resize",
    "plan.size=[64, 64]",
    "network.features=[16, 32, 64, 128]",
    "training.labeled_per_batch=4",
    "training.unlabeled_per_batch=4",
    "training.steps=400",
    "training.validate_every=1000",  # at the end alone
    "training.device=cpu",
)
"""What makes a run small enough for one core and about two minutes; the rest are the defaults."""


class Ablation(NamedTuple):
    """A table: its rows differ from one of them by one part each."""

    reference: str
    base: tuple[str, ...]  # settings of all rows that have PatchCL's method
    labeled: int  # patients of ACDC
    steps: int  # on ACDC
    rows: dict[str, tuple[str, ...]]  # row -> what differs from the reference


PARTS = {
    "supervised": ("method.name=supervised",),
    "+ consistency": ("method.contrast.weight=0",),
    "+ InfoNCE": ("method.contrast.loss=info_nce",),
    "+ PLG": (),
    "weight 0.01": ("method.contrast.weight=0.01",),
    "crops of the attended image": ("method.contrast.embed=crops",),
    "sampler uniform": ("method.contrast.sampler=uniform",),
    "sampler topk": ("method.contrast.sampler=topk",),
    "sampler coverage": ("method.contrast.sampler=coverage",),
    "entropy of the attended image": ("method.contrast.entropy_source=attended",),
    "hard negatives reweight": ("method.contrast.hard_negatives=reweight",),
    "hard negatives mix": ("method.contrast.hard_negatives=mix",),
    "hard negatives slab": ("method.contrast.hard_negatives=slab",),
    "λ 0": ("method.contrast.covariance_weight=0",),
    "λ 1": ("method.contrast.covariance_weight=1",),
    "ψ 1": ("method.contrast.num_negatives=1",),
    "ψ 256": ("method.contrast.num_negatives=256",),
    "τ 0.1": ("method.contrast.temperature=0.1",),
    "τ 0.5": ("method.contrast.temperature=0.5",),
    "patch side 1/2": ("method.contrast.patch_fraction=0.5",),
    "instance norm": ("network.norm=instance",),
    "group norm": ("network.norm=group",),
    "supervised, instance norm": ("method.name=supervised", "network.norm=instance"),
    "supervised, group norm": ("method.name=supervised", "network.norm=group"),
}
RECIPE = {
    "supervised": ("method.name=supervised",),
    "patchcl": (),
    "no contrast": ("method.contrast.weight=0",),
    "contrast that stays": ("method.contrast.final_weight_fraction=1",),
    "λ 4": ("method.contrast.covariance_weight=4",),
    "sampler uniform": ("method.contrast.sampler=uniform",),
    "no consistency": ("method.consistency_weight=0",),
    "boxes of unlabeled images": ("method.labeled_mix_probability=0",),
    "a box in every other image": ("method.mix_probability=0.5",),
}
ABLATIONS = {
    "parts": Ablation(
        reference="+ PLG",
        base=(
            *("method.contrast.weight=0.1", "method.contrast.final_weight_fraction=1"),
            *("method.contrast.covariance_weight=4", "method.mix_probability=0.5", "method.labeled_mix_probability=0"),
        ),
        labeled=7,
        steps=500,
        rows=PARTS,
    ),
    "recipe": Ablation(reference="patchcl", base=(), labeled=3, steps=600, rows=RECIPE),
}
"""The parts of the published method, each in the recipe that was ours at first; and the recipe of today."""
FIGURES = ("contrast_over_collapse", "separability", "effective_rank", "seconds_per_step")
Measurement = dict[str, Any]  # of one run


def main() -> None:
    """Run what is missing of the chosen rows and seeds, then write and print the table of all that is there."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--of", choices=list(ABLATIONS), default="parts", help="which table")
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments.add_argument("--only", nargs="+", help="rows to run, instead of all", metavar="ROW")
    arguments.add_argument("--acdc", type=Path, help="run on this ACDC folder instead of generated scans")
    arguments.add_argument("--table", action="store_true", help="run nothing")
    arguments.add_argument("--runs", type=Path, default=Path("runs/ablations"), help="where the runs go")
    arguments.add_argument("--results", type=Path, default=RESULTS, help="where the tables go")
    chosen, console = arguments.parse_args(), Console()
    ablation = ABLATIONS[chosen.of]
    runs = chosen.runs if chosen.of == "parts" else chosen.runs / chosen.of
    if not chosen.table:
        for seed in chosen.seeds:
            data = acdc(chosen.acdc, ablation) if chosen.acdc else generated(runs, seed)
            for row in chosen.only or ablation.rows:
                measure(ablation, row, seed, *data, runs, console)
    name = "ablations" if chosen.of == "parts" else f"ablations_{chosen.of}"
    for kind in ("generated", "acdc"):
        measured = read_runs(runs / kind, ablation.rows)
        if measured:
            about = {"scale": SCALE, "base": ablation.base}
            write_json(chosen.results / f"{name}_{kind}.json", about | {"rows": measured})
            table = markdown(measured, ablation.reference)
            write_text(chosen.results / f"{name}_{kind}.md", table)
            console.print(f"\n{kind}\n{table}", highlight=False, soft_wrap=True)


def generated(runs: Path, seed: int) -> tuple[str, Path, tuple[str, ...]]:
    """Other patients for every seed: 3 labeled, 24 unlabeled, 12 to validate on."""
    data = runs / "data" / f"seed_{seed}"
    if not (data / "dataset.json").is_file():
        write_cardiac(data, labeled=15, unlabeled=24, test=1, seed=1000 + seed)
    return "generated", data, ("split.labeled=3", "split.validation_fraction=0.8", f"split.seed={seed}")


def acdc(data: Path, ablation: Ablation) -> tuple[str, Path, tuple[str, ...]]:
    """The same patients for every seed, 10 of them to validate on; seeds vary weights and order.

    The right ventricle is hardly learned in 400 steps; a larger learning rate and some more steps correct that.
    """
    split = data / "ssl4mis_split.json"
    patients = (f"split.labeled={ablation.labeled}", f"split.file={split.resolve()}")
    learning = (f"training.steps={ablation.steps}", "training.learning_rate=0.003")
    return "acdc", data, (*patients, "plan.normalise=min_max", *learning)


def measure(
    ablation: Ablation, row: str, seed: int, kind: str, data: Path, split: Sequence[str], runs: Path, console: Console
) -> None:
    """One run, unless it is there already, scored on the validation patients."""
    name = "".join(letter if letter.isalnum() else "_" for letter in row)
    root = runs / kind / f"seed_{seed}" / name
    if (root / "cell.json").is_file():
        return
    console.rule(f"{kind}, seed {seed}: {row}")
    settings = settings_of(ablation, row, seed, split, runs / kind / "prepared" / f"seed_{seed}")
    train_or_continue(data, root, settings, console)
    write_json(root / "cell.json", {"row": row, "seed": seed, "kind": kind} | found(RunFolder.open(root)))


def settings_of(ablation: Ablation, row: str, seed: int, split: Sequence[str], cache: Path) -> Settings:
    """The settings of a row: the scale, the split, what all rows share, what the row changes."""
    own = ablation.rows[row]
    base = () if "method.name=supervised" in own else ablation.base
    return load_settings(None, [*SCALE, *split, f"training.seed={seed}", f"cache={cache.resolve()}", *base, *own])


def found(run: RunFolder) -> Measurement:
    """Dice by patient and structure, the last figures of the log, and where they come from."""
    evaluation = evaluate_run(run, on="validation")
    dice = {each: evaluation.by_patient("dice", each) for each in (*evaluation.structures, MEAN)}
    last: dict[str, float] = {}
    for line in read_rows(run):
        last |= line
    known = json.loads(run.provenance.read_text(encoding="utf-8"))
    origin = {key: known.get(key) for key in ("commit", "hardware", "torch", "patchcl", "seconds")}
    return {"dice": dice, "figures": {key: last[key] for key in FIGURES if key in last}, "provenance": origin}


def read_runs(folder: Path, rows: Iterable[str]) -> dict[str, dict[str, Measurement]]:
    """Every finished run by row and seed, rows in their order; nothing where there is none."""
    known = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("seed_*/*/cell.json"))]
    return {row: {str(run["seed"]): run for run in known if run["row"] == row} for row in rows} if known else {}


def markdown(rows: Mapping[str, Mapping[str, Measurement]], reference: str) -> str:
    """The table: Dice over seeds, and the paired difference from the reference row with two intervals."""
    lines = [
        f"| | seeds | Dice % | less `{reference}` (t-interval over seeds) | (interval over patients) "
        "| contrast over collapse | separability | effective rank |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [f"| {row} | " + " | ".join(columns(runs, rows[reference])) + " |" for row, runs in rows.items() if runs]
    return "\n".join(lines) + "\n"


def columns(runs: Mapping[str, Measurement], reference: Mapping[str, Measurement]) -> Iterator[str]:
    """What the table says of one row."""
    means = [np.mean(list(run["dice"][MEAN].values())) for run in runs.values()]
    yield str(len(means))
    yield f"{100 * np.mean(means):.1f}" + (f" ± {100 * np.std(means, ddof=1):.1f}" if len(means) > 1 else "")
    pairs = [differences(run, reference[seed], seed) for seed, run in runs.items() if seed in reference]
    if runs is reference or not pairs:
        yield from ("", "")
    else:
        yield format_interval(seed_interval([float(np.mean(list(pair.values()))) for pair in pairs]))
        yield format_interval(over_patients(by_patient(pairs)).interval())
    for key in FIGURES[:3]:
        values = [run["figures"][key] for run in runs.values() if key in run["figures"]]
        yield f"{np.mean(values):.2f}" if values else ""


def differences(run: Measurement, reference: Measurement, seed: str) -> dict[str, float]:
    """Less the reference, patient by patient. Generated patients of different seeds are different patients."""
    ours, theirs = run["dice"][MEAN], reference["dice"][MEAN]
    same = run["kind"] == "acdc"
    return {patient if same else f"{seed} {patient}": ours[patient] - theirs[patient] for patient in theirs}


def by_patient(pairs: Sequence[Mapping[str, float]]) -> np.ndarray:
    """One difference for each patient, the mean of its seeds."""
    patients = dict.fromkeys(patient for pair in pairs for patient in pair)
    return np.array([np.mean([pair[patient] for pair in pairs if patient in pair]) for patient in patients])


if __name__ == "__main__":
    main()
