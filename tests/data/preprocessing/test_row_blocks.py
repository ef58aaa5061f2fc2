"""A picture that comes some rows at a time is prepared as if it came at once."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchcl.core.errors import UserError
from patchcl.data.dataset import Case
from patchcl.data.formats import tiff
from patchcl.data.preprocessing.cache import prepare
from patchcl.data.preprocessing.plan import Plan
from patchcl.data.preprocessing.row_blocks import network_row_blocks
from patchcl.data.preprocessing.transforms import to_network_grid
from patchcl.data.scan import read_image


def plan_of(normalise: str) -> Plan:
    names = {"channels": ("R", "G", "B"), "classes": ("0", "A"), "ignore": 2}
    return Plan(
        dimensions=2, size=(16, 16), fit="crop", spacing_mm=(1.0, 1.0), normalise=normalise, window=(0, 255), **names
    )


def save_colours(path: Path, random: np.random.Generator) -> None:
    colours = random.integers(0, 256, (70, 45, 3)).astype(np.uint8)
    Image.fromarray(colours).save(path, compression="tiff_lzw", strip_size=16 * 45 * 3)


@pytest.mark.parametrize("normalise", ["rgb", "ct"])
def test_row_blocks_are_the_rows_of_the_whole_where_pixels_are_prepared_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, normalise: str
) -> None:
    image, by_pixel = tmp_path / "a.tif", plan_of(normalise)
    save_colours(image, np.random.default_rng(0))
    whole = to_network_grid(read_image([image]), by_pixel)[0]
    assert network_row_blocks([image], by_pixel) is None  # it can be held
    monkeypatch.setattr(tiff, "LARGE", 1000)
    blocks = network_row_blocks([image], by_pixel)
    assert blocks is not None
    rows = blocks.shape[0]
    pieces = [blocks.read(start, min(start + 32, rows)) for start in range(0, rows, 32)]
    assert len(pieces) > 1
    assert all(piece.shape[1] <= 32 for piece in pieces)
    np.testing.assert_array_equal(np.concatenate(pieces, axis=1), whole)
    for neighbours in ({"spacing_mm": (2.0, 2.0)}, {"size": (16, 64)}, {"normalise": "z_score"}, {"fit": "resize"}):
        assert network_row_blocks([image], by_pixel.model_copy(update=neighbours)) is None


@pytest.mark.parametrize("normalise", ["rgb", "ct"])
def test_a_large_picture_is_prepared_in_row_blocks_byte_for_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, normalise: str
) -> None:
    random, of_pieces = np.random.default_rng(0), plan_of(normalise)
    image, mask = tmp_path / "a.tif", tmp_path / "mask.tif"
    save_colours(image, random)
    classes = random.integers(0, 3, (70, 45)).astype(np.uint8)
    Image.fromarray(classes).save(mask, compression="tiff_lzw", strip_size=16 * 45)
    case = Case("a", "a", (image,), mask, "imagesTr")
    (whole,) = prepare([case], of_pieces, tmp_path / "whole")
    monkeypatch.setattr(tiff, "LARGE", 1000)  # and read at once would be half of it
    (blocked,) = prepare([case], of_pieces, tmp_path / "blocked")
    assert whole.mask is not None
    assert blocked.mask is not None
    assert blocked.image.read_bytes() == whole.image.read_bytes()
    assert blocked.mask.read_bytes() == whole.mask.read_bytes()
    np.testing.assert_allclose(np.load(blocked.signature), np.load(whole.signature), atol=1e-6)
    with pytest.raises(UserError, match="too large to be read at once"):  # half a resolution needs all of it
        prepare([case], of_pieces.model_copy(update={"spacing_mm": (2.0, 2.0)}), tmp_path / "coarse")
    beyond = of_pieces.model_copy(update={"normalise": "rgb", "window": (0, 100)})
    with pytest.raises(UserError, match=r"a\.tif: A colour has the value"):
        prepare([case], beyond, tmp_path / "beyond")
