"""Verbs that make runs: train, train_folds, resume, compare."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Unpack

from patchcl.comparison.at_once import Jobs, count_at_once
from patchcl.comparison.comparison import compare_methods
from patchcl.comparison.folds import cross_validate
from patchcl.comparison.runner import Ending
from patchcl.comparison.spec import build_spec
from patchcl.config import (
    PathLike,
    Settings,
    SettingsArguments,
    SharedArguments,
    make_settings,
    overrides_of,
    read_settings,
)
from patchcl.core.choices import Device
from patchcl.core.console import console
from patchcl.core.errors import UserError
from patchcl.data.importers.registry import require_ours
from patchcl.methods import method_names
from patchcl.runs.folder import COMPARISON, RunFolder
from patchcl.runs.writer import one_writer
from patchcl.training import experiment
from patchcl.training.begun import require_same
from patchcl.training.crew import crew_of
from patchcl.training.experiment import Outcome
from patchcl.training.place import place_of

WHERE = {"device", "devices", "nodes", "scratch", "memory_gib"}
"""Settings of training that say where, and may change within a run."""


def train(
    data: PathLike, out: PathLike, *, resume_if_there: bool = False, **settings: Unpack[SettingsArguments]
) -> Outcome:
    """Train on a data folder, scans without a mask included, and keep everything in the new folder `out`.

    Args:
        data: A folder in nnU-Net raw layout; cases without a file in labelsTr are unlabeled.
        out: A folder that does not exist yet.
        resume_if_there: Continue the run in `out` if there is one, which must have been begun with these settings; data
            and device may be elsewhere.
        settings: See `SettingsArguments`; the method is `patchcl` by default.

    Raises:
        UserError: Something about the data, the settings or the folder must be put right first; or training diverged
            (`exit_code` 1), whatever was tried.

    Example:
        >>> patchcl.train(data, out, steps=4, device="cpu", settings={"network.features": [8, 16]}).steps_done
        4
    """
    require_ours(Path(data))
    chosen = make_settings(**settings)
    first = place_of(chosen.training).rank == 0  # the others leave the folder alone
    if resume_if_there and first and RunFolder(Path(out)).begun():
        return _go_on(Path(data), _run_in(Path(out)), chosen)
    with crew_of(chosen) as ranks:
        if not ranks.first:
            return experiment.join(ranks)
        with one_writer(Path(out)):
            return experiment.start(Path(data), Path(out), chosen, console, ranks)


def train_folds(
    data: PathLike,
    out: PathLike,
    folds: int = 5,
    *,
    fold: int | None = None,
    jobs: Jobs = 1,
    cluster: str | None = None,
    **settings: Unpack[SettingsArguments],
) -> Ending:
    """Train one run for every fold of the patients with masks; what `out` holds already is not done again.

    Every patient is scored by the run that has not seen it, and all of them choose the post-processing. `predict`,
    `evaluate`, `report` and `load_run` take `out` like a run, whose network is the mean of all.

    Args:
        data: A folder as `train` takes it.
        out: A folder for all runs; the same to go on.
        folds: How many; a splits_final.json of nnU-Net's says itself who is in which.
        fold: Train this one alone, from 0; whoever comes last makes the ensemble.
        jobs: Runs at a time on this machine; `auto` is as many as it has room for.
        cluster: Address or file of a Dask scheduler, to train on its workers instead.
        settings: Of every run, see `SettingsArguments`.

    Raises:
        UserError: `out` holds something else, there are fewer patients than folds, a setting is wrong, or there is no
            such cluster.

    Example:
        >>> small = {"network.features": [8, 16], "plan.size": [32, 32]}
        >>> patchcl.train_folds(data, out, folds=2, jobs=2, steps=2, method="supervised", settings=small).failed
        {}
    """
    require_ours(Path(data))
    chosen = make_settings(**settings)
    at_once = count_at_once(jobs, Path(data), [chosen], folds)
    return cross_validate(Path(data), Path(out), chosen, folds, fold, at_once, console, cluster)


def resume(
    run: PathLike,
    *,
    data: PathLike | None = None,
    device: Device | None = None,
    accept_changes: bool = False,
    devices: int | None = None,
    nodes: int | None = None,
) -> Outcome:
    """Continue a run that was stopped; on a CPU exactly as if it had not been.

    Args:
        run: A folder made by `train`.
        data: Where its data set is now, if it was moved; hashes tell whether it is the same.
        device: Where to compute from now on. On another device the result is the same only up to rounding.
        accept_changes: Go on although data, settings, plan or split are not those of its beginning; that is kept.
        devices: Of each node, to go on with; by default as many as it was begun with.
        nodes: Machines to go on with; the same.

    Raises:
        UserError: There is no run, another process writes it, its data are gone, or something changed since.

    Example:
        >>> patchcl.resume(run).steps_done
        6
    """
    folder = _run_in(Path(run))
    if data is not None:
        require_ours(Path(data))
    asked = {name: count for name, count in (("devices", devices), ("nodes", nodes), ("device", device)) if count}
    return _resume(folder, None if data is None else Path(data), asked, accept_changes)


def _run_in(root: Path) -> RunFolder:
    """The run in `root`, which must be a single one."""
    again = "{} holds {}. Go on with the command that began them: patchcl {}"
    if (root / COMPARISON).is_file():
        raise UserError(again.format(root, "the runs of a comparison", f"compare DATA -o {root} ..."))
    folder = RunFolder.open(root)
    if folder.folds.is_file():
        raise UserError(again.format(root, "folds", f"train DATA -o {root} --folds ..."))
    return folder


def _go_on(data: Path, run: RunFolder, chosen: Settings) -> Outcome:
    """Continue a run that a call for a new one finds begun, where that call says; all else that it says must be so."""
    require_same(run, data, chosen)
    moved = data if read_settings(run.settings).data != data.resolve() else None
    return _resume(run, moved, chosen.training.model_dump(include=chosen.training.model_fields_set & WHERE))


def _resume(run: RunFolder, data: Path | None, asked: Mapping[str, Any], accept_changes: bool = False) -> Outcome:
    """Continue a run with its data there and what is `asked` of where to train, by the names of settings."""
    settings = read_settings(run.settings)
    training = settings.training.model_copy(update=asked)
    place = {key: value for key, value in asked.items() if key not in ("devices", "nodes")}
    with crew_of(settings.model_copy(update={"training": training})) as ranks:
        if not ranks.first:
            return experiment.join(ranks)
        with one_writer(run.root):
            return experiment.resume(run.root, console, accept_changes, data, None, ranks, place)


def compare(
    data: PathLike,
    out: PathLike,
    *,
    methods: Sequence[str] | None = None,
    variants: PathLike | None = None,
    baseline: str | None = None,
    labeled: Sequence[int | None] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    folds: int | None = None,
    jobs: Jobs = 1,
    cluster: str | None = None,
    on: Literal["test", "validation"] | None = None,
    voxels: bool = False,
    fast: bool = False,
    postprocessing: bool = True,
    min_effect: float = 0.1,
    **settings: Unpack[SharedArguments],
) -> Ending:
    """Train many methods with several seeds and amounts of masks; what `out` holds already is not done again.

    Args:
        data: A folder as `train` takes it.
        out: A folder for all runs; the same to go on.
        methods: By default all, beside `variants` none; NAME+contrast adds PatchCL's contrast to a method.
        variants: A YAML file of named variants, each with a method and any settings.
        baseline: What the others are compared with; by default `supervised`, or the first variant if there is none.
        labeled: Numbers of patients with masks; None stands for all.
        seeds: Of training, and of the split unless `split` is given.
        folds: Make each run a cross-validation over so many, see `train_folds`: every labeled patient is scored, by the
            run that has not seen it, and the chosen run is an ensemble. For where validation patients are few.
        jobs: Runs at a time on this machine; `auto` is as many as it has room for.
        cluster: Address or file of a Dask scheduler, to train on its workers instead.
        on: By default test if it has masks; not with folds.
        voxels: Distances in voxels, where the spacing was lost.
        fast: Score one pass, see `RunArguments`.
        postprocessing: Score masks after what validation chose for each run.
        min_effect: The least difference that counts, in Dice points.
        settings: Of every run, see `SharedArguments`; `split` is the same for all seeds.

    Raises:
        UserError: `out` holds another comparison, another process works in it, something about data or settings is
            wrong, or there is no such cluster.

    Example:
        >>> patchcl.compare(data, out, methods=["supervised"], seeds=[0], steps=2).failed
        {}
    """
    require_ours(Path(data))
    file, own = (None if path is None else Path(path) for path in (settings.pop("config", None), variants))
    names = (method_names() if own is None else ()) if methods is None else methods
    overrides, scored = overrides_of(**settings), (on, voxels, fast, postprocessing, min_effect / 100, folds)
    spec = build_spec(Path(data), names, list(labeled or ()), seeds, file, overrides, own, baseline, *scored)
    runs = len(spec.runs) * (folds or 1)
    at_once = count_at_once(jobs, Path(data), [spec.settings_of(name) for name in spec.methods], runs)
    return compare_methods(spec, Path(out), at_once, console, cluster)
