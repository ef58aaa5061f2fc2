"""Who is who: names that do not tell it are warned of, with a pattern that fits all of them."""

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from rich.console import Console

from patchcl.config import load_settings
from patchcl.core.errors import UserError
from patchcl.data.check import check_data
from patchcl.data.dataset import Case, read_dataset
from patchcl.data.patients import patient_warnings
from patchcl.data.preprocessing.plan import PlanSettings
from patchcl.data.split_settings import PATIENT_PATTERN, SplitSettings
from patchcl.data.splits import make_split
from patchcl.training.experiment import start


def cases_of(*names: str) -> list[Case]:
    return [Case(name, str(re.fullmatch(PATIENT_PATTERN, name)[1]), (), None, "imagesTr") for name in names]


def grouped(warning: str, names: list[str]) -> list[str]:
    """The patients of `names` by the pattern that a warning proposes."""
    (pattern,) = re.findall(r"--set split\.patient_pattern='([^']+)'", warning)
    return [str(re.fullmatch(pattern, name)[1]) for name in names]


def test_shared_beginnings_are_told_with_a_pattern_that_joins_them():
    names = ["knee01_a", "knee01_b", "knee02_a", "knee03"]
    (warning,) = patient_warnings(cases_of(*names))
    assert "knee01_a, knee01_b count as 2 patients, though all begin with knee01" in warning
    assert grouped(warning, names) == ["knee01", "knee01", "knee02", "knee03"]


@pytest.mark.parametrize(
    "names",
    [
        ["hippocampus_001", "hippocampus_002", "hippocampus_003"],
        ["patient001_frame01", "patient001_frame12", "patient002_frame01"],
        ["BraTS20_Training_001", "BraTS20_Training_002", "BraTS20_Training_003"],
        ["BraTS-GLI-00001-000", "BraTS-GLI-00001-001", "BraTS-GLI-00002-000"],
        ["sub-01_ses-01_T1w", "sub-01_ses-02_T1w", "sub-02_ses-01_T1w"],
        [f"site{site}_{number:03}" for site in (1, 2) for number in range(30)],
        ["0532c64c2fd0c4d3", "091944f1d2611c91", "094afe36759e7daf"],
        ["anna", "bert", "carl"],
        ["7", "1044", "20871"],
    ],
)
def test_names_that_tell_patients_are_not_doubted(names):
    assert patient_warnings(cases_of(*names)) == []


@pytest.mark.parametrize("width", [1, 3])
def test_bare_numbers_are_told_with_a_pattern_that_joins_neighbours(width):
    names = [f"{number:0{width}}" for number in range(1, 41)]
    (warning,) = patient_warnings(cases_of(*names))
    assert f"Scans are called {', '.join(names[:5])} and 35 more" in warning
    patients = grouped(warning, names)
    assert all(patients)
    assert patients[20:29] == [patients[20]] * 9
    assert 4 <= len(set(patients[9:])) <= 5  # single digits that stand alone join the tens of the same digit
    assert patient_warnings(cases_of(*names), pattern="(.+)") == []


def test_frames_of_a_video_are_told_by_what_they_show():
    random = np.random.default_rng(0)
    scenes = [random.normal(size=256) for _ in range(4)]
    names = [f"clip_{number:03}" for number in range(40)]
    frames = {name: scenes[place // 10] + random.normal(0, 0.2, 256) for place, name in enumerate(names)}
    (warning,) = patient_warnings(cases_of(*names), signatures=frames)
    assert "36 of 39 scans look nearly like the one before by number, such as clip_000 and clip_001" in warning
    assert grouped(warning, names) == [f"clip_0{place // 10}" for place in range(40)]
    unlike = {name: random.normal(size=256) for name in names}
    assert patient_warnings(cases_of(*names), signatures=unlike) == []
    apart = [f"clip_{number:03}" for number in range(0, 80, 2)]
    assert patient_warnings(cases_of(*apart), signatures=dict(zip(apart, frames.values(), strict=True))) == []


def test_check_and_train_say_it_and_a_pattern_ends_it(make_dataset, tmp_path, tiny):
    root = make_dataset({f"clip_{number:02}": True for number in range(4)}, ("clip_04",), shape=(12, 10, 4))
    scene = np.random.default_rng(0).normal(500, 100, (12, 10, 4))
    for number, path in enumerate(sorted(root.glob("images*/*.nii.gz"))):
        noise = np.random.default_rng(number + 1).normal(0, 20, scene.shape)
        nib.save(nib.Nifti1Image((scene + noise).astype(np.int16), nib.load(path).affine), path)
    console, said = Console(record=True, width=400, file=(tmp_path / "said").open("w")), "as the frames of a video do"
    with console.file:
        report = check_data(root, SplitSettings(), PlanSettings())
        assert sum(said in line for line in report.warnings) == 1
        start(root, tmp_path / "run", load_settings(None, [*tiny, "training.steps=1"]), console)
        assert console.export_text().count(said) == 1
    decided = check_data(root, SplitSettings(patient_pattern="(.+)"), PlanSettings())
    assert not any(said in line for line in decided.warnings)


def test_scans_that_were_all_read_as_one_patient_are_named(make_dataset, tmp_path: Path):
    root = make_dataset({f"brain_scan_{number:02}": True for number in range(1, 7)}, root=tmp_path / "brains")
    with pytest.raises(UserError, match=r"All 6 scans \(brain_scan_01.* patient, brain\. .*patient_pattern='\(\.\+\)'"):
        make_split(read_dataset(root), SplitSettings())
    own = SplitSettings(patient_pattern="(.+)")
    assert len(make_split(read_dataset(root, own.patient_pattern), own).labeled) == 5
