"""Tasks as the Decathlon lists them, over files written with nibabel."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from patchcl.core.errors import UserError
from patchcl.data.dataset import read_dataset
from patchcl.data.importers.decathlon import convert, detect
from patchcl.data.importers.writer import write_raw_folder
from patchcl.data.scan import read_grid, read_image, read_mask

AFFINE = np.array([[-0.6, 0.1, 0, 30], [0.1, 0.7, 0.2, -12], [0, 0.1, 3.6, 7], [0, 0, 0, 1.0]])
SHAPE = (6, 5, 4)
RANDOM = np.random.default_rng(0)


def save(path: Path, voxels: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, affine), path)


def task(root: Path, channels: dict[str, str], **changes: Any) -> Path:
    """A task with two training images and a test image; in several modalities, if there are several."""
    shape = (*SHAPE, len(channels)) if len(channels) > 1 else SHAPE
    for name in ("prostate_00", "prostate_01"):
        save(root / "imagesTr" / f"{name}.nii.gz", RANDOM.integers(0, 900, shape).astype(np.int16))
        save(root / "labelsTr" / f"{name}.nii.gz", RANDOM.integers(0, 3, SHAPE).astype(np.uint8))
    save(root / "imagesTs" / "prostate_02.nii.gz", RANDOM.random(shape).astype(np.float32))
    (root / "imagesTr" / "._prostate_00.nii.gz").touch()
    description = {
        "name": "PROSTATE",
        "tensorImageSize": "4D",
        "modality": channels,
        "labels": {"0": "background", "2": "TZ", "1": "PZ"},
        "training": [
            {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
            for name in ("prostate_01", "prostate_00")
        ],
        "test": ["./imagesTs/prostate_02.nii.gz"],
    }
    (root / "dataset.json").write_text(json.dumps(description | changes))
    return root


def test_channels_are_taken_apart_and_stay_where_they_lie(tmp_path: Path) -> None:
    root = task(tmp_path / "Task05", {"1": "ADC", "0": "T2"})
    assert detect(root)
    result = write_raw_folder(convert(root), tmp_path / "out")
    assert (result.split, result.scans, result.masks) == (None, 3, 2)
    dataset = read_dataset(tmp_path / "out")
    assert (dataset.name, dataset.channels) == ("PROSTATE", ("T2", "ADC"))
    assert dataset.classes == ("background", "PZ", "TZ")
    assert {case.name: case.folder for case in dataset.cases} == {
        "prostate_00": "imagesTr", "prostate_01": "imagesTr", "prostate_02": "imagesTs"
    }  # fmt: skip
    for case in dataset.cases:
        source = nib.load(root / case.folder / f"{case.name}.nii.gz")
        for channel, path in enumerate(case.images):
            written = nib.load(path)
            assert written.get_data_dtype() == source.get_data_dtype()
            np.testing.assert_array_equal(np.asarray(written.dataobj), np.asarray(source.dataobj)[..., channel])
            np.testing.assert_array_equal(written.affine, source.affine)
        if case.mask is not None:
            np.testing.assert_array_equal(
                read_mask(case.mask, 3, read_grid(case.images[0])),
                np.asarray(nib.load(root / "labelsTr" / f"{case.name}.nii.gz").dataobj),
            )


def test_scaled_numbers_stay_what_they_mean(tmp_path: Path) -> None:
    root = task(tmp_path / "Task05", {"0": "T2", "1": "ADC"})
    image = nib.load(root / "imagesTr" / "prostate_00.nii.gz")
    raw = np.asarray(image.dataobj)
    image.header.set_slope_inter(0.25, -7)
    scaled = nib.Nifti1Image(raw * 0.25 - 7, AFFINE, image.header)
    nib.save(scaled, root / "imagesTr" / "prostate_00.nii.gz")
    write_raw_folder(convert(root), tmp_path / "out")
    written = read_image([tmp_path / "out" / "imagesTr" / "prostate_00_0001.nii.gz"]).voxels[0]
    stored = np.asarray(nib.load(root / "imagesTr" / "prostate_00.nii.gz").dataobj)[..., 1]
    np.testing.assert_allclose(written, stored, rtol=1e-6)


def test_volumes_of_one_modality_keep_their_bytes(tmp_path: Path) -> None:
    root = task(tmp_path / "Task04", {"0": "MRI"})
    write_raw_folder(convert(root), tmp_path / "out", ("Peripheral", "Transition"))
    for folder, name in (("imagesTr", "prostate_00"), ("imagesTr", "prostate_01"), ("imagesTs", "prostate_02")):
        copy = tmp_path / "out" / folder / f"{name}_0000.nii.gz"
        assert copy.read_bytes() == (root / folder / f"{name}.nii.gz").read_bytes()
    assert read_dataset(tmp_path / "out").classes == ("background", "Peripheral", "Transition")


@pytest.mark.parametrize(
    "changes",
    [
        {"training": []},
        {"training": [{"image": "./imagesTr/prostate_00.nii.gz"}]},
        {"labels": {"background": 0, "PZ": 1}},
        {"labels": {"0": 0, "1": 1}},
        {"modality": None},
    ],
)
def test_other_descriptions_are_not_those_of_a_task(tmp_path: Path, changes: dict[str, Any]) -> None:
    root = task(tmp_path / "Task04", {"0": "MRI"}, **changes)
    assert not detect(root)
    with pytest.raises(UserError, match=r"dataset\.json is not that of a Decathlon task; expected modality"):
        convert(root)
    for text in ("{", "[" * 20_000, "9" * 5000):
        (root / "dataset.json").write_text(text)
        assert not detect(root)


def test_what_is_missing_or_wrong_is_named(tmp_path: Path) -> None:
    root = task(tmp_path / "Task05", {"0": "T2", "1": "ADC", "2": "DCE"})
    save(root / "labelsTr" / "prostate_01.nii.gz", np.ones(SHAPE, np.uint8), np.eye(4))
    with pytest.raises(UserError, match=r"prostate_01\.nii\.gz lies up to .* mm away from prostate_01\.nii\.gz"):
        write_raw_folder(convert(root), tmp_path / "out")
    save(root / "imagesTr" / "prostate_01.nii.gz", np.ones((*SHAPE, 2), np.uint8))
    with pytest.raises(UserError, match=r"prostate_01\.nii\.gz has shape \(6, 5, 4, 2\); expected four axes"):
        write_raw_folder(convert(root), tmp_path / "out")
    (root / "imagesTs" / "prostate_02.nii.gz").unlink()
    with pytest.raises(UserError, match=r"lists files that are not there: \./imagesTs/prostate_02\.nii\.gz"):
        convert(root)


def test_masks_of_images_in_microns_lie_on_them(tmp_path: Path) -> None:
    root = task(tmp_path / "Task05", {"0": "T2", "1": "ADC"})
    for path in [path for path in root.glob("*/[!.]*.nii.gz") if path.parent.name != "imagesTs"]:
        image = nib.load(path)
        image.header.set_xyzt_units("micron")
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header), path)
    write_raw_folder(convert(root), tmp_path / "out")
    image, mask = (
        tmp_path / "out" / name for name in ("imagesTr/prostate_00_0001.nii.gz", "labelsTr/prostate_00.nii.gz")
    )
    for path in (image, mask):
        np.testing.assert_allclose(read_grid(path).affine[:3], AFFINE[:3] / 1000, rtol=1e-6)
