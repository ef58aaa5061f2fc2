"""Patch contrast, whole: choose patches by class, embed them, remember the teacher's, compare the student's.

PatchCL is built on it, and any other method that has pseudo-labels can add it to its own losses.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from patchcl.contrast import ContrastSettings
from patchcl.contrast.class_maps import ClassMaps, class_maps, classes_of_step, named
from patchcl.contrast.hard_negatives import mixed, neighbour_weights, reweighted, slab, touching
from patchcl.contrast.loss import (
    EVEN,
    Emphasis,
    Moments,
    Positive,
    even_weights,
    info_nce,
    memory_moments,
    moments,
    pseudo_label_guided_contrast,
    stand_ins,
    with_positive,
)
from patchcl.contrast.memory_bank import ClassMemory
from patchcl.contrast.patches import (
    ChosenPatches,
    class_attended_features,
    class_attended_patches,
    flip_at_random,
    patch_confidence,
    patch_grid,
)
from patchcl.contrast.prototypes import Embedded, image_index, of_all_processes, prototype_positive
from patchcl.contrast.samplers import PatchSampler
from patchcl.core.batch import StudentView
from patchcl.core.schedule import scheduled
from patchcl.losses.schedules import linear_ramp
from patchcl.networks.ema import ema_update, frozen_copy
from patchcl.networks.frozen_norm import running_statistics_untouched
from patchcl.networks.unet import UNet


class Remembered(NamedTuple):
    """What the memory holds of the classes of a step."""

    embedding: Tensor  # (K, M, E)
    written: Tensor  # (K, M) bool, which rows count
    ready: Tensor  # (K,) bool, which classes have enough of them
    standing: Tensor | None = (
        None  # () how many classes each stands for as a negative; None: for itself, as all are here
    )


class PatchContrast(nn.Module):
    """An embedding head for the student and one for its teacher, a memory of the teacher's embeddings, a sampler."""

    def __init__(
        self, settings: ContrastSettings, network: UNet, classes: int, size: Sequence[int], steps: int
    ) -> None:
        super().__init__()
        self.settings = settings
        self.classes = classes
        self.reduction = network.encoded_reduction
        self.side = tuple(
            patch_side(length, settings.patch_fraction, by) for length, by in zip(size, self.reduction, strict=True)
        )
        self.steps = steps
        self.covariance_ramp = settings.covariance_ramp_fraction * steps
        self.student_head = embedding_head(network.encoded_channels, settings.embedding_size)
        self.teacher_head = frozen_copy(self.student_head)
        self.memory = ClassMemory(classes, settings.memory_length, settings.embedding_size)
        self.sampler = PatchSampler(
            settings.sampler,
            classes,
            settings.patches_per_class,
            settings.coverage,
            settings.overlap,
            border=settings.where == "border",
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
        classes = classes_of_step(seen, self.classes)
        weak, strong = class_maps(seen, self.classes, classes)
        features = seen.features
        if features is None:
            with running_statistics_untouched(student):
                features = student.encode(strong.image)
        with torch.no_grad():
            chosen = self.choose(weak, classes)
            pooled = self.pooled(teacher, weak, chosen, self.teacher_features(teacher, seen))
            label = named(chosen.label, classes)
            remembered = Embedded(embedded(self.teacher_head(pooled), chosen.label), label, chosen.image)
            self.memory.push(remembered.embedding, label)
            chosen = self.choose(strong, classes)
            emphasis = self.emphasis(strong, chosen, classes)
        pooled = self.pooled(student, strong, chosen, features)
        embedding = embedded(self.student_head(pooled), chosen.label)
        compared = Embedded(embedding, named(chosen.label, classes), chosen.image)
        positive = self.positive(compared, remembered, len(strong.image))
        loss, collapsed = self.compare(embedding, chosen.label, step, classes, emphasis, positive)
        return loss, {"contrast_over_collapse": loss.detach() - collapsed} | self.chosen_terms(chosen, classes)

    def weight(self, step: int) -> float:
        """Of the loss at a step."""
        return self.settings.weight * (1 - (1 - self.settings.final_weight_fraction) * step / self.steps)

    def covariance_weight(self, step: int) -> float:
        """λ at a step."""
        return self.settings.covariance_weight * linear_ramp(step, self.covariance_ramp)

    def choose(self, maps: ClassMaps, classes: Tensor | None = None) -> ChosenPatches:
        """The patches of a step; a label is a place among the `classes`."""
        grid = patch_grid(maps.image, maps.probs, self.side, self.settings.entropy_source, maps.others)
        chosen: ChosenPatches = self.sampler(grid, self.side, classes)
        return chosen

    def emphasis(self, maps: ClassMaps, chosen: ChosenPatches, classes: Tensor | None = None) -> Emphasis:
        """Which patches and which classes as negatives the settings have count more."""
        patch = negative = None
        if self.settings.patch_weights == "confidence":
            patch = patch_confidence(maps.probs, chosen, self.side)
        if self.settings.negative_classes == "neighbours":
            weights = neighbour_weights(touching(maps.probs), self.remembered(classes).ready)
            negative = weights[chosen.label.clamp(min=0)]
        return Emphasis(patch, negative)

    def positive(self, student: Embedded, teacher: Embedded, count: int) -> Positive | None:
        """What the student's patches are drawn to if that is not the memory; of `count` images of this process."""
        if self.settings.positives == "memory":
            return None
        student, teacher = (each._replace(image=image_index(each.image, count)) for each in (student, teacher))
        with torch.autocast(student.embedding.device.type, enabled=False):
            return prototype_positive(student, of_all_processes(teacher))

    def teacher_features(self, teacher: UNet, seen: StudentView) -> Float[Tensor, "B F *s"] | None:
        """The teacher's of labeled and weak images if the method had it encode the weak ones; None if not."""
        if seen.weak_features is None or self.settings.embed == "crops":
            return None
        return torch.cat([teacher.encode(seen.labeled.image), seen.weak_features])

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
        crops = flip_at_random(class_attended_patches(maps.image, maps.probs, chosen, self.side))
        with running_statistics_untouched(network):
            return network.encode(crops).flatten(2).mean(dim=2)

    def compare(
        self,
        embedding: Float[Tensor, "P E"],
        label: Int[Tensor, "P"],
        step: int,
        classes: Tensor | None = None,
        emphasis: Emphasis = EVEN,
        positive: Positive | None = None,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """The loss of student embeddings against the memory, and its value if all embeddings coincided.

        Where the step is of a sample of the `classes`, a label is a place among them.
        """
        remembered = self.remembered(classes)
        with torch.autocast(embedding.device.type, enabled=False):  # exponents need the full precision
            embedding = embedding.float()
            if self.settings.loss == "info_nce":
                similarity = torch.einsum("pe,kme->pkm", embedding, remembered.embedding)
                views = (similarity, torch.zeros_like(similarity))
                loss, collapsed = (self._info_nce(view, label, remembered, emphasis) for view in views)
                return loss, collapsed
            seen = self.class_moments(embedding, label, remembered)
            seen = seen if positive is None else with_positive(seen, positive, label)
            nothing = Moments(torch.zeros_like(seen.mean), torch.zeros_like(seen.variance))
            loss, collapsed = (self._guided(each, label, step, remembered, emphasis) for each in (seen, nothing))
            return loss, collapsed

    def remembered(self, classes: Tensor | None = None) -> Remembered:
        """What the memory holds of the classes of a step."""
        memory, written = self.memory.embedding, self.memory.written
        ready = self.memory.ready(self.settings.memory_min_size)
        if classes is None:
            return Remembered(memory, written, ready)
        return Remembered(memory[classes], written[classes], ready[classes], stand_ins(ready[classes], ready))

    def class_moments(
        self, embedding: Float[Tensor, "P E"], label: Int[Tensor, "P"], remembered: Remembered
    ) -> Moments:
        """Moments (P, K) of every class for each embedding: its own as it is, the others by the hard negatives."""
        memory, written, kind = remembered.embedding, remembered.written, self.settings.hard_negatives
        if kind == "none":
            return memory_moments(embedding, memory, written)
        if kind == "slab":
            plain, hard = memory_moments(embedding, memory, written), slab(embedding, label, memory, written)
        else:
            similarity = torch.einsum("pe,kme->pkm", embedding, memory)
            plain = moments(similarity, even_weights(written))
            reweight = kind == "reweight"
            hard = reweighted(similarity, written) if reweight else mixed(embedding, similarity, memory, written)
        own = label.unsqueeze(1) == torch.arange(len(memory), device=label.device)
        return Moments(*(torch.where(own, a, b) for a, b in zip(plain, hard, strict=True)))

    def chosen_terms(self, chosen: ChosenPatches, classes: Tensor | None = None) -> dict[str, Tensor]:
        """How many patches of every class were chosen, and their mean average patch entropy."""
        kept = chosen.label >= 0
        every = torch.arange(self.classes, device=kept.device)
        found = (named(chosen.label, classes).unsqueeze(1) == every).sum(dim=0).float().unbind()
        counts = {f"patches_{k}": count for k, count in enumerate(found)}
        return counts | {"patch_entropy": (chosen.entropy * kept).sum() / kept.sum().clamp(min=1)}

    def diagnostics(self) -> dict[str, float]:
        """Separability and effective rank: how well the remembered embeddings tell the classes apart."""
        return {"separability": self.memory.separability(), "effective_rank": self.memory.effective_rank()}

    def ema_update(self, decay: float | Tensor) -> None:
        """EMA update of the teacher's head."""
        ema_update(self.teacher_head, self.student_head, decay)

    def _guided(self, classes: Moments, label: Tensor, step: int, remembered: Remembered, emphasis: Emphasis) -> Tensor:
        return pseudo_label_guided_contrast(
            classes,
            label,
            remembered.ready,
            self.settings.temperature,
            scheduled(step, self.covariance_weight),
            self.settings.num_negatives,
            remembered.standing,
            emphasis,
        )

    def _info_nce(self, similarity: Tensor, label: Tensor, remembered: Remembered, emphasis: Emphasis) -> Tensor:
        _, written, ready, standing = remembered
        return info_nce(similarity, written, label, ready, self.settings.temperature, standing, emphasis)


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
