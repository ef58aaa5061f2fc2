"""Quality and calibration of pseudo-labels, measured where the masks are known."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from patchcl.core.batch import IGNORE

BINS = 15
"""Bins of equal width into which pixels are sorted by confidence."""


class PseudoLabelStats(NamedTuple):
    """Sums over the pixels of some images. They add up, so images may come one by one."""

    taken: Tensor  # (K,) pixels that the teacher takes for each class
    true: Tensor  # (K,) pixels that are of that class by the mask
    accepted: Tensor  # (K,) of those taken, the ones with enough confidence
    confirmed: Tensor  # (K,) of those accepted, the ones that the mask confirms
    surplus: Tensor  # (2, BINS) summed confidence less the number that is right: of all pixels, and of structures
    pixels: Tensor  # (2,) how many there are of either


def pseudo_label_stats(
    probs: Float[Tensor, "N K *S"], mask: Integer[Tensor, "N *S"], threshold: float
) -> PseudoLabelStats:
    """Counts of the pseudo-labels that the teacher's probabilities make, beside the mask.

    Args:
        probs: Sum to one over K; on the CPU.
        mask: Class of every pixel; those of class IGNORE take no part.
        threshold: Least confidence of a pseudo-label that counts.
    """
    classes = probs.shape[1]
    known = mask != IGNORE
    confidence, predicted = (values[known] for values in probs.max(dim=1))
    mask = mask[known].long()
    right, accepted = predicted == mask, confidence >= threshold
    structure = (predicted > 0) | (mask > 0)
    surplus = confidence.double() - right.double()
    interval = torch.bucketize(confidence, torch.linspace(0, 1, BINS + 1)[1:-1])
    return PseudoLabelStats(
        taken=predicted.bincount(minlength=classes),
        true=mask.bincount(minlength=classes),
        accepted=predicted[accepted].bincount(minlength=classes),
        confirmed=predicted[accepted & right].bincount(minlength=classes),
        surplus=torch.stack([interval.bincount(values, minlength=BINS) for values in (surplus, surplus * structure)]),
        pixels=torch.stack([torch.tensor(len(mask)), structure.sum()]),
    )


def pseudo_label_quality(stats: Iterable[PseudoLabelStats], classes: Sequence[str]) -> dict[str, float]:
    """Figures for the log, in [0, 1], over all pixels of all `stats` together; those that are undefined are left out.

    `accepted_<class>`: of the pixels that the teacher takes for the class, the fraction that it is sure enough of; 0 if
    it takes none for it. `agreement_<class>`: of those accepted, the fraction that the mask confirms. `found_<class>`:
    of the pixels that the masks give the class, the fraction that has such a pseudo-label. `ece`: expected calibration
    error, how far confidence and the fraction of right pixels lie apart; `ece_structures`: the same without the pixels
    that are background for teacher and mask, which make any teacher look good.

    Source: `ece` is eq. 3 of Guo et al., 2017, https://arxiv.org/abs/1706.04599, with their 15 bins.
    """
    taken, true, accepted, confirmed, surplus, pixels = (
        torch.stack(sums).sum(dim=0) for sums in zip(*stats, strict=True)
    )
    keys = {figure: [f"{figure}_{name}" for name in classes] for figure in ("accepted", "agreement", "found")}
    return {
        **_fractions(keys["accepted"], accepted, taken.clamp(min=1)),
        **_fractions(keys["agreement"], confirmed, accepted),
        **_fractions(keys["found"], confirmed, true),
        **_fractions(["ece", "ece_structures"], surplus.abs().sum(dim=1), pixels),
    }


def _fractions(names: Sequence[str], parts: Tensor, wholes: Tensor) -> dict[str, float]:
    """Each part over its whole, by name; those of which there is nothing are left out."""
    rows = zip(names, parts.tolist(), wholes.tolist(), strict=True)
    return {name: part / whole for name, part, whole in rows if whole}
