"""The kidneys of KiTS19: a folder for each case, most of them with a mask.

Source: https://github.com/neheller/kits19, README.md: imaging.nii.gz and segmentation.nii.gz in case_00000 to
case_00299; 1 is kidney, 2 is tumour. Cases from 210 on come without a mask, and are unlabeled here.
"""

import re
from pathlib import Path

from patchcl.core.errors import UserError
from patchcl.data.dataset import preview
from patchcl.data.importers.transfer import found_scan
from patchcl.data.importers.writer import FoundDataset

IMAGE, MASK = "imaging.nii.gz", "segmentation.nii.gz"


def read(source: Path) -> FoundDataset:
    """The cases in the folder `source`, or in its folder data. Each is a patient of its own.

    Raises:
        UserError: There are no cases, or some have no image.
    """
    cases = case_folders(source)
    if not cases:
        raise UserError(f"{source} holds no cases. Expected folders such as case_00000 with {IMAGE} and {MASK}.")
    missing = [case.name for case in cases if not (case / IMAGE).is_file()]
    if missing:
        raise UserError(
            f"{cases[0].parent} has cases without {IMAGE}: {preview(missing)}. They are downloaded on their own, as "
            "the README of KiTS19 says; or remove these folders."
        )
    scans = [
        found_scan(case.name, "train", [case / IMAGE], case / MASK if (case / MASK).is_file() else None, 1)
        for case in cases
    ]
    return FoundDataset("KiTS19", ("CT",), tuple(scans), structures={"kidney": 1, "tumour": 2})


def case_folders(source: Path) -> list[Path]:
    """The folders of the cases, in their order."""
    found = [path for root in (source, source / "data") for path in root.glob("case_*") if path.is_dir()]
    return sorted(path for path in found if re.fullmatch(r"case_[0-9]{5}", path.name))
