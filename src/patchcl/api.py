"""The Python face of patchcl: what each verb of the command line does, as a function.

Every function shows its progress where people look at it, a terminal or a notebook. What a user can put right is raised
as `patchcl.UserError`, whose message says what was found, what was expected and what to do.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Unpack

from patchcl.comparison.comparison import compare_methods
from patchcl.comparison.runner import Ending
from patchcl.comparison.spec import build_spec
from patchcl.config import PathLike, SettingsArguments, SharedArguments, make_settings, overrides_of
from patchcl.core.console import console, progress_bar
from patchcl.core.devices import Device, best_device
from patchcl.core.errors import UserError
from patchcl.data.check import CheckReport, check_data
from patchcl.data.importers.registry import ImportOptions, import_dataset, require_ours
from patchcl.data.importers.writer import ImportResult
from patchcl.evaluation.evaluate import evaluate_folders, evaluate_run
from patchcl.evaluation.scores import Evaluation, write_evaluation
from patchcl.inference.predict import Output, PredictionSummary, predict_files
from patchcl.inference.trained_run import Checkpoint, TrainedRun, open_run
from patchcl.methods import method_names
from patchcl.reports.run_report import write_report
from patchcl.runs.checkpoint import Weights
from patchcl.runs.folder import RunFolder
from patchcl.training import experiment
from patchcl.training.experiment import Outcome


def check(
    data: PathLike,
    **settings: Unpack[SettingsArguments],
) -> CheckReport:
    """Open every scan and mask of a data set, and say what was understood and what is wrong with it.

    Args:
        data: A folder in nnU-Net raw layout.
        settings: See `SettingsArguments`.

    Returns:
        `problems` and `warnings`, one line each; `dataset`, `split` and `plan` as training would see them.

    Raises:
        UserError: `data` is not laid out as a data set, or a setting is wrong.

    Example:
        >>> report = patchcl.check(data)
        >>> report.problems
        ()
        >>> report.plan.dimensions
        2
    """
    require_ours(Path(data))
    chosen = make_settings(**settings)
    with progress_bar("Reading scans") as on_progress:
        return check_data(Path(data), chosen.split, chosen.plan, on_progress)


def import_data(
    source: PathLike,
    out: PathLike,
    *,
    layout: str | None = None,
    structures: Sequence[str] | None = None,
    channels: Sequence[str] | None = None,
    images: str | None = None,
    masks: str | None = None,
    series: str | None = None,
) -> ImportResult:
    """Turn images and masks that are laid out otherwise into a data set that patchcl reads, with its split.

    Args:
        source: The folder of a data set; for a table, its CSV file.
        out: A new folder.
        layout: How `source` is laid out; by default it is looked at.
        structures: Names of the values 1, 2, ... in the masks, or NAME=VALUE.
        channels: Names of the channels.
        images: For `plain`: the folder in `source` with images.
        masks: For `plain`: the folder in `source` with masks.
        series: For `dicom`: part of the description of the series to take, or its UID.

    Raises:
        UserError: `source` has another layout, a file cannot be read, or `out` cannot be written.

    Example:
        >>> patchcl.import_data(pictures, out, layout="plain", structures=["gland"]).masks
        2
    """
    options = ImportOptions(_names(structures), _names(channels), images, masks, series)
    with progress_bar("Importing scans") as on_progress:
        return import_dataset(Path(source), Path(out), layout, options, on_progress)


def train(data: PathLike, out: PathLike, **settings: Unpack[SettingsArguments]) -> Outcome:
    """Train on a data folder, scans without a mask included, and keep everything in the new folder `out`.

    Args:
        data: A folder in nnU-Net raw layout; cases without a file in labelsTr are unlabeled.
        out: A folder that does not exist yet.
        settings: See `SettingsArguments`; the method is `patchcl` by default.

    Returns:
        The run's folder, the steps that are done, and whether somebody asked it to stop.

    Raises:
        UserError: Something about the data, the settings or the folder must be put right first.

    Example:
        >>> outcome = patchcl.train(data, out, steps=4, device="cpu", settings={"network.features": [8, 16]})
        >>> outcome.steps_done
        4
    """
    require_ours(Path(data))
    return experiment.start(Path(data), Path(out), make_settings(**settings), console)


def resume(run: PathLike) -> Outcome:
    """Continue a run that was stopped, exactly as if it had not been.

    Raises:
        UserError: There is no run, or its data are gone.

    Example:
        >>> patchcl.resume(run).steps_done
        6
    """
    return experiment.resume(Path(run), console)


def predict(
    run: PathLike | TrainedRun,
    scans: PathLike,
    out: PathLike,
    *,
    checkpoint: Checkpoint = "last",
    weights: Weights = "teacher",
    probabilities: bool = False,
    uncertainty: bool = False,
    output: Output = "same",
    series: str | None = None,
    device: Device = "auto",
) -> PredictionSummary:
    """Segment new scans, each on its own grid, into files; `load_run(...).predict` gives arrays instead.

    Args:
        run: A folder made by `train`, or what `load_run` gave, which knows its checkpoint, weights and device.
        scans: A scan, a DICOM series, or a folder of these named CASE_0000.
        out: A folder for the masks.
        checkpoint: `last`, the end of training, or `best`, the best on validation.
        weights: `teacher`, the moving average, or `student`.
        probabilities: Also write a map for every structure.
        uncertainty: Also write where the network is unsure.
        output: Format of the masks; `same` is that of the scan, DICOM-SEG for a DICOM series.
        series: For DICOM: the series to take of each folder.
        device: Where to compute.

    Returns:
        The cases that are `done`, and those that `failed` with what to do about each.

    Raises:
        UserError: There is no scan, no run, or `out` must not be written to.

    Example:
        >>> patchcl.predict(run, scans, out, uncertainty=True).failed
        ()
    """
    trained = (
        run if isinstance(run, TrainedRun) else load_run(run, checkpoint=checkpoint, weights=weights, device=device)
    )
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
        )


def evaluate(
    run: PathLike | None = None,
    *,
    predictions: PathLike | None = None,
    masks: PathLike | None = None,
    on: Literal["auto", "test", "validation"] = "auto",
    checkpoint: Checkpoint = "last",
    weights: Weights = "teacher",
    voxels: bool = False,
    objects: bool = False,
    device: Device = "auto",
) -> Evaluation:
    """Score a run's held-out patients, or a folder of masks, per patient and structure; files are written beside.

    Args:
        run: A folder made by `train`.
        predictions: A folder of masks, instead of a run.
        masks: The reference masks for `predictions`, of the same names.
        on: `auto` is test if it has masks.
        checkpoint: `last` or `best`.
        weights: `teacher` or `student`.
        voxels: Distances in voxels, where the spacing was lost.
        objects: Also F1, Dice and Hausdorff of single objects, such as glands.
        device: Where to compute.

    Raises:
        UserError: Neither a run nor two folders are given, something has no partner, or a file cannot be read.

    Example:
        >>> evaluation = patchcl.evaluate(run)
        >>> evaluation.structures
        ('RV', 'MYO', 'LV')
    """
    if (run is None) == (predictions is None) or (predictions is None) != (masks is None):
        raise UserError("Give either a RUN, or both --predictions DIR and --masks DIR.")
    if predictions is not None and masks is not None:
        evaluation = evaluate_folders(Path(predictions), Path(masks), voxels=voxels, objects=objects)
        write_evaluation(evaluation, Path(predictions) / "evaluation")
        return evaluation
    folder = RunFolder.open(Path(str(run)))
    with progress_bar("Segmenting") as on_progress:
        return evaluate_run(folder, on, checkpoint, weights, on_progress, best_device(device), voxels, objects)


def compare(
    data: PathLike,
    out: PathLike,
    *,
    methods: Sequence[str] | None = None,
    labeled: Sequence[int | None] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    jobs: int = 1,
    on: Literal["test", "validation"] | None = None,
    voxels: bool = False,
    min_effect: float = 0.1,
    **settings: Unpack[SharedArguments],
) -> Ending:
    """Train many methods with several seeds and amounts of masks, and compare them in a table and on a page.

    What `out` holds already is not done again.

    Args:
        data: A folder as `train` takes it.
        out: A folder for all runs; the same to go on.
        methods: By default all; NAME+contrast adds PatchCL's contrast to a method.
        labeled: Numbers of patients with masks; None stands for all.
        seeds: Of training, and of the split unless `split` is given.
        jobs: Runs at a time on this machine.
        on: By default test if it has masks.
        voxels: Distances in voxels, where the spacing was lost.
        min_effect: The least difference that counts, in Dice points.
        settings: Of every run, see `SharedArguments`; `split` is the same for all seeds.

    Returns:
        Which runs failed and why, and whether somebody asked to stop.

    Raises:
        UserError: `out` holds another comparison, or something about data or settings is wrong.

    Example:
        >>> ending = patchcl.compare(data, out, methods=["supervised"], seeds=[0], steps=2)
        >>> ending.failed
        {}
    """
    require_ours(Path(data))
    config = settings.pop("config", None)
    file = None if config is None else Path(config)
    overrides = overrides_of(**settings)
    chosen = (methods or method_names(), list(labeled or ()), seeds)
    spec = build_spec(Path(data), *chosen, file, overrides, on, voxels, min_effect / 100)
    return compare_methods(spec, Path(out), jobs, console)


def report(runs: PathLike | Sequence[PathLike], out: PathLike = "report.html") -> Path:
    """Write a page with the scores, the differences, learning curves and pictures of one run or several.

    Args:
        runs: Runs to show side by side; the first is what the others must beat.
        out: The HTML file to write.

    Raises:
        UserError: One of them is no run, or `out` cannot be written.

    Example:
        >>> patchcl.report([run], out / "report.html").name
        'report.html'
    """
    several = [runs] if isinstance(runs, str | Path) else runs
    write_report([RunFolder.open(Path(run)) for run in several], Path(out))
    return Path(out)


def load_run(
    run: PathLike, *, checkpoint: Checkpoint = "last", weights: Weights = "teacher", device: Device = "auto"
) -> TrainedRun:
    """A trained run, ready to be called from a pipeline of one's own.

    Args:
        run: A folder made by `train`.
        checkpoint: `last`, the end of training, or `best`, the best on validation.
        weights: `teacher`, the moving average, or `student`.
        device: Where to compute.

    Returns:
        `network`, a torch module; `plan` and `settings`; `predict(path or array, affine)`, which gives `mask`,
        `probabilities` and `uncertainty` on the scan's own grid.

    Raises:
        UserError: There is no run, or its checkpoint is missing or damaged.

    Example:
        >>> trained = patchcl.load_run(run)
        >>> trained.predict(voxels, affine).mask.shape == voxels.shape
        True
    """
    return open_run(RunFolder.open(Path(run)), checkpoint, weights, best_device(device))


def _names(names: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if names is None else tuple(names)
