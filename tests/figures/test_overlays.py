import subprocess
import sys

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread

from patchcl.figures.overlays import (
    PALETTE,
    Panel,
    class_colour,
    mask_over_image,
    overlay_grid,
    png,
    pseudo_mask_strip,
    save_png,
)

CLASSES = ("background", "left", "right")


def test_x_runs_to_the_right_and_y_downwards():
    image = np.zeros((4, 6))
    image[3, 1] = 1
    shown = mask_over_image(image, None)
    assert shown.shape == (6, 4, 3)
    assert shown[1, 3].tolist() == [1, 1, 1]
    assert shown.sum() == 3


def test_a_class_is_tinted_by_its_own_colour_whatever_else_is_there():
    image, mask = np.zeros((3, 3)), np.zeros((3, 3), np.uint8)
    mask[2, 0] = 2
    alone = mask_over_image(image, mask)
    mask[0, 0] = 1
    together = mask_over_image(image, mask)
    assert alone[0, 2] == pytest.approx(0.35 * np.array(to_rgb(PALETTE[1])))
    assert together[0, 2].tolist() == alone[0, 2].tolist()
    assert not together[1:].any()


def test_every_intensity_range_becomes_black_to_white():
    ramp = np.linspace(-1000, 3000, 100).reshape(10, 10)
    shown = mask_over_image(ramp, None)
    assert (shown.min(), shown.max()) == (0, 1)
    assert np.isfinite(mask_over_image(np.full((3, 3), 7.0), None)).all()


def test_colours_repeat_only_when_used_up():
    assert len({class_colour(value) for value in range(1, 9)}) == 8
    assert class_colour(9) == class_colour(1)


def test_the_grid_has_a_panel_for_every_image_and_an_outline_for_every_class():
    image, mask = np.random.default_rng(0).random((20, 12)), np.zeros((20, 12), int)
    mask[2:8, 2:8], mask[10:14, 3:9] = 1, 2
    rows = [[Panel(image), Panel(image, mask, "Dice 0.5")], [Panel(image), Panel(image, np.zeros_like(mask))]]
    figure = overlay_grid(rows, ("image", "reference"), CLASSES, "A title", aspect=2.0)
    first, second, third, fourth = figure.axes
    assert [axis.get_title() for axis in figure.axes] == ["image", "reference", "", ""]
    assert [len(axis.collections) for axis in figure.axes] == [0, 2, 0, 0]
    assert second.get_xlabel() == "Dice 0.5"
    assert first.get_aspect() == third.get_aspect() == fourth.get_aspect() == 2.0
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["left", "right"]
    assert png(figure).startswith(b"\x89PNG")


def test_a_class_whose_name_begins_with_an_underscore_is_in_the_legend():
    figure = overlay_grid([[Panel(np.zeros((4, 4)))]], ("image",), ("background", "_x", "y"), "A title")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [" _x", "y"]


@pytest.mark.parametrize("rows", [1, 3])
def test_of_a_hundred_classes_the_legend_names_those_that_are_shown(rows):
    """A legend of all leaves the panels no room, of which matplotlib warns."""
    mask = np.zeros((20, 12), int)
    mask[2:8, 2:8], mask[10:14, 3:9] = 3, 77
    classes = ["background", *(f"structure number {value}" for value in range(1, 101))]
    figure = overlay_grid([[Panel(np.eye(20, 12), mask)]] * rows, ("image",), classes)
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert named == ["structure number 3", "structure number 77"]
    assert png(figure).startswith(b"\x89PNG")


def test_a_legend_of_many_shown_classes_makes_the_figure_higher():
    mask = np.arange(400).reshape(20, 20) // 4
    classes = [f"structure number {value}" for value in range(100)]
    figure = overlay_grid([[Panel(np.eye(20), mask), Panel(np.eye(20))]], ("image", "reference"), classes)
    assert len(figure.legends[0].get_texts()) == 99
    assert figure.get_figheight() > 5
    assert png(figure).startswith(b"\x89PNG")


def test_a_mask_that_fills_the_slice_has_no_outline():
    figure = overlay_grid([[Panel(np.eye(5), np.ones((5, 5), int))]], ("image",), CLASSES)
    assert not figure.axes[0].collections


@pytest.mark.parametrize("count", [1, 4, 6])
def test_the_strip_shows_up_to_four_images(tmp_path, count):
    draws = np.random.default_rng(0)
    path = tmp_path / "pictures" / "pseudo_masks_step_001000.png"
    pseudo_mask_strip(
        path,
        draws.random((count, 16, 16)),
        draws.integers(0, 3, (count, 16, 16)),
        draws.random((count, 16, 16)),
        CLASSES,
        "step 1000",
    )
    height, width, _ = imread(path).shape
    assert (height > width) == (count >= 4)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    if count == 6:
        assert height < 4.8 * 2.3 * 110


def test_uncertainty_is_shown_on_one_scale_whatever_the_step(tmp_path):
    """The uncertain half of an image is bright, the certain half dark, and a certain image is dark all over."""
    image, mask = np.zeros((1, 16, 16)), np.zeros((1, 16, 16), int)
    half = np.zeros((1, 16, 16))
    half[:, :8] = 1
    for name, uncertainty in {"half": half, "none": np.zeros_like(half)}.items():
        pseudo_mask_strip(tmp_path / f"{name}.png", image, mask, uncertainty, CLASSES)
    half_shown, none_shown = (imread(tmp_path / f"{name}.png")[..., :3].mean(axis=-1) for name in ("half", "none"))
    third = half_shown.shape[1] // 3
    middle = half_shown.shape[0] // 2
    panel = slice(2 * third + 10, 3 * third - 60)
    assert half_shown[middle, panel][:20].min() > 0.8
    assert half_shown[middle, panel][-20:].max() < 0.2
    assert none_shown[middle, panel].max() < 0.2


def test_a_row_of_pictures_may_be_shorter():
    image = np.eye(6)
    figure = overlay_grid([[Panel(image), Panel(image)], [Panel(image)]], ("one", "two"), CLASSES)
    assert [len(axis.images) for axis in figure.axes] == [1, 1, 1, 0]
    assert png(figure).startswith(b"\x89PNG")


def test_a_picture_is_written_whole(tmp_path):
    figure = Figure(figsize=(2, 1))
    figure.add_subplot().plot([1, 2], [3, 1])
    save_png(figure, tmp_path / "new" / "curve.png")
    assert (tmp_path / "new" / "curve.png").read_bytes() == png(figure)


def test_the_global_state_of_matplotlib_is_never_loaded():
    program = (
        "import sys, numpy; from patchcl.figures.overlays import *;"
        "png(overlay_grid([[Panel(numpy.eye(4))]], ['image'], ['background', 'left']));"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_colours_keep_their_hue():
    image = np.zeros((4, 6, 3))
    image[3, 1] = (200, 100, 50)
    shown = mask_over_image(image, None)
    assert shown.shape == (6, 4, 3)
    assert shown[1, 3, 0] == 1
    assert shown[1, 3].argsort().tolist() == [2, 1, 0]


def test_a_name_with_dollars_is_no_formula():
    figure = overlay_grid([[Panel(np.zeros((8, 8)))]], ["image"], ["background", "$\\frac{$", "$x$"], "$\\bad{$")
    assert png(figure).startswith(b"\x89PNG")
