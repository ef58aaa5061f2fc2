"""Validation during training: Dice on the prepared validation images, and pictures of the teacher's pseudo-masks."""

import math
from collections.abc import Collection, Iterator, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from patchcl.core.devices import CPU
from patchcl.core.memory import releasing_memory
from patchcl.data.loading.image_store import classes_of
from patchcl.data.preprocessing.cache import PreparedCase
from patchcl.data.preprocessing.plan import Plan
from patchcl.figures.overlays import pseudo_mask_strip
from patchcl.inference.sliding_window import images_at_once, network_probs
from patchcl.losses.pseudo_labels import pseudo_labels
from patchcl.methods.base import Method
from patchcl.runs.folder import RunFolder
from patchcl.runs.log import Row
from patchcl.training.calibration import PseudoLabelStats, pseudo_label_quality, pseudo_label_stats
from patchcl.training.ranks import ALONE, Ranks

PICTURES = 8
"""Pictures of pseudo-masks that a run draws at most: one takes as long as the figures of several scans."""


class Scan(NamedTuple):
    """A scan as the network sees it."""

    image: Tensor  # (N, C, *S) its slices, or one volume
    mask: Tensor  # (N, *S)


class Validation:
    """Dice of the teacher on whole scans, at the network's resolution: quick, and only a guide.

    The figures that count come from `patchcl evaluate`, on the scans' own grid. Beside Dice stand the quality of the
    teacher's pseudo-labels and the diagnostics of the method.
    """

    def __init__(
        self,
        cases: Sequence[PreparedCase],
        shown: Tensor | None,
        plan: Plan,
        run: RunFolder,
        device: torch.device,
        pictures: Collection[int] | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        """`pictures` are the steps after which one is drawn of what is `shown`; None: after every validation.

        Patients are shared out among `ranks`; every process learns the figures of all, in the order of `cases`.
        """
        self.cases, self.shown, self.plan, self.run, self.device = cases, shown, plan, run, device
        self.pictures, self.ranks = pictures, ranks
        patients = list(dict.fromkeys(case.patient for case in cases))
        self.places = {
            place: case for place, case in enumerate(cases) if patients.index(case.patient) % ranks.count == ranks.rank
        }
        self.home = device if device.type == "cuda" else CPU  # where figures are counted; MPS has no float64

    def __call__(self, method: Method[Any], step: int) -> Row:
        """Mean Dice over cases, of every structure and of all, and diagnostics; also draws a picture if it is time.

        Without cases there are diagnostics of the method alone.
        """
        if self.ranks.first and self.shown is not None and (self.pictures is None or step in self.pictures):
            self._draw(method, self.shown, step)
        judged = self._judge_all(method)
        if not judged:
            return _finite(method.diagnostics())
        dice = torch.stack([_dice(stats) for stats in judged]).nanmean(dim=0).tolist()
        structures = {f"validation_dice_{name}": value for name, value in zip(self.plan.classes[1:], dice, strict=True)}
        quality = pseudo_label_quality(judged, self.plan.classes)
        return {"validation_dice": sum(dice) / len(dice), **structures, **_finite(quality | method.diagnostics())}

    def _judge_all(self, method: Method[Any]) -> list[PseudoLabelStats]:
        """The counts of every scan, this process's own and those of the others."""
        own = [stats for scans in releasing_memory(self._scans()) for stats in self._judge(method, scans)]
        if self.ranks.count == 1:
            return own
        carried = [PseudoLabelStats(*(count.cpu() for count in stats)) for stats in own]
        return [
            stats
            for _, stats in sorted(self.ranks.gathered(list(zip(self.places, carried, strict=True))), key=itemgetter(0))
        ]

    def _scans(self) -> Iterator[list[Scan]]:
        """This process's scans, in order; small ones together, as many as pass through the network at once."""
        most = images_at_once(self.plan, self.device) if self.plan.fit == "resize" else 0
        together: list[Scan] = []
        for case in self.places.values():
            scan = Scan(torch.from_numpy(np.load(case.image)), torch.from_numpy(np.load(_mask_of(case))))
            if together and sum(len(image) for image, _ in (*together, scan)) > most:
                yield together
                together = []
            together.append(scan)
        if together:
            yield together

    def _judge(self, method: Method[Any], scans: Sequence[Scan]) -> list[PseudoLabelStats]:
        """The counts of every scan's pseudo-labels, of which Dice is one."""
        images = torch.cat([scan.image for scan in scans])
        probs = network_probs(method.teacher, images, self.plan, self.device, home=self.home)
        parts = zip(torch.split(probs, [len(scan.image) for scan in scans]), scans, strict=True)
        return [
            pseudo_label_stats(part, classes_of(scan.mask.to(self.home)), method.confidence_threshold)
            for part, scan in parts
        ]

    @torch.inference_mode()
    def _draw(self, method: Method[Any], shown: Tensor, step: int) -> None:
        pseudo = pseudo_labels(method.teacher(shown))
        images, masks, entropy = (_as_slices(maps) for maps in (shown[:, 0], pseudo.mask, pseudo.entropy))
        path = self.run.pictures / f"pseudo_masks_step_{step:06d}.png"
        title = f"Pseudo-masks after {step} steps"
        pseudo_mask_strip(path, images, masks, entropy, self.plan.classes, title)


def picture_steps(steps: int, validate_every: int) -> frozenset[int]:
    """The validations, at most PICTURES, that draw a picture: spread evenly over a run, the last among them."""
    validated = [*range(validate_every, steps, validate_every), steps]
    count = min(PICTURES, len(validated))
    return frozenset(validated[place * len(validated) // count - 1] for place in range(1, count + 1))


def _finite(figures: Row) -> Row:
    """Those that JSON can hold."""
    return {name: value for name, value in figures.items() if math.isfinite(value)}


def _dice(stats: PseudoLabelStats) -> Tensor:
    """Of each structure, 1 where it is absent from prediction and mask; NaN if nothing is annotated."""
    size = stats.taken[1:] + stats.true[1:]
    absent = torch.where(stats.pixels[0] > 0, 1.0, math.nan)
    return torch.where(size > 0, 2 * stats.right[1:] / size.clamp(min=1), absent)


def _mask_of(case: PreparedCase) -> str:
    if case.mask is None:
        raise ValueError(f"{case.name} has no mask to validate against")
    return str(case.mask)


def _as_slices(maps: Tensor) -> np.ndarray:
    """(N, *S) to (N, X, Y): slices as they are, volumes by the middle of their last axis."""
    slices = maps if maps.ndim == 3 else maps[..., maps.shape[-1] // 2]
    return slices.cpu().numpy()
