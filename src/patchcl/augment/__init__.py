"""Augmentation: batched tensor operations on any device, drawn from a given generator."""

from pydantic import Field

from patchcl.core.settings import FrozenSettings


class AugmentSettings(FrozenSettings):
    """How far an augmented image may be from the scan. Every method is given the same."""

    flip: bool | None = Field(None, description="Mirror along any axis; by default unless structures have sides.")
    rotate_90: bool | None = Field(None, description="Turn square slices by quarters; by default likewise.")
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

    @property
    def mirrors(self) -> bool:
        """Whether images are mirrored; where nobody has decided, they are."""
        return self.flip is not False

    @property
    def quarter_turns(self) -> bool:
        """Whether slices are turned by quarters, if they are square; where nobody has decided, they are."""
        return self.rotate_90 is not False
