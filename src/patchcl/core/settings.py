"""What every part of the settings tree has in common."""

from pydantic import BaseModel, ConfigDict


class FrozenSettings(BaseModel):
    """A frozen group of settings that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)
