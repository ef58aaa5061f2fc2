"""The tuples of data in which methods, loop and data meet.

Axis letters used throughout the project: B batch, C channels, K classes (background included), S one or more
spatial axes (H, W for slices; D, H, W for volumes), P patches, E embedding.
"""

from typing import NamedTuple

from torch import Tensor

IGNORE = -1
"""The class of a pixel, or the label of a patch, that no loss may count."""


class LabeledBatch(NamedTuple):
    """Images with their reference segmentation."""

    image: Tensor  # (B, C, *S) float32 in [0, 1], augmented
    mask: Tensor  # (B, *S) int64 class of every pixel; IGNORE where the reference is unknown


class UnlabeledBatch(NamedTuple):
    """Views of the same images. They share one geometry, so their pixels line up."""

    weak: Tensor  # (B, C, *S) float32 in [0, 1], geometric augmentation only
    strong: Tensor  # (B, C, *S) float32 in [0, 1], `weak` with intensity augmentation on top
    second_strong: Tensor | None = None  # the same, drawn once more for a method that asks for two strong views


class TrainingBatch(NamedTuple):
    """The batch of one optimizer step. A method that learns from masks alone is given no unlabeled images."""

    labeled: LabeledBatch
    unlabeled: UnlabeledBatch | None


class StudentView(NamedTuple):
    """The images of a step with their masks and pseudo-labels: what patch contrast compares patches of."""

    labeled: LabeledBatch
    unlabeled: UnlabeledBatch | None = None  # with the strong views that the student was given
    pseudo_probs: Tensor | None = None  # (B, K, *S) probabilities behind the pseudo-labels of the weak views
    strong_probs: Tensor | None = None  # (B, K, *S) the same for the strong views, where boxes were mixed into these
    features: Tensor | None = None  # (B, F, *s) the student's deepest, of labeled and strong; None: not at hand
    weak_features: Tensor | None = None  # (B, F, *s) the teacher's deepest, of the weak views; None: not at hand


class StepResult(NamedTuple):
    """Loss of a step and terms for the log: what a method hands back to the loop."""

    loss: Tensor  # () the scalar to minimise
    terms: dict[str, Tensor]  # detached scalars, for the log only
    seen: StudentView | None = None  # what patch contrast may be added for; the loop gets None
