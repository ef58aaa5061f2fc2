"""The end of a cross-validation: all patients choose the post-processing, and each is scored by a run new to it."""

from collections.abc import Sequence

import torch

from patchcl.config import read_settings
from patchcl.core.console import progress_bar, progress_bars
from patchcl.data.dataset import read_dataset
from patchcl.data.splits import cases_of, load_split
from patchcl.evaluation.evaluate import evaluate_trained
from patchcl.evaluation.scores import Evaluation
from patchcl.inference.trained_run import Checkpoint, open_ensemble
from patchcl.runs.folder import RunFolder
from patchcl.training.final_validation import choose_together


def conclude(
    folder: RunFolder,
    device: torch.device,
    checkpoints: Sequence[Checkpoint] = ("last",),
    voxels: bool = False,
    fast: bool = False,
    postprocessing: bool = True,
) -> Evaluation:
    """Let all held-out patients choose the post-processing, and score each by the run that has not seen it.

    Args:
        folder: Of all folds, which are trained to their end.
        device: Where to compute.
        checkpoints: What to score.
        voxels: Measure distances in voxels.
        fast: Score one pass, see `open_run`.
        postprocessing: Score masks after what was chosen.

    Returns:
        The scores of the last of `checkpoints`; those of all lie in the folder.

    Raises:
        UserError: A fold is not trained yet, or a scan cannot be segmented.
    """
    _choose(folder, device)
    scores = []
    for checkpoint in checkpoints:
        trained = open_ensemble(folder, checkpoint, "teacher", device, fast, postprocessing)
        with progress_bars("Segmenting", "Scoring") as (on_progress, on_scored):
            scores.append(evaluate_trained(trained, "validation", on_progress, voxels, on_scored=on_scored))
    return scores[-1]


def _choose(folder: RunFolder, device: torch.device) -> None:
    settings = read_settings(folder.settings)
    assert settings.data is not None
    folds = open_ensemble(folder, device=device, postprocessing=False).folds
    dataset = read_dataset(settings.data, settings.split.patient_pattern)
    held_out = [(fold, cases_of(dataset, load_split(fold.folder.split).validation, masked=True)) for fold in folds]
    with progress_bar("Choosing post-processing") as on_progress:
        choose_together(folder, held_out, on_progress)
