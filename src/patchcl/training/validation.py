"""Validation during training: Dice on the prepared validation images, and pictures of the teacher's pseudo-masks."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from patchcl.core.batch import IGNORE
from patchcl.core.parallel import releasing_memory
from patchcl.data.preprocessing.cache import PreparedCase
from patchcl.data.preprocessing.plan import Plan
from patchcl.data.scan import classes_of
from patchcl.figures.overlays import pseudo_mask_strip
from patchcl.inference.sliding_window import network_probs
from patchcl.losses.pseudo_labels import pseudo_labels
from patchcl.methods.base import Method
from patchcl.runs.folder import RunFolder
from patchcl.runs.log import Row
from patchcl.training.calibration import PseudoLabelStats, pseudo_label_quality, pseudo_label_stats


class Validation:
    """Dice of the teacher on whole scans, at the network's resolution: quick, and only a guide.

    The figures that count come from `patchcl evaluate`, on the scans' own grid. Beside Dice stand the quality of the
    teacher's pseudo-labels and the diagnostics of the method.
    """

    def __init__(
        self, cases: Sequence[PreparedCase], shown: Tensor | None, plan: Plan, run: RunFolder, device: torch.device
    ) -> None:
        self.cases, self.shown, self.plan, self.run, self.device = cases, shown, plan, run, device

    def __call__(self, method: Method[Any], step: int) -> Row:
        """Mean Dice over cases, of every structure and of all, and diagnostics; also draws a picture."""
        if self.shown is not None:
            self._draw(method, self.shown, step)
        judged = [self._judge(method, case) for case in releasing_memory(self.cases)]
        dice = torch.stack([dice for dice, _ in judged]).nanmean(dim=0).tolist()
        structures = {f"validation_dice_{name}": value for name, value in zip(self.plan.classes[1:], dice, strict=True)}
        quality = pseudo_label_quality([stats for _, stats in judged], self.plan.classes)
        diagnostics = quality | method.diagnostics()
        numbers = {name: value for name, value in diagnostics.items() if math.isfinite(value)}  # what JSON can hold
        return {"validation_dice": sum(dice) / len(dice), **structures, **numbers}

    def _judge(self, method: Method[Any], case: PreparedCase) -> tuple[Tensor, PseudoLabelStats]:
        """(K - 1,) Dice of each structure over annotated pixels, and the counts of pseudo-labels."""
        image, mask = torch.from_numpy(np.load(case.image)), classes_of(torch.from_numpy(np.load(_mask_of(case))))
        probs = network_probs(method.teacher, image, self.plan, self.device)
        stats = pseudo_label_stats(probs, mask, method.confidence_threshold)
        return _dice(probs.argmax(dim=1), mask, len(self.plan.classes)), stats

    @torch.no_grad()
    def _draw(self, method: Method[Any], shown: Tensor, step: int) -> None:
        pseudo = pseudo_labels(method.teacher(shown))
        images, masks, entropy = (_as_slices(maps) for maps in (shown[:, 0], pseudo.mask, pseudo.entropy))
        path = self.run.pictures / f"pseudo_masks_step_{step:06d}.png"
        title = f"Pseudo-masks after {step} steps"
        pseudo_mask_strip(path, images, masks, entropy, self.plan.classes, title)


def _dice(predicted: Tensor, mask: Tensor, classes: int) -> Tensor:
    """Of each structure, 1 where it is absent from prediction and mask; NaN if nothing is annotated."""
    predicted = predicted.masked_fill(mask == IGNORE, IGNORE)
    structures = torch.arange(1, classes).view(-1, *[1] * mask.ndim)
    found, true = (predicted == structures).flatten(1), (mask == structures).flatten(1)
    size = found.sum(dim=1) + true.sum(dim=1)
    absent = 1.0 if (mask != IGNORE).any() else math.nan
    return torch.where(size > 0, 2 * (found & true).sum(dim=1) / size.clamp(min=1), absent)


def _mask_of(case: PreparedCase) -> str:
    if case.mask is None:
        raise ValueError(f"{case.name} has no mask to validate against")
    return str(case.mask)


def _as_slices(maps: Tensor) -> np.ndarray:
    """(N, *S) to (N, X, Y): slices as they are, volumes by the middle of their last axis."""
    slices = maps if maps.ndim == 3 else maps[..., maps.shape[-1] // 2]
    return slices.cpu().numpy()
