"""Which channels are colours, and what full colour is."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchcl.data.dataset import Case, read_dataset
from patchcl.data.preprocessing.colours import are_colours, full_scale

Make = Callable[..., Path]


@pytest.mark.parametrize(
    ("names", "colours"), [("Rgb", True), (("red", "Green", "BLUE"), True), (("R", "G", "T1"), False)]
)
def test_names_tell_colours(make_dataset: Make, names: tuple[str, ...], colours: bool) -> None:
    dataset = read_dataset(make_dataset({"a": True}, channels=tuple(names)))
    assert are_colours(dataset, dataset.cases) == colours


def test_one_file_of_several_channels_is_in_colour(tmp_path: Path) -> None:
    (tmp_path / "imagesTr").mkdir()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "imagesTr" / "a_0000.png")
    channels = {str(number): f"stain {number}" for number in range(3)}
    description = {"channel_names": channels, "labels": {"background": 0, "A": 1}, "file_ending": ".png"}
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    dataset = read_dataset(tmp_path)
    assert are_colours(dataset, dataset.cases)


@pytest.mark.parametrize(("largest", "full"), [(1, 1.0), (2, 255.0), (255, 255.0), (256, 65535.0)])
def test_full_colour_is_told_by_the_largest_value(tmp_path: Path, largest: int, full: float) -> None:
    for name, value in {"a": 1, "b": largest}.items():
        Image.fromarray(np.full((2, 2), value, np.uint16)).save(tmp_path / f"{name}.png")
    cases = [Case(name, name, (tmp_path / f"{name}.png",), None, "imagesTr") for name in "ab"]
    assert full_scale(cases) == full
