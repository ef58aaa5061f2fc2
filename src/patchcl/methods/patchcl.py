"""PatchCL: pseudo-labels say which class a patch shows, and patches of one class must have similar embeddings.

Basak & Yin, CVPR 2023, "Pseudo-Label Guided Contrastive Learning for Semi-Supervised Medical Image Segmentation".
docs/method.md goes through it equation by equation and says what is the paper's, the authors' code's, and ours.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from patchcl.augment.mix import mix, random_boxes
from patchcl.batch import LabeledBatch, StepResult, TrainingBatch, UnlabeledBatch
from patchcl.losses.contrast import collapse_value, pseudo_label_guided_contrast
from patchcl.losses.supervised import dice_and_cross_entropy, one_hot
from patchcl.memory import ClassMemory
from patchcl.methods.base import Method, MethodSettings, Task, total
from patchcl.networks.normalisation import running_statistics_untouched
from patchcl.networks.unet import UNet
from patchcl.patches import ChosenPatches, choose_patches, class_attended_patches, flip_at_random
from patchcl.pseudo_labels import PseudoLabels, accepted_mask, pseudo_labels
from patchcl.teacher import follow, frozen_copy, linear_ramp, ramp_up, warmed_up


class PatchCLSettings(MethodSettings):
    """Our recipe; docs/method.md says which constants are those of the authors' code."""

    name: Literal["patchcl"] = "patchcl"
    warm_up_share: float = Field(0.3, ge=0, le=1, description="Share of all steps that see labeled images only.")
    ramp_share: float = Field(0.2, ge=0, le=1, description="Share of all steps over which consistency sets in.")
    consistency_weight: float = Field(1.0, ge=0)
    confidence_threshold: float = Field(0.0, ge=0, le=1, description="Least confidence of a pseudo-label that counts.")
    mix_chance: float = Field(0.5, ge=0, le=1, description="Chance that a strong view gets a box of another (CutMix).")
    contrast_weight: float = Field(0.01, ge=0)
    patch_share: float = Field(0.25, gt=0, le=1, description="Side of a patch over that of the image.")
    patches_per_class: int = Field(16, gt=0, description="Drawn in each step, before a class runs out of them.")
    coverage: float = Field(0.5, gt=0, le=1, description="Least share of the class, relative to the best patch.")
    embedding_size: int = Field(128, gt=0)
    memory_length: int = Field(1024, gt=0, description="Teacher embeddings that are kept of every class.")
    memory_least: int = Field(32, gt=1, description="Embeddings from which a class counts.")
    temperature: float = Field(0.2, gt=0)
    spread_weight: float = Field(4.0, ge=0, description="λ, the pull together of a class.")
    negatives: float = Field(4096.0, gt=0, description="ψ, how many negatives the other classes stand for.")


class PatchCL(Method):
    """A student and its teacher, an embedding head for each, and a memory of the teacher's embeddings by class."""

    def __init__(self, settings: PatchCLSettings, task: Task) -> None:
        super().__init__(settings, task)
        self.settings = settings
        self.classes = task.classes
        self.side = tuple(patch_side(length, settings.patch_share, self.student.reduction) for length in task.size)
        self.warm_up_steps = settings.warm_up_share * task.steps
        self.ramp_steps = settings.ramp_share * task.steps
        self.student_head = embedding_head(self.student.encoded_channels, settings.embedding_size)
        self.teacher_head = frozen_copy(self.student_head)
        self.memory = ClassMemory(task.classes, settings.memory_length, settings.embedding_size)

    def training_step(self, batch: TrainingBatch, step: int) -> StepResult:
        """See `Method.training_step`."""
        labeled, unlabeled = batch
        if unlabeled is None or (self.settings.consistency_weight == self.settings.contrast_weight == 0):
            return self.supervised_step(labeled)
        if step < self.warm_up_steps:
            return self.warm_up_step(labeled, step)
        return self.semi_supervised_step(labeled, unlabeled, step)

    def warm_up_step(self, labeled: LabeledBatch, step: int) -> StepResult:
        """Segmentation and contrast on labeled images, whose masks say what the patches show."""
        supervised = dice_and_cross_entropy(self.student(labeled.image), labeled.mask)
        probs = one_hot(labeled.mask, self.classes)
        contrast, health = self.contrast(labeled.image, labeled.image, probs, step)
        result = total(supervised=(1.0, supervised), contrast=(self.settings.contrast_weight, contrast))
        return StepResult(result.loss, result.terms | health)

    def semi_supervised_step(self, labeled: LabeledBatch, unlabeled: UnlabeledBatch, step: int) -> StepResult:
        """The teacher labels the weak views; the student learns from these labels, and contrasts what they show."""
        with torch.no_grad():
            pseudo = pseudo_labels(self.teacher(unlabeled.weak))
        strong, target = self.mixed(unlabeled.strong, pseudo)
        logits = self.student(torch.cat([labeled.image, strong]))
        labeled_logits, unlabeled_logits = logits.split([len(labeled.image), len(strong)])

        supervised = dice_and_cross_entropy(labeled_logits, labeled.mask)
        consistency = dice_and_cross_entropy(unlabeled_logits, target)
        contrast, health = self.contrast(
            weak=torch.cat([labeled.image, unlabeled.weak]),
            strong=torch.cat([labeled.image, unlabeled.strong]),
            probs=torch.cat([one_hot(labeled.mask, self.classes), pseudo.probs]),
            step=step,
        )

        ramp = ramp_up(int(step - self.warm_up_steps), self.ramp_steps)
        result = total(
            supervised=(1.0, supervised),
            consistency=(ramp * self.settings.consistency_weight, consistency),
            contrast=(self.settings.contrast_weight, contrast),
        )
        accepted = (target >= 0).float().mean()
        return StepResult(result.loss, result.terms | health | {"accepted": accepted})

    def mixed(self, strong: Tensor, pseudo: PseudoLabels) -> tuple[Tensor, Tensor]:
        """Strong views with boxes of one another, and the accepted pseudo-masks mixed alike."""
        target = accepted_mask(pseudo, self.settings.confidence_threshold)
        box = random_boxes(strong, chance=self.settings.mix_chance)
        return mix(strong, strong.roll(1, dims=0), box), mix(target, target.roll(1, dims=0), box)

    def contrast(self, weak: Tensor, strong: Tensor, probs: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The pseudo-label guided contrastive loss of the step's patches, and what the log should know of them.

        The teacher embeds the weak view of every patch, mirrored at random, into the memory; the student embeds the
        strong view and is compared with the classes in the memory.
        """
        chosen = choose_patches(probs, self.side, self.settings.patches_per_class, self.settings.coverage)
        with torch.no_grad():
            patches = flip_at_random(class_attended_patches(weak, probs, chosen, self.side))
            self.memory.push(embed(self.teacher, self.teacher_head, patches), chosen.label)
        statistics = self.memory.statistics(self.settings.memory_least)

        patches = class_attended_patches(strong, probs, chosen, self.side)
        loss = pseudo_label_guided_contrast(
            embed(self.student, self.student_head, patches),
            chosen.label,
            statistics,
            self.settings.temperature,
            self.settings.spread_weight * linear_ramp(step, self.ramp_steps),
            self.settings.negatives,
        )
        collapsed = collapse_value(statistics.ready, self.settings.negatives)
        excess = torch.where(loss == 0, 0.0, loss - collapsed).detach()  # 0: nothing to contrast
        return loss, {"contrast_over_collapse": excess} | self.drawn(chosen)

    def drawn(self, chosen: ChosenPatches) -> dict[str, Tensor]:
        """How many patches of every class were drawn, and their mean average patch entropy."""
        kept = chosen.label >= 0
        counts = {f"patches_{k}": (chosen.label == k).sum().float() for k in range(self.classes)}
        return counts | {"patch_entropy": (chosen.entropy * kept).sum() / kept.sum().clamp(min=1)}

    def after_step(self, step: int) -> None:
        """The teacher follows, network and head."""
        super().after_step(step)
        follow(self.teacher_head, self.student_head, warmed_up(self.teacher_decay, step))


def patch_side(length: int, share: float, reduction: int) -> int:
    """Side of a patch in pixels: a share of the image's, but enough to leave two features along it if there is room."""
    return min(length, max(round(length * share), 2 * reduction))


def embedding_head(channels: int, size: int) -> nn.Module:
    """From pooled features to an embedding. Layer norm, because it has no quarrel with a batch of one patch."""
    return nn.Sequential(nn.Linear(channels, channels), nn.LayerNorm(channels), nn.ReLU(), nn.Linear(channels, size))


def embed(network: UNet, head: nn.Module, patches: Tensor) -> Tensor:
    """(P, C, *p) patches to (P, E) embeddings of unit length."""
    with running_statistics_untouched(network):
        features = network.encode(patches)
    embedding: Tensor = head(features.flatten(2).mean(dim=2)).float()
    return F.normalize(embedding, dim=1)
