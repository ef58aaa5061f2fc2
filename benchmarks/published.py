"""What the authors' code of PatchCL does to contrast patches, step by step and on one CPU; for beside_published.py.

Written anew from our description of that code, which does not start; docs/method.md lists its defects. The steps that
cost time are kept: lists of embeddings that are stacked again for every ordered pair of classes, covariances as
matrices, n x n products of which only the diagonal is read, negatives mined in NumPy for every pair, patches found box
by box. What made it fail or compute the wrong thing is put right. Where a choice was open the cheaper way was taken:
patches are not augmented, the student is not given more of them than the teacher, and rejection sampling has an end.
"""

import random
from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

TEMPERATURE, COVARIANCE_WEIGHT, NEGATIVES = 0.2, 4.0, 4096.0
BATCHES, DRAWN = 100, 1000
"""Rejection sampling gives up after so many batches of so many samples; the authors' goes on until it has enough."""
SMALLEST, OVERLAP, LET_THROUGH = 10, 0.8, 0.8
"""Pixels of a component that counts, shared part of two boxes, share of the patches that the coverage filter keeps."""


class Gaussian(NamedTuple):
    """A class, as its embeddings say."""

    mean: Tensor  # (E,)
    covariance: Tensor  # (E, E)


class Queues:
    """A list of embeddings for every class, the newest `length` of each."""

    def __init__(self, classes: int, length: int) -> None:
        self.length = length
        self.rows: list[list[Tensor]] = [[] for _ in range(classes)]

    def push(self, embedding: Tensor, label: Tensor) -> None:
        """Remember each of the embeddings (P, E) under its label (P,)."""
        for k, rows in enumerate(self.rows):
            self.rows[k] = (rows + list(embedding[label == k]))[-self.length :]


def guided_contrast(embedding: Tensor, label: Tensor, queues: Queues, mine: bool) -> Tensor:
    """The loss of `patchcl.contrast.loss.pseudo_label_guided_contrast`, one pair of classes after the other."""
    classes = [gaussian(torch.stack(rows)) for rows in queues.rows]
    loss = embedding.new_zeros(())
    for k, own_class in enumerate(classes):
        own = embedding[label == k]
        attraction = exponent(own, own_class).exp()
        repulsion = torch.zeros_like(attraction)
        for j, other_class in enumerate(classes):
            if j != k:
                rows = torch.stack(queues.rows[j])
                other = mined(own.detach(), own_class, rows, other_class) if mine else other_class
                repulsion = repulsion + NEGATIVES / len(classes) * exponent(own, other).exp()
        loss = loss + ((attraction + repulsion).log() - own @ own_class.mean / TEMPERATURE).sum()
    return loss / len(embedding)


def gaussian(rows: Tensor) -> Gaussian:
    """Mean and covariance of embeddings (N, E)."""
    mean = rows.mean(dim=0)
    return Gaussian(mean, (rows - mean).T @ (rows - mean) / len(rows))


def exponent(embedding: Tensor, seen: Gaussian) -> Tensor:
    """(P,) the exponent of the loss for one class, from a P x P product."""
    spread = torch.diag(embedding @ (seen.covariance @ embedding.T))
    return embedding @ seen.mean / TEMPERATURE + COVARIANCE_WEIGHT / (2 * TEMPERATURE**2) * spread


@torch.no_grad()
def mined(own: Tensor, own_class: Gaussian, rows: Tensor, other_class: Gaussian) -> Gaussian:
    """The class of `rows` (N, E) as a negative of the class of `own` (P, E), from samples between the two."""
    members, anchors = rows.numpy(), own.numpy()
    positive, negative = (tuple(part.numpy() for part in each) for each in (own_class, other_class))
    to_positive, to_negative = (np.linalg.pinv(covariance) for _, covariance in (positive, negative))
    distance = squared_distance(members, positive[0], to_positive)
    theirs = members[distance.argmin()]
    ours = anchors[squared_distance(anchors, negative[0], to_negative).argmin()]

    samples = between(ours, theirs, *negative, wanted=3 * len(members))
    order = np.argsort(squared_distance(samples, negative[0], to_negative))
    kept = samples[order][: len(members)]
    disqualified = squared_distance(kept, positive[0], to_positive) > distance.min()
    for _ in range(int(disqualified.sum())):
        fraction = np.random.uniform(0.3, 0.7)
        first, second = random.choices(kept, k=2)
        kept = np.vstack([fraction * first + (1 - fraction) * second, kept])
    return gaussian(F.normalize(torch.from_numpy(kept).to(own.dtype), dim=1))


def between(ours: np.ndarray, theirs: np.ndarray, mean: np.ndarray, covariance: np.ndarray, wanted: int) -> np.ndarray:
    """Samples (N, E) of a Gaussian between the planes through two anchors across the line that joins them."""
    line = theirs - ours
    found = np.empty((0, len(mean)))
    for _ in range(BATCHES):
        drawn = np.random.multivariate_normal(mean, covariance, DRAWN)
        along = drawn @ line
        found = np.vstack([found, drawn[(along >= line @ ours) & (along <= line @ theirs)]])
        if len(found) >= wanted:
            break
    return found


def squared_distance(points: np.ndarray, mean: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    """(N,) squared Mahalanobis distances, from an N x N product."""
    return np.diag((points - mean) @ (inverse @ (points - mean).T))


def draw_patches(image: np.ndarray, mask: np.ndarray, classes: int, side: int, per_class: int) -> list[np.ndarray]:
    """`per_class` class-masked patches (n, C, side, side) of every class; images (B, C, H, W), masks (B, H, W)."""
    drawn = []
    for k in range(classes):
        boxes = [(b, *corner) for b in range(len(mask)) for corner in apart(corners(mask[b] == k, side, k > 0), side)]
        cut = [(slice(y, y + side), slice(x, x + side)) for _, y, x in boxes]
        shown = [mask[b][place] == k for (b, _, _), place in zip(boxes, cut, strict=True)]
        coverage = np.array([each.mean() for each in shown])
        qualified = np.flatnonzero(coverage >= np.quantile(coverage, 1 - LET_THROUGH))
        patches = [image[boxes[n][0]][:, *cut[n]] * shown[n] for n in qualified]
        drawn.append(np.stack(random.choices(patches, k=per_class)))
    return drawn


def corners(shown: np.ndarray, side: int, by_component: bool) -> list[tuple[int, int]]:
    """Where boxes begin that cover each component (H, W), or the whole image in a regular grid."""
    whole = tuple(slice(0, length) for length in shown.shape)
    boxes = ndimage.find_objects(ndimage.label(shown)[0]) if by_component else [whole]
    return [
        corner
        for box in boxes
        if np.prod([part.stop - part.start for part in box]) > SMALLEST
        for corner in product(*(starts(part, side, length) for part, length in zip(box, shown.shape, strict=True)))
    ]


def starts(extent: slice, side: int, length: int) -> Iterator[int]:
    """Where patches begin along one axis: one around a short extent, else side by side, the last one flush."""
    if extent.stop - extent.start <= side:
        middle = (extent.start + extent.stop) // 2
        yield min(max(middle - side // 2, 0), length - side)
    else:
        for start in range(extent.start, extent.stop, side):
            yield min(start, extent.stop - side)


def apart(boxes: list[tuple[int, int]], side: int) -> list[tuple[int, int]]:
    """Those of one image of which none shares more than `OVERLAP` with one before it."""
    kept: list[tuple[int, int]] = []
    for y, x in boxes:
        shared = [max(0, side - abs(y - v)) * max(0, side - abs(x - u)) for v, u in kept]
        if all(part <= OVERLAP * side**2 for part in shared):
            kept.append((y, x))
    return kept
