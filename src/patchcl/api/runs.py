"""Verbs that make runs and use them: train, resume, predict, evaluate, compare, report, load_run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Unpack

from patchcl.comparison.choice import run_to_use
from patchcl.comparison.comparison import compare_methods
from patchcl.comparison.folds import cross_validate
from patchcl.comparison.runner import Ending
from patchcl.comparison.spec import build_spec
from patchcl.config import PathLike, SettingsArguments, SharedArguments, make_settings, overrides_of
from patchcl.core.console import console, progress_bar
from patchcl.core.errors import UserError
from patchcl.core.settings import Device
from patchcl.data.importers.registry import require_ours
from patchcl.evaluation.evaluate import evaluate_folders, evaluate_trained
from patchcl.evaluation.scores import Evaluation, write_evaluation
from patchcl.inference.predict import Output, PredictionSummary, predict_files
from patchcl.inference.trained_run import RunArguments, TrainedRun, familiarity_of, open_folder
from patchcl.methods import method_names
from patchcl.reports.run_report import write_report
from patchcl.runs.folder import RunFolder
from patchcl.runs.writer import one_writer
from patchcl.training import experiment
from patchcl.training.experiment import Outcome


def train(
    data: PathLike, out: PathLike, *, resume_if_there: bool = False, **settings: Unpack[SettingsArguments]
) -> Outcome:
    """Train on a data folder, scans without a mask included, and keep everything in the new folder `out`.

    Args:
        data: A folder in nnU-Net raw layout; cases without a file in labelsTr are unlabeled.
        out: A folder that does not exist yet.
        resume_if_there: Continue the run in `out` if there is one, with the settings that it was begun with.
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
    if resume_if_there and RunFolder(Path(out)).begun():
        return resume(out)
    with one_writer(Path(out)):
        return experiment.start(Path(data), Path(out), chosen, console)


def train_folds(
    data: PathLike,
    out: PathLike,
    folds: int = 5,
    *,
    fold: int | None = None,
    jobs: int = 1,
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
        jobs: Runs at a time on this machine.
        settings: Of every run, see `SettingsArguments`.

    Raises:
        UserError: `out` holds something else, there are fewer patients than folds, or a setting is wrong.

    Example:
        >>> small = {"network.features": [8, 16], "plan.size": [32, 32]}
        >>> patchcl.train_folds(data, out, folds=2, steps=2, method="supervised", settings=small).failed
        {}
    """
    require_ours(Path(data))
    return cross_validate(Path(data), Path(out), make_settings(**settings), folds, fold, jobs, console)


def resume(
    run: PathLike, *, data: PathLike | None = None, device: Device | None = None, accept_changes: bool = False
) -> Outcome:
    """Continue a run that was stopped, exactly as if it had not been.

    Args:
        run: A folder made by `train`.
        data: Where its data set is now, if it was moved; hashes tell whether it is the same.
        device: Where to compute from now on. On another device the result is the same only up to rounding.
        accept_changes: Go on although data, settings, plan or split are not those of its beginning; that is kept.

    Raises:
        UserError: There is no run, another process writes it, its data are gone, or something changed since.

    Example:
        >>> patchcl.resume(run).steps_done
        6
    """
    if RunFolder.open(Path(run)).folds.is_file():
        raise UserError(f"{run} holds folds. Go on with the command that began them: patchcl train DATA --folds ...")
    if data is not None:
        require_ours(Path(data))
    with one_writer(Path(run)):
        return experiment.resume(Path(run), console, accept_changes, None if data is None else Path(data), device)


def predict(
    run: PathLike | TrainedRun,
    scans: PathLike,
    out: PathLike,
    *,
    probabilities: bool = False,
    uncertainty: bool = False,
    output: Output = "same",
    series: str | None = None,
    **chosen: Unpack[RunArguments],
) -> PredictionSummary:
    """Segment new scans, each on its own grid, into files; `load_run(...).predict` gives arrays instead.

    Args:
        run: A folder made by `train`, or by `compare`, whose chosen run is used; or what `load_run` gave.
        scans: A scan, a DICOM series, or a folder of these named CASE_0000.
        out: A folder for the masks.
        probabilities: Also write a map for every structure.
        uncertainty: Also write where the network is unsure.
        output: Format of the masks; `same` is that of the scan, DICOM-SEG for a DICOM series.
        series: For DICOM: the series to take of each folder.
        chosen: See `RunArguments`; what `load_run` gave has its own.

    Raises:
        UserError: There is no scan, no run, or `out` must not be written to.

    Example:
        >>> patchcl.predict(run, scans, out, uncertainty=True).failed
        ()
    """
    trained = run if isinstance(run, TrainedRun) else load_run(run, **chosen)
    with progress_bar("Segmenting") as on_progress:
        return predict_files(
            trained.network,
            trained.plan,
            Path(scans),
            Path(out),
            probabilities=probabilities,
            uncertainty=uncertainty,
            output=output,
            series=series,
            device=trained.device,
            on_progress=on_progress,
            inference=trained.inference,
            familiarity=familiarity_of(trained),
        )


def evaluate(
    run: PathLike | None = None,
    *,
    predictions: PathLike | None = None,
    masks: PathLike | None = None,
    on: Literal["auto", "test", "validation"] = "auto",
    voxels: bool = False,
    objects: bool = False,
    **chosen: Unpack[RunArguments],
) -> Evaluation:
    """Score a run's held-out patients, or a folder of masks, per patient and structure; files are written beside.

    Args:
        run: A folder made by `train`, or by `compare`, whose chosen run is used.
        predictions: A folder of masks, instead of a run.
        masks: The reference masks for `predictions`, of the same names.
        on: `auto` is test if it has masks.
        voxels: Distances in voxels, where the spacing was lost.
        objects: Also F1, Dice and Hausdorff of single objects, such as glands.
        chosen: See `RunArguments`.

    Raises:
        UserError: Neither a run nor two folders are given, something has no partner, or a file cannot be read.

    Example:
        >>> patchcl.evaluate(run).structures
        ('RV', 'MYO', 'LV')
    """
    if (run is None) == (predictions is None) or (predictions is None) != (masks is None):
        raise UserError("Give either a RUN, or both --predictions DIR and --masks DIR.")
    if predictions is not None and masks is not None:
        evaluation = evaluate_folders(Path(predictions), Path(masks), voxels=voxels, objects=objects)
        write_evaluation(evaluation, Path(predictions) / "evaluation")
        return evaluation
    trained = load_run(str(run), **chosen)
    with progress_bar("Segmenting") as on_progress:
        return evaluate_trained(trained, on, on_progress, voxels, objects)


def compare(
    data: PathLike,
    out: PathLike,
    *,
    methods: Sequence[str] | None = None,
    variants: PathLike | None = None,
    baseline: str | None = None,
    labeled: Sequence[int | None] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    jobs: int = 1,
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
        jobs: Runs at a time on this machine.
        on: By default test if it has masks.
        voxels: Distances in voxels, where the spacing was lost.
        fast: Score one pass, see `RunArguments`.
        postprocessing: Score masks after what validation chose for each run.
        min_effect: The least difference that counts, in Dice points.
        settings: Of every run, see `SharedArguments`; `split` is the same for all seeds.

    Raises:
        UserError: `out` holds another comparison, or something about data or settings is wrong.

    Example:
        >>> patchcl.compare(data, out, methods=["supervised"], seeds=[0], steps=2).failed
        {}
    """
    require_ours(Path(data))
    file, own = (None if path is None else Path(path) for path in (settings.pop("config", None), variants))
    names = (method_names() if own is None else ()) if methods is None else methods
    overrides, scored = overrides_of(**settings), (on, voxels, fast, postprocessing, min_effect / 100)
    spec = build_spec(Path(data), names, list(labeled or ()), seeds, file, overrides, own, baseline, *scored)
    return compare_methods(spec, Path(out), jobs, console)


def report(runs: PathLike | Sequence[PathLike], out: PathLike = "report.html") -> Path:
    """Write a page with the scores, the differences, learning curves and pictures of one run or several.

    Args:
        runs: Runs to show side by side; the first is what the others must beat. Of a comparison the chosen one.
        out: The HTML file to write.

    Example:
        >>> patchcl.report([run], out / "report.html").name
        'report.html'
    """
    several = [runs] if isinstance(runs, str | Path) else runs
    write_report([RunFolder.open(run_to_use(Path(run))) for run in several], Path(out))
    return Path(out)


def load_run(run: PathLike, **chosen: Unpack[RunArguments]) -> TrainedRun:
    """A trained run, ready to be called from a pipeline of one's own.

    It has `network`, a torch module, `plan`, `settings`, and `predict(path or array, affine)` for masks and maps.

    Args:
        run: A folder made by `train`, or by `compare`, whose chosen run is used.
        chosen: See `RunArguments`.

    Raises:
        UserError: There is no run, or its checkpoint is missing or damaged.

    Example:
        >>> patchcl.load_run(run).predict(voxels, affine).mask.shape == voxels.shape
        True
    """
    return open_folder(run_to_use(Path(run)), **chosen)
