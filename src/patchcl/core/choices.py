"""Names that the command line and the settings let choose from; here, so that `--help` need not load pydantic."""

from typing import Literal

Device = Literal["auto", "cpu", "cuda", "mps"]
"""Where to compute; `auto` is the fastest there is."""
Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
Preset = Literal["published", "matched"]
"""Settings that belong together: as published tables were made, or one strong recipe for every method."""
