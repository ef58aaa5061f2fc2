"""Prototypes of other images: what a class looks like elsewhere in the step, for embeddings to be drawn to."""

from typing import NamedTuple

import torch.distributed as dist
from jaxtyping import Bool, Int
from torch import Tensor

from patchcl.contrast.exchange import gathered
from patchcl.contrast.loss import Moments, Positive


class Embedded(NamedTuple):
    """Patches of a step, embedded."""

    embedding: Tensor  # (P, E) of unit length
    label: Tensor  # (P,) class; IGNORE for rows that hold no patch
    image: Tensor  # (P,) index of the image, over all processes


def of_all_processes(patches: Embedded) -> Embedded:
    """The patches of all processes, in the order of their ranks."""
    return Embedded(*(gathered(part) for part in patches))


def image_index(image: Int[Tensor, "P"], count: int) -> Int[Tensor, "P"]:
    """Index of each patch's image over all processes, of which each has `count` images."""
    rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
    return image + rank * count


def prototype_positive(student: Embedded, teacher: Embedded) -> Positive:
    """Moments of the similarity of each embedding to its own class in other images, and where there are any.

    The prototype of an image and class is the mean of the teacher's embeddings there; the mean over images is that of
    their prototypes, however many patches each has, and the variance that of the embeddings, weighted alike.
    """
    known = (student.label >= 0).unsqueeze(1)
    other = known & _equal(student.label, teacher.label) & ~_equal(student.image, teacher.image)
    together = _equal(teacher.label, teacher.label) & _equal(teacher.image, teacher.image)
    weight = other / together.sum(dim=1)
    weight = weight / weight.sum(dim=1, keepdim=True).clamp(min=1e-6)
    similarity = student.embedding @ teacher.embedding.T
    mean = (weight * similarity).sum(dim=1, keepdim=True)
    variance = (weight * (similarity - mean).square()).sum(dim=1, keepdim=True)
    return Positive(Moments(mean, variance), other.any(dim=1, keepdim=True))


def _equal(one: Int[Tensor, "P"], other: Int[Tensor, "Q"]) -> Bool[Tensor, "P Q"]:
    return one.unsqueeze(1) == other
