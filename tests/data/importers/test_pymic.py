"""Lists as PyMIC has them, over NIfTI files written with nibabel, against what our own reader finds afterwards."""

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from patchcl.core.errors import UserError
from patchcl.data.dataset import read_dataset
from patchcl.data.importers.pymic import convert
from patchcl.data.importers.writer import write_raw_folder
from patchcl.data.scan import read_grid, read_image, read_mask
from patchcl.data.splits import SplitSettings, make_split

AFFINE = np.array([[-0.6, 0.1, 0, 30], [0.1, 0.7, 0.2, -12], [0, 0.1, 2.2, 7], [0, 0, 0, 1.0]])
SHAPE = (8, 9, 5)


def save(path: Path, voxels: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, affine), path)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write lists, and every file that they name."""

    def write(**lists: str) -> Path:
        root = tmp_path / "Prostate"
        for name, text in lists.items():
            head, *rows = text.split()
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / f"{name}.csv").write_text("\n".join([head, *rows]) + "\n")
            for row in rows:
                for column, file in zip(head.split(","), row.split(","), strict=True):
                    random = np.random.default_rng(list(file.encode()))
                    if file and column in ("label", "ground_truth"):
                        save(root / file, random.integers(0, 3, SHAPE).astype(np.uint8))
                    elif file:
                        save(root / file, random.integers(0, 1000, SHAPE).astype(np.int16))
        return root

    return write


LISTS = {
    "image_train": "image,label image/p_34.nii.gz,label/p_34.nii.gz image/p_07.nii,label/p_07.nii",
    "image_train_r10_unlab": "image,label image/p_49.nii.gz,label/p_49.nii.gz image/p_11.nii.gz,",
    "image_valid": "image,label image/p_20.nii.gz,label/p_20.nii.gz",
    "image_test": "image,label image/p_01.nii.gz,label/p_01.nii.gz image/p_02.nii.gz,",
    "image_all": "image,label image/p_34.nii.gz,label/p_34.nii.gz",
    "image_test_gt_seg": "ground_truth,segmentation label/p_01.nii.gz,result/p_01.nii.gz",
}


def imported(source: Path, tmp_path: Path) -> Path:
    return write_raw_folder(convert(source), tmp_path / "out").folder


def test_sides_order_and_voxels_survive(write: Callable[..., Path], tmp_path: Path) -> None:
    root = write(**LISTS)
    out = imported(root, tmp_path)
    dataset = read_dataset(out)
    assert (dataset.name, dataset.channels) == ("Prostate", ("image",))
    assert dataset.classes == ("background", "structure_1", "structure_2")
    split = make_split(dataset, SplitSettings(file=out / "split.json"))
    assert split.model_dump() == {
        "labeled": ("p_34", "p_07"), "unlabeled": ("p_49", "p_11"), "validation": ("p_20",), "test": ("p_01", "p_02"),
    }  # fmt: skip
    assert make_split(dataset, SplitSettings(file=out / "split.json", labeled=1)).labeled == ("p_34",)
    assert {case.name for case in dataset.cases if case.mask is not None} == {"p_34", "p_07", "p_20", "p_01"}
    for case in dataset.cases:
        (source,) = (root / "image").glob(f"{case.name}.nii*")
        np.testing.assert_array_equal(read_image(case.images).voxels, read_image([source]).voxels)
        assert read_grid(case.images[0]).affine.tobytes() == nib.load(source).affine.tobytes()
        if case.mask is not None:
            (source,) = (root / "label").glob(f"{case.name}.nii*")
            np.testing.assert_array_equal(read_mask(case.mask, 3), np.asarray(nib.load(source).dataobj))
    assert dataset.case("p_34").images[0].read_bytes() == (root / "image" / "p_34.nii.gz").read_bytes()
    assert gzip.decompress(dataset.case("p_07").images[0].read_bytes()) == (root / "image" / "p_07.nii").read_bytes()


def test_hidden_labels_are_not_even_opened(write: Callable[..., Path], tmp_path: Path) -> None:
    root = write(**LISTS)
    (root / "label" / "p_49.nii.gz").write_bytes(b"poison")
    assert not (imported(root, tmp_path) / "labelsTr" / "p_49.nii.gz").exists()


def test_channels_are_the_columns(write: Callable[..., Path], tmp_path: Path) -> None:
    columns = "T1,T2,label,pixel_weight"
    train, val = (f"{columns} {name}/t1.nii,{name}/t2.nii,{name}/seg.nii,{name}/weight.nii" for name in "ab")
    root = write(train=train, val=val)
    dataset = read_dataset(imported(root, tmp_path))
    assert dataset.channels == ("T1", "T2")
    assert [case.name for case in dataset.cases] == ["a_t1", "b_t1"], "files of one name are told apart by their folder"
    expected = [read_image([root / "a" / f"t{channel}.nii"]).voxels[0] for channel in (1, 2)]
    np.testing.assert_array_equal(read_image(dataset.case("a_t1").images).voxels, expected)


GOOD = {"train": "image,label a.nii.gz,a_seg.nii.gz", "valid": "image,label b.nii.gz,b_seg.nii.gz"}


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"train": GOOD["train"]}, "has no validation list"),
        ({"valid": GOOD["valid"]}, "has no train list"),
        (GOOD | {"my_train": GOOD["train"]}, r"has two train lists, my_train\.csv and train\.csv"),
        (GOOD | {"x_lab": GOOD["train"]}, r"has two train lists, train\.csv and x_lab\.csv"),
        (GOOD | {"train": "image,label"}, r"train\.csv lists no scan"),
        (GOOD | {"train": "label a.nii.gz"}, r"train\.csv, line 2: found a\.nii\.gz under label; expected a column"),
        (GOOD | {"train": "image,label ,a.nii.gz"}, r"train\.csv, line 2: found , a\.nii\.gz under image, label"),
        (GOOD | {"train": "image,label a.doc,b.nii.gz"}, r"train\.csv, line 2: a\.doc is of no known format"),
        (GOOD | {"unlab": "image a.nii.gz"}, r"unlab\.csv, line 2: a is in .*Prostate/train\.csv, line 2 already"),
        (GOOD | {"test": "image a_frame1.nii.gz"}, "Prostate has patients on two sides: a"),
        (GOOD | {"unlab": "T1,T2 c.nii.gz,d.nii.gz"}, "differ in their columns: T1, T2 and image"),
        (GOOD | {"train": "image,label a.nii.gz,"}, "has no scan with a mask to learn from. Check its masks"),
        (GOOD | {"valid": "image,label b.nii.gz,"}, "has no scan with a mask to validate on"),
    ],
)  # fmt: skip
def test_lists_that_cannot_be_right(
    write: Callable[..., Path], tmp_path: Path, lists: dict[str, str], message: str
) -> None:
    harmless = {name: text.replace("a.doc", "a.nii.gz") for name, text in lists.items()}
    root = write(**harmless)
    (root / "a.doc").touch()
    for name, text in lists.items():
        (root / f"{name}.csv").write_text("\n".join(text.split()) + "\n")
    with pytest.raises(UserError, match=message):
        imported(root, tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_row_that_is_too_long_or_names_nothing(write: Callable[..., Path]) -> None:
    root = write(**GOOD)
    (root / "train.csv").write_text("image,label\na.nii.gz,a_seg.nii.gz,what,else\n")
    with pytest.raises(UserError, match=r"train\.csv, line 2: found a\.nii\.gz, a_seg\.nii\.gz"):
        convert(root)
    (root / "train.csv").write_text("image,label\ngone.nii.gz,a_seg.nii.gz\n")
    with pytest.raises(UserError, match=rf"line 2: {root}/gone\.nii\.gz does not exist; paths start from"):
        convert(root)
    (root / "train.csv").write_bytes(b"image,label\n\xff\xfe,\n")
    with pytest.raises(UserError, match=r"train\.csv cannot be read as CSV"):
        convert(root)


@pytest.mark.parametrize(
    ("file", "voxels", "message"),
    [
        ("a.nii.gz", None, r"a\.nii\.gz cannot be read"),
        ("a.nii.gz", np.full(SHAPE, np.nan), r"a\.nii\.gz holds 360 voxels that are NaN"),
        ("a_seg.nii.gz", np.zeros((8, 9, 4)), r"a_seg\.nii\.gz has size 8 × 9 × 4, but its image has 8 × 9 × 5"),
        ("a_seg.nii.gz", np.full(SHAPE, 0.5), r"a_seg\.nii\.gz holds the value 0\.5, but a mask may only hold whole"),
        ("a_seg.nii.gz", np.full(SHAPE, 255.0), "The masks hold the values 0, 1, 2, 255; expected whole numbers"),
    ],
)
def test_a_broken_file_is_named_and_nothing_is_left_behind(
    write: Callable[..., Path], tmp_path: Path, file: str, voxels: np.ndarray | None, message: str
) -> None:
    root = write(**GOOD)
    if voxels is None:
        (root / file).write_bytes(b"no image")
    else:
        save(root / file, voxels)
    with pytest.raises(UserError, match=message):
        imported(root, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Prostate"]
