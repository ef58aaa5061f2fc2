"""One door for all layouts: an imported data set is one that patchcl checks and trains on."""

import json
import shutil
from pathlib import Path
from typing import get_args

import h5py
import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from patchcl import cli
from patchcl.config import load_settings
from patchcl.core.errors import UserError
from patchcl.data.check import check_data
from patchcl.data.dataset import read_dataset
from patchcl.data.importers.registry import READERS, Layout, describe, import_dataset, likely_layout, require_ours
from patchcl.data.preprocessing.plan import PlanSettings
from patchcl.data.splits import SplitSettings
from patchcl.training.experiment import start


@pytest.fixture
def sources(cardiac: Path, tmp_path: Path) -> dict[str, Path]:
    """Generated hearts in every layout; two patients teach, one validates, one tests."""
    names = sorted(path.name.removesuffix(".nii.gz") for path in (cardiac / "labelsTr").iterdir())
    ssl4mis, pymic = tmp_path / "ssl4mis", tmp_path / "pymic"
    (ssl4mis / "data" / "slices").mkdir(parents=True)
    (pymic / "image").mkdir(parents=True)
    lists: dict[str, list[str]] = {"train_slices": [], "val": names[2:3], "test": names[3:]}
    rows: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
    for number, name in enumerate(names):
        image, label = (
            nib.load(cardiac / folder) for folder in (f"imagesTr/{name}_0000.nii.gz", f"labelsTr/{name}.nii.gz")
        )
        nib.save(image, pymic / "image" / f"{name}.nii.gz")
        nib.save(label, pymic / "image" / f"{name}_seg.nii.gz")
        rows[["train", "train", "valid", "test"][number]].append(f"image/{name}.nii.gz,image/{name}_seg.nii.gz")
        arrays = {"image": np.asarray(image.dataobj, np.float32).T, "label": np.asarray(label.dataobj).T}
        pieces = (
            {f"slices/{name}_slice_{layer + 1}": layer for layer in range(len(arrays["image"]))} if number < 2 else {}
        )
        lists["train_slices"] += [Path(piece).name for piece in pieces]
        for piece, layer in pieces.items() or {name: slice(None)}.items():
            with h5py.File(ssl4mis / "data" / f"{piece}.h5", "w") as file:
                for key, array in arrays.items():
                    file[key] = array[layer]
    for list_name, entries in lists.items():
        (ssl4mis / f"{list_name}.list").write_text("\n".join(entries))
    for list_name, entries in rows.items():
        (pymic / f"{list_name}.csv").write_text("\n".join(["image,label", *entries]))
    return {"ssl4mis": ssl4mis, "pymic": pymic}


@pytest.mark.parametrize("layout", ["ssl4mis", "pymic"])
def test_an_imported_data_set_is_sound_and_trains(layout, sources, tmp_path, tiny):
    told = []
    arguments = (("RV", "MYO", "LV"), ["cine-MRI"], lambda *done: told.append(done))
    out = import_dataset(sources[layout], tmp_path / "out", layout, *arguments).folder
    assert told[-1] == (4, 4)
    assert read_dataset(out).channels == ("cine-MRI",)
    report = check_data(out, SplitSettings(file=out / "split.json", labeled=1), PlanSettings())
    assert report.problems == ()
    assert report.sides == {"labeled": (1, 1), "unlabeled": (1, 1), "validation": (1, 1), "test": (1, 1)}
    settings = load_settings(None, [*tiny, f"split.file={out / 'split.json'}", "split.labeled=1", "training.steps=1"])
    assert start(out, tmp_path / "run", settings, Console(quiet=True)).steps_done == 1


def test_mistakes_are_named(sources, tmp_path):
    with pytest.raises(UserError, match="--layout nifti is not known; choose one of plain, table, dicom, crag, "):
        import_dataset(sources["pymic"], tmp_path / "out", "nifti")
    with pytest.raises(UserError, match="gone is no folder"):
        import_dataset(tmp_path / "gone", tmp_path / "out", "pymic")
    with pytest.raises(UserError, match="--channels names 2, but scans have 1"):
        import_dataset(sources["pymic"], tmp_path / "out", "pymic", channels=["T1", "T2"])
    with pytest.raises(UserError, match="--images and --masks go with --layout plain; pymic has folders of its own"):
        import_dataset(sources["pymic"], tmp_path / "out", "pymic", images="image")
    with pytest.raises(UserError, match="--series goes with --layout dicom, and pymic has no series"):
        import_dataset(sources["pymic"], tmp_path / "out", "pymic", series="thorax")
    assert not (tmp_path / "out").exists()


def test_the_command_line_knows_the_layouts_there_are():
    assert get_args(cli.Layout) == get_args(Layout) == tuple(READERS)


@pytest.fixture
def foreign(cardiac: Path, tmp_path: Path) -> dict[str, Path]:
    """Four patients with masks and one without, in the layouts that know no validation side."""
    masks = {path.name.removesuffix(".nii.gz"): path for path in sorted((cardiac / "labelsTr").iterdir())}
    images = {name: cardiac / "imagesTr" / f"{name}_0000.nii.gz" for name in masks}
    unlabeled = min((cardiac / "imagesUn").iterdir())
    images[unlabeled.name.removesuffix("_0000.nii.gz")] = unlabeled
    rows = []
    for number, (name, image) in enumerate(images.items()):
        mask = masks.get(name)
        rows.append(f"{image},{mask or ''}")
        tile = np.asarray(nib.load(image).dataobj)[..., :3]
        glands = None if mask is None else np.asarray(nib.load(mask).dataobj)[..., 1]
        copies = {
            "plain/images/{}.nii.gz": image, "plain/masks/{}_seg.nii.gz": mask,
            f"kits19/case_{number:05d}/imaging.nii.gz": image, f"kits19/case_{number:05d}/segmentation.nii.gz": mask,
            "decathlon/imagesTr/{}.nii.gz": image, "decathlon/labelsTr/{}.nii.gz": mask,
            "crag/train/Images/{}.png": tile, "crag/train/Annotation/{}.png": glands,
        }  # fmt: skip
        for place, content in copies.items():
            target = tmp_path / place.format(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                shutil.copyfile(content, target)
            elif content is not None:
                Image.fromarray(content.astype(np.uint8)).save(target)
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "scans.csv").write_text("\n".join(["image,mask", *rows]))
    task = {
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "A", "2": "B", "3": "C"},
        "training": [{"image": f"imagesTr/{name}.nii.gz", "label": f"labelsTr/{name}.nii.gz"} for name in masks],
    }
    (tmp_path / "decathlon" / "dataset.json").write_text(json.dumps(task))
    return {layout: tmp_path / layout for layout in ("plain", "table", "kits19", "decathlon", "crag")}


@pytest.mark.parametrize("layout", ["plain", "table", "kits19", "decathlon", "crag"])
def test_a_layout_without_sides_is_recognised_imported_and_checked(layout, foreign, tmp_path):
    with pytest.raises(
        UserError, match=f"looks like the layout {layout}. Import it first: patchcl import .*{layout} -o"
    ):
        require_ours(foreign[layout])
    names = ("RV", "MYO", "LV") if layout == "kits19" else None
    imported = import_dataset(foreign[layout], tmp_path / "out", layout, names)
    report = check_data(imported.folder, SplitSettings(validation_fraction=0.25), PlanSettings())
    assert report.problems == ()
    assert report.sides["labeled"] == (3, 3)
    assert report.sides["validation"] == (1, 1)
    assert report.sides["unlabeled"] == ((0, 0) if layout == "decathlon" else (1, 1))
    require_ours(imported.folder)


def test_what_a_folder_looks_like(sources, cardiac, tmp_path):
    assert {layout: likely_layout(folder) for layout, folder in sources.items()} == {
        layout: layout for layout in sources
    }
    for nothing in (cardiac, tmp_path, tmp_path / "gone", cardiac / "dataset.json"):
        assert likely_layout(nothing) is None
        require_ours(nothing)


def test_the_summary_says_what_became_of_the_values(tmp_path):
    for kind in ("images", "masks"):
        (tmp_path / "study" / kind).mkdir(parents=True)
        pixels = np.full((4, 4), 7, np.uint8) if kind == "images" else np.eye(4, dtype=np.uint8) * np.uint8(255)
        Image.fromarray(pixels).save(tmp_path / "study" / kind / "a.png")
    said = describe(import_dataset(tmp_path / "study", tmp_path / "one", "plain", ["gland"]))
    assert said == "1 scans, 1 with masks; classes: background, gland. Values in the masks: 255 became 1 (gland)."
    Image.fromarray(np.eye(4, dtype=np.uint8)).save(tmp_path / "study" / "masks" / "a.png")
    said = describe(import_dataset(tmp_path / "study", tmp_path / "two", "plain"))
    assert said == "1 scans, 1 with masks; classes: background, structure_1."
