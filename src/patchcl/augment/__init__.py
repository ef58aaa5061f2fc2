"""Augmentation: batched tensor operations on any device, drawn from a given generator."""

from pydantic import Field

from patchcl.core.settings import FrozenSettings


class AugmentSettings(FrozenSettings):
    """How far an augmented image may be from the scan. Every method is given the same."""

    flip: bool = Field(True, description="Mirror along any axis.")
    rotate_90: bool = Field(True, description="Turn slices by multiples of 90 degrees, where they are square.")
    rotate_degrees: float = Field(20.0, ge=0, le=180, description="In every plane; thick slices turn in theirs alone.")
    ssl4mis_policy: bool = Field(
        False,
        description="As in SSL4MIS: half of the images are turned by quarters and mirrored along one axis, a quarter "
        "are rotated, and a quarter stay. Otherwise everything happens to every image.",
    )
    scale: float = Field(0.2, ge=0, lt=1, description="Zoom between 1 - scale and 1 / (1 - scale).")
    shift: float = Field(0.1, ge=0, lt=1, description="Fraction of the image's side.")
    labeled_intensity: float = Field(0.5, ge=0, le=1, description="Strength of intensity changes, labeled images.")
    strong_intensity: float = Field(1.0, ge=0, le=1, description="The same for the strong view of unlabeled images.")
