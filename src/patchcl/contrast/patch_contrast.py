"""Patch contrast, whole: choose patches by class, embed them, remember the teacher's, compare the student's.

PatchCL is built on it, and any other method that has pseudo-labels can add it to its own losses.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from patchcl.contrast.hard_negatives import HardNegatives, mixed, reweighted, slab
from patchcl.contrast.loss import Moments, even_weights, info_nce, moments, pseudo_label_guided_contrast
from patchcl.contrast.memory_bank import ClassMemory
from patchcl.contrast.patches import (
    ChosenPatches,
    EntropySource,
    class_attended_features,
    class_attended_patches,
    flip_at_random,
    patch_grid,
)
from patchcl.contrast.samplers import PatchSampler, Sampler
from patchcl.core.batch import StudentView
from patchcl.core.settings import FrozenSettings
from patchcl.losses.schedules import linear_ramp
from patchcl.losses.supervised import one_hot
from patchcl.networks.ema import ema_update, frozen_copy
from patchcl.networks.frozen_norm import running_statistics_untouched
from patchcl.networks.unet import UNet


class ContrastSettings(FrozenSettings):
    """docs/method.md says which of these constants are those of the authors' code."""

    weight: float = Field(0.1, ge=0, description="Of the contrastive loss; 0 leaves it out.")
    final_weight_fraction: float = Field(
        0.0, ge=0, le=1, description="Fraction of that weight at the last step; it falls evenly."
    )
    loss: Literal["pseudo_label_guided", "info_nce"] = "pseudo_label_guided"
    embed: Literal["features", "crops"] = Field(
        "features", description="Features of the whole image under the class, or crops of the class-attended image."
    )
    sampler: Sampler = Field("entropy", description="How patches are chosen among those that show a class.")
    entropy_source: EntropySource = Field("confidence", description="What the average patch entropy is taken of.")
    patch_fraction: float = Field(0.25, gt=0, le=1, description="Side of a patch over that of the image.")
    patches_per_class: int = Field(16, gt=0, description="Chosen in each step, before a class runs out of them.")
    coverage: float = Field(0.5, gt=0, le=1, description="Least confidence in the class, relative to the best patch.")
    overlap: float = Field(1.0, ge=0, le=1, description="Largest shared part of two patches of one class and image.")
    embedding_size: int = Field(128, gt=0)
    memory_length: int = Field(1024, gt=0, description="Teacher embeddings that are kept of every class.")
    memory_min_size: int = Field(32, gt=1, description="Embeddings from which a class counts.")
    temperature: float = Field(0.2, gt=0)
    covariance_weight: float = Field(1.0, ge=0, description="λ, the pull together of a class.")
    covariance_ramp_fraction: float = Field(0.2, ge=0, le=1, description="Fraction of all steps until λ is reached.")
    num_negatives: float = Field(4096.0, gt=0, description="ψ, how many negatives the other classes stand for.")
    hard_negatives: HardNegatives = "none"

    @model_validator(mode="after")
    def _require_room(self) -> "ContrastSettings":
        if self.memory_length < max(self.memory_min_size, self.patches_per_class):
            raise ValueError(
                f"memory_length {self.memory_length} must be at least memory_min_size {self.memory_min_size} "
                f"and patches_per_class {self.patches_per_class}"
            )
        return self


class ClassMaps(NamedTuple):
    """The images of a step, labeled ones first, and a map of every class for each."""

    image: Tensor  # (B, C, *S) in [0, 1]
    probs: Tensor  # (B, K, *S) one-hot masks of labeled images, the probabilities behind pseudo-labels of others


class PatchContrast(nn.Module):
    """An embedding head for the student and one for its teacher, a memory of the teacher's embeddings, a sampler."""

    def __init__(
        self, settings: ContrastSettings, network: UNet, classes: int, size: Sequence[int], steps: int
    ) -> None:
        super().__init__()
        self.settings = settings
        self.classes = classes
        self.side = tuple(
            patch_side(length, settings.patch_fraction, by) for length, by in zip(size, network.reduction, strict=True)
        )
        self.reduction = network.reduction
        self.steps = steps
        self.covariance_ramp = settings.covariance_ramp_fraction * steps
        self.student_head = embedding_head(network.encoded_channels, settings.embedding_size)
        self.teacher_head = frozen_copy(self.student_head)
        self.memory = ClassMemory(classes, settings.memory_length, settings.embedding_size)
        self.sampler = PatchSampler(
            settings.sampler, classes, settings.patches_per_class, settings.coverage, settings.overlap
        )

    def forward(self, student: UNet, teacher: UNet, seen: StudentView, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The contrastive loss of the step's patches, a scalar, and terms about them for the log.

        The teacher's embeddings of the weak views go into the memory; the student's of its own views are compared with
        the classes in the memory.

        Args:
            student: Its encoder embeds crops, and whole images whose features are not in `seen`.
            teacher: Its encoder embeds without a gradient.
            seen: Images, masks and pseudo-labels of the step.
            step: Of the run, from 0.
        """
        weak, strong = self.class_maps(seen)
        features = seen.features
        if features is None:
            with running_statistics_untouched(student):
                features = student.encode(strong.image)
        with torch.no_grad():
            chosen = self.choose(weak)
            pooled = self.pooled(teacher, weak, chosen)
            self.memory.push(embedded(self.teacher_head(pooled), chosen.label), chosen.label)
            chosen = self.choose(strong)
        pooled = self.pooled(student, strong, chosen, features)
        loss, collapsed = self.compare(embedded(self.student_head(pooled), chosen.label), chosen.label, step)
        return loss, {"contrast_over_collapse": loss.detach() - collapsed} | self.chosen_terms(chosen)

    def class_maps(self, seen: StudentView) -> tuple[ClassMaps, ClassMaps]:
        """Of the weak and of the strong views; labeled images have one view, and their masks say what it shows."""
        labeled = ClassMaps(seen.labeled.image, one_hot(seen.labeled.mask, self.classes))
        if seen.unlabeled is None or seen.pseudo_probs is None:
            return labeled, labeled
        strong_probs = seen.pseudo_probs if seen.strong_probs is None else seen.strong_probs
        views = [(seen.unlabeled.weak, seen.pseudo_probs), (seen.unlabeled.strong, strong_probs)]
        weak, strong = (ClassMaps(*(torch.cat(pair) for pair in zip(labeled, view, strict=True))) for view in views)
        return weak, strong

    def weight(self, step: int) -> float:
        """Of the loss at a step."""
        return self.settings.weight * (1 - (1 - self.settings.final_weight_fraction) * step / self.steps)

    def choose(self, maps: ClassMaps) -> ChosenPatches:
        """The patches of a step."""
        chosen: ChosenPatches = self.sampler(patch_grid(*maps, self.side, self.settings.entropy_source), self.side)
        return chosen

    def pooled(
        self, network: UNet, maps: ClassMaps, chosen: ChosenPatches, features: Float[Tensor, "B F *s"] | None = None
    ) -> Float[Tensor, "P F"]:
        """Pooled features of patches: of crops, or of the `features` of whole images, by default from `network`."""
        if self.settings.embed == "crops":
            return self.encoded_crops(network, maps, chosen)
        features = network.encode(maps.image) if features is None else features
        return class_attended_features(features, maps.probs, chosen, self.side, self.reduction)

    def encoded_crops(self, network: UNet, maps: ClassMaps, chosen: ChosenPatches) -> Float[Tensor, "P F"]:
        """Pooled features of crops of the class-attended images, mirrored at random."""
        crops = flip_at_random(class_attended_patches(*maps, chosen, self.side))
        with running_statistics_untouched(network):
            return network.encode(crops).flatten(2).mean(dim=2)

    def compare(
        self, embedding: Float[Tensor, "P E"], label: Int[Tensor, "P"], step: int
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """The loss of student embeddings against the memory, and its value if all embeddings coincided."""
        with torch.autocast(embedding.device.type, enabled=False):  # exponents need the full precision
            embedding = embedding.float()
            similarity = torch.einsum("pe,kme->pkm", embedding, self.memory.embedding)
            if self.settings.loss == "info_nce":
                return self._info_nce(similarity, label), self._info_nce(torch.zeros_like(similarity), label)
            classes = self.class_moments(embedding, similarity, label)
            collapsed = Moments(torch.zeros_like(classes.mean), torch.zeros_like(classes.variance))
            return self._guided(classes, label, step), self._guided(collapsed, label, step)

    def class_moments(
        self, embedding: Float[Tensor, "P E"], similarity: Float[Tensor, "P K M"], label: Int[Tensor, "P"]
    ) -> Moments:
        """Moments (P, K) of every class for each embedding: its own as it is, the others by the hard negatives."""
        memory, written = self.memory.embedding, self.memory.written
        plain = moments(similarity, even_weights(written))
        match self.settings.hard_negatives:
            case "none":
                return plain
            case "reweight":
                hard = reweighted(similarity, written)
            case "mix":
                hard = mixed(embedding, similarity, memory, written)
            case "slab":
                hard = slab(embedding, label, memory, written)
        own = label.unsqueeze(1) == torch.arange(self.classes, device=label.device)
        return Moments(*(torch.where(own, a, b) for a, b in zip(plain, hard, strict=True)))

    def chosen_terms(self, chosen: ChosenPatches) -> dict[str, Tensor]:
        """How many patches of every class were chosen, and their mean average patch entropy."""
        kept = chosen.label >= 0
        counts = {f"patches_{k}": (chosen.label == k).sum().float() for k in range(self.classes)}
        return counts | {"patch_entropy": (chosen.entropy * kept).sum() / kept.sum().clamp(min=1)}

    def diagnostics(self) -> dict[str, float]:
        """Separability and effective rank: how well the remembered embeddings tell the classes apart."""
        return {"separability": self.memory.separability(), "effective_rank": self.memory.effective_rank()}

    def ema_update(self, decay: float) -> None:
        """EMA update of the teacher's head."""
        ema_update(self.teacher_head, self.student_head, decay)

    def _guided(self, classes: Moments, label: Tensor, step: int) -> Tensor:
        covariance_weight = self.settings.covariance_weight * linear_ramp(step, self.covariance_ramp)
        ready = self.memory.ready(self.settings.memory_min_size)
        return pseudo_label_guided_contrast(
            classes, label, ready, self.settings.temperature, covariance_weight, self.settings.num_negatives
        )

    def _info_nce(self, similarity: Tensor, label: Tensor) -> Tensor:
        ready = self.memory.ready(self.settings.memory_min_size)
        return info_nce(similarity, self.memory.written, label, ready, self.settings.temperature)


def patch_side(length: int, fraction: float, reduction: int) -> int:
    """Side of a patch in pixels: that fraction of the image's, as a multiple of two features, and two at the least.

    Where the image is smaller than that, the patch is the image.
    """
    step = 2 * reduction
    return min(length, max(round(length * fraction / step) * step, step))


def embedding_head(channels: int, size: int) -> nn.Module:
    """Projection head, from pooled features (P, `channels`) to (P, `size`).

    Layer norm and not batch norm, because a batch may hold a single patch.
    """
    return nn.Sequential(nn.Linear(channels, channels), nn.LayerNorm(channels), nn.ReLU(), nn.Linear(channels, size))


def embedded(projected: Float[Tensor, "P E"], label: Int[Tensor, "P"]) -> Float[Tensor, "P E"]:
    """Embeddings of a step's patches: what the head projects them to, standardised, and of unit length.

    Every dimension has mean 0 and variance 1 over the patches that show a class. Without that the embeddings of a fresh
    network all point the same way. There the loss has its collapse value and hardly a gradient, and it stays.
    """
    projected = projected.float()
    weight = ((label >= 0) / (label >= 0).sum().clamp(min=1)).unsqueeze(1)
    mean = (weight * projected).sum(dim=0)
    variance = (weight * (projected - mean).square()).sum(dim=0)
    return F.normalize((projected - mean) / (variance + 1e-5).sqrt(), dim=1)
