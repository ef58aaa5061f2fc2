"""What can be set of each method, in a class that is called as the method is. Nothing here loads torch."""

from typing import Any, Literal

from pydantic import Field, model_validator

from patchcl.contrast import ContrastSettings
from patchcl.core.settings import FrozenSettings


class MethodSettings(FrozenSettings):
    """Settings of one method. A subclass narrows `name` to a literal and adds its own fields with their ranges."""

    name: str
    teacher_decay: float = Field(0.99, ge=0, lt=1, description="Fraction of the teacher that each step keeps.")
    contrast: ContrastSettings | None = Field(None, description="Patch contrast on top of the method's own losses.")

    @model_validator(mode="before")
    @classmethod
    def unlimited(cls, given: Any) -> Any:  # noqa: ANN401 - whatever a file can hold
        """A `*_fraction` that is set without its `*_max_steps` has no limit, as in runs of before there were any."""
        if not isinstance(given, dict):
            return given
        limits = (f"{name.removesuffix('_fraction')}_max_steps" for name in given if name.endswith("_fraction"))
        return {limit: None for limit in limits if limit in cls.model_fields} | given


class SupervisedSettings(MethodSettings):
    """There is nothing to set but the average that predicts."""

    name: Literal["supervised"] = "supervised"


class MeanTeacherSettings(MethodSettings):
    """Defaults follow SSL4MIS, `train_mean_teacher_2D.py`."""

    name: Literal["mean_teacher"] = "mean_teacher"
    consistency_weight: float = Field(0.1, ge=0, description="Weight of the agreement loss after its ramp.")
    ramp_fraction: float = Field(1.0, ge=0, le=1, description="Fraction of all steps until that weight is reached.")
    ramp_max_steps: int | None = Field(None, ge=0, description="The same in steps, at most.")


class UncertaintyMeanTeacherSettings(MethodSettings):
    """Defaults follow SSL4MIS, `train_uncertainty_aware_mean_teacher_2D.py`."""

    name: Literal["uncertainty_mean_teacher"] = "uncertainty_mean_teacher"
    consistency_weight: float = Field(0.1, ge=0, description="Weight of the agreement loss after its ramp.")
    ramp_fraction: float = Field(1.0, ge=0, le=1, description="Fraction of all steps until that weight is reached.")
    ramp_max_steps: int | None = Field(None, ge=0, description="The same in steps, at most.")
    teacher_passes: int = Field(8, gt=0, description="Noisy passes of the teacher that tell how unsure it is.")
    noise: float = Field(0.1, ge=0, description="Standard deviation of the noise on what the teacher sees.")
    entropy_threshold: float = Field(
        0.75, ge=0, le=1, description="Entropy below which a pixel counts, over the largest possible; ramps up to 1."
    )


class CrossPseudoSettings(MethodSettings):
    """Defaults follow SSL4MIS, `train_cross_pseudo_supervision_2D.py`; the authors have 1.5, without a ramp, on VOC."""

    name: Literal["cross_pseudo"] = "cross_pseudo"
    consistency_weight: float = Field(0.1, ge=0, description="Weight of the cross supervision after its ramp.")
    ramp_fraction: float = Field(1.0, ge=0, le=1, description="Fraction of all steps until that weight is reached.")
    ramp_max_steps: int | None = Field(None, ge=0, description="The same in steps, at most.")


class FixMatchSettings(MethodSettings):
    """Defaults follow the UniMatch repository, `fixmatch.py` and `more-scenarios/medical`."""

    name: Literal["fixmatch"] = "fixmatch"
    consistency_weight: float = Field(1.0, ge=0, description="Of unlabeled images, where labeled ones have 1.")
    confidence_threshold: float = Field(0.95, ge=0, le=1, description="Least confidence of a pseudo-label that counts.")
    mix_probability: float = Field(0.5, ge=0, le=1, description="Of a box of another in a strong view (CutMix).")


class UniMatchSettings(MethodSettings):
    """Defaults follow the authors' code for ACDC, `more-scenarios/medical`."""

    name: Literal["unimatch"] = "unimatch"
    consistency_weight: float = Field(1.0, ge=0, description="Of unlabeled images, where labeled ones have 1.")
    confidence_threshold: float = Field(0.95, ge=0, le=1, description="Least confidence of a pseudo-label that counts.")
    mix_probability: float = Field(0.5, ge=0, le=1, description="Of a box of another in a strong view (CutMix).")
    feature_dropout: float = Field(0.5, gt=0, lt=1, description="Fraction of the channels that the perturbation drops.")


class BCPSettings(MethodSettings):
    """Defaults follow the paper, and the authors' `ACDC_BCP_train.py`."""

    name: Literal["bcp"] = "bcp"
    pretrain_fraction: float = Field(
        0.25, ge=0, le=1, description="Fraction of all steps that see labeled images only."
    )
    pretrain_max_steps: int | None = Field(None, ge=0, description="The same in steps, at most.")
    consistency_weight: float = Field(0.5, ge=0, description="Of unlabeled pixels, where labeled ones have 1.")
    box_fraction: float = Field(2 / 3, gt=0, lt=1, description="Side of the pasted box over that of the image.")
    student_view: Literal["weak", "strong"] = Field(
        "strong", description="Of unlabeled images; weak is the authors', strong what other methods learn from."
    )


class PatchCLSettings(MethodSettings):
    """Our recipe; docs/method.md says which constants are those of the authors' code."""

    name: Literal["patchcl"] = "patchcl"
    warm_up_fraction: float = Field(0.3, ge=0, le=1, description="Fraction of all steps that see labeled images only.")
    warm_up_max_steps: int | None = Field(660, ge=0, description="The same in steps, at most.")
    ramp_fraction: float = Field(0.2, ge=0, le=1, description="Fraction of all steps over which consistency sets in.")
    ramp_max_steps: int | None = Field(3300, ge=0, description="The same in steps, at most.")
    consistency_weight: float = Field(0.3, ge=0, description="Of unlabeled images, where labeled ones have 1.")
    consistency_final_fraction: float = Field(
        1.0, ge=0, le=1, description="Of that weight, what is left at the end; it falls evenly after its ramp."
    )
    consistency_gate: Literal["none", "agreement"] = Field(
        "none", description="What that weight is multiplied with: nothing, or how far student and teacher agree."
    )
    confidence_threshold: float = Field(0.0, ge=0, le=1, description="Least confidence of a pseudo-label that counts.")
    confidence_weighting: bool = Field(
        False, description="Pixels of pseudo-labels count by their confidence, from 0 at chance to 1."
    )
    average_symmetries: bool = Field(
        False, description="Pseudo-labels are means over the weak view and one that is mirrored or turned at random."
    )
    clean_pseudo_masks: bool = Field(
        False, description="Of pseudo-masks the largest component of each class counts, the rest is background."
    )
    segmentation_loss: Literal["dice_and_cross_entropy", "cross_entropy"] = "dice_and_cross_entropy"
    mix_probability: float = Field(1.0, ge=0, le=1, description="Of a box of another image in a strong view.")
    labeled_mix_probability: float = Field(1.0, ge=0, le=1, description="Of this being a labeled one.")
    smallest_box: float = Field(0.2, gt=0, le=1, description="Least side of a box over that of the image.")
    largest_box: float = Field(0.6, gt=0, le=1, description="Greatest side of a box over that of the image.")
    mix_direction: Literal["into_unlabeled", "both"] = Field(
        "into_unlabeled", description="`both` puts boxes of unlabeled images into labeled ones, too."
    )
    mix_before_intensity: bool = Field(
        False, description="Images are mixed before their grey values change, so that no box stands out by that."
    )
    strong_views: Literal[1, 2] = Field(1, description="Strong views of every unlabeled image, each with its own box.")
    feature_dropout: float = Field(
        0.0, ge=0, lt=1, description="Above 0, half of consistency is of weak views, and so many features are dropped."
    )
    deep_consistency: bool = Field(
        False, description="Under deep supervision pseudo-masks, too, teach the lower levels of the decoder."
    )
    contrast: ContrastSettings = ContrastSettings()

    @model_validator(mode="after")
    def _require_order(self) -> "PatchCLSettings":
        if self.smallest_box > self.largest_box:
            raise ValueError(f"smallest_box {self.smallest_box} must not be above largest_box {self.largest_box}")
        return self
