"""Evaluation of predictions against reference masks, patient by patient."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch

from patchcl.config import Settings
from patchcl.core.console import part_of
from patchcl.core.devices import CPU
from patchcl.core.errors import UserError
from patchcl.core.names import file_safe
from patchcl.core.parallel import ProgressCallback
from patchcl.data.dataset import Case, Dataset, read_dataset
from patchcl.data.formats import ENDINGS, ending_of, without_ending
from patchcl.data.regions import Regions
from patchcl.data.split_settings import PATIENT_PATTERN
from patchcl.data.splits import Split, cases_of, load_split
from patchcl.evaluation.inference_columns import predict_columns
from patchcl.evaluation.object_metrics import pooled
from patchcl.evaluation.pairs import Pair, Rule, object_scores, score_pairs
from patchcl.evaluation.scored_on import scored_on
from patchcl.evaluation.scores import (
    IGNORED_VOXELS,
    OPTIONS,
    RESCUES,
    UNFINISHED,
    Evaluation,
    PooledObjects,
    SplitSide,
    options_of,
    stem_of,
    with_columns,
    write_evaluation,
)
from patchcl.inference.many_scans import Many
from patchcl.inference.postprocessing import describe
from patchcl.inference.trained_run import Checkpoint, TrainedRun, open_run
from patchcl.runs.checkpoint import Weights
from patchcl.runs.folder import RunFolder
from patchcl.runs.log import Row, read_rows, rescues_of
from patchcl.runs.provenance import origin, read_provenance


def evaluate_folders(
    predictions: Path,
    masks: Path,
    classes: Sequence[str] | None = None,
    patient_pattern: str = PATIENT_PATTERN,
    voxels: bool = False,
    ignore: int | None = None,
    objects: bool = False,
    many: Many | None = None,
    on_progress: ProgressCallback | None = None,
) -> Evaluation:
    """Score every mask file in `predictions` against the one of the same name in `masks`.

    Args:
        predictions: Folder of masks named by their case, of any format; maps that `patchcl predict` writes beside
            them are left aside.
        masks: Folder of the reference masks, one for each prediction.
        classes: Names of all classes, background first; the index is the value in the files. By default those of the
            dataset.json beside `masks`.
        patient_pattern: Matches the name of a case; its first group is the patient.
        voxels: Measure distances in voxels, for data whose spacing was lost.
        ignore: Value in `masks` of voxels that nobody annotated; where `classes` is None, that of the dataset.json.
        objects: Score single objects too, see `OBJECT_POLICY`.
        many: On several processes.
        on_progress: Told how many masks of all are scored.

    Raises:
        UserError: A prediction or a mask has no partner, a file cannot be read, or nothing names the classes.
    """
    regions: Regions = {}
    if not classes:
        classes, ignore, regions = _labels_beside(masks)
    predicted, reference = (_mask_files(folder, classes, regions) for folder in (predictions, masks))
    _require_partners(predicted, reference, predictions, masks)
    pairs = [Pair(_patient(name, patient_pattern), predicted[name], reference[name]) for name in reference]
    rule = Rule(tuple(classes), ignore, voxels, objects, dict(regions))
    return _score(predictions.name, pairs, rule, origin(CPU), many, on_progress)


def evaluate_run(
    run: RunFolder,
    on: Literal["test", "validation", "auto"] = "auto",
    checkpoint: Checkpoint = "last",
    weights: Weights = "teacher",
    on_progress: ProgressCallback | None = None,
    device: torch.device = CPU,
    voxels: bool = False,
    objects: bool = False,
    fast: bool = False,
    postprocessing: bool = True,
) -> Evaluation:
    """Open a run, see `open_run`, and score it, see `evaluate_trained`."""
    trained = open_run(run, checkpoint, weights, device, fast, postprocessing)
    return evaluate_trained(trained, on, on_progress, voxels, objects)


def evaluate_trained(
    trained: TrainedRun,
    on: Literal["test", "validation", "auto"] = "auto",
    on_progress: ProgressCallback | None = None,
    voxels: bool = False,
    objects: bool = False,
    on_scored: ProgressCallback | None = None,
) -> Evaluation:
    """Predict the held-out scans of a run anew, score them, and keep the scores in the run folder, see `stem_of`.

    Args:
        trained: A trained run; its data set must still be where it was.
        on: `test` takes the test patients that have masks, `validation` the validation patients, `auto` the former
            where there are any.
        on_progress: See `predict_columns`.
        voxels: Measure distances in voxels, for data whose spacing was lost.
        objects: Score single objects too, see `OBJECT_POLICY`.
        on_scored: Told how many masks of all are scored, afterwards.

    Raises:
        UserError: The data set has moved, no held-out scan has a mask, or a scan cannot be predicted.
    """
    run, settings, plan, split = trained.folder, trained.settings, trained.plan, load_split(trained.folder.split)
    if settings.data is None:
        raise UserError(f"{run.settings} does not say where the data are: add `data: FOLDER`.")
    if not (settings.data / "dataset.json").is_file():
        call = f"train FOLDER -o {run.root} --folds ..." if trained.folds else f"resume {run.root} --data FOLDER"
        raise UserError(
            f"{run.root} cannot be scored: {settings.data} holds no data set any more. If it was moved, say where it "
            f"is: patchcl {call}"
        )
    side, held_out = _held_out(read_dataset(settings.data, settings.split.patient_pattern), trained, split, on)
    cases = [case for _, cases in held_out for case in cases]
    options = options_of(trained.fast, trained.postprocessing, voxels)
    name = stem_of(side, trained.checkpoint + "_student" * (trained.weights == "student"), options)
    members = [fold.folder for fold in trained.folds] or [run]
    known = _provenance(trained, split, side) | scored_on(members, cases) | origin(trained.device)
    known[OPTIONS] = options

    def score(folder: Path, on_masks: ProgressCallback | None) -> Evaluation:
        rule = Rule(plan.classes, plan.ignore, voxels, objects, dict(plan.regions))
        return _score(settings.method.name, _pairs(cases, folder), rule, known, None, on_masks)

    with TemporaryDirectory(prefix="patchcl-") as scratch:
        for each, its_cases in held_out:
            folders = predict_columns(each, its_cases, run.predictions / name, Path(scratch), on_progress)
        parts = [part_of(on_scored, place * len(cases), len(folders) * len(cases)) for place in range(len(folders))]
        scored = [score(folder, part) for folder, part in zip(folders.values(), parts, strict=True)]
        evaluation = with_columns(dict(zip(folders, scored, strict=True)))
    write_evaluation(evaluation, run.evaluation / name)
    return evaluation


def _pairs(cases: Sequence[Case], predictions: Path) -> list[Pair]:
    return [
        Pair(case.patient, predictions / f"{case.name}.nii.gz", case.mask) for case in cases if case.mask is not None
    ]


def settings_hash(settings: Settings) -> str:
    """The sha256, in hex, of all that decides a result, wherever data, cache and split file lie.

    Who is on which side is told by the hash of the split.
    """
    places: dict[str, Any] = {"data": True, "cache": True, "split": {"file", "fold"}, "training": {"scratch"}}
    tree = settings.model_dump(mode="json", exclude=places)
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


HeldOut = list[tuple[TrainedRun, tuple[Case, ...]]]


def _held_out(dataset: Dataset, run: TrainedRun, split: Split, on: str) -> tuple[SplitSide, HeldOut]:
    """The side of the split to score, and its cases, all of which have masks, with the run that has not seen them."""
    test = cases_of(dataset, split.test, masked=True)
    if on == "validation" or (on == "auto" and not test):
        sides = [(fold, load_split(fold.folder.split)) for fold in run.folds] or [(run, split)]
        held_out = [(each, cases_of(dataset, side.validation, masked=True)) for each, side in sides]
        if not any(cases for _, cases in held_out):
            raise UserError(
                f"{run.folder.root} holds no patient out of training. Train with validation patients, or with --folds."
            )
        return "validation", held_out
    if not test:
        raise UserError(
            f"No test patient has a mask in {dataset.root / 'labelsTs'}. Put the masks there, "
            "or evaluate on the validation patients with: --on validation"
        )
    return "test", [(run, test)]


def _labels_beside(masks: Path) -> tuple[tuple[str, ...], int | None, Regions]:
    """The classes that the data set of a folder of masks names, the value for `ignore`, and the regions of classes."""
    if not (masks.resolve().parent / "dataset.json").is_file():
        raise UserError(f"{masks} has no dataset.json beside it that names the classes. Copy it there.")
    dataset = read_dataset(masks.resolve().parent)
    return dataset.classes, dataset.ignore, dataset.regions


def _score(
    name: str,
    pairs: Sequence[Pair],
    rule: Rule,
    provenance: Mapping[str, str | int | None],
    many: Many | None = None,
    on_progress: ProgressCallback | None = None,
) -> Evaluation:
    """Scores of all pairs together, of the regions if there are any, else of the classes."""
    found = score_pairs(pairs, rule, many, on_progress)
    structures = tuple(rule.regions or rule.classes[1:])
    spacings = {length for each in found for length in each.spacing}
    ignored = sum(each.ignored for each in found)
    tallies = {name: [each.tallies[name] for each in found if name in each.tallies] for name in structures}
    return Evaluation(
        name=name,
        structures=structures,
        unit="voxels" if spacings == {1.0} else "mm",
        scores=tuple(score for each in found for score in each.scores),
        provenance={**provenance, **({IGNORED_VOXELS: ignored} if ignored else {})},
        pooled={name: PooledObjects(**object_scores(pooled(counts))) for name, counts in tallies.items() if counts},
    )


def _provenance(run: TrainedRun, split: Split, side: SplitSide) -> dict[str, str | int | None]:
    """What was scored, and where it was trained; of an ensemble the rescues of all folds."""
    trained = read_provenance(run.folder.provenance)
    logs = [(each, read_rows(each.folder)) for each in run.folds or (run,)]
    rescues = sum(rescues_of(rows) for _, rows in logs)
    unfinished = dict.fromkeys(filter(None, (_unfinished(each, rows) for each, rows in logs)))
    return {
        "on": side,
        "checkpoint": run.checkpoint,
        "step": run.step,
        "weights": run.weights,
        "symmetries": len(run.inference.symmetries),
        "postprocessing": describe(run.inference.postprocessing),
        "settings_hash": settings_hash(run.settings),
        "split_hash": split.hash,
        **{f"trained_{key}": trained.get(key) for key in ("commit", "torch", "hardware")},
        **({RESCUES: rescues} if rescues else {}),
        **({UNFINISHED: ", ".join(unfinished)} if unfinished else {}),
    }


def _unfinished(run: TrainedRun, rows: Sequence[Row]) -> str:
    """How far training has come; "" at its end. The best checkpoint may be an early one: there the log tells."""
    steps = run.settings.training.steps
    logged = int(rows[-1]["step"]) if rows else steps
    done = run.step if run.checkpoint == "last" else logged
    return f"step {done} of {steps}" if done < steps else ""


def _mask_files(folder: Path, classes: Sequence[str], regions: Regions) -> dict[str, Path]:
    """Mask files by the name of their case, without the maps and regions that prediction may have put beside them."""
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder. Name a folder of masks.")
    maps = ("_uncertainty", *(f"_probabilities_{file_safe(structure)}" for structure in (*classes, *regions)))
    maps += tuple(f"_region_{file_safe(region)}" for region in regions)
    files = {without_ending(path.name): path for path in sorted(folder.iterdir()) if ending_of(path.name)}
    return {name: path for name, path in files.items() if not name.endswith(maps) and not name.startswith(".")}


def _require_partners(predicted: dict[str, Path], reference: dict[str, Path], predictions: Path, masks: Path) -> None:
    problems = [f"  {predictions} holds no mask called {name}" for name in reference if name not in predicted]
    problems += [f"  {masks} holds no mask called {name}" for name in predicted if name not in reference]
    if problems:
        raise UserError(
            "\n".join(["Each prediction needs a mask of the same name and the other way round:", *problems])
        )
    if not reference:
        raise UserError(f"{masks} holds no masks; expected files that end in {', '.join(ENDINGS)}.")


def _patient(case: str, pattern: str) -> str:
    match = re.fullmatch(pattern, case)
    if match is None:
        raise UserError(f"{case}: the patient pattern {pattern!r} does not match this name. Change the pattern.")
    return match[1]
