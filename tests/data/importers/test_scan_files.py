"""Scans by their files: what they are called, what they hold, and which mask is whose."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchcl.core.errors import UserError
from patchcl.data.importers.scan_files import (
    ScanFiles,
    channel_names,
    common_ending,
    dataset_of,
    files_by_name,
    first_lines,
    image_numbers,
    pair_masks,
    scan_names,
)

RANDOM = np.random.default_rng(0)
COLOUR = RANDOM.integers(0, 256, (6, 5, 3), dtype=np.uint8)
GREY = RANDOM.integers(0, 256, (6, 5), dtype=np.uint8)


def picture(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize(
    ("names", "ending"),
    [
        (("a.png", "b.PNG"), ".png"),
        (("a.tif", "b.tif"), ".tif"),
        (("a.nii", "b.nii"), ".nii"),
        (("a.mha",), ".mha"),
        (("a.jpg",), ".jpg"),
        (("a.jpg", "b.jpeg"), ".png"),
        (("a.tif", "b.png"), ".png"),
        (("a.nii", "b.nii.gz"), ".nii.gz"),
        (("a.mhd",), ".nii.gz"),
        (("a.nrrd", "b.mha"), ".nii.gz"),
    ],
)
def test_one_ending_for_all(names: tuple[str, ...], ending: str) -> None:
    assert common_ending([Path(name) for name in names]) == ending


def test_pictures_and_scans_are_two_data_sets() -> None:
    with pytest.raises(UserError, match=r"a\.png is a picture, but b\.nii is a scan"):
        common_ending([Path("a.png"), Path("b.nii")])


def test_channels_are_columns_or_colours(tmp_path: Path) -> None:
    colour, grey = picture(tmp_path / "c.png", COLOUR), picture(tmp_path / "g.png", GREY)
    assert channel_names([colour]) == ("R", "G", "B")
    assert channel_names([grey]) == ("image",)
    assert channel_names([grey], ("T1",)) == ("T1",)
    assert channel_names([colour, colour], ("T1", "T2")) == ("T1", "T2")


def test_names_come_from_files_and_from_folders_where_those_repeat() -> None:
    files = ["a/t1.nii.gz", "./b/t1.nii", "c/t2.png"]
    assert scan_names(files) == {files[0]: "a_t1", files[1]: "b_t1", files[2]: "t2"}


def test_scans_become_a_data_set_of_their_kind(tmp_path: Path) -> None:
    grey = [picture(tmp_path / f"{name}.png", GREY) for name in "ab"]
    dataset = dataset_of("Tiny", [ScanFiles("x", grey, grey[0]), ScanFiles("y", grey, side="test")], ("T1", "T2"))
    assert (dataset.name, dataset.channels, dataset.ending) == ("Tiny", ("T1", "T2"), ".png")
    assert [(s.name, s.side, s.mask is None) for s in dataset.scans] == [("x", "train", False), ("y", "test", True)]
    for write, name in zip(dataset.scans[0].images, ("0.png", "1.png"), strict=True):
        write(tmp_path / name)
    assert (tmp_path / "1.png").is_file(), "two channels are one in each of two files"
    mask = dataset.scans[0].mask
    assert mask is not None
    assert mask(tmp_path / "mask.png") == set(GREY.flat)


def test_files_are_named_without_their_ending() -> None:
    files = [Path("f/b.nii.gz"), Path("f/a.mat")]
    assert files_by_name(files) == {"b": files[0], "a.mat": files[1]}
    assert files_by_name(files, lambda path: path.stem) == {"b.nii": files[0], "a": files[1]}
    with pytest.raises(UserError, match=r"f holds both b\.nii\.gz and b\.png\. Keep one of them"):
        files_by_name([files[0], Path("f/b.png")])


def test_masks_belong_to_images_by_their_names() -> None:
    images = {name: Path(f"i/{name}.png") for name in ("a", "b", "b_mask", "c")}
    masks = {name: Path(f"m/{name}.png") for name in ("a-Seg", "b", "b_mask")}
    paired = pair_masks(images, masks, Path("m"))
    assert paired == {"a": masks["a-Seg"], "b": masks["b"], "b_mask": masks["b_mask"]}
    with pytest.raises(UserError, match=r"m holds masks without an image: d_seg\.png\. Images are called a, b, "):
        pair_masks(images, {"d_seg": Path("m/d_seg.png")}, Path("m"))
    with pytest.raises(UserError, match=r"m holds two masks of c\.png: c\.png and c_gt\.png\. Keep one"):
        pair_masks(images, {name: Path(f"m/{name}.png") for name in ("c", "c_gt")}, Path("m"))


def test_long_messages_are_cut() -> None:
    assert first_lines(["a", "b"], 2) == "a\nb"
    assert first_lines(["a", "b", "c", "d"], 2, "folders ") == "a\nb\n  and 2 folders more"


@pytest.mark.parametrize(
    ("images", "masks", "paired"),
    [
        (("21_training", "22_training"), ("21_manual1", "22_manual1"), ("21_manual1", "22_manual1")),
        (("img_1", "img_2", "img_10"), ("gland_010", "gland_001"), ("gland_001", None, "gland_010")),
        (("anna_t1", "bob_t1"), ("anna_drawn", "bob_drawn"), ("anna_drawn", "bob_drawn")),
        (("p1_s1", "p1_s2"), ("p1_s1_x", "p1_s2_x"), ("p1_s1_x", "p1_s2_x")),
        (("img_1", "img_2"), ("x_1", "x_3"), None),
        (("img_1", "img_01"), ("x_1", "x_2"), None),
        (("img_1", "img_2"), ("x_1",), None),
        (("img_1", "img_2"), ("img_1", "x_2"), None),
        (("img_1", "img_2"), ("1_x", "1_y"), None),
    ],
)
def test_masks_belong_to_images_by_their_numbers(
    images: tuple[str, ...], masks: tuple[str, ...], paired: tuple[str | None, ...] | None
) -> None:
    expected = {mask: image for image, mask in zip(images, paired or (), strict=False) if mask is not None}
    assert image_numbers(images, masks) == expected
    files = [{name: Path(f"{name}.png") for name in names} for names in (images, masks)]
    if paired is None:
        with pytest.raises(UserError, match="holds masks without an image"):
            pair_masks(files[0], files[1], Path("m"))
    else:
        assert pair_masks(files[0], files[1], Path("m")) == {image: files[1][m] for m, image in expected.items()}
