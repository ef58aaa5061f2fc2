"""A trained run, opened once: its settings, its plan and its network, ready to segment."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple, TypedDict, Unpack

import numpy as np
import torch
from torch import nn

from patchcl.config import Settings, read_settings
from patchcl.core.choices import Device
from patchcl.core.console import errors
from patchcl.core.devices import CPU, best_device
from patchcl.core.documents import DocumentError, parse_json
from patchcl.core.errors import UserError
from patchcl.data.discovery import find_scans
from patchcl.data.geometry import Grid, grid_of
from patchcl.data.preprocessing.plan import Plan, load_plan
from patchcl.data.preprocessing.transforms import to_network_grid, to_scan_grid
from patchcl.data.scan import Scan, read_image, require_finite
from patchcl.inference.ensemble import Ensemble
from patchcl.inference.familiarity import Familiarity, read_familiarity
from patchcl.inference.postprocessing import NO_POSTPROCESSING, postprocess, read_postprocessing
from patchcl.inference.predict import PLAIN, Inference, require_channels, uncertainty_of
from patchcl.inference.sliding_window import network_probs
from patchcl.inference.test_time_augmentation import ONE_PASS, symmetries_of
from patchcl.runs.checkpoint import Weights, read_checkpoint, read_newest, weights_of, weights_used
from patchcl.runs.contents import edits
from patchcl.runs.folder import RunFolder

Checkpoint = Literal["last", "best"]


class RunArguments(TypedDict, total=False):
    """What a call may say of how a run's network is used."""

    checkpoint: Checkpoint
    """`last`, the end of training, by default; or `best`, the best on validation."""
    weights: Weights
    """`teacher`, the moving average, by default; or `student`."""
    fast: bool
    """One pass of the network, instead of an average over the symmetries that training drew from."""
    postprocessing: bool
    """Do to masks what validation chose when training ended; true by default."""
    device: Device
    """Where to compute; by default the fastest there is."""


class Prediction(NamedTuple):
    """A segmented scan, on the scan's own grid."""

    mask: np.ndarray  # (*shape) uint8, the likeliest class of every voxel, after post-processing
    probabilities: np.ndarray  # (K, *shape) float32, summing to one over K
    uncertainty: np.ndarray  # (*shape) float32, entropy: 0 is certain, 1 knows nothing
    grid: Grid


@dataclass(frozen=True)
class TrainedRun:
    """A run's network in evaluation mode, with all that is needed to use it."""

    folder: RunFolder
    settings: Settings
    plan: Plan
    network: nn.Module
    """From prepared images (B, C, *S) to logits (B, K, *S)."""
    checkpoint: Checkpoint
    weights: Weights
    """Those in use: the student's where a teacher was asked for and the method has none."""
    step: int
    """Optimizer steps that the weights have seen."""
    device: torch.device
    inference: Inference = PLAIN
    """What it does beyond one pass: the symmetries that training drew from, and what validation chose for masks."""
    fast: bool = False
    """What was asked when it was opened, see `open_run`; as is the next."""
    postprocessing: bool = True
    folds: "tuple[TrainedRun, ...]" = ()
    """Of an ensemble the runs it consists of; each did not see the patients that validate it."""

    def predict(
        self, scan: Path | str | Sequence[Path | str] | np.ndarray, affine: np.ndarray | None = None
    ) -> Prediction:
        """Segment one scan.

        Args:
            scan: A file, a DICOM series, or the files of its channels in their order; or voxels (*shape) of a run with
                one channel, (C, *shape) of one with several, with shape of two or three axes.
            affine: For voxels: (4, 4), from voxel indices to mm, as nibabel has it; by default 1 mm voxels.

        Raises:
            UserError: The scan cannot be read, or has other channels than the run was trained on.
        """
        return self.predict_scan(self._scan(scan, affine))

    def predict_scan(self, scan: Scan) -> Prediction:
        """See `predict`; of a scan that was read already."""
        image = torch.from_numpy(to_network_grid(scan, self.plan))
        symmetries, postprocessing = self.inference
        probs = network_probs(self.network, image, self.plan, self.device, symmetries=symmetries).numpy()
        winners = to_scan_grid(probs, scan.grid, self.plan).argmax(axis=0).astype(np.uint8)
        mask = postprocess(winners, scan.grid, self.plan, postprocessing)
        linear = self.plan.model_copy(update={"output_interpolation": "linear"})
        smooth = to_scan_grid(probs, scan.grid, linear)
        return Prediction(mask, smooth, uncertainty_of(smooth), scan.grid)

    def _scan(self, source: Path | str | Sequence[Path | str] | np.ndarray, affine: np.ndarray | None) -> Scan:
        if isinstance(source, np.ndarray):
            voxels = source if len(self.plan.channels) > 1 else source[None]
            grid = grid_of(Path("the array"), voxels.shape[1:], np.eye(4) if affine is None else np.asarray(affine))
            grid = grid._replace(placed=affine is not None)
            require_finite(voxels, Path("the array"))
            return Scan(voxels.astype(np.float32), grid)
        files = [source] if isinstance(source, Path | str) else source
        case, paths = "", tuple(Path(file) for file in files)
        if len(paths) == 1:
            case, paths = next(iter(find_scans(paths[0]).items()))
        require_channels(case, paths, self.plan)
        return read_image(paths)


def open_run(
    folder: RunFolder,
    checkpoint: Checkpoint = "last",
    weights: Weights = "teacher",
    device: torch.device = CPU,
    fast: bool = False,
    postprocessing: bool = True,
) -> TrainedRun:
    """The trained network of a run, ready to predict, and the plan its images were prepared by.

    Args:
        folder: The run.
        checkpoint: `last` or `best`.
        weights: `teacher`, the moving average, which falls back to the student where there is none; or `student`.
        device: Where the network shall live.
        fast: One pass of the network, instead of an average over the symmetries that training drew from.
        postprocessing: Do to masks what validation chose when training ended. Neither does what settings switch off.

    Raises:
        UserError: The checkpoint is missing, damaged, not finite, or was made with other settings. A last checkpoint
            that cannot be used is told of, and the one before it taken.
    """
    settings, plan = read_settings(folder.settings), load_plan(folder.plan)
    network = settings.build_network(plan)
    content, notice = read_newest(folder) if checkpoint == "last" else (read_checkpoint(folder, checkpoint), "")
    if notice:
        errors.print(f"Warning: {notice}", markup=False, highlight=False, soft_wrap=True)
    used = weights_used(content["method"], weights)
    try:
        network.load_state_dict(weights_of(content["method"], used))
    except RuntimeError as error:
        raise UserError(
            f"{folder.checkpoint(checkpoint)} does not fit the network that {folder.settings} and {folder.plan} "
            "describe. Put these files back as training wrote them, or train anew."
        ) from error
    inference = Inference(
        symmetries_of(settings.augment, plan) if settings.inference.symmetries and not fast else ONE_PASS,
        read_postprocessing(folder, plan)
        if settings.inference.postprocessing and postprocessing
        else NO_POSTPROCESSING,
    )
    network, step = network.to(device).eval(), int(content["step"])
    parts = (folder, settings, plan, network, checkpoint, used, step, device, inference)
    return TrainedRun(*parts, fast, postprocessing)


def open_ensemble(
    folder: RunFolder,
    checkpoint: Checkpoint = "last",
    weights: Weights = "teacher",
    device: torch.device = CPU,
    fast: bool = False,
    postprocessing: bool = True,
) -> TrainedRun:
    """The runs of all folds as one, see `open_run`; what is done to masks was chosen on the patients of all folds.

    Raises:
        UserError: A fold is not trained, or its checkpoint cannot be used.
    """
    settings, plan = read_settings(folder.settings), load_plan(folder.plan)
    runs = [RunFolder(folder.root / name) for name in read_folds(folder)]
    missing = [run.root.name for run in runs if not run.last.is_file()]
    if missing:
        raise UserError(
            f"{folder.root}: {', '.join(missing)} of {len(runs)} folds are not trained yet. "
            "Call the same patchcl train --folds again to go on."
        )
    wanted = settings.inference.postprocessing and postprocessing
    chosen = read_postprocessing(folder, plan) if wanted else NO_POSTPROCESSING
    opened = [open_run(run, checkpoint, weights, device, fast, postprocessing=False) for run in runs]
    folds = tuple(replace(fold, inference=fold.inference._replace(postprocessing=chosen)) for fold in opened)
    network, step = Ensemble([fold.network for fold in folds]).eval(), min(fold.step for fold in folds)
    first = folds[0]
    parts = (folder, settings, plan, network, checkpoint, first.weights, step, device, first.inference)
    return TrainedRun(*parts, fast, postprocessing, folds)


def read_folds(folder: RunFolder) -> tuple[str, ...]:
    """The names of the runs that an ensemble consists of.

    Raises:
        UserError: The file that lists them is damaged.
    """
    try:
        runs = parse_json(folder.folds.read_bytes())["runs"]
        return tuple(Path(run).name for run in runs)
    except (OSError, DocumentError, KeyError, TypeError, IndexError) as error:
        raise UserError(f'{folder.folds} does not list the folds, as in {{"runs": ["fold_0"]}}. Restore it.') from error


def familiarity_of(trained: TrainedRun) -> Familiarity | None:
    """What the training of a run, or of all folds, saw; None, said in a line, of one that kept nothing of it."""
    folders = [fold.folder for fold in trained.folds] or [trained.folder]
    known = [seen for folder in folders if (seen := read_familiarity(folder.familiarity)) is not None]
    if len(known) < len(folders):
        folder = folders[len(known)]
        errors.print(
            f"{folder.root} kept nothing of what its scans look like, so new ones are not compared with them. While "
            f"its data are there, this adds it: patchcl resume {folder.root}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        return None
    scans = dict.fromkeys(scan for seen in known for scan in seen.scans)
    return Familiarity(patients=max(seen.patients for seen in known), scans=tuple(scans))


def open_folder(root: Path, **chosen: Unpack[RunArguments]) -> TrainedRun:
    """The run in `root`, see `open_run`, or the ensemble of its folds; what was edited since training is told.

    Raises:
        UserError: There is no run, or its checkpoint is missing or damaged.
    """
    checkpoint, weights = chosen.get("checkpoint", "last"), chosen.get("weights", "teacher")
    device, fast = best_device(chosen.get("device", "auto")), chosen.get("fast", False)
    folder = RunFolder.open(root)
    opened = open_ensemble if folder.folds.is_file() else open_run
    trained = opened(folder, checkpoint, weights, device, fast, chosen.get("postprocessing", True))
    _warn_of_edits(trained)
    return trained


def _warn_of_edits(trained: TrainedRun) -> None:
    """Say in a line which settings, or what of the plan, somebody has changed since training."""
    for run in trained.folds or (trained,):
        changed = edits(run.folder.contents, run.settings, run.plan)
        if changed:
            line = f"Warning: {run.folder.root} is not used as it was trained: {'; '.join(changed)}."
            errors.print(line, markup=False, highlight=False, soft_wrap=True)
