"""What may be said of how patients are divided; apart from `splits`, so that settings load no file format."""

from pathlib import Path

from pydantic import Field

from patchcl.core.settings import FrozenSettings

PATIENT_PATTERN = (
    r"(?i)((?P<known>sub-[a-z0-9]+(?=_)|brats-[a-z]+-[0-9]+(?=-[0-9]+$))|.+?)(?(known).*|(?:[_-]"
    r"(?:frame|phase|time|visit|session|ses|series|scan|slice|ed|es|left|right)(?:[_-]?[0-9]+)?)*)"
)
"""Group 1 is the patient: patient002_frame01 -> patient002, hippocampus_001 -> hippocampus_001, knee01_left -> knee01.

BIDS and BraTS have names of their own: sub-01_ses-01_T1w -> sub-01, BraTS-GLI-00001-000 -> BraTS-GLI-00001.
"""


class SplitSettings(FrozenSettings):
    """How patients are divided."""

    labeled: int | tuple[str, ...] | None = None
    """Pretend that only these training patients have masks: the first N, or those named. None: all that do."""
    file: Path | None = None
    """A JSON file that divides the patients; it holds for exactly the patients it names. Or nnU-Net's splits_final."""
    fold: int = Field(default=0, ge=0)
    """Which of the divisions in nnU-Net's file, from 0."""
    validation_fraction: float = Field(default=0.2, ge=0, lt=1)
    """Of the patients with masks, where no file divides them. 0: all train, and nobody chooses or judges."""
    seed: int = Field(default=0, ge=0)
    patient_pattern: str = PATIENT_PATTERN
