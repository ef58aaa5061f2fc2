"""Files written with h5py and NumPy as LA2018 has them, against what our own reader finds after the import."""

import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
import pytest

from patchcl.core.errors import UserError
from patchcl.data.dataset import read_dataset
from patchcl.data.importers.arrays import convert, detect
from patchcl.data.importers.registry import NO_OPTIONS, ImportOptions, describe, detect_layouts, import_dataset
from patchcl.data.scan import read_grid, read_image, read_mask

SHAPE = (6, 5, 4)
RANDOM = np.random.default_rng(0)
IMAGE = RANDOM.random(SHAPE, dtype=np.float32)
LABEL = RANDOM.integers(0, 2, SHAPE).astype(np.uint8)
MM = ImportOptions(spacing=(0.625, 0.5, 2.5))


def save(path: Path, **arrays: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    else:
        with h5py.File(path, "w") as file:
            for key, array in arrays.items():
                file.create_dataset(key, data=array, compression="gzip")
    return path


@pytest.fixture
def atria(tmp_path: Path) -> Path:
    """LA2018 as UA-MT has it; each case is brighter than the one before, and the last has no mask."""
    for number, case in enumerate(("0RZDK", "1D7CU", "23X67", "ZZZ")):
        arrays = {"image": IMAGE + number, "label": LABEL} if case != "ZZZ" else {"image": IMAGE}
        save(tmp_path / "LA" / "Training Set" / case / "mri_norm2.h5", **arrays)
    return tmp_path / "LA"


def masked(out: Path) -> dict[str, tuple[str, bool]]:
    return {case.name: (case.folder, case.mask is not None) for case in read_dataset(out).cases}


def test_volumes_of_la2018_go_in_with_one_command(atria: Path, tmp_path: Path) -> None:
    assert detect_layouts(atria) == ["arrays"]
    result = import_dataset(atria, tmp_path / "out", None, MM._replace(structures=("atrium",)))
    assert (result.masks, result.labels, result.unused) == (3, {"background": 0, "atrium": 1}, ())
    assert describe(result) == "4 scans, 3 with masks; classes: background, atrium."
    for number, case in enumerate(read_dataset(result.folder).cases[:3]):
        grid = read_grid(case.images[0])
        np.testing.assert_allclose(grid.affine, np.diag([0.625, 0.5, 2.5, 1]), atol=1e-6)
        np.testing.assert_array_equal(read_image(case.images).voxels[0], IMAGE + number)
        assert case.mask is not None
        np.testing.assert_array_equal(read_mask(case.mask, 2, grid), LABEL)
    assert masked(result.folder)["ZZZ"] == ("imagesUn", False)


def test_without_a_spacing_voxels_are_1_mm_and_one_is_told(atria: Path, tmp_path: Path) -> None:
    result = import_dataset(atria, tmp_path / "out")
    assert read_grid(read_dataset(result.folder).cases[0].images[0]).spacing_mm == (1, 1, 1)
    assert "\nThe files name no spacing, so voxels are 1 mm wide. Say it by --spacing X,Y,Z." in describe(result)


def test_lists_tell_sides_and_order_and_others_are_named(atria: Path, tmp_path: Path) -> None:
    (atria / "train.list").write_text("23X67/mri_norm2.h5\n0RZDK\n")
    (atria / "test.list").write_text("1D7CU\n")
    found = convert(atria)
    assert [(scan.name, scan.side) for scan in found.scans] == [
        *(("23X67", "train"), ("0RZDK", "train"), ("1D7CU", "test")),
    ]
    result = import_dataset(atria, tmp_path / "out")
    assert result.unused == ("Training Set/ZZZ/ (1 file)",)
    assert masked(result.folder)["1D7CU"] == ("imagesTs", True)
    for entries in ("1D7CU\n", "none", "23X67\n23X67"):
        (atria / "train.list").write_text(entries + "\n")
        (atria / "test.list").write_text("1D7CU")
        with pytest.raises(UserError, match=r"(train|test)\.list names .*; expected scans that are there, each in one"):
            convert(atria)


@pytest.mark.parametrize("names", [("image", "label"), ("img", "mask"), ("data", "seg")])
@pytest.mark.parametrize("ending", [".h5", ".hdf5", ".npz"])
def test_files_side_by_side_are_called_by_their_own_names(ending: str, names: tuple[str, str], tmp_path: Path) -> None:
    image, mask = names
    save(tmp_path / "flat" / f"a{ending}", **{image: IMAGE[..., 0], mask: LABEL[..., 0] * np.uint8(255)})
    save(tmp_path / "flat" / f"b_slice_2{ending}", **{image: IMAGE[..., 1].astype(float), mask: LABEL[..., 1] > 0})
    result = import_dataset(tmp_path / "flat", tmp_path / "out", None, ImportOptions(spacing=(0.5, 2)))
    (first, second) = read_dataset(result.folder).cases
    assert (first.name, second.name) == ("a", "b_slice_2")
    assert read_grid(first.images[0]).spacing_mm == (0.5, 2)
    for number, case in enumerate((first, second)):
        np.testing.assert_array_equal(read_image(case.images).voxels[0], IMAGE[..., number])
        assert case.mask is not None
        np.testing.assert_array_equal(read_mask(case.mask, 2), LABEL[..., number])


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ({"picture": IMAGE}, NO_OPTIONS, r"holds the arrays picture; expected one image, called image or img or data"),
        ({"image": IMAGE, "data": IMAGE}, NO_OPTIONS, "holds the arrays data, image; expected one image"),
        ({"image": IMAGE, "mask": LABEL, "seg": LABEL}, NO_OPTIONS, "and at most one mask, called label or mask or"),
        ({"image": IMAGE, "label": LABEL[:5]}, NO_OPTIONS, r"image \(6, 5, 4\) and mask \(5, 5, 4\); expected x and y"),
        ({"image": IMAGE[None], "label": LABEL[None]}, NO_OPTIONS, r"Save each channel and time point in a file of"),
        ({"image": IMAGE, "label": LABEL + 0.5}, NO_OPTIONS, r"label holds 0\.5, 1\.5; expected whole numbers from 0"),
        ({"image": IMAGE * 1j, "label": LABEL}, NO_OPTIONS, "holds an array of complex64; expected one real number"),
        ({"image": IMAGE * np.nan, "label": LABEL}, NO_OPTIONS, "holds 120 voxels that are NaN or infinite"),
        ({"image": IMAGE, "label": LABEL}, ImportOptions(spacing=(1, 2)), r"--spacing 1,2 does not fit .*has 3 axes"),
        ({"image": IMAGE, "label": LABEL}, ImportOptions(spacing=(1, 2, 0)), r"--spacing 1,2,0 does not fit"),
    ],
)
@pytest.mark.parametrize("ending", [".h5", ".npz"])
def test_what_cannot_be_read_as_it_is_meant(
    ending: str, arrays: Mapping[str, np.ndarray], options: ImportOptions, message: str, tmp_path: Path
) -> None:
    save(tmp_path / "study" / f"a{ending}", **arrays)
    with pytest.raises(UserError, match=rf"a\{ending}.*{message}|{message}"):
        import_dataset(tmp_path / "study", tmp_path / "out", "arrays", options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("ending", [".h5", ".npz"])
def test_a_file_that_is_damaged_or_holds_objects(ending: str, tmp_path: Path) -> None:
    path = save(tmp_path / "study" / f"a{ending}", image=IMAGE, label=LABEL)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=rf"a\{ending} cannot be read as HDF5 or NumPy"):
        convert(tmp_path / "study")
    save(tmp_path / "objects" / "a.npz", image=np.array([{"a": 1}], object))
    with pytest.raises(UserError, match=r"a\.npz cannot be read as HDF5 or NumPy"):
        convert(tmp_path / "objects")


def test_a_header_that_claims_more_than_the_file_holds(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    with h5py.File(tmp_path / "study" / "a.h5", "w") as file:
        file.create_dataset("image", (4000, 4000, 4000), np.float32, chunks=(64, 64, 64))
    with pytest.raises(UserError, match=r"a\.h5 cannot be read: its header claims 256000000000 bytes"):
        convert(tmp_path / "study")


def test_a_header_in_npz_that_claims_more_than_the_file_holds(tmp_path: Path) -> None:
    header = np.lib.format.magic(1, 0)
    text = b"{'descr': '<f4', 'fortran_order': False, 'shape': (9000, 9000, 9000)}\n"
    path = tmp_path / "study" / "a.npz"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("image.npy", header + len(text).to_bytes(2, "little") + text + bytes(64))
    with pytest.raises(UserError, match=r"a\.npz cannot be read: its header claims 2916000000000 bytes"):
        convert(tmp_path / "study")


def test_slices_along_the_first_axis_bring_a_line(tmp_path: Path) -> None:
    save(tmp_path / "study" / "a.npz", image=IMAGE.T[:2], label=LABEL.T[:2])
    (note,) = convert(tmp_path / "study", MM).notes
    assert "a.npz has shape (2, 5, 6): slices are taken along the last axis, but may lie along the first." in note


def test_names_are_unique_and_folders_without_arrays_are_not_detected(tmp_path: Path) -> None:
    for path in ("one/a.h5", "one/b.h5", "two/a.h5", "two/c.h5"):
        save(tmp_path / "study" / path, image=IMAGE)
    with pytest.raises(UserError, match=r"holds both a\.h5 and a\.h5"):
        convert(tmp_path / "study")
    (tmp_path / "empty" / ".hidden").mkdir(parents=True)
    (tmp_path / "empty" / ".hidden" / "a.h5").touch()
    assert not detect(tmp_path / "empty")
    with pytest.raises(UserError, match=r"empty holds no files that end in \.h5, \.hdf5, \.npz"):
        convert(tmp_path / "empty")


def test_without_h5py_one_is_told_what_to_install(atria: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match=r"mri_norm2\.h5 is HDF5, which needs h5py: pip install 'patchcl\[hdf5\]'"):
        convert(atria)
