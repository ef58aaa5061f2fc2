"""Glands as CRAG has them, drawn by hand."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from patchcl.core.errors import UserError
from patchcl.data.importers.crag import convert, detect
from patchcl.data.importers.writer import write_raw_folder
from patchcl.data.scan import read_mask

SHAPE = (7, 9)


def glands(name: str) -> np.ndarray:
    """Two glands that touch, one with a large number, somewhere above or below the middle."""
    instances = np.zeros(SHAPE, np.int32)
    top = len(name) % 3
    instances[top : top + 3, 1:4] = 1
    instances[top : top + 3, 4:8] = 300 if name.endswith("2") else 2
    return instances


@pytest.fixture
def crag(tmp_path: Path) -> Path:
    """Three pictures to learn from, one of them without an annotation, and one in valid; .png and .mat."""
    for folder, name in (("train", "train_1"), ("train", "train_2"), ("train", "train_30"), ("valid", "test_10")):
        for kind in ("Images", "Annotation", "Overlay"):
            (tmp_path / "CRAG" / folder / kind).mkdir(parents=True, exist_ok=True)
        colours = np.random.default_rng(len(name)).integers(0, 256, (*SHAPE, 3), dtype=np.uint8)
        Image.fromarray(colours).save(tmp_path / "CRAG" / folder / "Images" / f"{name}.png")
        annotation = tmp_path / "CRAG" / folder / "Annotation" / name
        if name == "train_2":
            savemat(annotation.with_suffix(".mat"), {"inst_map": glands(name).astype(np.float64), "other": [1]})
        elif name != "train_30":
            Image.fromarray(glands(name).astype(np.uint8)).save(annotation.with_suffix(".png"))
    return tmp_path / "CRAG"


def test_glands_are_one_class_and_keep_their_numbers_beside_it(crag: Path, tmp_path: Path) -> None:
    found = convert(crag)
    assert (found.name, found.channels, found.ending) == ("CRAG", ("R", "G", "B"), ".png")
    assert {scan.name: scan.side for scan in found.scans} == {
        "train_1": "train", "train_2": "train", "train_30": "train", "test_10": "test"
    }  # fmt: skip
    out = tmp_path / "out"
    result = write_raw_folder(found, out)
    assert (result.labels, result.source_values, result.split) == ({"background": 0, "gland": 1}, {}, None)
    assert (out / "imagesUn" / "train_30_0000.png").is_file()
    for kind, name in (("Tr", "train_1"), ("Tr", "train_2"), ("Ts", "test_10")):
        np.testing.assert_array_equal(read_mask(out / f"labels{kind}" / f"{name}.png", 2), glands(name) > 0)
        with Image.open(out / f"instances{kind}" / f"{name}.png") as instances:
            np.testing.assert_array_equal(np.asarray(instances), glands(name))
        folder = {"Tr": "train", "Ts": "valid"}[kind]
        copy = out / f"images{kind}" / f"{name}_0000.png"
        assert copy.read_bytes() == (crag / folder / "Images" / f"{name}.png").read_bytes()


def test_pictures_for_training_alone_will_do(crag: Path) -> None:
    (crag / "valid").rename(crag / "else")
    assert detect(crag)
    assert len(convert(crag).scans) == 3
    (crag / "train" / "Annotation").rename(crag / "annotations")
    with pytest.raises(UserError, match="is not laid out like CRAG: expected train and valid, each with Images"):
        convert(crag)


def test_annotations_that_cannot_be_right(crag: Path, tmp_path: Path) -> None:
    folder = crag / "train" / "Annotation"
    savemat(folder / "train_2.mat", {"inst_map": glands("train_2")[:5]})
    with pytest.raises(
        UserError, match=r"train_2\.mat holds an array \(1, 5, 9\) of values from 0 to 300; expected \(1, 7"
    ):
        write_raw_folder(convert(crag), tmp_path / "out")
    savemat(folder / "train_2.mat", {"inst_map": glands("train_2") / 2.5})
    with pytest.raises(UserError, match=r"train_2\.mat holds an array .* from 0 to 120; expected"):
        write_raw_folder(convert(crag), tmp_path / "out")
    savemat(folder / "train_2.mat", {"inst_map": np.zeros((0, 0))})
    with pytest.raises(UserError, match=r"train_2\.mat holds an array \(1, 0, 0\)"):
        write_raw_folder(convert(crag), tmp_path / "out")
    savemat(folder / "train_2.mat", {"type_map": glands("train_2")})
    with pytest.raises(UserError, match=r"train_2\.mat cannot be read as a MATLAB file with inst_map \('inst_map'\)"):
        write_raw_folder(convert(crag), tmp_path / "out")
    (folder / "train_2.png").touch()
    with pytest.raises(UserError, match=r"Annotation holds both train_2\.mat and train_2\.png\. Keep one"):
        convert(crag)
    (folder / "train_2.png").rename(folder / "train_9.png")
    with pytest.raises(UserError, match=r"Annotation holds masks without an image: train_9\.png"):
        convert(crag)
    assert not (tmp_path / "out").exists()
