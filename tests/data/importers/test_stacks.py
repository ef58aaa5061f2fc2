"""Folders of slices as people export volumes, and what our own reader finds after the import."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchcl.core.errors import UserError
from patchcl.data.dataset import read_dataset
from patchcl.data.importers.registry import NO_OPTIONS, ImportOptions, describe, detect_layouts, import_dataset
from patchcl.data.importers.stacks import convert, detect, numbered
from patchcl.data.scan import read_grid, read_image, read_mask

ROWS, COLUMNS, SLICES = 6, 5, 12
VOLUME = np.random.default_rng(0).integers(0, 256, (SLICES, ROWS, COLUMNS, 3)).astype(np.uint8)
DRAWN = np.random.default_rng(1).integers(0, 2, (SLICES, ROWS, COLUMNS)).astype(np.uint8) * np.uint8(255)
MM = ImportOptions(spacing=(0.5, 0.75, 3))


def save(folder: Path, pixels: np.ndarray, name: str = "slice_{}.png", first: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, plane in enumerate(pixels, first):
        Image.fromarray(plane).save(folder / name.format(number))


@pytest.fixture
def apart(tmp_path: Path) -> Path:
    """Images beside masks, of one channel; bob has no mask."""
    save(tmp_path / "CT" / "images" / "anna", VOLUME[..., 0])
    save(tmp_path / "CT" / "images" / "bob", VOLUME[..., 1], "IM-0001-{:04d}.png", 7)
    save(tmp_path / "CT" / "masks" / "anna", DRAWN, "anna_{:03d}_mask.png")
    return tmp_path / "CT"


@pytest.fixture
def together(tmp_path: Path) -> Path:
    """Images and masks in one folder, in colours, as the LGG set has its sequences."""
    save(tmp_path / "LGG" / "TCGA_1", VOLUME, "TCGA_1_{}.tif", 1)
    save(tmp_path / "LGG" / "TCGA_1", DRAWN, "TCGA_1_{}_mask.tif", 1)
    return tmp_path / "LGG"


def test_slices_become_a_volume_in_the_order_of_their_numbers(apart: Path, tmp_path: Path) -> None:
    assert detect_layouts(apart) == ["stacks"]
    result = import_dataset(apart, tmp_path / "out", None, MM)
    assert describe(result) == (
        "2 scans, 1 with masks; classes: background, structure_1. Values in the masks: 255 became 1 (structure_1).\n"
        "Pictures became slices of 2 volumes, such as anna with 12."
    )
    anna, bob = read_dataset(result.folder).cases
    grid = read_grid(anna.images[0])
    np.testing.assert_allclose(grid.affine, np.diag([0.5, 0.75, 3, 1]))
    np.testing.assert_array_equal(read_image(anna.images).voxels[0], VOLUME[..., 0].transpose(2, 1, 0))
    np.testing.assert_array_equal(read_image(bob.images).voxels[0], VOLUME[..., 1].transpose(2, 1, 0))
    assert (bob.folder, bob.mask) == ("imagesUn", None)
    assert anna.mask is not None
    np.testing.assert_array_equal(read_mask(anna.mask, 2, grid), DRAWN.transpose(2, 1, 0) // 255)


def test_colours_become_channels_and_the_spacing_is_asked_for(together: Path, tmp_path: Path) -> None:
    assert detect_layouts(together) == ["stacks"]
    result = import_dataset(together, tmp_path / "out", None, ImportOptions(("glioma",)))
    assert describe(result).endswith("so voxels are 1 mm wide. Say it by --spacing X,Y,Z.")
    (case,) = read_dataset(result.folder).cases
    np.testing.assert_array_equal(read_image(case.images).voxels, VOLUME.transpose(3, 2, 1, 0))
    assert case.mask is not None
    np.testing.assert_array_equal(read_mask(case.mask, 2), DRAWN.transpose(2, 1, 0) // 255)


def test_folders_may_have_other_names(apart: Path) -> None:
    (apart / "images").rename(apart / "scans")
    assert not detect(apart)
    assert [scan.name for scan in convert(apart, ImportOptions(images="scans")).scans] == ["anna", "bob"]
    with pytest.raises(UserError, match="CT holds no folders of slices"):
        convert(apart)


def test_sixteen_bits_stay(tmp_path: Path) -> None:
    deep = VOLUME[..., 0].astype(np.uint16) * np.uint16(200)
    save(tmp_path / "in" / "images" / "a", deep)
    save(tmp_path / "in" / "masks" / "a", DRAWN)
    (case,) = read_dataset(import_dataset(tmp_path / "in", tmp_path / "out").folder).cases
    np.testing.assert_array_equal(read_image(case.images).voxels[0], deep.transpose(2, 1, 0))


def without(path: str) -> Callable[[Path], None]:
    return lambda root: (root / path).unlink()


def narrower(path: str) -> Callable[[Path], None]:
    return lambda root: Image.fromarray(VOLUME[0, :, 1:, 0]).save(root / path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("images/anna/slice_4.png"), r"images/anna lacks slice 4 between slice_0\.png and slice_11\.png"),
        (without("masks/anna/anna_011_mask.png"), "masks/anna has not the slices of the image anna: 11 is in one"),
        (lambda root: save(root / "images/anna", VOLUME[:1], "slice_{:03d}.png"), r"the same slice twice, as slice_0"),
        (lambda root: save(root / "images/anna", VOLUME[:1], "scout.png"), r"anna holds scout\.png, .*differ in one"),
        (lambda root: save(root / "masks/carl", DRAWN), "masks has folders without one of that name in .*images: carl"),
        (lambda root: save(root / "images/train", VOLUME), r"images/train is called like a side of a split"),
        (narrower("images/anna/slice_3.png"), r"slice_3\.png has the shape \(6, 4\), but slice_0\.png has \(6, 5\)"),
        (narrower("masks/anna/anna_003_mask.png"), r"anna_003_mask\.png has size 6 × 4, but its image has 6 × 5"),
        (lambda root: save(root / "images/anna", VOLUME[:1]), r"slice_0\.png has 3 channels|has 1 channels, but other"),
    ],
)
def test_what_is_no_volume_is_named(apart: Path, tmp_path: Path, change: Callable[[Path], None], message: str) -> None:
    change(apart)
    with pytest.raises(UserError, match=message):
        import_dataset(apart, tmp_path / "out", "stacks", NO_OPTIONS)
    assert not (tmp_path / "out").exists()


def test_the_number_in_which_names_differ_is_that_of_the_slice() -> None:
    files = [Path(f"f/p7_t1_{number}_2.png") for number in (9, 10, 8)]
    assert [path.name[5:] for path in numbered(files, Path("f")).values()] == ["_8_2.png", "_9_2.png", "_10_2.png"]
    assert numbered([Path("f/a1_7.png")], Path("f")) == {7: Path("f/a1_7.png")}
    for names in (("1_1.png", "2_2.png"), ("a.png", "b.png"), ("a.png",), ("a1.png", "b2.png")):
        with pytest.raises(UserError, match="differ in one number alone"):
            numbered([Path("f") / name for name in names], Path("f"))
    with pytest.raises(UserError, match=r"lacks slice 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 between 0\.png and 99999999999"):
        numbered([Path("f/0.png"), Path("f/99999999999.png")], Path("f"))
    with pytest.raises(UserError, match="same slice twice"):
        numbered([Path("f/1.png"), Path("f/1.tif")], Path("f"))
