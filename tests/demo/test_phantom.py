import hashlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import binary_dilation, label

from patchcl.data.check import check_data
from patchcl.data.dataset import Case, Dataset, read_dataset
from patchcl.data.preprocessing.plan import PlanSettings
from patchcl.data.scan import read_image, read_mask
from patchcl.data.splits import SplitSettings
from patchcl.demo.phantom import write_cardiac

RV, MYO, LV = 1, 2, 3


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cardiac(tmp_path_factory.mktemp("cardiac"), labeled=5, unlabeled=2, test=3, side=64, seed=7)


@pytest.fixture
def dataset(root: Path) -> Dataset:
    return read_dataset(root)


def masks(dataset: Dataset) -> list[np.ndarray]:
    return [read_mask(case.mask, 4, read_image(case.images).grid) for case in dataset.cases if case.mask is not None]


def test_it_is_a_sound_data_set(root: Path, dataset: Dataset) -> None:
    report = check_data(root, SplitSettings(), PlanSettings())
    assert (report.problems, report.warnings) == ((), ())
    assert report.sides == {"labeled": (4, 4), "unlabeled": (2, 2), "validation": (1, 1), "test": (3, 3)}
    assert dataset.classes == ("background", "RV", "MYO", "LV")
    assert [case.folder for case in dataset.cases] == ["imagesTr"] * 5 + ["imagesUn"] * 2 + ["imagesTs"] * 3
    assert dataset.cases[0].name == "patient001_frame01"
    assert dataset.cases[0].patient == "patient001"


def test_scans_have_the_geometry_of_short_axis_views(dataset: Dataset) -> None:
    for case in dataset.cases:
        grid = read_image(case.images).grid
        assert all(0.85 * 64 - 1 <= length <= 1.15 * 64 + 1 for length in grid.shape[:2])
        assert 6 <= grid.shape[2] <= 10
        assert grid.spacing_mm[0] == pytest.approx(grid.spacing_mm[1])
        assert 1.2 <= grid.spacing_mm[0] <= 1.8
        assert 8 <= grid.spacing_mm[2] <= 10
        direction = grid.affine[:3, :3] / grid.spacing_mm
        np.testing.assert_allclose(direction.T @ direction, np.eye(3), atol=1e-6)


def test_the_muscle_closes_around_the_pool_and_touches_the_right_chamber(dataset: Dataset) -> None:
    for mask in masks(dataset):
        for one in np.moveaxis(mask, 2, 0):
            around = binary_dilation(one == LV) & (one != LV)
            assert (one[around] == MYO).all()
            assert label(np.isin(one, (MYO, LV)))[1] <= 1
        if (mask == RV).any():
            assert (binary_dilation(mask == RV) & (mask == MYO)).any()


def test_the_heart_tapers_from_base_to_apex(dataset: Dataset) -> None:
    for mask in masks(dataset):
        for structure in (RV, LV):
            area = (mask == structure).sum(axis=(0, 1))
            assert area[0] > 1.5 * area[-1]
        assert all((mask == structure).any() for structure in (RV, MYO, LV))


def brightness(case: Case, structure: int) -> np.ndarray:
    assert case.mask is not None
    scan = read_image(case.images)
    return scan.voxels[0][read_mask(case.mask, 4, scan.grid) == structure]


def test_blood_is_brighter_than_muscle_but_often_not_alone(dataset: Dataset) -> None:
    masked = [case for case in dataset.cases if case.mask is not None]
    pools = [brightness(case, LV) for case in masked]
    for case, pool in zip(masked, pools, strict=True):
        assert np.median(pool) > 1.15 * np.median(brightness(case, MYO))
    alike = [(brightness(case, 0) > np.median(pool)).sum() for case, pool in zip(masked, pools, strict=True)]
    assert sum(alike) > 0.1 * sum(map(len, pools))


def test_patients_differ(dataset: Dataset) -> None:
    masked = [case for case in dataset.cases if case.mask is not None]
    ratios = [np.median(brightness(case, LV)) / np.median(brightness(case, MYO)) for case in masked]
    assert max(ratios) > 1.3 * min(ratios)
    assert len({read_image(case.images).grid.shape for case in dataset.cases}) > 5


def digest(root: Path, name: str) -> str:
    (file,) = root.glob(f"images*/{name}_0000.nii.gz")
    return hashlib.sha256(np.asarray(nib.load(file).dataobj).tobytes()).hexdigest()


def test_the_seed_decides_everything_and_patients_stay_when_others_join(root: Path, tmp_path: Path) -> None:
    again = write_cardiac(tmp_path / "again", labeled=1, unlabeled=0, test=1, side=64, seed=7)
    assert digest(again, "patient001_frame01") == digest(root, "patient001_frame01")
    assert digest(again, "patient002_frame01") == digest(root, "patient008_frame01")
    other = write_cardiac(tmp_path / "other", labeled=1, unlabeled=0, test=0, side=64, seed=8)
    assert digest(other, "patient001_frame01") != digest(root, "patient001_frame01")
