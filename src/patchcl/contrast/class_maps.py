"""What a step shows of every class, and of which classes it contrasts patches."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from patchcl.core.batch import IGNORE, LabeledBatch, StudentView
from patchcl.losses.supervised import one_hot

CLASSES_PER_STEP = 16
"""Of more classes than these a step contrasts as many, drawn anew each time, so that its cost stops growing."""
PRESENT = 0.5
"""Probability of some pixel from which a class counts as present among pseudo-labels."""


class ClassMaps(NamedTuple):
    """The images of a step, labeled ones first, and a map of every class, or of a sample of them, for each."""

    image: Tensor  # (B, C, *S) in [0, 1]
    probs: Tensor  # (B, K, *S) one-hot masks of labeled images, the probabilities behind pseudo-labels of others
    others: Tensor | None = None  # (B, *S) bool, where the most probable class is none of these; None: nowhere


def class_maps(seen: StudentView, count: int, classes: Int[Tensor, "K"] | None = None) -> tuple[ClassMaps, ClassMaps]:
    """Of the weak and of the strong views; labeled images have one view, and their masks say what it shows.

    Args:
        seen: Images, masks and pseudo-labels of the step.
        count: Number of all classes.
        classes: Those that the maps are of; None: all.
    """
    labeled = _of_masks(seen.labeled, count, classes)
    if seen.unlabeled is None or seen.pseudo_probs is None:
        return labeled, labeled
    strong_probs = seen.pseudo_probs if seen.strong_probs is None else seen.strong_probs
    views = [(seen.unlabeled.weak, seen.pseudo_probs), (seen.unlabeled.strong, strong_probs)]
    weak, strong = (_joined(labeled, _of_probs(*view, classes)) for view in views)
    return weak, strong


def classes_of_step(seen: StudentView, count: int) -> Int[Tensor, "K"] | None:
    """The classes, out of `count`, that a step contrasts: None, which is all, or a sample of those its images show."""
    if count <= CLASSES_PER_STEP:
        return None
    present = one_hot(seen.labeled.mask, count).movedim(1, 0).flatten(1).any(dim=1)
    if seen.pseudo_probs is not None:
        present = present | (seen.pseudo_probs.movedim(1, 0).flatten(1).amax(dim=1) >= PRESENT)
    return drawn_classes(present, CLASSES_PER_STEP)


def drawn_classes(present: Bool[Tensor, "K"], count: int) -> Int[Tensor, "n"]:
    """A random sample of `count` classes, in their order: of those `present`, and of others where these are too few."""
    rank = present + torch.rand(len(present), device=present.device)
    return rank.topk(count).indices.sort().values


def named(label: Int[Tensor, "P"], classes: Int[Tensor, "K"] | None) -> Int[Tensor, "P"]:
    """The classes of labels that are places among `classes`; IGNORE stays."""
    return label if classes is None else torch.where(label >= 0, classes[label.clamp(min=0)], IGNORE)


def _of_masks(labeled: LabeledBatch, count: int, classes: Tensor | None) -> ClassMaps:
    if classes is None:
        return ClassMaps(labeled.image, one_hot(labeled.mask, count))
    shown = labeled.mask.unsqueeze(1) == classes.view(1, -1, *[1] * (labeled.mask.ndim - 1))
    return ClassMaps(labeled.image, shown.float(), torch.zeros_like(labeled.mask, dtype=torch.bool))


def _of_probs(image: Tensor, probs: Tensor, classes: Tensor | None) -> ClassMaps:
    if classes is None:
        return ClassMaps(image, probs)
    some = probs.index_select(1, classes)
    return ClassMaps(image, some, some.amax(dim=1) < probs.amax(dim=1))


def _joined(labeled: ClassMaps, unlabeled: ClassMaps) -> ClassMaps:
    others = None
    if labeled.others is not None and unlabeled.others is not None:
        others = torch.cat([labeled.others, unlabeled.others])
    return ClassMaps(torch.cat([labeled.image, unlabeled.image]), torch.cat([labeled.probs, unlabeled.probs]), others)
