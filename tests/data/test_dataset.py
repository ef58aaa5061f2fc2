import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from patchcl.core.errors import UserError
from patchcl.data.dataset import preview, read_dataset
from patchcl.data.scan import read_image, read_mask

Make = Callable[..., Path]


def change(root: Path, **entries: Any) -> None:
    description = json.loads((root / "dataset.json").read_text())
    (root / "dataset.json").write_text(json.dumps(description | entries))


def test_everything_is_found_without_opening_an_image(make_dataset: Make) -> None:
    root = make_dataset(
        {"patient002_frame01": True, "patient001_frame02": False},
        ("patient009",),
        {"patient010": True},
        channels=("T1", "T2"),
    )
    for file in root.rglob("*.nii.gz"):
        file.write_bytes(b"garbage")
    dataset = read_dataset(root)
    assert dataset.name == "Tiny"
    assert dataset.channels == ("T1", "T2")
    assert dataset.classes == ("background", "A", "B")
    assert [case.name for case in dataset.cases] == [
        "patient001_frame02", "patient002_frame01", "patient009", "patient010",
    ]  # fmt: skip
    assert dataset.patients == ("patient001", "patient002", "patient009", "patient010")
    case = dataset.case("patient002_frame01")
    assert case.images == tuple(root / "imagesTr" / f"patient002_frame01_000{c}.nii.gz" for c in (0, 1))
    assert case.mask == root / "labelsTr" / "patient002_frame01.nii.gz"
    assert dataset.case("patient001_frame02").mask is None
    assert dataset.case("patient009").folder == "imagesUn"
    assert dataset.case("patient010").mask == root / "labelsTs" / "patient010.nii.gz"
    with pytest.raises(UserError, match="no scan called nobody"):
        dataset.case("nobody")


def test_the_user_may_say_how_patients_are_named(make_dataset: Make) -> None:
    root = make_dataset({"a_1": True, "a_2": True})
    assert read_dataset(root, "(.)_.").patients == ("a",)
    with pytest.raises(UserError, match="imagesTr/a_1: the patient pattern"):
        read_dataset(root, "(b)_.")
    for broken in ("(", "a_."):
        with pytest.raises(UserError, match=r"split\.patient_pattern"):
            read_dataset(root, broken)


def test_all_problems_of_the_layout_are_told_at_once(make_dataset: Make) -> None:
    root = make_dataset({"a": True, "b": True, "c": False}, ("c",), channels=("T1", "T2"))
    (root / "imagesTr" / "a_0001.nii.gz").unlink()
    (root / "imagesTr" / "b_0002.nii.gz").write_bytes(b"")
    (root / "imagesTr" / "odd.nii.gz").write_bytes(b"")
    (root / "labelsTr" / "lonely.nii.gz").write_bytes(b"")
    (root / "imagesTr" / "._b_0000.nii.gz").write_bytes(b"what macOS leaves behind")
    with pytest.raises(UserError) as caught:
        read_dataset(root)
    assert str(caught.value).splitlines()[1:] == [
        "  imagesTr/odd.nii.gz: the name must end in the channel, like _0000.nii.gz",
        "  imagesTr/a_0001.nii.gz is missing",
        "  imagesTr/b_0002.nii.gz: dataset.json names no channel 2",
        "  labelsTr/lonely.nii.gz has no image",
        "  imagesUn/c has the name of a scan in imagesTr",
    ]


def test_a_mask_may_have_another_ending_than_its_scan_and_a_scan_may_not(make_dataset: Make) -> None:
    root = make_dataset({"a": True, "b": True})
    (root / "labelsTr" / "a.nii.gz").rename(root / "labelsTr" / "a.nii")
    assert read_dataset(root).case("a").mask == root / "labelsTr" / "a.nii"
    (root / "labelsTr" / "b.mha").write_bytes(b"")
    (root / "imagesTr" / "c_0000.nii").write_bytes(b"")
    with pytest.raises(UserError) as caught:
        read_dataset(root)
    assert str(caught.value).splitlines()[1:] == [
        "  imagesTr/c_0000.nii is not used: dataset.json says that names of scans end in .nii.gz",
        "  labelsTr/b.nii.gz is a mask of the same scan as b.mha",
    ]


def test_a_mask_whose_name_says_too_much_is_told_how_it_is_called(make_dataset: Make) -> None:
    root = make_dataset({"a": False, "b": False, "c": False})
    for name in ("a_0000.nii.gz", "b.seg.nrrd", "d_0000.nii.gz"):
        (root / "labelsTr").mkdir(exist_ok=True)
        (root / "labelsTr" / name).write_bytes(b"")
    with pytest.raises(UserError) as caught:
        read_dataset(root)
    assert str(caught.value).splitlines()[1:] == [
        "  labelsTr/a_0000.nii.gz has no image: a mask is called as its scan without the channel, a",
        "  labelsTr/b.seg.nrrd has no image: a mask is called as its scan without the channel, b",
        "  labelsTr/d_0000.nii.gz has no image",
    ]


def test_windows_and_old_tools_may_have_written_dataset_json(make_dataset: Make) -> None:
    root = make_dataset({"a": True})
    described = json.loads((root / "dataset.json").read_text()) | {"labels": {"background": 0, "A": 1, "Ignore": 2}}
    (root / "dataset.json").write_text(json.dumps(described), encoding="utf-8-sig")
    dataset = read_dataset(root)
    assert (dataset.classes, dataset.ignore) == (("background", "A"), 2)


REGIONS = {"background": 0, "whole": [1, 2], "core": [2]}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"labels": {"background": 0, "A": 2}}, "labels is"),
        ({"labels": {"0": "background", "1": "A"}}, "labels is"),
        ({"labels": {"background": 0}}, "labels is"),
        ({"labels": {"background": 0, "whole": [1, 2], "core": [2]}}, r"labels names regions .* \(whole, core\)"),
        ({"labels": REGIONS, "regions_class_order": [1]}, r".*regions_class_order is \[1\]; expected lists"),
        ({"labels": REGIONS, "regions_class_order": [1, 7]}, r".*regions_class_order is \[1, 7\]"),
        (
            {"labels": REGIONS | {"core": ["2"]}, "regions_class_order": [1, 2]},
            ".*expected lists of whole numbers from 1",
        ),
        ({"labels": REGIONS | {"core": [3]}, "regions_class_order": [1, 3], "file_ending": 1}, "file_ending"),
        (
            {"labels": {"background": 0, "A": [1, 4], "B": 1}, "regions_class_order": [1, 4]},
            "labels is .*from 0 without gaps",
        ),
        (
            {"labels": {"background": 0, "mean": [1, 2], "B": 1}, "regions_class_order": [2, 1]},
            ".*averages all classes",
        ),
        ({"labels": {"background": 0, "ignore": 1}}, "labels is"),
        (
            {"labels": {"background": 0, "A": 1, "ignore": 2, "Ignore": 3}},
            "labels names ignore and Ignore, which are one and the same",
        ),
        ({"labels": {str(value): value for value in range(256)}}, "labels has 256 classes, but at most 255 fit"),
        ({"labels": {"background": 0, "ignore": 1, "A": 2}}, "labels is .* must have the highest value"),
        ({"labels": {"background": 0, "A": 1, "ignore": 3}}, "labels is .* must have the highest value"),
        ({"labels": {"background": 0, "A": 1, "ignore": "2"}}, "labels is"),
        (
            {"labels": {"background": 0, "mean": 1}},
            "labels holds names that cannot be: 'mean' is the row that averages",
        ),
        ({"labels": {"background": 0, " Mean": 1}}, "labels holds names that cannot be: ' Mean' is the row"),
        ({"labels": {"background": 0, "\x1b[2J": 1}}, "labels holds names .*steer a terminal"),
        ({"labels": {"background": 0, "a\nb": 1}}, "labels holds names .*steer a terminal"),
        ({"labels": {"background": 0, " ": 1}}, "labels holds names .*has 1 letters, expected 1 to 60"),
        ({"labels": {"background": 0, "": 1}}, "labels holds names .*has 0 letters"),
        ({"labels": {"background": 0, "x" * 61: 1}}, "labels holds names .*has 61 letters"),
        ({"labels": {"background": 0, "=1+1": 1}}, "labels holds names .*begins as a formula"),
        ({"channel_names": {"1": "MRI"}}, "channel_names is"),
        ({"channel_names": {}}, "channel_names is"),
        ({"file_ending": ".svg"}, r"file_ending is '\.svg'; expected one of .*\.mha, .*\.png"),
    ],
)
def test_a_wrong_description_names_the_key(make_dataset: Make, entries: dict[str, Any], message: str) -> None:
    root = make_dataset({"a": True})
    change(root, **entries)
    with pytest.raises(UserError, match=rf"dataset\.json: {message}"):
        read_dataset(root)


def test_one_structure_may_be_white_on_black(make_dataset: Make) -> None:
    root = make_dataset({"a": True})
    change(root, labels={"background": 0, "cell": 255})
    dataset = read_dataset(root)
    assert dataset.classes == ("background", "cell")
    white = nib.Nifti1Image(np.full((12, 10, 4), 255, np.uint8), np.diag([1.5, 1.5, 8, 1]))
    nib.save(white, root / "labelsTr" / "a.nii.gz")
    assert read_mask(root / "labelsTr" / "a.nii.gz", dataset.classes).all()
    change(root, labels={"background": 0, "cell": 255, "nucleus": 1})
    with pytest.raises(UserError, match=r"dataset\.json: labels is"):
        read_dataset(root)


def test_voxels_that_nobody_annotated_are_no_class(make_dataset: Make) -> None:
    root = make_dataset({"a": True})
    assert read_dataset(root).ignore is None
    change(root, labels={"background": 0, "ignore": 3, "B": 2, "A": 1})
    dataset = read_dataset(root)
    assert (dataset.classes, dataset.ignore) == (("background", "A", "B"), 3)


def test_a_folder_that_is_no_data_set(tmp_path: Path, make_dataset: Make) -> None:
    with pytest.raises(UserError, match=r"dataset\.json does not exist"):
        read_dataset(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(UserError, match=r"dataset\.json is not valid JSON"):
        read_dataset(tmp_path)
    (tmp_path / "dataset.json").write_text("[]")
    with pytest.raises(UserError, match=r"dataset\.json must hold a JSON object"):
        read_dataset(tmp_path)
    with pytest.raises(UserError, match="imagesTr holds no scans"):
        read_dataset(make_dataset({}, ("only",)))


def pictures(root: Path, ending: str, images: dict[str, Any], masks: dict[str, Any]) -> Path:
    """A data set of three channels, R, G and B."""
    for folder, files in (("imagesTr", images), ("labelsTr", masks)):
        (root / folder).mkdir(parents=True)
        for name, pixels in files.items():
            Image.fromarray(np.asarray(pixels, np.uint8)).save(root / folder / name)
    channels = {str(index): name for index, name in enumerate("RGB")}
    description = {"channel_names": channels, "labels": {"background": 0, "gland": 1}, "file_ending": ending}
    (root / "dataset.json").write_text(json.dumps(description))
    return root


def test_one_picture_in_colour_is_three_channels(tmp_path: Path) -> None:
    colour, grey = np.zeros((4, 5, 3)), np.zeros((4, 5))
    images = {"a_0000.png": colour, "B_0000.PNG": colour, "c_0000.png": grey, "c_0001.png": grey, "c_0002.png": grey}
    root = pictures(tmp_path / "data", ".png", images, {"a.png": grey, "B.PNG": grey})
    dataset = read_dataset(root)
    assert dataset.case("a").images == (root / "imagesTr" / "a_0000.png",)
    assert dataset.case("B").mask == root / "labelsTr" / "B.PNG"
    assert len(dataset.case("c").images) == 3


def test_channels_that_do_not_add_up_are_told(tmp_path: Path) -> None:
    colour, grey = np.zeros((4, 5, 3)), np.zeros((4, 5))
    images = {"a_0000.png": grey, "b_0000.png": colour, "b_0001.png": grey, "c_0001.png": colour}
    root = pictures(tmp_path / "data", ".png", images, {})
    (root / "imagesTr" / "d_0000.png").write_bytes(b"garbage")
    with pytest.raises(UserError) as caught:
        read_dataset(root)
    lines = str(caught.value).splitlines()[1:]
    assert lines[:2] == [f"  imagesTr/a_000{channel}.png is missing" for channel in (1, 2)]
    assert "imagesTr/b: colours count as three channels, which makes 4, but dataset.json names 3" in lines[2]
    assert "imagesTr/c: colours count as three channels, which makes 3" in lines[3]
    assert "d_0000.png cannot be read" in lines[4]


def test_masks_of_jpegs_are_pngs(tmp_path: Path) -> None:
    colour, grey = np.zeros((4, 5, 3)), np.zeros((4, 5))
    images = {"a_0000.jpg": colour, "b_0000.jpg": colour, "c_0000.JPG": colour}
    dataset = read_dataset(pictures(tmp_path / "data", ".JPG", images, {"a.png": grey, "b.jpg": grey, "c.tif": grey}))
    masks = [case.mask and case.mask.name for case in dataset.cases]
    assert masks == ["a.png", "b.jpg", "c.tif"]  # a mask in another format is one, too
    with pytest.raises(UserError, match=r"b\.jpg is a JPEG"):
        read_mask(dataset.case("b").mask, 2)


def test_dicom_series_are_folders(tmp_path: Path) -> None:
    for name in ("a_0000", "b_0000"):
        (tmp_path / "imagesTr" / name).mkdir(parents=True)
        (tmp_path / "imagesTr" / name / "IM1").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "labelsTr").mkdir()
    (tmp_path / "labelsTr" / "a.dcm").write_bytes(b"")
    description = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "lung": 1}, "file_ending": ".dcm"}
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    dataset = read_dataset(tmp_path)
    assert dataset.case("a").images == (tmp_path / "imagesTr" / "a_0000",)
    assert dataset.case("a").mask == tmp_path / "labelsTr" / "a.dcm"
    assert dataset.case("b").mask is None
    (tmp_path / "imagesTr" / "thumbnails").mkdir()
    with pytest.raises(UserError, match="imagesTr/thumbnails: the name must end in the channel"):
        read_dataset(tmp_path)


def test_long_lists_are_cut() -> None:
    assert preview(["a", "b"]) == "a, b"
    assert preview(list("abcdefg")) == "a, b, c, d, e and 2 more"


@pytest.mark.realdata
def test_acdc_is_understood(acdc: Path) -> None:
    dataset = read_dataset(acdc)
    assert len(dataset.patients) == 100
    assert sum(case.mask is not None for case in dataset.cases) == 160
    assert dataset.classes == ("background", "RV", "MYO", "LV")


@pytest.mark.realdata
def test_glas_is_read_whole(acdc: Path) -> None:
    """Every picture and mask of a data set whose images are single files in colour."""
    root = acdc.with_name("Dataset101_GlaS")
    if not root.is_dir():
        pytest.skip("GlaS is not here")
    dataset = read_dataset(root)
    for case in dataset.cases[:5]:
        scan = read_image(case.images)
        assert len(scan.voxels) == len(dataset.channels) == 3
        assert set(np.unique(read_mask(case.mask, 2, scan.grid))) <= {0, 1}
