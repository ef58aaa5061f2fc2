"""Verbs that use runs: predict, evaluate, report, load_run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Unpack

from patchcl.config import PathLike
from patchcl.core.console import progress_bar, progress_bars
from patchcl.core.errors import UserError
from patchcl.core.loading import loading
from patchcl.evaluation.evaluate import evaluate_folders, evaluate_trained
from patchcl.evaluation.paired import require_effect
from patchcl.evaluation.scores import Evaluation, write_evaluation
from patchcl.evaluation.source import require_one_source
from patchcl.inference.many_scans import Many, predict_many
from patchcl.inference.output_files import Output
from patchcl.inference.predict import Files, predict_files
from patchcl.inference.scan_folder import PredictionSummary
from patchcl.inference.trained_run import RunArguments, TrainedRun, familiarity_of, open_folder
from patchcl.runs.folder import COMPARISON, RunFolder


def predict(
    run: PathLike | TrainedRun,
    scans: PathLike,
    out: PathLike,
    *,
    probabilities: bool = False,
    uncertainty: bool = False,
    output: Output = "same",
    series: str | None = None,
    jobs: int = 1,
    cluster: str | None = None,
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
        jobs: Processes of this machine that share the scans. With several, what is done is not done again.
        cluster: Address or file of a Dask scheduler, to work on its workers instead; likewise.
        chosen: See `RunArguments`; what `load_run` gave has its own.

    Raises:
        UserError: There is no scan, no run, no such cluster, or `out` must not be written to.

    Example:
        >>> patchcl.predict(run, scans, out, uncertainty=True).failed
        ()
    """
    _require_no_run(Path(out))
    if jobs > 1 or cluster is not None:
        if isinstance(run, TrainedRun):
            raise UserError("Several processes open a run themselves. Give predict its folder, not what load_run gave.")
        files = Files(probabilities, uncertainty, output)
        with progress_bar("Segmenting") as on_progress:
            where = Many(jobs, cluster, on_progress)
            return predict_many(_run_to_use(run), chosen, Path(scans), Path(out), files, series, where)
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
    jobs: int = 1,
    cluster: str | None = None,
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
        jobs: Processes of this machine that share a folder of masks.
        cluster: Address or file of a Dask scheduler, to work on its workers instead.
        chosen: See `RunArguments`.

    Raises:
        UserError: Neither a run nor two folders are given, something has no partner, or a file cannot be read.

    Example:
        >>> patchcl.evaluate(run).structures
        ('RV', 'MYO', 'LV')
    """
    require_one_source(run, predictions, masks, jobs > 1 or cluster is not None)
    many = Many(jobs, cluster) if jobs > 1 or cluster is not None else None
    if predictions is not None and masks is not None:
        with progress_bar("Scoring") as on_progress:
            evaluation = evaluate_folders(
                Path(predictions), Path(masks), voxels=voxels, objects=objects, many=many, on_progress=on_progress
            )
        write_evaluation(evaluation, Path(predictions) / "evaluation")
        return evaluation
    trained = load_run(str(run), **chosen)
    with progress_bars("Segmenting", "Scoring") as (on_progress, on_scored):
        return evaluate_trained(trained, on, on_progress, voxels, objects, on_scored)


def report(runs: PathLike | Sequence[PathLike], out: PathLike = "report.html", *, min_effect: float = 0.1) -> Path:
    """Write a page with the scores, the differences, learning curves and pictures of one run or several.

    Args:
        runs: Runs to show side by side; the first is what the others must beat. Of a comparison the chosen one.
        out: The HTML file to write.
        min_effect: The least difference that counts, in Dice points.

    Raises:
        UserError: A run's files are missing or damaged, or `out` cannot be written.

    Example:
        >>> patchcl.report([run], out / "report.html").name
        'report.html'
    """
    with loading():
        from patchcl.reports.run_report import write_report  # loads what draws, which other verbs here do without

    several = [runs] if isinstance(runs, str | Path) else runs
    smallest = require_effect(min_effect / 100)
    write_report([RunFolder.open(_run_to_use(run)) for run in several], Path(out), smallest=smallest)
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
    return open_folder(_run_to_use(run), **chosen)


def _require_no_run(out: Path) -> None:
    if RunFolder(out).provenance.is_file() or (out / COMPARISON).is_file():
        raise UserError(f"{out} holds a run or a comparison. Choose another folder for the masks with -o.")


def _run_to_use(folder: PathLike) -> Path:
    """`folder`, or of a comparison the folder of the run that it chose."""
    if not (Path(folder) / COMPARISON).is_file():
        return Path(folder)
    from patchcl.comparison.choice import run_to_use  # loads what compares, which others do without

    return run_to_use(Path(folder))
