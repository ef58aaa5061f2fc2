"""CT as DICOM with masks as PNG, a folder of each for every patient."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from patchcl.core.errors import UserError
from patchcl.data.check import check_data
from patchcl.data.dataset import read_dataset
from patchcl.data.importers.dicom_export import convert
from patchcl.data.importers.registry import ImportOptions, describe, import_dataset
from patchcl.data.preprocessing.plan import PlanSettings
from patchcl.data.scan import read_grid, read_image, read_mask
from patchcl.data.splits import SplitSettings

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("highdicom")

SHAPE = (6, 5, 12)
Make = Callable[..., Any]


def mask_of(name: str) -> np.ndarray:
    return np.random.default_rng(list(name.encode())).integers(0, 2, SHAPE).astype(np.uint8)


@pytest.fixture
def patient(write_series: Make, change: Make, tmp_path: Path) -> Make:
    """Add a patient whose files are numbered from the highest slice down, and its masks if `picture` names them."""

    def add(name: str, picture: str = "liver_GT_{:03d}.png", values: int = 255) -> Path:
        voxels = np.random.default_rng(list(name.encode())).integers(-1000, 2000, SHAPE).astype(np.int16)
        called = lambda index: f"i{SHAPE[2] - 1 - index}b.dcm"  # noqa: E731
        folder = write_series(voxels, folder=f"ct/{name}/DICOM_anon", name=called, spacing=(1.0, 2.0, 3.0))
        for number in range(SHAPE[2]):
            change(folder / f"i{number}b.dcm", InstanceNumber=number + 1)
            if picture:
                path = tmp_path / "ct" / name / "Ground" / picture.format(number)
                path.parent.mkdir(exist_ok=True)
                Image.fromarray(mask_of(name)[..., SHAPE[2] - 1 - number].T * np.uint8(values)).save(path)
        return tmp_path / "ct"

    return add


def test_ct_with_png_masks_goes_in_with_one_command(patient: Make, tmp_path: Path) -> None:
    patient("1")
    patient("2")
    source = patient("3", "")
    imported = import_dataset(source, tmp_path / "out", options=ImportOptions(("liver",)))
    assert describe(imported).splitlines() == [
        "3 scans, 2 with masks; classes: background, liver. Values in the masks: 255 became 1 (liver).",
        "Pictures became masks of slices by the order of names, such as "
        f"{source / '1/Ground/liver_GT_000.png'} of i0b.dcm.",
    ]
    dataset = read_dataset(imported.folder)
    assert (dataset.channels, dataset.classes) == (("CT",), ("background", "liver"))
    for case in dataset.cases:
        if case.mask is not None:
            found = read_mask(case.mask, dataset.classes, read_grid(case.images[0]))
            np.testing.assert_array_equal(found, mask_of(case.name))
    report = check_data(imported.folder, SplitSettings(patient_pattern="(.+)", validation_fraction=0.5), PlanSettings())
    assert (report.problems, report.plan and report.plan.normalise) == ((), "ct")
    assert [len(side) for side in report.sides.values()] == [2, 2, 2, 2]
    assert read_image(dataset.cases[0].images).voxels.min() < -500


def test_masks_may_lie_in_a_folder_beside_that_of_the_series(patient: Make, tmp_path: Path) -> None:
    patient("1")
    source, side = patient("2", ""), tmp_path / "study"
    (side / "images").mkdir(parents=True)
    (side / "masks").mkdir()
    for name in ("1", "2"):
        (source / name / "DICOM_anon").rename(side / "images" / name)
    (source / "1" / "Ground").rename(side / "masks" / "1")
    imported = import_dataset(side, tmp_path / "out", options=ImportOptions(("liver",)))
    assert (imported.scans, imported.masks, imported.unused) == (2, 1, ())
    dataset = read_dataset(imported.folder)
    (case,) = (case for case in dataset.cases if case.mask is not None)
    np.testing.assert_array_equal(read_mask(case.mask, dataset.classes, read_grid(case.images[0])), mask_of("1"))
    (side / "masks" / "1").rename(side / "masks" / "9")
    with pytest.raises(UserError, match=r"masks has folders without one of that name in .*images: 9\. Rename them"):
        convert(side)


def test_pictures_called_like_slices_need_no_order(patient: Make, change: Make) -> None:
    source = patient("1", "i{}b.png", values=1)
    folder = source / "1/DICOM_anon"
    for number, path in enumerate(folder.iterdir()):
        change(path, InstanceNumber=(number * 5) % 12 + 1)
    (scan,) = convert(source).scans
    assert scan.mask is not None
    assert scan.mask(source / "mask.dcm") == {0, 1}
    np.testing.assert_array_equal(read_mask(source / "mask.nii.gz", 2, read_grid(folder)), mask_of("1"))
    for path in (source / "1/Ground").iterdir():
        path.rename(path.with_name(path.name.replace("b", "c")))
    change(folder / "i0b.dcm", InstanceNumber=99)
    with pytest.raises(
        UserError, match=r"Ground: the pictures are not called like .* Call each picture like its slice"
    ):
        convert(source)


def test_a_picture_too_few_another_folder_or_size_and_other_masks_are_refused(
    patient: Make, write_structures: Make
) -> None:
    source = patient("1")
    (source / "1/preview.png").write_bytes(b"any")
    (source / "1/jpegs").mkdir()
    for number in range(2):
        (source / f"1/jpegs/{number}.jpg").write_bytes(b"any")
    assert convert(source).scans[0].mask is not None
    last = source / "1/Ground/liver_GT_011.png"
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(last)
    (scan,) = convert(source).scans
    assert scan.mask is not None
    with pytest.raises(UserError, match=r"liver_GT_011\.png has 4 × 4 pixels, but i11b\.dcm has 6 × 5"):
        scan.mask(source / "mask.dcm")
    last.unlink()
    with pytest.raises(UserError, match=r"holds 11 pictures in .*Ground, and a series of 12 files"):
        convert(source)
    patient("1")
    (source / "2").mkdir()
    patient("2", "")
    square = np.array([(0.0, 0, 3), (2, 0, 3), (2, 4, 3)])
    write_structures(source / "2/rs.dcm", {"liver": [square]})
    with pytest.raises(UserError, match=r"holds masks as pictures, as in .*Ground, and as DICOM, as in .*rs\.dcm"):
        convert(source)
