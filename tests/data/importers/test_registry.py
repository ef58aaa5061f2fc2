"""One door for all layouts: an imported data set is one that patchcl checks and trains on."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from patchcl.config import load_settings
from patchcl.core.errors import UserError
from patchcl.data.check import check_data
from patchcl.data.dataset import read_dataset
from patchcl.data.importers.registry import (
    LAYOUTS,
    ImportOptions,
    describe,
    detect_layouts,
    import_dataset,
    load_importer,
    require_ours,
)
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
    options = ImportOptions(("RV", "MYO", "LV"), ("cine-MRI",))
    imported = import_dataset(sources[layout], tmp_path / "out", layout, options, lambda *done: told.append(done))
    out = imported.folder
    assert told[-1] == (4, 4)
    assert imported.unused == ()
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
        import_dataset(sources["pymic"], tmp_path / "out", "pymic", ImportOptions(channels=("T1", "T2")))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_options_that_a_layout_does_not_take_are_refused(layout, tmp_path):
    plain = ("images", "masks", "threshold", "objects")
    listed = {"table": ("threshold", "objects"), "pymic": ("threshold",)}
    pictures = {"plain": plain, "stacks": ("images", "masks", "spacing", "threshold")}
    taken = {**pictures, **listed, "dicom": ("series",), "arrays": ("spacing",)}.get(layout, ())
    options = ImportOptions(images="i", masks="m", series="thorax", spacing=(1,), threshold=9, objects=True)
    others = [name for name, value in options._asdict().items() if value is not None and name not in taken]
    names = ", ".join(f"--{name}" for name in ("structures", "channels", *taken))
    message = f"--layout {layout} takes {names}. Leave out {' and '.join(f'--{name}' for name in others)}."
    with pytest.raises(UserError) as error:
        import_dataset(tmp_path, tmp_path / "out", layout, options)
    assert str(error.value) == message


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_layout_is_registered_once(name):
    importer = load_importer(name)
    assert importer.name == name
    assert importer.description
    assert set(importer.options) <= set(ImportOptions._fields)
    modules = Path(sys.modules[load_importer.__module__].__file__).parent.glob("*.py")
    holding = [path.stem for path in modules if "\nIMPORTER = " in path.read_text()]
    assert sorted(LAYOUTS.values()) == sorted(holding), "a module without a name, or with two"


def test_names_are_known_without_the_libraries_of_the_importers():
    heavy = ("torch", "monai", "numpy", "nibabel", "pydicom", "highdicom", "SimpleITK", "PIL", "h5py", "scipy")
    code = f"import sys, patchcl.data.importers.registry as r; print(*r.LAYOUTS, *(set({heavy}) & set(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split() == [
        "plain",
        "table",
        "dicom",
        "crag",
        "kits19",
        "decathlon",
        "ssl4mis",
        "pymic",
        "arrays",
        "stacks",
    ]


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
        for path, content in copies.items():
            target = tmp_path / path.format(name)
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
    options = ImportOptions(("RV", "MYO", "LV") if layout == "kits19" else None)
    (foreign[layout] / "1st_manual").mkdir()
    (foreign[layout] / "1st_manual" / "a.png").write_bytes(b"")
    imported = import_dataset(foreign[layout], tmp_path / "out", None, options)
    images, masks = (
        (path.name for path in (tmp_path / "decathlon" / kind).iterdir()) for kind in ("imagesTr", "labelsTr")
    )
    beside = [f"imagesTr/{name}" for name in set(images) - set(masks)] if layout == "decathlon" else []
    assert imported.unused == ("1st_manual/ (1 file)", *beside)
    assert describe(imported).endswith(f"Not used of the source: {'; '.join(imported.unused)}.")
    report = check_data(imported.folder, SplitSettings(validation_fraction=0.25), PlanSettings())
    assert report.problems == ()
    assert report.sides["labeled"] == (3, 3)
    assert report.sides["validation"] == (1, 1)
    assert report.sides["unlabeled"] == ((0, 0) if layout == "decathlon" else (1, 1))
    require_ours(imported.folder)


def test_each_layout_is_detected_and_no_other(sources, foreign, write_series, tmp_path):
    write_series(np.zeros((4, 4, 3), np.int16), folder="dicom/patient")
    samples = sources | foreign | {"dicom": tmp_path / "dicom", "arrays": tmp_path / "arrays"}
    samples["stacks"] = tmp_path / "stacks"
    for kind in ("images", "masks"):
        (samples["stacks"] / kind / "anna").mkdir(parents=True)
        Image.fromarray(np.eye(4, dtype=np.uint8)).save(samples["stacks"] / kind / "anna" / "1.png")
    samples["arrays"].mkdir()
    np.savez(samples["arrays"] / "a.npz", image=np.zeros((4, 4)))
    assert set(samples) == set(LAYOUTS)
    for layout, folder in samples.items():
        detected = [name for name in LAYOUTS if load_importer(name).detect(folder)]
        assert set(detected) == {layout, *{"ssl4mis": ["arrays"]}.get(layout, [])}
        assert detect_layouts(folder) == [layout]
    assert detect_layouts(foreign["table"] / "scans.csv") == ["table"]


def test_lists_say_more_than_names_of_folders_and_those_more_than_endings(sources, foreign, write_series, tmp_path):
    for folder in ("image", "label"):
        (sources["pymic"] / folder).mkdir(exist_ok=True)
    shutil.copy(foreign["table"] / "scans.csv", foreign["plain"])
    (tmp_path / "series" / "masks").mkdir(parents=True)
    write_series(np.zeros((4, 4, 3), np.int16), folder="series/images/patient")
    for folder, layout, weaker in (
        (sources["pymic"], "pymic", "plain"),
        (foreign["plain"], "table", "plain"),
        (tmp_path / "series", "plain", "dicom"),
    ):
        assert load_importer(weaker).detect(folder)
        assert detect_layouts(folder) == [layout]


def test_what_has_no_foreign_layout(cardiac, tmp_path):
    (tmp_path / "notes.txt").write_text("image,mask")
    for nothing in (cardiac, tmp_path, tmp_path / "gone", cardiac / "dataset.json", tmp_path / "notes.txt"):
        assert detect_layouts(nothing) == []
        require_ours(nothing)


def test_a_data_set_of_ours_has_no_foreign_layout_whatever_lies_in_it(cardiac, tmp_path):
    shutil.copytree(cardiac, tmp_path / "ours")
    (tmp_path / "ours" / "scans.csv").write_text("image,mask\n")
    assert load_importer("table").detect(tmp_path / "ours")
    assert detect_layouts(tmp_path / "ours") == []


def test_without_one_layout_all_are_told(foreign, tmp_path):
    known = "\n".join(f"  {name}: {load_importer(name).description}" for name in LAYOUTS)
    for name in "gfedcba":
        (tmp_path / "unknown" / name).mkdir(parents=True)
    with pytest.raises(UserError) as error:
        import_dataset(tmp_path / "unknown", tmp_path / "out")
    assert str(error.value) == (
        f"{tmp_path / 'unknown'} has no known layout; it holds a, b, c, d, e and 2 more. Say by --layout which one it "
        f"has:\n{known}"
    )
    shutil.copytree(foreign["kits19"], foreign["crag"], dirs_exist_ok=True)
    with pytest.raises(UserError) as error:
        import_dataset(foreign["crag"], tmp_path / "out")
    assert (
        str(error.value) == f"{foreign['crag']} looks like crag and kits19. Say by --layout which one it has:\n{known}"
    )
    with pytest.raises(UserError, match=r"looks like the layout crag or kits19\. Import it first: .* --layout crag$"):
        require_ours(foreign["crag"])
    with pytest.raises(UserError, match=r"gone is no folder\. Name the folder of the data set"):
        import_dataset(tmp_path / "gone", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def two_masks(root, first, second, colours=None):
    """Two pictures and their masks, as indices where there are `colours` for each."""
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    for number, pixels in enumerate((first, second)):
        Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4) + np.uint8(number)).save(
            root / f"images/{number}.png"
        )
        mask = Image.fromarray(np.array(pixels, np.uint8).reshape(4, 4))
        if colours is not None:
            mask.putpalette(colours[number])
        mask.save(root / f"masks/{number}.png")
    return root


def test_masks_of_0_and_1_may_lie_among_those_of_0_and_255(tmp_path):
    study = two_masks(tmp_path / "study", [0, 1] * 8, [0, 0, 255, 255] * 4)
    imported = import_dataset(study, tmp_path / "out", "plain", ImportOptions(("gland",)))
    assert "255 became 1 (gland)" in describe(imported)
    for number, pixels in enumerate(([0, 1] * 8, [0, 0, 1, 1] * 4)):
        found = np.asarray(Image.open(tmp_path / f"out/labelsTr/{number}.png"))
        np.testing.assert_array_equal(found.ravel(), pixels)
    mixed = two_masks(tmp_path / "mixed", [0, 1] * 8, [0, 1, 255, 255] * 4)
    with pytest.raises(UserError, match="The masks hold the values 0, 1, 255"):
        import_dataset(mixed, tmp_path / "none", "plain")


def test_masks_quantised_one_by_one_are_refused(tmp_path):
    colours = [(0, 0, 0, 200, 0, 0, 0, 200, 0), (0, 0, 0, 0, 200, 0, 200, 0, 0)]
    study = two_masks(tmp_path / "study", [0, 1, 2, 1] * 4, [0, 2, 1, 2] * 4, colours)
    with pytest.raises(UserError, match="Masks have colour maps that differ: index 1 is"):
        import_dataset(study, tmp_path / "out", "plain")
    assert not (tmp_path / "out").exists()


def test_the_summary_says_what_became_of_the_values(tmp_path):
    for kind in ("images", "masks"):
        (tmp_path / "study" / kind).mkdir(parents=True)
        pixels = np.full((4, 4), 7, np.uint8) if kind == "images" else np.eye(4, dtype=np.uint8) * np.uint8(255)
        Image.fromarray(pixels).save(tmp_path / "study" / kind / "a.png")
    said = describe(import_dataset(tmp_path / "study", tmp_path / "one", "plain", ImportOptions(("gland",))))
    assert said == "1 scans, 1 with masks; classes: background, gland. Values in the masks: 255 became 1 (gland)."
    Image.fromarray(np.eye(4, dtype=np.uint8)).save(tmp_path / "study" / "masks" / "a.png")
    said = describe(import_dataset(tmp_path / "study", tmp_path / "two", "plain"))
    assert said == "1 scans, 1 with masks; classes: background, structure_1."


def test_pictures_in_tiff_with_grey_masks_go_in_with_a_threshold(tmp_path):
    study, greys = tmp_path / "study", np.arange(0, 256, 16, dtype=np.uint8).reshape(4, 4)
    for kind, pixels in (("images", greys.T), ("masks", greys)):
        (study / kind).mkdir(parents=True)
        for name in "ab":
            Image.fromarray(pixels).save(study / kind / f"{name}.tif")
    with pytest.raises(UserError, match=r"grey edges of one structure: --threshold 120, for the layouts plain, table"):
        import_dataset(study, tmp_path / "out")
    result = import_dataset(study, tmp_path / "out", None, ImportOptions(("gland",), threshold=128))
    assert describe(result) == "2 scans, 2 with masks; classes: background, gland."
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out/labelsTr/a.tif")), greys >= 128)
    assert (tmp_path / "out/imagesTr/a_0000.tif").read_bytes() == (study / "images/a.tif").read_bytes()
    for structures in (("a", "b"), ("gland=255",)):
        with pytest.raises(UserError, match="--threshold 128 makes one structure of masks, but --structures names"):
            import_dataset(study, tmp_path / "none", None, ImportOptions(structures, threshold=128))


@pytest.mark.parametrize("step", [1, 30])
def test_masks_that_number_objects_become_one_structure_and_keep_the_numbers(tmp_path, step):
    numbers = {name: np.arange(16).clip(max=last).reshape(4, 4) * step for name, last in (("a", 15), ("b", 9))}
    study = tmp_path / "study"
    for kind in ("images", "masks"):
        (study / kind).mkdir(parents=True)
    for name, ids in numbers.items():
        Image.fromarray((ids * 9 % 250).astype(np.uint8)).save(study / "images" / f"{name}.png")
        Image.fromarray(ids.astype(np.uint8 if step == 1 else np.uint16)).save(study / "masks" / f"{name}.png")
    with pytest.raises(UserError, match=r"number objects, (such as cells, with )?.*--objects|objects: --objects"):
        import_dataset(study, tmp_path / "out")
    result = import_dataset(study, tmp_path / "out", None, ImportOptions(("cell",), objects=True))
    assert result.labels == {"background": 0, "cell": 1}
    for name, ids in numbers.items():
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / f"out/labelsTr/{name}.png")), ids > 0)
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / f"out/instancesTr/{name}.png")), ids)
    for wrong, message in (
        ({"threshold": 9}, "exclude each other"),
        ({"structures": ("a", "b")}, "--objects makes one"),
    ):
        with pytest.raises(UserError, match=message):
            import_dataset(study, tmp_path / "none", "plain", ImportOptions(objects=True, **wrong))


def test_many_classes_are_no_objects(tmp_path):
    study, classes = tmp_path / "study", np.arange(16, dtype=np.uint8).reshape(4, 4)
    for kind in ("images", "masks"):
        (study / kind).mkdir(parents=True)
        for name, shown in (("a", classes), ("b", np.where(classes == 3, 0, classes))):
            Image.fromarray(shown.T if kind == "images" else shown).save(study / kind / f"{name}.png")
    assert len(import_dataset(study, tmp_path / "out").labels) == 16
