"""How far a teacher's pseudo-labels can be trusted, measured where the masks are known."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from patchcl.core.batch import IGNORE

BINS = 15
"""Bins of equal width into which pixels are sorted by confidence."""


class Tally(NamedTuple):
    """Sums over the pixels of some images. Tallies add up, so images may come one by one."""

    taken: Tensor  # (K,) pixels that the teacher takes for each class
    true: Tensor  # (K,) pixels that are of that class by the mask
    accepted: Tensor  # (K,) of those taken, the ones with enough confidence
    confirmed: Tensor  # (K,) of those accepted, the ones that the mask confirms
    surplus: Tensor  # (2, BINS) summed confidence less the number that is right: of all pixels, and of structures
    pixels: Tensor  # (2,) how many there are of either


def tally(probs: Float[Tensor, "N K *S"], mask: Integer[Tensor, "N *S"], threshold: float) -> Tally:
    """What the teacher's probabilities are worth beside the mask.

    Args:
        probs: Sum to one over K; on the CPU.
        mask: Class of every pixel; those of class IGNORE take no part.
        threshold: Least confidence of a pseudo-label that counts.
    """
    classes = probs.shape[1]
    known = mask != IGNORE
    confidence, predicted = (each[known] for each in probs.max(dim=1))
    mask = mask[known].long()
    right, accepted = predicted == mask, confidence >= threshold
    structure = (predicted > 0) | (mask > 0)
    surplus = confidence.double() - right.double()
    place = torch.bucketize(confidence, torch.linspace(0, 1, BINS + 1)[1:-1])
    return Tally(
        taken=predicted.bincount(minlength=classes),
        true=mask.bincount(minlength=classes),
        accepted=predicted[accepted].bincount(minlength=classes),
        confirmed=predicted[accepted & right].bincount(minlength=classes),
        surplus=torch.stack([place.bincount(each, minlength=BINS) for each in (surplus, surplus * structure)]),
        pixels=torch.stack([torch.tensor(len(mask)), structure.sum()]),
    )


def trust(tallies: Iterable[Tally], classes: Sequence[str]) -> dict[str, float]:
    """The figures for the log, over all pixels of all tallies together. What nothing can be said of is left out.

    `accepted_<class>`: of the pixels that the teacher takes for the class, the share that it is sure enough of; 0 if it
    takes none for it. `agreement_<class>`: of those accepted, the share that the mask confirms. `found_<class>`: of the
    pixels that the masks give the class, the share that has such a pseudo-label. `ece`: how far confidence and the
    share of right pixels lie apart; `ece_structures`: the same without the pixels that are background for teacher and
    mask, which make any teacher look good.

    Source: `ece` is eq. 3 of Guo et al., 2017, https://arxiv.org/abs/1706.04599, with their 15 bins.
    """
    taken, true, accepted, confirmed, surplus, pixels = (
        torch.stack(each).sum(dim=0) for each in zip(*tallies, strict=True)
    )
    of_class = {figure: [f"{figure}_{name}" for name in classes] for figure in ("accepted", "agreement", "found")}
    return {
        **_fractions(of_class["accepted"], accepted, taken.clamp(min=1)),
        **_fractions(of_class["agreement"], confirmed, accepted),
        **_fractions(of_class["found"], confirmed, true),
        **_fractions(["ece", "ece_structures"], surplus.abs().sum(dim=1), pixels),
    }


def _fractions(names: Sequence[str], parts: Tensor, wholes: Tensor) -> dict[str, float]:
    """Each part over its whole, by name; those of which there is nothing are left out."""
    fractions = zip(names, parts.tolist(), wholes.tolist(), strict=True)
    return {name: part / whole for name, part, whole in fractions if whole}
