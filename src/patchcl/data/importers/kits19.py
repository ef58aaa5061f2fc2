"""KiTS19: kidneys and their tumours in CT, a folder for each case, most of them with a mask.

Source: https://github.com/neheller/kits19, README.md: imaging.nii.gz and segmentation.nii.gz in case_00000 to
case_00299; 1 is kidney, 2 is tumour. Cases from 210 on come without a mask, and are unlabeled here.
"""

import re
from pathlib import Path

from patchcl.core.errors import UserError
from patchcl.data.dataset import preview
from patchcl.data.importers.registry import NO_OPTIONS, Importer, ImportOptions
from patchcl.data.importers.scan_files import ScanFiles
from patchcl.data.importers.writer import SourceDataset

IMAGE, MASK = "imaging.nii.gz", "segmentation.nii.gz"


def detect(folder: Path) -> bool:
    """Whether there is a case with an image."""
    return any((case / IMAGE).is_file() for case in case_folders(folder))


def convert(source: Path, options: ImportOptions = NO_OPTIONS) -> SourceDataset:
    """The cases in the folder `source`, or in its folder data. Each is a patient of its own."""
    cases = case_folders(source)
    if not cases:
        raise UserError(f"{source} holds no cases. Expected folders such as case_00000 with {IMAGE} and {MASK}.")
    missing = [case.name for case in cases if not (case / IMAGE).is_file()]
    if missing:
        raise UserError(
            f"{cases[0].parent} has cases without {IMAGE}: {preview(missing)}. They are downloaded on their own, as "
            "the README of KiTS19 says; or remove these folders."
        )
    masks = [case / MASK if (case / MASK).is_file() else None for case in cases]
    scans = [ScanFiles(case.name, [case / IMAGE], mask).as_scan(1) for case, mask in zip(cases, masks, strict=True)]
    return SourceDataset("KiTS19", ("CT",), tuple(scans), structures={"kidney": 1, "tumour": 2})


def case_folders(source: Path) -> list[Path]:
    """The folders of the cases, in their order."""
    folders = [path for root in (source, source / "data") for path in root.glob("case_*") if path.is_dir()]
    return sorted(path for path in folders if re.fullmatch(r"case_[0-9]{5}", path.name))


IMPORTER = Importer("kits19", "folders case_00000, ... with imaging.nii.gz and segmentation.nii.gz", detect, convert)
