"""The masks of held-out scans by what is done beyond one pass of the network, each for a column of a table."""

from collections.abc import Sequence
from pathlib import Path

from patchcl.core.console import part_of
from patchcl.core.errors import UserError
from patchcl.core.memory import releasing_memory
from patchcl.core.parallel import ProgressCallback
from patchcl.data.dataset import Case
from patchcl.data.scan import read_grid, read_mask, write_mask
from patchcl.inference.postprocessing import postprocess
from patchcl.inference.predict import PLAIN, Files, Inference, predict_cases
from patchcl.inference.trained_run import TrainedRun

ONE_PASS_COLUMN, SYMMETRIES_COLUMN, POSTPROCESSED_COLUMN = "one pass", "symmetries averaged", "and post-processed"


def predict_columns(
    run: TrainedRun, cases: Sequence[Case], out: Path, scratch: Path, on_progress: ProgressCallback | None = None
) -> dict[str, Path]:
    """Segment `cases` in all the ways that differ; gives the folders of masks by their columns, the last being `out`.

    Args:
        run: Says what is done beyond one pass.
        cases: Held-out scans.
        out: For the masks that count, after all that the run does.
        scratch: For the others.
        on_progress: Called with the number of passes over scans that are done and of all.

    Raises:
        UserError: A scan cannot be segmented.
    """
    symmetries, postprocessing = run.inference
    folders = {}
    first = len(cases) if len(symmetries) > 1 else 0
    total = first + len(cases) * len(symmetries)
    if first:
        folders[ONE_PASS_COLUMN] = _predicted(run, cases, scratch / "one_pass", PLAIN, part_of(on_progress, 0, total))
    column = SYMMETRIES_COLUMN if folders else ONE_PASS_COLUMN
    averaged = scratch / "averaged" if postprocessing else out
    on_average = part_of(on_progress, first, total, weight=len(symmetries))
    folders[column] = _predicted(run, cases, averaged, Inference(symmetries), on_average)
    if postprocessing:
        folders[POSTPROCESSED_COLUMN] = _postprocessed(run, cases, averaged, out)
    return folders


def _predicted(
    run: TrainedRun,
    cases: Sequence[Case],
    out: Path,
    inference: Inference,
    on_progress: ProgressCallback | None = None,
) -> Path:
    scans = {case.name: case.images for case in cases}
    files = Files(output="nifti")
    summary = predict_cases(run.network, run.plan, scans, out, files, run.device, on_progress, inference)
    if summary.failed:
        raise UserError("\n".join(f"{case}: {message}" for case, message in summary.failed))
    return out


def _postprocessed(run: TrainedRun, cases: Sequence[Case], masks: Path, out: Path) -> Path:
    """The masks after the run's post-processing: what `predict` would write, without a second pass."""
    for case in releasing_memory(cases):
        file = masks / f"{case.name}.nii.gz"
        grid = read_grid(file)
        mask = postprocess(read_mask(file, run.plan.classes, grid), grid, run.plan, run.inference.postprocessing)
        write_mask(out / file.name, mask, case.images[0], run.plan.classes)
    return out
