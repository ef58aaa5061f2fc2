"""Segmentation networks, whose encoder can be asked for its features. Torch is loaded when one is built."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from patchcl.core.settings import FrozenSettings

if TYPE_CHECKING:
    from patchcl.networks.unet import UNet

GROUPS = 8
"""Of channels, for group norm."""


class NetworkSettings(FrozenSettings):
    """The segmentation network. By default as deep and wide as the U-Net of the published ACDC tables, with batch norm.

    Instance norm takes from an image's deepest features what PatchCL's contrast would tell classes apart by
    (docs/results.md).
    """

    features: tuple[PositiveInt, ...] = Field((16, 32, 64, 128, 256), min_length=2, description="Channels, by level.")
    norm: Literal["batch", "instance", "group"] = "batch"
    dropout: float = Field(0.0, ge=0, lt=1)
    encoder_dropout: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = Field(
        (), description="On the way down alone, between the two convolutions of each level; one rate for each, or none."
    )
    residual_encoder: bool = Field(False, description="Residual blocks on the way down.")
    deep_supervision: bool = Field(
        True,
        description="Masks teach lower levels of the decoder too, with half the weight of the one above; "
        "where there are four features or more.",
    )

    @model_validator(mode="after")
    def _require_whole_groups(self) -> Self:
        if self.norm == "group" and any(width % GROUPS for width in self.features):
            raise ValueError(f"group norm needs features in multiples of {GROUPS}, not {list(self.features)}")
        return self

    @model_validator(mode="after")
    def _require_levels(self) -> Self:
        levels = len(self.features)
        if self.encoder_dropout and len(self.encoder_dropout) != levels:
            raise ValueError(
                f"encoder_dropout has {len(self.encoder_dropout)} rates for {levels} features: give {levels}"
            )
        return self


def build_network(
    settings: NetworkSettings,
    channels: int,
    classes: int,
    size: Sequence[int],
    spacing_mm: Sequence[float] | None = None,
) -> "UNet":
    """The network that `settings` describe, for images of `channels` and masks of `classes`.

    It takes images of any size; `size` and `spacing_mm` are what it learns from, in 2 or 3 dimensions, and decide which
    axes its levels halve.
    """
    from patchcl.networks.unet import UNet, halvings

    factors = halvings(size, spacing_mm, len(settings.features) - 1)
    return UNet(
        factors,
        channels,
        classes,
        settings.features,
        settings.norm,
        settings.dropout,
        settings.encoder_dropout,
        settings.residual_encoder,
        settings.deep_supervision,
    )
