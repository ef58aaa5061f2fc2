"""One door for all layouts: an imported data set is one that patchcl checks and trains on."""

from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
from rich.console import Console

from patchcl.config import load_settings
from patchcl.data.check import check_data
from patchcl.data.dataset import read_dataset
from patchcl.data.importer import import_dataset
from patchcl.data.plan import PlanSettings
from patchcl.data.splits import SplitSettings
from patchcl.errors import UserError
from patchcl.experiment import start


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
    out = import_dataset(sources[layout], tmp_path / "out", layout, *arguments)
    assert told[-1] == (4, 4)
    assert read_dataset(out).channels == ("cine-MRI",)
    report = check_data(out, SplitSettings(file=out / "split.json", labeled=1), PlanSettings())
    assert report.problems == ()
    assert report.sides == {"labeled": (1, 1), "unlabeled": (1, 1), "validation": (1, 1), "test": (1, 1)}
    settings = load_settings(None, [*tiny, f"split.file={out / 'split.json'}", "split.labeled=1", "training.steps=1"])
    assert start(out, tmp_path / "run", settings, Console(quiet=True)).steps_done == 1


def test_mistakes_are_named(sources, tmp_path):
    with pytest.raises(UserError, match="--layout dicom is not known; choose one of ssl4mis, pymic"):
        import_dataset(sources["pymic"], tmp_path / "out", "dicom")
    with pytest.raises(UserError, match="gone is no folder"):
        import_dataset(tmp_path / "gone", tmp_path / "out", "pymic")
    with pytest.raises(UserError, match="--channels names 2, but scans have 1"):
        import_dataset(sources["pymic"], tmp_path / "out", "pymic", channels=["T1", "T2"])
    assert not (tmp_path / "out").exists()
