"""How patients are told from the names of scans."""

from collections.abc import Callable
from pathlib import Path

import pytest

from patchcl.data.dataset import read_dataset


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        ("patient002_frame01", "patient002"),
        ("hippocampus_001", "hippocampus_001"),
        ("BraTS_017_ses-2", "BraTS_017"),
        ("sub-01_ses-1_slice003", "sub-01"),
        ("case7_ED", "case7"),
        ("case7_es", "case7"),
        ("P12_Time_3", "P12"),
        ("P12-visit2-scan1", "P12"),
        ("scan_7", "scan_7"),
        ("rib_edge_3", "rib_edge_3"),
        ("session", "session"),
        ("sub-01_ses-01_T1w", "sub-01"),
        ("sub-01_T2w", "sub-01"),
        ("BraTS-GLI-00001-000", "BraTS-GLI-00001"),
        ("BraTS-GLI-00001-001", "BraTS-GLI-00001"),
        ("knee01_left", "knee01"),
        ("knee01-R", "knee01-R"),
        ("left", "left"),
    ],
)
def test_patients_are_told_from_names(make_dataset: Callable[..., Path], name: str, patient: str) -> None:
    assert read_dataset(make_dataset({name: True})).patients == (patient,)
