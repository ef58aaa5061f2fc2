"""Cross-validation: a run for every fold, scored on the patients that it has not seen; together they are an ensemble.

The folder of all looks like that of a run, without a log and checkpoints of its own: settings, plan and split of all
folds, the post-processing that all held-out patients chose, and their scores.
"""

import os
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from patchcl.comparison.conclusion import conclude
from patchcl.comparison.content import files_of, hashes_of, keep_files
from patchcl.comparison.runner import Ending, run_jobs
from patchcl.comparison.worker import Job, finished
from patchcl.config import Settings, planned, read_settings, settings_yaml
from patchcl.core.devices import best_device
from patchcl.core.documents import parse_json
from patchcl.core.errors import UserError
from patchcl.core.files import UNFINISHED, write_json, write_text
from patchcl.core.settings import differing_keys
from patchcl.data.dataset import read_dataset
from patchcl.data.folds import fold_splits, joined
from patchcl.data.preprocessing.fingerprint import save_fingerprint
from patchcl.data.preprocessing.plan import load_plan, save_plan
from patchcl.data.preprocessing.planner import fingerprint_for, make_plan
from patchcl.data.splits import load_split, save_split, visible_to_training, with_split_of
from patchcl.evaluation.tables import render
from patchcl.inference.trained_run import read_folds
from patchcl.runs.contents import changed_files
from patchcl.runs.folder import RunFolder
from patchcl.runs.provenance import provenance
from patchcl.runs.writer import one_writer
from patchcl.training.experiment import require_structures
from patchcl.training.relocation import move_finished

SPLITS = "splits"
"""The folder of the splits of all folds."""
FILES = "files"
"""The key under which the list of folds has the hashes of all scans and masks."""
MAY_DIFFER = ("data", "cache", "training.device", "training.memory_gib", "training.scratch")
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
        asked = _complete(data, root, settings)
        if folder.folds.is_file():
            _require_same(folder, asked, folds)
            _require_same_files(folder, data, console)
            if keep_data(folder, data):
                line = f"The folds go on with the data in {data.resolve()}."
                console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            _begin(data, folder, settings, folds, console)
        jobs = {name: _job(folder, name, at_once, asked) for name in read_folds(folder)}
        wanted = jobs if only is None else {f"fold_{only}": jobs[f"fold_{only}"]}
        left = {name: job for name, job in wanted.items() if not _finished(job)}
        ending = run_jobs(left, root, at_once, console, cluster)
        if not ending.stop and all(map(_finished, jobs.values())):
            render(conclude(folder, best_device(settings.training.device)), console)
    return ending


def cross_validate_all(
    cells: Mapping[str, Job], folds: int, out: Path, at_once: int, console: Console, cluster: str | None = None
) -> Ending:
    """Make each of `cells` a cross-validation: its folds are units of work, and then its scores one more.

    Args:
        cells: By run id the job of each; its settings say who has masks.
        folds: How many, of each.
        out: In which all of them lie.
        at_once: Runs that share this machine.
        console: Told of every start, end and failure.
        cluster: See `patchcl.core.executor.workers`.

    Raises:
        UserError: The patients cannot be shared out so, or the cluster cannot be worked with.
    """
    jobs = {run_id: _jobs_of(cell, folds, console) for run_id, cell in cells.items()}
    named = {f"{run_id}/{name}": job for run_id, own in jobs.items() for name, job in own.items()}
    trained = run_jobs({key: job for key, job in named.items() if not _finished(job)}, out, at_once, console, cluster)
    if trained.stop:
        return trained
    whole = {run_id: cell for run_id, cell in cells.items() if all(map(_finished, jobs[run_id].values()))}
    scored = run_jobs(whole, out, at_once, console, cluster)
    return scored._replace(failed=trained.failed | scored.failed)


def _jobs_of(cell: Job, folds: int, console: Console) -> dict[str, Job]:
    """The jobs of the folds of a cell, which is begun if it was not."""
    folder = RunFolder(cell.root)
    assert cell.settings.data is not None
    if folder.folds.is_file():
        keep_data(folder, cell.settings.data)
    else:
        _begin(cell.settings.data, folder, cell.settings, folds, console, hashes=False)  # compare.json has one
    return {name: _job(folder, name, cell.at_once, cell.settings) for name in read_folds(folder)}


def _begin(
    data: Path, folder: RunFolder, settings: Settings, folds: int, console: Console, hashes: bool = True
) -> None:
    """Share out the patients, and plan once for all; processes that do so side by side write the same."""
    ours = {folder.settings, folder.plan, folder.fingerprint, folder.split, folder.provenance, folder.root / SPLITS}
    left = {path for path in folder.root.glob("*") if not path.name.startswith(UNFINISHED)}
    if left - ours or (folder.root.exists() and not folder.root.is_dir()):
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
    files = {FILES: hashes_of(files_of(visible, folder.root))} if hashes else {}
    write_json(folder.folds, {"runs": names, **files})


def _complete(data: Path, root: Path, settings: Settings) -> Settings:
    """`settings` with the places of the data and of prepared images."""
    cache = settings.cache or Path(os.path.realpath(root)) / "prepared"
    return settings.model_copy(update={"data": data.resolve(), "cache": Path(os.path.realpath(cache))})


def _require_same(folder: RunFolder, settings: Settings, folds: int) -> None:
    before = read_settings(folder.settings)
    keys = differing_keys(before.model_dump(mode="json"), settings.model_dump(mode="json"))
    left_open = [f"augment.{key}" for key in ("flip", "rotate_90") if getattr(settings.augment, key) is None]
    keys = [key for key in keys if key not in (*MAY_DIFFER, *left_open)]  # folds are mirrored as they were begun
    if keys:
        raise UserError(f"The folds in {folder.root} were begun with other {', '.join(keys)}. Choose a new folder.")
    if len(read_folds(folder)) != folds:
        raise UserError(f"{folder.root} has {len(read_folds(folder))} folds, not {folds}. Choose a new folder.")


def _require_same_files(folder: RunFolder, data: Path, console: Console) -> None:
    """Refuse to train on other scans and masks than other folds; folds of before have kept no hashes, which is told."""
    settings, listed = read_settings(folder.settings), parse_json(folder.folds.read_bytes())
    before = listed.get(FILES)
    visible = visible_to_training(read_dataset(data, settings.split.patient_pattern), load_split(folder.split))
    files = files_of(visible, folder.root)
    keep_files(files, data, folder.root)
    now = hashes_of(files)
    if not isinstance(before, dict):
        line = f"{folder.root} kept no hashes of its data when it was begun; from now on it does."
        console.print(line, markup=False, highlight=False, soft_wrap=True)
        write_json(folder.folds, listed | {FILES: now})
    elif changed := list(changed_files(before, now)):
        raise UserError(
            "\n".join(
                [
                    f"The scans and masks in {data} are not those that {folder.root} was begun with:",
                    *(f"  {line}" for line in changed),
                    "Folds of both cannot be one ensemble. Put these files back, or choose a new folder with -o.",
                ]
            )
        )


def keep_data(folder: RunFolder, data: Path) -> bool:
    """Keep in a run, or in folds, where the data lie now, from where they are scored; true if they lay elsewhere.

    Folds that are not trained to their end find out when they go on.
    """
    names = read_folds(folder) if folder.folds.is_file() else ()
    for run in (RunFolder(folder.root / name) for name in names):
        if run.postprocessing.is_file():
            move_finished(run, data)
    return move_finished(folder, data)


def _job(folder: RunFolder, name: str, at_once: int, asked: Settings) -> Job:
    """The run of a fold, which may be made elsewhere than those before it."""
    settings, plan = read_settings(folder.settings), load_plan(folder.plan)
    place = asked.training.model_dump(include={key.rpartition(".")[2] for key in MAY_DIFFER})
    training = settings.training.model_copy(update=place)
    settings = settings.model_copy(update={"cache": asked.cache, "training": training})
    divided = settings.split.model_copy(update={"file": _split_file(folder, name), "fold": 0, "labeled": None})
    same_plan = settings.plan.model_copy(update={"file": Path(os.path.realpath(folder.plan))})
    own = planned(settings, plan).model_copy(update={"split": divided, "plan": same_plan})
    root, command = folder.root / name, tuple(sys.argv)
    return Job(root=root, settings=own, on="validation", voxels=False, at_once=at_once, command=command)


def _split_file(folder: RunFolder, name: str) -> Path:
    return Path(os.path.realpath(folder.root)) / SPLITS / f"{name}.json"


def _finished(job: Job) -> bool:
    return finished(job.root, job.on, job.settings.training.steps, job.options)
