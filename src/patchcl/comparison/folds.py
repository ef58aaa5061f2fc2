"""Cross-validation: a run for every fold, scored on the patients that it has not seen; together they are an ensemble.

The folder of all looks like that of a run, without a log and checkpoints of its own: settings, plan and split of all
folds, the post-processing that all held-out patients chose, and their scores.
"""

import os
from contextlib import nullcontext
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from patchcl.comparison.content import hashes_of
from patchcl.comparison.runner import Ending, run_jobs
from patchcl.comparison.worker import Job, finished
from patchcl.config import Settings, TrainingSettings, planned, read_settings, settings_yaml
from patchcl.core.console import progress_bar
from patchcl.core.devices import best_device
from patchcl.core.documents import parse_json
from patchcl.core.errors import UserError
from patchcl.core.files import write_json, write_text
from patchcl.core.settings import differing_keys
from patchcl.data.dataset import read_dataset
from patchcl.data.folds import fold_splits, joined
from patchcl.data.preprocessing.fingerprint import save_fingerprint
from patchcl.data.preprocessing.plan import load_plan, save_plan
from patchcl.data.preprocessing.planner import fingerprint_for, make_plan
from patchcl.data.splits import cases_of, load_split, save_split, visible_to_training, with_split_of
from patchcl.evaluation.evaluate import evaluate_trained
from patchcl.evaluation.tables import render
from patchcl.inference.trained_run import open_ensemble, read_folds
from patchcl.runs.contents import changed_files
from patchcl.runs.folder import RunFolder
from patchcl.runs.provenance import provenance
from patchcl.runs.writer import one_writer
from patchcl.training.experiment import require_structures
from patchcl.training.final_validation import choose_together

SPLITS = "splits"
"""The folder of the splits of all folds."""
FILES = "files"
"""The key under which the list of folds has the hashes of all scans and masks."""
MAY_DIFFER = ("training.device", "training.memory_gib", "training.scratch")
"""Settings that say where a fold is trained, and may differ from one call to the next."""


def cross_validate(
    data: Path,
    root: Path,
    settings: Settings,
    folds: int,
    only: int | None,
    at_once: int,
    console: Console,
    cluster: str | None = None,
) -> Ending:
    """Train the runs of all folds, or `only` one, that `root` lacks; the one who comes last makes the ensemble.

    Args:
        data: The data set.
        root: For all runs; a new folder, or that of the same call.
        settings: Of every run; their split says who has masks and who is for testing.
        folds: How many.
        only: The fold to train, from 0, beside others that other processes train; by default all.
        at_once: Runs that share this machine.
        console: Told of every start, end and failure, and of the scores.
        cluster: Where to train instead of on this machine, see `patchcl.core.executor.workers`.

    Raises:
        UserError: `root` holds something else or other settings, scans or masks changed since it was begun, another
            process trains all folds in it, or the patients cannot be shared out so.
    """
    if only is not None and only >= folds:
        raise UserError(f"--fold is {only}, but folds are counted from 0 to {folds - 1}.")
    if settings.training.devices * settings.training.nodes > 1:
        raise UserError("Folds are trained on one device each. Leave training.devices and training.nodes out.")
    folder = RunFolder(root)
    with nullcontext() if only is not None else one_writer(root, "ensemble"):
        if folder.folds.is_file():
            _require_same(folder, _complete(data, root, settings), folds)
            _require_same_files(folder, console)
        else:
            _begin(data, folder, settings, folds, console)
        jobs = {name: _job(folder, name, at_once, settings.training) for name in read_folds(folder)}
        wanted = jobs if only is None else {f"fold_{only}": jobs[f"fold_{only}"]}
        left = {name: job for name, job in wanted.items() if not _finished(job)}
        ending = run_jobs(left, root, at_once, console, cluster)
        if not ending.stop and all(map(_finished, jobs.values())):
            _conclude(folder, console)
    return ending


def _begin(data: Path, folder: RunFolder, settings: Settings, folds: int, console: Console) -> None:
    """Share out the patients, and plan once for all; processes that do so side by side write the same."""
    ours = {folder.settings, folder.plan, folder.fingerprint, folder.split, folder.provenance, folder.root / SPLITS}
    if folder.root.exists() and (not folder.root.is_dir() or set(folder.root.iterdir()) - ours):
        raise UserError(f"{folder.root} holds something else than folds. Choose a new folder with -o.")
    settings = _complete(data, folder.root, settings)
    dataset = read_dataset(data, settings.split.patient_pattern)
    split_settings, line = with_split_of(data, settings.split)
    if line:
        console.print(escape(line), highlight=False, soft_wrap=True)
    splits = fold_splits(dataset, split_settings, folds)
    whole = joined(splits)
    visible = visible_to_training(dataset, whole)
    fingerprint = fingerprint_for(visible, settings.plan, whole.labeled)
    require_structures(fingerprint, settings, dataset.unused, console)
    plan = make_plan(visible, settings.plan, fingerprint)
    names = [f"fold_{fold}" for fold in range(folds)]
    write_text(folder.settings, settings_yaml(settings))
    save_plan(folder.plan, plan)
    save_fingerprint(folder.fingerprint, fingerprint)
    for name, split in zip(names, splits, strict=True):
        save_split(_split_file(folder, name), split)
    save_split(folder.split, whole)
    write_json(folder.provenance, provenance(best_device(settings.training.device)))
    write_json(folder.folds, {"runs": names, FILES: hashes_of(visible, folder.root, keep=False)})


def _complete(data: Path, root: Path, settings: Settings) -> Settings:
    """`settings` with the places of the data and of prepared images."""
    cache = settings.cache or Path(os.path.realpath(root)) / "prepared"
    return settings.model_copy(update={"data": data.resolve(), "cache": Path(os.path.realpath(cache))})


def _require_same(folder: RunFolder, settings: Settings, folds: int) -> None:
    before = read_settings(folder.settings)
    keys = differing_keys(before.model_dump(mode="json"), settings.model_dump(mode="json"))
    keys = [key for key in keys if key not in MAY_DIFFER]
    if keys:
        raise UserError(f"The folds in {folder.root} were begun with other {', '.join(keys)}. Choose a new folder.")
    if len(read_folds(folder)) != folds:
        raise UserError(f"{folder.root} has {len(read_folds(folder))} folds, not {folds}. Choose a new folder.")


def _require_same_files(folder: RunFolder, console: Console) -> None:
    """Refuse to train on other scans and masks than other folds; folds of before have kept no hashes, which is told."""
    settings, listed = read_settings(folder.settings), parse_json(folder.folds.read_bytes())
    assert settings.data is not None
    before = listed.get(FILES)
    visible = visible_to_training(read_dataset(settings.data, settings.split.patient_pattern), load_split(folder.split))
    now = hashes_of(visible, folder.root, keep=True)
    if not isinstance(before, dict):
        line = f"{folder.root} kept no hashes of its data when it was begun; from now on it does."
        console.print(line, markup=False, highlight=False, soft_wrap=True)
        write_json(folder.folds, listed | {FILES: now})
    elif changed := list(changed_files(before, now)):
        raise UserError(
            "\n".join(
                [
                    f"The scans and masks in {settings.data} are not those that {folder.root} was begun with:",
                    *(f"  {line}" for line in changed),
                    "Folds of both cannot be one ensemble. Put these files back, or choose a new folder with -o.",
                ]
            )
        )


def _job(folder: RunFolder, name: str, at_once: int, asked: TrainingSettings) -> Job:
    """The run of a fold, which may be made elsewhere than those before it."""
    settings, plan = read_settings(folder.settings), load_plan(folder.plan)
    place = asked.model_dump(include={key.rpartition(".")[2] for key in MAY_DIFFER})
    settings = settings.model_copy(update={"training": settings.training.model_copy(update=place)})
    divided = settings.split.model_copy(update={"file": _split_file(folder, name), "fold": 0, "labeled": None})
    same_plan = settings.plan.model_copy(update={"file": Path(os.path.realpath(folder.plan))})
    own = planned(settings, plan).model_copy(update={"split": divided, "plan": same_plan})
    return Job(root=folder.root / name, settings=own, on="validation", voxels=False, at_once=at_once)


def _split_file(folder: RunFolder, name: str) -> Path:
    return Path(os.path.realpath(folder.root)) / SPLITS / f"{name}.json"


def _finished(job: Job) -> bool:
    return finished(job.root, job.on, job.settings.training.steps)


def _conclude(folder: RunFolder, console: Console) -> None:
    """Let all held-out patients choose the post-processing, and score each by the run that has not seen it."""
    settings = read_settings(folder.settings)
    assert settings.data is not None
    device = best_device(settings.training.device)
    folds = open_ensemble(folder, device=device, postprocessing=False).folds
    dataset = read_dataset(settings.data, settings.split.patient_pattern)
    held_out = [(fold, cases_of(dataset, load_split(fold.folder.split).validation, masked=True)) for fold in folds]
    with progress_bar("Choosing post-processing") as on_progress:
        choose_together(folder, held_out, on_progress)
    with progress_bar("Segmenting") as on_progress:
        render(evaluate_trained(open_ensemble(folder, device=device), "validation", on_progress), console)
