"""Quality and calibration of pseudo-labels, measured where the masks are known."""

import math
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
    right: Tensor  # (K,) of those taken, the ones that the mask confirms
    accepted: Tensor  # (K,) of those taken, the ones with enough confidence
    confirmed: Tensor  # (K,) of those accepted, the ones that the mask confirms
    surplus: Tensor  # (2, BINS) summed confidence less the number that is right: of all pixels, and of structures
    pixels: Tensor  # (2,) how many there are of either


def pseudo_label_stats(
    probs: Float[Tensor, "N K *S"], mask: Integer[Tensor, "N *S"], threshold: float
) -> PseudoLabelStats:
    """Counts of the pseudo-labels that the teacher's probabilities make, beside the mask.

    All of it stays where the probabilities are, and each pixel is counted once: by its two classes, its bin, and
    whether its confidence is enough.

    Args:
        probs: Sum to one over K.
        mask: Class of every pixel; those of class IGNORE take no part.
        threshold: Least confidence of a pseudo-label that counts.
    """
    classes = probs.shape[1]
    confidence, predicted = probs.max(dim=1)
    ends = torch.linspace(0, 1, BINS + 1, device=probs.device)[1:-1]
    kind = ((mask.long() * classes + predicted) * 2 + (confidence >= threshold)) * BINS
    kind = (
        (kind + torch.bucketize(confidence, ends)).masked_fill(mask == IGNORE, classes * classes * 2 * BINS).flatten()
    )
    shape = (classes, classes, 2, BINS)  # true, taken, accepted, bin
    counts, sums = (_counted(kind, shape, weights) for weights in (None, confidence.flatten().double()))
    by_class, enough = counts.sum(dim=(2, 3)), counts[:, :, 1].sum(dim=2)
    surplus = sums.sum(dim=2) - torch.eye(classes, device=probs.device).unsqueeze(2) * counts.sum(dim=2)
    structures = [surplus.sum(dim=(0, 1)), surplus.sum(dim=(0, 1)) - surplus[0, 0]]
    return PseudoLabelStats(
        taken=by_class.sum(dim=0),
        true=by_class.sum(dim=1),
        right=by_class.diagonal(),
        accepted=enough.sum(dim=0),
        confirmed=enough.diagonal(),
        surplus=torch.stack(structures),
        pixels=torch.stack([by_class.sum(), by_class.sum() - by_class[0, 0]]),
    )


def _counted(kind: Tensor, shape: tuple[int, ...], weights: Tensor | None) -> Tensor:
    """How many pixels are of each kind, or the sum of their weights; one kind more is left out."""
    kinds = math.prod(shape)
    return kind.bincount(weights, minlength=kinds + 1)[:kinds].view(shape)


def pseudo_label_quality(stats: Iterable[PseudoLabelStats], classes: Sequence[str]) -> dict[str, float]:
    """Figures for the log, in [0, 1], over all pixels of all `stats` together; those that are undefined are left out.

    `accepted_<class>`: of the pixels that the teacher takes for the class, the fraction that it is sure enough of; 0 if
    it takes none for it. `agreement_<class>`: of those accepted, the fraction that the mask confirms. `found_<class>`:
    of the pixels that the masks give the class, the fraction that has such a pseudo-label. `ece`: expected calibration
    error, how far confidence and the fraction of right pixels lie apart; `ece_structures`: the same without the pixels
    that are background for teacher and mask, which make any teacher look good.

    Source: `ece` is eq. 3 of Guo et al., 2017, https://arxiv.org/abs/1706.04599, with their 15 bins.
    """
    taken, true, _, accepted, confirmed, surplus, pixels = (
        torch.stack(sums).sum(dim=0).cpu() for sums in zip(*stats, strict=True)
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
