"""PatchCL's contrast: patches, how they are sampled, the memory bank, the loss."""

from typing import Literal

from pydantic import Field, NonNegativeInt, model_validator

from patchcl.core.settings import FrozenSettings

Sampler = Literal["entropy", "topk", "uniform", "coverage"]
EntropySource = Literal["confidence", "attended"]
HardNegatives = Literal["none", "reweight", "mix", "slab"]


class ContrastSettings(FrozenSettings):
    """docs/method.md says which of these constants are those of the authors' code."""

    weight: float = Field(0.01, ge=0, description="Of the contrastive loss; 0 leaves it out.")
    final_weight_fraction: float = Field(
        0.0, ge=0, le=1, description="Fraction of that weight at the last step; it falls evenly."
    )
    loss: Literal["pseudo_label_guided", "info_nce"] = "pseudo_label_guided"
    embed: Literal["features", "crops"] = Field(
        "features", description="Features of the whole image under the class, or crops of the class-attended image."
    )
    levels: tuple[NonNegativeInt, ...] = Field(
        (0,), min_length=1, description="Levels of the decoder that embedded features have passed; several are joined."
    )
    where: Literal["anywhere", "border"] = Field(
        "anywhere", description="Whether patches are drawn by how evenly the class and others share them, too."
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
    negative_classes: Literal["even", "neighbours"] = Field(
        "even", description="Whether classes that touch the class of a patch weigh more among its negatives."
    )
    positives: Literal["memory", "other_images"] = Field(
        "memory", description="What a patch is drawn to: all that is remembered of its class, or its class elsewhere."
    )
    patch_weights: Literal["even", "confidence"] = Field(
        "even", description="Whether a patch weighs as much as the confidence in its class."
    )

    @model_validator(mode="after")
    def _require_room(self) -> "ContrastSettings":
        if self.memory_length < max(self.memory_min_size, self.patches_per_class):
            raise ValueError(
                f"memory_length {self.memory_length} must be at least memory_min_size {self.memory_min_size} "
                f"and patches_per_class {self.patches_per_class}"
            )
        return self
