"""What is found in small scans whose every figure is known, and which files are opened for it."""

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from patchcl.core.errors import UserError
from patchcl.data.dataset import Case, Dataset, read_dataset
from patchcl.data.preprocessing import fingerprint as module
from patchcl.data.preprocessing.fingerprint import Fingerprint, Range, read_headers, save_fingerprint, with_structures

Make = Callable[..., Path]


def take_fingerprint(dataset, foreground=(), labeled=None, slice_axis=None) -> Fingerprint:
    """Headers first, then what is under the masks, as a plan has it done."""
    return with_structures(read_headers(dataset, labeled), dataset, foreground, labeled, slice_axis)


def replace(path: Path, voxels: np.ndarray) -> None:
    nib.save(nib.Nifti1Image(voxels, nib.load(path).affine), path)


def test_headers_are_summed_up(make_dataset: Make) -> None:
    root = make_dataset({"a": False, "b": False}, shape=(10, 10, 4), spacing_mm=(1.0, 1.0, 8.0))
    make_dataset({"c": False}, test={"t": False}, shape=(16, 12, 6), spacing_mm=(2.0, 1.0, 2.0))
    seen = take_fingerprint(read_dataset(root))
    assert [scan.name for scan in seen.scans] == ["a", "b", "c"]
    assert seen.shape == Range(min=(10, 10, 4), median=(10, 10, 4), max=(16, 12, 6))
    assert seen.spacing_mm == Range(min=(1, 1, 2), median=(1, 1, 8), max=(2, 1, 8))
    assert (seen.anisotropy, seen.colours, seen.full_scale) == (8.0, False, None)
    assert (seen.intensities, seen.classes) == ((), ())


def test_slices_beside_volumes_have_no_common_axes(make_dataset: Make) -> None:
    root = make_dataset({"a": False})
    make_dataset({"b": False}, shape=(10, 10), spacing_mm=(1.0, 3.0))
    seen = take_fingerprint(read_dataset(root))
    assert (seen.shape, seen.spacing_mm) == (None, None)
    assert seen.anisotropy == pytest.approx((8 / 1.5 + 3) / 2)


def test_of_ct_the_foreground_counts_and_of_others_everything(make_dataset: Make) -> None:
    root = make_dataset({"a": True, "b": True}, channels=("CT", "PET"))
    mask = np.zeros((12, 10, 4), dtype=np.uint8)
    mask[0, 0, :3], mask[1, 0, 0] = 1, 2
    for name, shift in (("a", 0), ("b", 100)):
        image = np.full(mask.shape, -1000, dtype=np.int16)
        image[mask > 0] = [10 + shift, 20 + shift, 30 + shift, 40 + shift]
        replace(root / "imagesTr" / f"{name}_0000.nii.gz", image)
        replace(root / "imagesTr" / f"{name}_0001.nii.gz", np.arange(480, dtype=np.int16).reshape(mask.shape))
        replace(root / "labelsTr" / f"{name}.nii.gz", mask)
    ct, pet = take_fingerprint(read_dataset(root), foreground=[0]).intensities
    values = [10, 20, 30, 40, 110, 120, 130, 140]
    assert (ct.channel, ct.foreground, ct.min, ct.max, ct.median, ct.mean) == ("CT", True, 10, 140, 75, 75)
    assert ct.std == pytest.approx(np.std(values))
    assert (ct.percentile_0_5, ct.percentile_99_5) == pytest.approx((10.35, 139.65))  # 0.035 steps of 10 from the ends
    assert (pet.channel, pet.foreground, pet.min, pet.max, pet.median) == ("PET", False, 0, 479, 239.5)
    classes = take_fingerprint(read_dataset(root), [0], labeled=["a"]).classes
    assert [(kind.name, kind.scans, kind.median_voxels) for kind in classes] == [
        ("background", 1, 476),
        ("A", 1, 3),
        ("B", 1, 1),
    ]
    assert [kind.fraction for kind in classes] == pytest.approx([476 / 480, 3 / 480, 1 / 480])


def test_sides_of_classes_are_those_of_typical_slices(make_dataset: Make) -> None:
    """A is 2, 4 and 6 of 12 pixels of 1.5 mm long in the slices of a, and 8 in the one of b; c has none of it."""
    root = make_dataset({"a": True, "b": True, "c": True})
    masks = np.zeros((3, 12, 10, 4), dtype=np.uint8)
    for slice_index, length in enumerate((2, 4, 6)):
        masks[0, 3 : 3 + length, :5, slice_index] = 1
    masks[1, 2:10, 4:5, 3] = 1
    masks[:, 11, 9, 1] = 2
    for name, mask in zip("abc", masks, strict=True):
        replace(root / "labelsTr" / f"{name}.nii.gz", mask)
    background, first, second = take_fingerprint(read_dataset(root), slice_axis=2).classes
    assert (background.side_fraction, background.side_mm) == ((), ())
    assert first.side_fraction == pytest.approx(((4 / 12 + 8 / 12) / 2, (5 / 10 + 1 / 10) / 2))
    assert first.side_mm == pytest.approx((9, 4.5))
    assert second.side_fraction == pytest.approx((1 / 12, 1 / 10))
    assert [kind.scans for kind in (first, second)] == [2, 3]
    volumes = take_fingerprint(read_dataset(root)).classes
    assert volumes[1].side_fraction == pytest.approx(((6 + 8) / 24, 6 / 20, (3 + 1) / 8))
    assert volumes[2].side_mm == pytest.approx((1.5, 1.5, 8))


def test_what_is_annotated_in_part_tells_no_sides(make_dataset: Make) -> None:
    """The second slice has a scribble of A, the first the whole of it."""
    root = make_dataset({"a": True})
    mask = np.full((12, 10, 4), 3, dtype=np.uint8)
    mask[:, :, 0] = 0
    mask[:6, :5, 0] = mask[2, 2, 1] = 1
    replace(root / "labelsTr" / "a.nii.gz", mask)
    dataset = read_dataset(root)._replace(ignore=3)
    assert take_fingerprint(dataset, slice_axis=2).classes[1].side_fraction == (0.5, 0.5)
    seen = take_fingerprint(dataset).classes[1]
    assert (seen.side_fraction, seen.median_voxels) == ((), 31)


@pytest.mark.parametrize("channel", ["CT", "MRI"])
def test_nobody_but_the_labeled_is_looked_into(make_dataset: Make, channel: str) -> None:
    root = make_dataset({"a": True, "b": True, "c": False}, ("u",), {"t": True}, channels=(channel,))
    foreground = [0] if channel == "CT" else []
    alone = take_fingerprint(read_dataset(root), foreground, labeled=["a"])
    for name in ("b", "t"):
        for path in root.glob(f"labelsT?/{name}.nii.gz"):
            path.write_bytes(b"poison")
    (root / "imagesTs" / "t_0000.nii.gz").write_bytes(b"poison")
    for name in ("imagesTr/b", "imagesTr/c", "imagesUn/u"):  # the header alone is left of them
        path = root / f"{name}_0000.nii.gz"
        path.write_bytes(path.read_bytes()[:-200])
    assert take_fingerprint(read_dataset(root), foreground, labeled=["a"]) == alone
    assert len(alone.classes) == 3
    with pytest.raises(UserError, match=r"b.*nii\.gz cannot be read"):
        take_fingerprint(read_dataset(root), foreground)


def test_large_scans_are_sampled_evenly(make_dataset: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_dataset({"a": True}, channels=("CT", "PET"))
    replace(root / "imagesTr" / "a_0001.nii.gz", np.arange(480, dtype=np.int16).reshape(12, 10, 4))
    monkeypatch.setattr(module, "SAMPLE", 5)
    pet = take_fingerprint(read_dataset(root), [0]).intensities[1]
    assert (pet.min, pet.median, pet.max, pet.mean) == (0, 239, 479, pytest.approx((0 + 119 + 239 + 359 + 479) / 5))


def test_masks_that_show_nothing_leave_nothing_to_measure(make_dataset: Make) -> None:
    root = make_dataset({"a": True}, channels=("CT",))
    replace(root / "labelsTr" / "a.nii.gz", np.zeros((12, 10, 4), dtype=np.uint8))
    seen = take_fingerprint(read_dataset(root), [0])
    assert seen.intensities == ()
    assert [(kind.fraction, kind.scans, kind.median_voxels) for kind in seen.classes] == [
        (1, 1, 480),
        (0, 0, 0),
        (0, 0, 0),
    ]


@pytest.mark.parametrize(
    ("channels", "brightest", "expected"),
    [
        (("R", "G", "B"), 250, (True, 255.0)),
        (("blue", "green", "red"), 256, (True, 65535.0)),
        (("rgb_to_0_1",) * 3, 1, (True, 1.0)),
        (("R", "G", "IR"), 250, (False, None)),
        (("B",), 250, (False, None)),
    ],
)
def test_colours_are_known_by_their_names(
    make_dataset: Make, channels: tuple[str, ...], brightest: int, expected: tuple[bool, float | None]
) -> None:
    root = make_dataset({"a": True}, channels=channels)
    for path in (root / "imagesTr").iterdir():
        replace(path, np.full((12, 10, 4), brightest, dtype=np.int16))
    seen = take_fingerprint(read_dataset(root))
    assert (seen.colours, seen.full_scale) == expected


def test_colours_are_known_because_one_file_fills_several_channels(make_dataset: Make) -> None:
    root = make_dataset({"a": True}, channels=("x", "y", "z"))
    dataset = read_dataset(root)
    assert not take_fingerprint(dataset).colours
    (case,) = dataset.cases
    joined: tuple[Case, ...] = (case._replace(images=case.images[:1]),)
    assert take_fingerprint(Dataset(root, "", dataset.channels, dataset.classes, joined)).colours


def test_progress_is_told_and_the_file_can_be_read(make_dataset: Make, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    dataset = read_dataset(make_dataset({"a": True, "b": False}, channels=("CT",)))

    def on_progress(*done: int) -> None:
        told.append(done)

    seen = with_structures(read_headers(dataset, None, on_progress), dataset, [0], on_progress=on_progress)
    assert told == [(1, 2), (2, 2), (1, 1)]
    save_fingerprint(tmp_path / "fingerprint.json", seen)
    assert module.Fingerprint.model_validate(json.loads((tmp_path / "fingerprint.json").read_text())) == seen
