"""Masks whose colour maps differ are refused before their indices are taken for classes."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from patchcl.core.errors import UserError
from patchcl.data.colour_maps import require_one_colour_map

BLACK, RED, GREEN = (0, 0, 0), (200, 0, 0), (0, 200, 0)
INDICES = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)


def save(path: Path, indices: np.ndarray, *colours: tuple[int, int, int]) -> Path:
    if path.suffix == ".tif":
        table = np.zeros((3, 256), np.uint16)
        table[:, : len(colours)] = np.array(colours).T * 257
        tifffile.imwrite(path, indices, photometric="palette", colormap=table)
    else:
        picture = Image.fromarray(indices)
        picture.putpalette(np.array(colours, np.uint8).tobytes())
        picture.save(path)
    return path


def test_maps_that_agree_where_it_matters_are_one(tmp_path: Path) -> None:
    masks = [
        save(tmp_path / "a.png", INDICES, BLACK, RED, GREEN),
        save(tmp_path / "b.png", INDICES, BLACK, RED, GREEN, (1, 2, 3)),
        save(tmp_path / "c.tif", INDICES, BLACK, RED, GREEN),
        save(tmp_path / "d.png", np.minimum(INDICES, 1), BLACK, RED, (9, 9, 9)),  # which has no 2
    ]
    Image.fromarray(INDICES).save(tmp_path / "grey.png")
    (tmp_path / "damaged.png").write_bytes(b"damaged")
    require_one_colour_map([*masks, tmp_path / "grey.png", tmp_path / "damaged.png", tmp_path / "mask.nii.gz"])


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_an_index_of_two_colours_is_refused(tmp_path: Path, ending: str) -> None:
    masks = [save(tmp_path / "a.png", INDICES, BLACK, RED, GREEN)]
    masks.append(save(tmp_path / f"b{ending}", INDICES, BLACK, GREEN, RED))
    with pytest.raises(UserError) as caught:
        require_one_colour_map(masks)
    assert f"index 1 is the colour {RED} in {masks[0]}, but {GREEN} in {masks[1]}" in str(caught.value)


def test_a_colour_of_two_indices_is_refused(tmp_path: Path) -> None:
    """As a picture quantised by itself has them, in which nothing is red."""
    masks = [save(tmp_path / "a.png", INDICES, BLACK, RED, GREEN)]
    masks.append(save(tmp_path / "b.png", 3 * np.minimum(INDICES, 1), BLACK, BLACK, BLACK, RED))
    with pytest.raises(UserError) as caught:
        require_one_colour_map(masks)
    assert f"the colour {RED} has the index 1 in {masks[0]}, but 3 in {masks[1]}" in str(caught.value)
