"""Two folders of pictures, as people have them, and what becomes of them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from patchcl.core.errors import UserError
from patchcl.data.dataset import read_dataset
from patchcl.data.importers.image_mask_folders import convert, detect
from patchcl.data.importers.registry import ImportOptions, detect_layouts, import_dataset
from patchcl.data.importers.writer import SourceDataset, write_raw_folder
from patchcl.data.scan import read_grid, read_image, read_mask

SHAPE = (6, 5)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def image(name: str) -> np.ndarray:
    return np.random.default_rng(list(name.encode())).integers(0, 256, (*SHAPE, 3), dtype=np.uint8)


def mask(name: str) -> np.ndarray:
    return np.random.default_rng(list(name.encode())).integers(0, 2, SHAPE, dtype=np.uint8) * np.uint8(255)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """Write pictures in colour and masks of 0 and 255 under these paths."""

    def make(*images: str, masks: tuple[str, ...] = ()) -> Path:
        for path in images:
            save(tmp_path / "Glands" / path, image(path))
        for path in masks:
            save(tmp_path / "Glands" / path, mask(path))
        return tmp_path / "Glands"

    return make


def sides(found: SourceDataset) -> dict[str, bool]:
    """Name of the scan -> whether it has a mask."""
    return {scan.name: scan.mask is not None for scan in found.scans}


@pytest.mark.parametrize("folders", [("images", "masks"), ("imgs", "labels"), ("Images", "Mask")])
def test_masks_are_found_by_name_and_images_without_one_are_unlabeled(
    make: Callable[..., Path], tmp_path: Path, folders: tuple[str, str]
) -> None:
    images, masks = folders
    named = ("a.png", "b_mask.png", "c-Seg.tif", "d_label.png", "ISIC_0000007_segmentation.png", "seg.png")
    stems = ("a", "b", "c", "d", "ISIC_0000007", "seg", "alone", "b_c")
    root = make(*(f"{images}/{stem}.png" for stem in stems), masks=tuple(f"{masks}/{name}" for name in named))
    (root / images / ".DS_Store").touch()
    found = convert(root)
    assert (found.name, found.channels, found.ending) == ("Glands", ("R", "G", "B"), ".png")
    assert sides(found) == {stem: stem not in ("alone", "b_c") for stem in stems}
    result = write_raw_folder(found, tmp_path / "out")
    assert (result.split, result.scans, result.masks, result.source_values["structure_1"]) == (None, 8, 6, 255)
    assert sorted(path.name for path in (tmp_path / "out" / "imagesUn").iterdir()) == ["alone_0000.png", "b_c_0000.png"]
    for name, stem in zip(named, stems, strict=False):
        written = read_mask(tmp_path / "out" / "labelsTr" / f"{stem}.png", 2)
        np.testing.assert_array_equal(written, mask(f"{masks}/{name}") // 255, err_msg=name)
        assert (tmp_path / "out" / "imagesTr" / f"{stem}_0000.png").samefile(root / images / f"{stem}.png")


def test_an_exact_name_goes_before_one_with_a_suffix(make: Callable[..., Path]) -> None:
    root = make("images/a.png", "images/a_seg.png", masks=("masks/a_seg.png",))
    assert sides(convert(root)) == {"a": False, "a_seg": True}


def test_folders_may_be_named(make: Callable[..., Path]) -> None:
    root = make("photos/a.png", masks=("by_hand/second/a.png",))
    assert sides(convert(root, ImportOptions(images="photos", masks="by_hand/second"))) == {"a": True}
    with pytest.raises(UserError, match=r"Glands/photo is no folder\. Name the one with images by --images DIR"):
        convert(root, ImportOptions(images="photo", masks="by_hand/second"))
    with pytest.raises(
        UserError, match=r"hold one folder of masks, called masks or .*; found none\. Name it by --masks"
    ):
        convert(root, ImportOptions(images="photos"))
    assert not detect(root)


def test_two_folders_of_one_kind_are_no_answer(make: Callable[..., Path]) -> None:
    root = make("images/a.png", masks=("masks/a.png", "labels/a.png"))
    with pytest.raises(UserError, match=r"one folder of masks, .*; found labels, masks"):
        convert(root)
    assert detect(make("other/images/a.png", masks=("other/masks/a.png",)) / "other")


@pytest.mark.parametrize(
    ("images", "masks", "message"),
    [
        (("a.png",), ("a.png", "a_mask.png"), r"masks holds two masks of a\.png: a\.png and a_mask\.png"),
        (("a.png",), ("a.png", "b.png"), r"masks holds masks without an image: b\.png\. Images are called a;"),
        (("a.png", "a.tif"), ("a.png",), r"images holds both a\.png and a\.tif"),
        (("a.png",), ("a.png", "a.txt"), r"masks holds a\.txt; expected folders with a DICOM series, or files that"),
        (("a.png", "more/b.png"), ("a.png",), "images holds more; expected"),
        ((".hidden.png",), ("a.png",), r"images holds no image\. Expected files that end in \.nii\.gz"),
    ],
)  # fmt: skip
def test_names_that_do_not_match(
    make: Callable[..., Path], images: tuple[str, ...], masks: tuple[str, ...], message: str
) -> None:
    root = make(*(f"images/{name}" for name in images), masks=tuple(f"masks/{n}" for n in masks if "txt" not in n))
    for name in masks:
        (root / "masks" / name).touch()
    with pytest.raises(UserError, match=message):
        convert(root)


def test_jpeg_stays_and_its_masks_lose_nothing(make: Callable[..., Path], tmp_path: Path) -> None:
    root = make("images/a.jpg", masks=("masks/a.bmp",))
    write_raw_folder(convert(root), tmp_path / "out", ("A",))
    (case,) = read_dataset(tmp_path / "out").cases
    assert case.images[0].read_bytes() == (root / "images" / "a.jpg").read_bytes()
    assert case.mask is not None
    np.testing.assert_array_equal(read_mask(case.mask, 2), mask("masks/a.bmp") // 255)


@pytest.mark.realdata
def test_a_dicom_series_becomes_nifti_where_it_lies(tmp_path: Path) -> None:
    sample = Path(__file__).parents[4] / "shared" / "data" / "samples" / "dicom_seg"
    if not sample.is_dir():
        pytest.skip("the DICOM sample is not here")
    pytest.importorskip("pydicom")
    shutil.copytree(sample / "series", tmp_path / "study" / "images" / "p1")
    (tmp_path / "study" / "masks").mkdir()
    grid = read_grid(sample / "series")
    classes = np.zeros(grid.shape, np.uint8)
    classes[2:9, 3:9] = 1
    nib.save(nib.Nifti1Image(classes, grid.affine), tmp_path / "study" / "masks" / "p1.nii.gz")
    found = convert(tmp_path / "study")
    assert found.ending == ".nii.gz"
    (case,) = read_dataset(write_raw_folder(found, tmp_path / "out").folder).cases
    np.testing.assert_allclose(read_grid(case.images[0]).affine, grid.affine, atol=1e-4)
    np.testing.assert_array_equal(read_image(case.images).voxels, read_image([sample / "series"]).voxels)
    assert case.mask is not None
    np.testing.assert_array_equal(read_mask(case.mask, 2, read_grid(case.images[0])), classes)


def test_several_grey_values_need_names(make: Callable[..., Path], tmp_path: Path) -> None:
    root = make("images/a.png")
    grey = np.array([[0, 85, 170]], np.uint8).repeat(6, axis=0).repeat([2, 2, 1], axis=1)
    save(root / "masks" / "a.png", grey)
    with pytest.raises(UserError, match=r"hold the values 0, 85, 170; .* --structures A=85,B=170"):
        write_raw_folder(convert(root), tmp_path / "out")
    write_raw_folder(convert(root), tmp_path / "out", ("A=170", "B=85"))
    expected = np.where(grey == 170, 1, np.where(grey == 85, 2, 0))
    np.testing.assert_array_equal(read_mask(tmp_path / "out" / "labelsTr" / "a.png", 3), expected)


@pytest.fixture
def vessels(make: Callable[..., Path]) -> Path:
    """Retina vessels as DRIVE has them: fields of view in `mask`, the vessels themselves in `1st_manual`."""
    numbers = (21, 22, 31)
    return make(
        *(f"images/{number}_training.tif" for number in numbers),
        masks=(
            *(f"mask/{number}_training_mask.gif" for number in numbers),
            *(f"1st_manual/{number}_manual1.gif" for number in numbers),
        ),
    )


def test_vessels_with_a_sibling_folder_of_masks(vessels: Path, tmp_path: Path) -> None:
    assert detect_layouts(vessels) == ["plain"]
    message = r"one folder of masks, called masks or .*; found 1st_manual, mask\. Name it by --masks DIR"
    with pytest.raises(UserError, match=message):
        import_dataset(vessels, tmp_path / "out")
    result = import_dataset(vessels, tmp_path / "out", None, ImportOptions(("vessel",), masks="1st_manual"))
    assert result.unused == ("mask/ (3 files)",)
    assert result.notes == (
        "Masks were taken from 1st_manual.",
        "Masks belong to images by their numbers, such as 21_manual1 to 21_training.",
    )
    for case in read_dataset(result.folder).cases:
        assert case.mask is not None
        drawn = mask(f"1st_manual/{case.name[:2]}_manual1.gif") // 255
        np.testing.assert_array_equal(read_mask(case.mask, 2), drawn, err_msg=case.name)


def test_one_folder_that_tells_of_masks_is_enough(vessels: Path) -> None:
    shutil.rmtree(vessels / "mask")
    assert set(sides(convert(vessels)).values()) == {True}
    (vessels / "1st_manual").rename(vessels / "vessels")
    assert not detect(vessels)
    with pytest.raises(UserError, match="found none"):
        convert(vessels)


def test_a_folder_whose_names_belong_to_no_image_is_none_of_masks(make: Callable[..., Path]) -> None:
    root = make("images/a.png", "images/b.png", masks=("masks/a.png", "labels_of_others/c.png"))
    assert sides(convert(root)) == {"a": True, "b": False}
