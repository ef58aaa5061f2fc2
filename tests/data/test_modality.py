"""What a channel is called, and what the headers of DICOM files say that it is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from patchcl.data.dataset import Case
from patchcl.data.modality import modality_warnings, names_ct

Make = Callable[..., Any]


@pytest.mark.parametrize(
    ("name", "expected"), [("CT", True), ("ct angio", True), ("CTA_0", True), ("Octagon", False), ("MRI", False)]
)
def test_ct_is_a_word(name: str, expected: bool) -> None:
    assert names_ct(name) == expected


def test_headers_that_contradict_the_name_of_a_channel_bring_one_warning(write_series: Make, tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    voxels = np.zeros((3, 3, 2), np.int16)
    ct, more = (write_series(voxels, folder=f"imagesTr/{name}") for name in ("a_0000", "b_0000"))
    mr = write_series(voxels, folder="imagesTr/a_0001", Modality="MR")
    (tmp_path / "other_0001.nii.gz").write_bytes(b"")
    cases = [
        Case("a", "a", (ct, mr), None, "imagesTr"),
        Case("b", "b", (more, tmp_path / "other_0001.nii.gz"), None, "imagesTr"),
        Case("c", "c", (tmp_path / "gone_0000",), None, "imagesTr"),
    ]
    assert modality_warnings(cases, ("CT", "T1")) == []
    first, second = modality_warnings(cases, ("image", "CT"))
    assert first.startswith(
        f"channel_names in dataset.json calls channel 0 'image', but it is CT by the header of {ct}."
    )
    assert f"calls channel 1 'CT', but it is MR by the header of {mr}." in second
