"""PatchCL: pseudo-labels say which class a patch shows, and patches of one class must have similar embeddings.

Basak & Yin, CVPR 2023, "Pseudo-Label Guided Contrastive Learning for Semi-Supervised Medical Image Segmentation".
docs/method.md goes through it equation by equation and says what is the paper's, the authors' code's, and ours.
"""

import torch
from torch import Tensor

from patchcl.augment.geometry import drawn_symmetries
from patchcl.augment.intensity import change_intensity
from patchcl.augment.mix import Shown, joined, mix_shown, mixed_up, random_boxes
from patchcl.augment.symmetries import applied, for_each, undone
from patchcl.contrast.exchange import gathered
from patchcl.core.batch import IGNORE, LabeledBatch, StepResult, StudentView, TrainingBatch, UnlabeledBatch
from patchcl.core.components import largest_components
from patchcl.core.schedule import scheduled
from patchcl.losses.agreement import Agreement, overlap_and_size
from patchcl.losses.pseudo_labels import PseudoLabels, accepted_mask, confidence_above_chance, labels_of, pseudo_labels
from patchcl.losses.schedules import linear_fall, ramp_up, stage_length
from patchcl.losses.supervised import cross_entropy, one_hot
from patchcl.methods.base import Method, Task, weighted_sum
from patchcl.methods.settings import PatchCLSettings


class PatchCL(Method[PatchCLSettings]):
    """A student learns from masks, from its teacher's pseudo-masks, and from the contrast of the patches they name."""

    def __init__(self, settings: PatchCLSettings, task: Task) -> None:
        super().__init__(settings, task)
        self.steps = task.steps
        self.warm_up_steps = stage_length(settings.warm_up_fraction, settings.warm_up_max_steps, task.steps)
        self.ramp_steps = stage_length(settings.ramp_fraction, settings.ramp_max_steps, task.steps)
        self.augment = task.augment
        drawn = drawn_symmetries(task.size, task.augment, task.spacing_mm)[1:]  # beside the identity
        self.symmetries = drawn if settings.average_symmetries else ()
        self.strong_views = 0 if settings.mix_before_intensity else settings.strong_views
        self.confidence_threshold = settings.confidence_threshold
        self.agreement = Agreement(task.classes) if settings.consistency_gate == "agreement" else None
        if settings.segmentation_loss == "cross_entropy":
            self.segmentation_loss = cross_entropy

    def phase(self, step: int) -> str | None:
        """See `Method.phase`."""
        return "warm-up" if step < self.warm_up_steps else "semi-supervised"

    def training_step(self, batch: TrainingBatch, step: int) -> StepResult:
        """See `Method.training_step`."""
        labeled, unlabeled = batch
        weightless = self.settings.consistency_weight == self.settings.contrast.weight == 0
        if unlabeled is None or weightless or step < self.warm_up_steps:
            image = self.changed(labeled.image, self.augment.labeled_intensity)
            return self.supervised_step(labeled._replace(image=image))

        pseudo, weak_features = self.pseudo_labels(unlabeled.weak)
        believed = [self.believed(image, pseudo) for image in self.strong_images(unlabeled)]
        first, strong = self.views(self.annotated(labeled), *believed)
        logits, features = self.student.segment(torch.cat([first.image, strong.image]))
        known = LabeledBatch(first.image, first.mask.masked_fill(~first.annotated, IGNORE))
        taught_logits, taught = self.taught(logits, first, strong)

        losses = {"consistency": self.consistency(taught_logits, taught, first=len(logits) - len(taught_logits))}
        losses |= self.perturbed(unlabeled.weak, pseudo)
        weight = self.gate(taught_logits, taught) * scheduled(step, self.consistency_weight) / len(losses)
        result = weighted_sum(
            self.seen(known, unlabeled, pseudo, strong, features, weak_features),
            supervised=(1.0, self.supervised_loss(logits[: len(known.image)], known.mask)),
            **{name: (weight, loss) for name, loss in losses.items()},
        )
        result.terms["accepted"] = (strong.mask >= 0).float().mean()
        if self.agreement is not None:
            result.terms["agreement"] = self.agreement.dice
        return result

    def consistency(self, logits: Tensor, taught: Shown, first: int) -> Tensor:
        """The loss of pseudo-masks, at the lower levels of the decoder, too, if so set; see `supervised_loss`."""
        if self.settings.deep_consistency:
            return self.supervised_loss(logits, taught.mask, first, weight=taught.weight)
        return self.segmentation_loss(logits, taught.mask, taught.weight)

    def consistency_weight(self, step: int) -> float:
        """Of the loss at a step after the warm-up: it rises, and may fall again until the end of the run."""
        final = self.settings.consistency_final_fraction
        risen = ramp_up(int(step - self.warm_up_steps), self.ramp_steps)
        left = linear_fall(step, self.warm_up_steps + self.ramp_steps, self.steps, final)
        return risen * left * self.settings.consistency_weight

    @torch.no_grad()
    def pseudo_labels(self, weak: Tensor) -> tuple[PseudoLabels, Tensor]:
        """The teacher's of weak views (B, C, *S), with its deepest features of these."""
        if self.symmetries:
            chosen = torch.randint(len(self.symmetries), (len(weak),), device=weak.device)
            moved = for_each(applied, weak, self.symmetries, chosen)
            logits, features = self.teacher.segment(torch.cat([weak, moved]))
            straight, turned = logits.float().softmax(dim=1).chunk(2)
            pseudo = labels_of((straight + for_each(undone, turned, self.symmetries, chosen)) / 2)
        else:
            logits, features = self.teacher.segment(weak)
            pseudo = pseudo_labels(logits)
        if self.settings.clean_pseudo_masks:
            pseudo = pseudo._replace(mask=largest_components(pseudo.mask, self.classes))
        return pseudo, features[: len(weak)]

    def gate(self, logits: Tensor, taught: Shown) -> float | Tensor:
        """What the weight of consistency is multiplied with: 1, or how well the student repeats the pseudo-labels."""
        if self.agreement is None:
            return 1.0
        where = (taught.mask != IGNORE) & ~taught.annotated
        counts = overlap_and_size(logits.argmax(dim=1), taught.mask, where, self.classes)
        self.agreement.add(gathered(counts.unsqueeze(0)).sum(dim=0))
        return self.agreement.dice

    def perturbed(self, weak: Tensor, pseudo: PseudoLabels) -> dict[str, Tensor]:
        """The loss of weak views (B, C, *S) of which the decoder is given perturbed features; nothing by default."""
        if self.settings.feature_dropout == 0:
            return {}
        told, logits = self.believed(weak, pseudo), self.student(weak, self.settings.feature_dropout)
        return {"perturbed": self.segmentation_loss(logits, told.mask, told.weight)}

    def strong_images(self, unlabeled: UnlabeledBatch) -> list[Tensor]:
        """Strong views (B, C, *S), or as many times the weak one where intensities change afterwards."""
        if self.settings.mix_before_intensity or self.settings.strong_views == 1:
            return [unlabeled.strong] * self.settings.strong_views
        assert unlabeled.second_strong is not None  # as `strong_views` asks
        return [unlabeled.strong, unlabeled.second_strong]

    def annotated(self, labeled: LabeledBatch) -> Shown:
        """Labeled images, of which every pixel whose class is known counts in full."""
        weight = torch.ones_like(labeled.mask, dtype=torch.float32) if self.settings.confidence_weighting else None
        everywhere = torch.ones_like(labeled.mask, dtype=torch.bool)
        return Shown(labeled.image, labeled.mask, one_hot(labeled.mask, self.classes), everywhere, weight)

    def believed(self, strong: Tensor, pseudo: PseudoLabels) -> Shown:
        """Strong views (B, C, *S) with the pseudo-labels of their weak ones, as far as these are to be trusted."""
        weight = None
        if self.settings.confidence_weighting:
            weight = confidence_above_chance(pseudo.confidence, self.classes)
        nowhere = torch.zeros_like(pseudo.mask, dtype=torch.bool)
        return Shown(strong, accepted_mask(pseudo, self.confidence_threshold), pseudo.probs, nowhere, weight)

    def views(self, labeled: Shown, *unlabeled: Shown) -> tuple[Shown, Shown]:
        """What the student is shown of labeled and of unlabeled images: these with boxes, those as well for `both`."""
        settings = self.settings
        mixed = joined(
            *(mixed_up(view, labeled, self.boxes(view.image), settings.labeled_mix_probability) for view in unlabeled)
        )
        if settings.mix_direction == "both":
            labeled = mix_shown(labeled, unlabeled[0].dealt(len(labeled.image)), self.boxes(labeled.image))
        return (
            labeled._replace(image=self.changed(labeled.image, self.augment.labeled_intensity)),
            mixed._replace(image=self.changed(mixed.image, self.augment.strong_intensity)),
        )

    def boxes(self, image: Tensor) -> Tensor:
        """Where images (B, C, *S) are given pixels of others, (B, 1, *S)."""
        settings = self.settings
        return random_boxes(image, settings.smallest_box, settings.largest_box, settings.mix_probability)

    def changed(self, image: Tensor, strength: float) -> Tensor:
        """Images with their change of intensity, if it is for this method to make: after it has mixed them."""
        return change_intensity(image, strength) if self.settings.mix_before_intensity else image

    def taught(self, logits: Tensor, labeled: Shown, strong: Shown) -> tuple[Tensor, Shown]:
        """What consistency is about: the logits of strong views, and of labeled ones if these have boxes, and targets.

        `logits` are those of `labeled`, then of `strong`.
        """
        if self.settings.mix_direction == "into_unlabeled":
            return logits[len(labeled.image) :], strong
        boxes = labeled._replace(mask=labeled.mask.masked_fill(labeled.annotated, IGNORE))
        return logits, joined(boxes, strong)

    def seen(
        self,
        known: LabeledBatch,
        unlabeled: UnlabeledBatch,
        pseudo: PseudoLabels,
        strong: Shown,
        features: Tensor,
        weak_features: Tensor,
    ) -> StudentView:
        """What patch contrast is told of the step: of several strong views the first."""
        count = len(unlabeled.weak)
        once = unlabeled._replace(strong=strong.image[:count])
        features = features[: len(known.image) + count]
        return StudentView(known, once, pseudo.probs, strong.probs[:count], features, weak_features)
