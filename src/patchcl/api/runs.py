"""Verbs that make runs and use them: train, resume, predict, evaluate, compare, report, load_run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Unpack

from patchcl.comparison.comparison import compare_methods
from patchcl.comparison.runner import Ending
from patchcl.comparison.spec import build_spec
from patchcl.config import PathLike, SettingsArguments, SharedArguments, make_settings, overrides_of, read_settings
from patchcl.core.console import console, progress_bar
from patchcl.core.errors import UserError
from patchcl.data.importers.registry import require_ours
from patchcl.evaluation.evaluate import evaluate_folders, evaluate_trained
from patchcl.evaluation.scores import Evaluation, write_evaluation
from patchcl.inference.predict import Output, PredictionSummary, predict_files
from patchcl.inference.trained_run import RunArguments, TrainedRun, open_folder
from patchcl.methods import method_names
from patchcl.reports.run_report import write_report
from patchcl.runs.folder import RunFolder
from patchcl.runs.writer import one_writer
from patchcl.training import experiment
from patchcl.training.crew import crew_of
from patchcl.training.experiment import Outcome
from patchcl.training.place import place_of


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
    first = place_of(chosen.training).rank == 0  # the others leave the folder alone
    if resume_if_there and first and RunFolder(Path(out)).begun():
        asked = chosen.training.model_dump(include=chosen.training.model_fields_set & {"devices", "nodes"})
        return resume(out, **asked)
    with crew_of(chosen) as ranks:
        if not ranks.first:
            return experiment.join(ranks)
        with one_writer(Path(out)):
            return experiment.start(Path(data), Path(out), chosen, console, ranks)


def resume(
    run: PathLike, *, accept_changes: bool = False, devices: int | None = None, nodes: int | None = None
) -> Outcome:
    """Continue a run that was stopped, exactly as if it had not been.

    Args:
        run: A folder made by `train`.
        accept_changes: Go on although data, settings, plan or split are not those of its beginning; that is kept.
        devices: Of each node, to go on with; by default as many as it was begun with.
        nodes: Machines to go on with; the same.

    Raises:
        UserError: There is no run, another process writes it, its data are gone, or something changed since.

    Example:
        >>> patchcl.resume(run).steps_done
        6
    """
    settings = read_settings(RunFolder.open(Path(run)).settings)
    asked = {name: count for name, count in (("devices", devices), ("nodes", nodes)) if count is not None}
    training = settings.training.model_copy(update=asked)
    with crew_of(settings.model_copy(update={"training": training})) as ranks:
        if not ranks.first:
            return experiment.join(ranks)
        with one_writer(Path(run)):
            return experiment.resume(Path(run), console, accept_changes, ranks)


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
        run: A folder made by `train`, or what `load_run` gave.
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
    trained = run if isinstance(run, TrainedRun) else open_folder(Path(run), **chosen)
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
        run: A folder made by `train`.
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
    trained = open_folder(Path(str(run)), **chosen)
    with progress_bar("Segmenting") as on_progress:
        return evaluate_trained(trained, on, on_progress, voxels, objects)


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
    fast: bool = False,
    postprocessing: bool = True,
    min_effect: float = 0.1,
    **settings: Unpack[SharedArguments],
) -> Ending:
    """Train many methods with several seeds and amounts of masks; what `out` holds already is not done again.

    Args:
        data: A folder as `train` takes it.
        out: A folder for all runs; the same to go on.
        methods: By default all; NAME+contrast adds PatchCL's contrast to a method.
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
    config, names = settings.pop("config", None), method_names() if methods is None else methods
    file, overrides = None if config is None else Path(config), overrides_of(**settings)
    scored = (on, voxels, fast, postprocessing, min_effect / 100)
    spec = build_spec(Path(data), names, list(labeled or ()), seeds, file, overrides, *scored)
    return compare_methods(spec, Path(out), jobs, console)


def report(runs: PathLike | Sequence[PathLike], out: PathLike = "report.html") -> Path:
    """Write a page with the scores, the differences, learning curves and pictures of one run or several.

    Args:
        runs: Runs to show side by side; the first is what the others must beat.
        out: The HTML file to write.

    Example:
        >>> patchcl.report([run], out / "report.html").name
        'report.html'
    """
    several = [runs] if isinstance(runs, str | Path) else runs
    write_report([RunFolder.open(Path(run)) for run in several], Path(out))
    return Path(out)


def load_run(run: PathLike, **chosen: Unpack[RunArguments]) -> TrainedRun:
    """A trained run, ready to be called from a pipeline of one's own.

    It has `network`, a torch module, `plan`, `settings`, and `predict(path or array, affine)` for masks and maps.

    Args:
        run: A folder made by `train`.
        chosen: See `RunArguments`.

    Raises:
        UserError: There is no run, or its checkpoint is missing or damaged.

    Example:
        >>> patchcl.load_run(run).predict(voxels, affine).mask.shape == voxels.shape
        True
    """
    return open_folder(Path(run), **chosen)
