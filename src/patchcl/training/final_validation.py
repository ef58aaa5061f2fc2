"""When training ends: validation patients are segmented as all scans will be, and choose the post-processing.

A step is kept only if it raises the mean Dice over validation patients, each compared with itself, and lowers that of
no structure. Checkpoints are still compared by the quick figures of one pass, on which a different last one would have
an unfair lead.
"""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch

from patchcl.core.errors import UserError
from patchcl.core.files import write_json
from patchcl.core.memory import releasing_memory
from patchcl.core.parallel import ProgressCallback, in_parallel
from patchcl.core.settings import FrozenSettings
from patchcl.data.dataset import Case
from patchcl.data.preprocessing.plan import Plan
from patchcl.data.scan import IGNORED, read_grid, read_mask
from patchcl.evaluation.intervals import patient_means
from patchcl.evaluation.metrics import dice
from patchcl.evaluation.scores import MEAN
from patchcl.inference.postprocessing import (
    NO_POSTPROCESSING,
    Postprocessing,
    PostprocessingChoice,
    components,
    postprocess,
)
from patchcl.inference.predict import Files, predict_cases
from patchcl.inference.trained_run import TrainedRun, open_run
from patchcl.runs.folder import RunFolder

FRAGMENTS = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4)
"""Sizes below which objects are removed on trial, over the median size of the annotated ones."""

DiceOf = Callable[[Postprocessing], np.ndarray]
"""Dice (patients, structures) after such steps."""


class Decision(FrozenSettings):
    """One step on trial: mean Dice over patients without and with it, on top of what was kept before."""

    step: str
    kept: bool
    dice_before: dict[str, float]  # of the structures that it may change, and of their mean if there are several
    dice_after: dict[str, float]


class SegmentedCase(NamedTuple):
    """A validation scan: files of its predicted mask and of the reference."""

    patient: str
    predicted: Path
    reference: Path


def choose_on_validation(
    run: RunFolder, cases: Sequence[Case], device: torch.device, on_progress: ProgressCallback | None = None
) -> None:
    """Segment the validation scans with the last checkpoint, and write what they chose into the run.

    Args:
        run: Trained to its end.
        cases: All of them have masks; where there are none, nothing is chosen.
        device: Where to compute.
        on_progress: Called with the number of scans done and of all.

    Raises:
        UserError: A scan cannot be segmented.
    """
    if cases:
        choose_together(run, [(open_run(run, device=device, postprocessing=False), cases)], on_progress)


def choose_together(
    run: RunFolder,
    held_out: Sequence[tuple[TrainedRun, Sequence[Case]]],
    on_progress: ProgressCallback | None = None,
) -> None:
    """Segment the scans that each of several runs has not seen, and write what they all chose into `run`.

    Raises:
        UserError: A scan cannot be segmented.
    """
    with TemporaryDirectory(prefix="patchcl-") as folder:
        masks = [mask for trained, cases in held_out for mask in _segmented(trained, cases, Path(folder), on_progress)]
        choice = choose_for(masks, held_out[0][0].plan)
    step, symmetries = min(trained.step for trained, _ in held_out), held_out[0][0].inference.symmetries
    facts = {"checkpoint": "last", "step": step, "symmetries": len(symmetries), **choice.validation}
    write_json(run.postprocessing, choice.model_copy(update={"validation": facts}).model_dump(mode="json"))


def _segmented(
    trained: TrainedRun, cases: Sequence[Case], out: Path, on_progress: ProgressCallback | None
) -> list[SegmentedCase]:
    scans, inference = {case.name: case.images for case in cases}, trained.inference
    summary = predict_cases(
        trained.network, trained.plan, scans, out, Files(output="nifti"), trained.device, on_progress, inference
    )
    if summary.failed:
        raise UserError("\n".join(f"{case}: {message}" for case, message in summary.failed))
    masks = [(case.patient, out / f"{case.name}.nii.gz", case.mask) for case in cases if case.mask is not None]
    return [SegmentedCase(*each) for each in masks]


def choose_for(cases: Sequence[SegmentedCase], plan: Plan) -> PostprocessingChoice:
    """The steps that raise the Dice of these masks, and the figures that decided."""
    structures = plan.classes[1:]
    sizes = _fragment_sizes(cases, plan) if len(structures) == 1 else ()
    chosen, decisions = choose_postprocessing(lambda steps: dice_after(steps, cases, plan), structures, sizes)
    patients = len({case.patient for case in cases})
    listed = [decision.model_dump(mode="json") for decision in decisions]
    return PostprocessingChoice(postprocessing=chosen, validation={"patients": patients, "decisions": listed})


def choose_postprocessing(
    dice_of: DiceOf, structures: Sequence[str], fragment_sizes: Sequence[float] = ()
) -> tuple[Postprocessing, list[Decision]]:
    """The steps to keep, each tried on top of those before, and every decision.

    Args:
        dice_of: Dice (patients, structures) after steps.
        structures: Their names.
        fragment_sizes: On trial for `smallest_object_mm`.
    """
    trials = _Trials(dice_of, structures)
    if len(structures) > 1:
        trials.whole("largest component of all structures together", [{"largest_together": True}])
    trials.by_structure("largest component", "largest_of")
    if fragment_sizes:
        trials.whole("small fragments removed", [{"smallest_object_mm": size} for size in fragment_sizes])
    trials.by_structure("holes filled", "filled")
    return trials.chosen, trials.decisions


class _Trials:
    """What was kept so far, and the Dice (patients, structures) with it."""

    def __init__(self, dice_of: DiceOf, structures: Sequence[str]) -> None:
        self.dice_of, self.structures = dice_of, tuple(structures)
        self.chosen, self.decisions = NO_POSTPROCESSING, list[Decision]()
        self.dice = dice_of(self.chosen)

    def whole(self, step: str, changes: Sequence[dict[str, Any]]) -> None:
        """Keep the best of `changes`, the first of equals, if the mean rises and no structure loses."""
        trials = [self.chosen.model_copy(update=change) for change in changes]
        dices = [self.dice_of(trial) for trial in trials]
        best = int(np.argmax([dice.mean() for dice in dices]))
        gain = (dices[best] - self.dice).mean(axis=0)
        kept = bool(gain.mean() > 0 and gain.min() >= 0)
        self.decisions.append(_decision(step, kept, self.structures, self.dice, dices[best]))
        if kept:
            self.chosen, self.dice = trials[best], dices[best]

    def by_structure(self, step: str, key: str) -> None:
        """Keep for each structure what raises its Dice; the step changes no other, so all are tried at once."""
        after = self.dice_of(self.chosen.model_copy(update={key: self.structures}))
        kept = (after - self.dice).mean(axis=0) > 0
        for place, structure in enumerate(self.structures):
            column = (slice(None), slice(place, place + 1))
            named = f"{step}: {structure}"
            decision = _decision(named, bool(kept[place]), (structure,), self.dice[column], after[column])
            self.decisions.append(decision)
        structures = tuple(itertools.compress(self.structures, kept))
        self.chosen, self.dice = self.chosen.model_copy(update={key: structures}), np.where(kept, after, self.dice)


def _decision(step: str, kept: bool, structures: Sequence[str], before: np.ndarray, after: np.ndarray) -> Decision:
    return Decision(step=step, kept=kept, dice_before=_means(structures, before), dice_after=_means(structures, after))


def _means(structures: Sequence[str], dices: np.ndarray) -> dict[str, float]:
    """The mean over patients by structure, and of all structures if there are several."""
    of_all = {MEAN: float(dices.mean())} if len(structures) > 1 else {}
    return dict(zip(structures, dices.mean(axis=0).tolist(), strict=True)) | of_all


def dice_after(steps: Postprocessing, cases: Sequence[SegmentedCase], plan: Plan) -> np.ndarray:
    """Dice (patients, structures) of masks after `steps`, over annotated voxels; the mean of the scans of a patient."""
    scores = in_parallel(cases, lambda case: _case_dice(steps, case, plan))
    patients = [case.patient for case in cases]
    by_structure = [patient_means(dices, patients) for dices in zip(*scores, strict=True)]
    return np.array([list(means.values()) for means in by_structure]).T


def _case_dice(steps: Postprocessing, case: SegmentedCase, plan: Plan) -> list[float]:
    grid = read_grid(case.predicted)
    predicted = postprocess(read_mask(case.predicted, plan.classes, grid), grid, plan, steps)
    reference = read_mask(case.reference, plan.classes, grid, plan.ignore)
    predicted[reference == IGNORED] = IGNORED
    return [dice(predicted == value, reference == value) for value in range(1, len(plan.classes))]


def _fragment_sizes(cases: Sequence[SegmentedCase], plan: Plan) -> tuple[float, ...]:
    """In mm² or mm³, on trial where a scan shows several annotated objects; nothing where none does."""
    sizes, several = [], False
    for case in releasing_memory(cases):
        grid = read_grid(case.predicted)
        _, voxels = components(read_mask(case.reference, plan.classes, grid, plan.ignore) == 1)
        sizes += (voxels[1:] * float(np.prod(grid.spacing_mm))).tolist()
        several |= len(voxels) > 2
    return tuple(float(np.median(sizes) * fraction) for fraction in FRAGMENTS) if several else ()
