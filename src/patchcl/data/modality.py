"""Modality: what kind of image a channel is by its name, and by the headers of DICOM files."""

import re
from collections.abc import Sequence
from pathlib import Path

from patchcl.core.errors import UserError
from patchcl.data.dataset import Case
from patchcl.data.formats import format_of
from patchcl.data.formats.dicom import series as dicom

CT = "CT"


def names_ct(channel: str) -> bool:
    """Whether the name of a channel says that it is CT, whose intensities are Hounsfield units."""
    return re.search(r"(?i)(?<![a-z])cta?(?![a-z])", channel) is not None


def modality_warnings(cases: Sequence[Case], channels: Sequence[str]) -> list[str]:
    """A warning for each of the `channels` that is CT by its name but not by its DICOM headers, or the other way."""
    lines = []
    for place, channel in enumerate(channels):
        images = [case.images[place] for case in cases if place < len(case.images)]
        kinds = {kind: image for image in reversed(images) if (kind := _modality(image))}
        wrong = [kind for kind in kinds if (kind == CT) != names_ct(channel)]
        if wrong:
            lines.append(
                f"channel_names in dataset.json calls channel {place} {channel!r}, but it is {wrong[0]} by the header "
                f"of {kinds[wrong[0]]}. Intensities are taken for Hounsfield units where the name says CT: correct it."
            )
    return lines


def _modality(image: Path) -> str:
    """What the header of a DICOM image says; nothing of others and of what cannot be read, which is told elsewhere."""
    try:
        return dicom.modality_of(image) if format_of(image) is dicom.FORMAT else ""
    except UserError:
        return ""
