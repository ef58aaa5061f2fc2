"""Folders written with h5py as the benchmark has them, against what our own reader finds after the import."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import h5py
import numpy as np
import pytest

from patchcl.core.errors import UserError
from patchcl.data.dataset import read_dataset
from patchcl.data.importers.ssl4mis import convert
from patchcl.data.importers.writer import write_raw_folder
from patchcl.data.preprocessing.plan import PlanSettings
from patchcl.data.preprocessing.planner import make_plan
from patchcl.data.scan import read_grid, read_image, read_mask
from patchcl.data.splits import SplitSettings, cases_of, make_split

TRAIN = ("patient099", "patient038", "patient050")
Volumes = dict[str, tuple[np.ndarray, np.ndarray]]


def save(path: Path, image: np.ndarray, label: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_dataset("image", data=image, compression="gzip")
        file.create_dataset("label", data=label, compression="gzip")


def scans(*patients: str) -> list[str]:
    return [f"{patient}_frame{frame:02d}" for patient in patients for frame in (1, 2)]


@pytest.fixture
def volumes() -> Volumes:
    """Scan -> image and label, (z, y, x); the second frame of the first patient has twelve slices."""
    random = np.random.default_rng(0)
    shapes = dict.fromkeys(scans(*TRAIN, "patient028", "patient011"), (4, 9, 7)) | {"patient099_frame02": (12, 9, 7)}
    return {
        name: (random.random(shape, dtype=np.float32), random.integers(0, 4, shape).astype(np.uint8))
        for name, shape in shapes.items()
    }


@pytest.fixture
def benchmark(tmp_path: Path, volumes: Volumes) -> Path:
    """The layout of ACDC in SSL4MIS: training slices in an order of their own, and volumes."""
    root = tmp_path / "ACDC"
    slices = []
    for name, (image, label) in volumes.items():
        if name.startswith(TRAIN):
            numbers = np.random.default_rng(len(name)).permutation(len(image)) + 1
            slices += [f"{name}_slice_{number}" for number in numbers]
            for number in numbers:
                save(root / "data" / "slices" / f"{name}_slice_{number}.h5", image[number - 1], label[number - 1])
        else:
            save(root / "data" / f"{name}.h5", image, label)
    lists = {"train_slices": slices, "val": scans("patient028"), "test": scans("patient011"), "train": scans(*TRAIN)}
    for list_name, entries in lists.items():
        (root / f"{list_name}.list").write_text("\n".join(entries) + "\n")
    return root


def imported(source: Path, out: Path) -> Path:
    return write_raw_folder(convert(source), out, ("RV", "MYO", "LV")).folder


def require_same(out: Path, volumes: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Every voxel is where the benchmark has it, z being the last axis now."""
    dataset = read_dataset(out)
    assert {case.name for case in dataset.cases} == set(volumes)
    for case in dataset.cases:
        image, label = volumes[case.name]
        assert case.mask is not None
        np.testing.assert_array_equal(read_image(case.images).voxels[0], image.transpose(2, 1, 0))
        np.testing.assert_array_equal(read_mask(case.mask, 4, read_grid(case.images[0])), label.transpose(2, 1, 0))


def test_every_voxel_and_the_order_of_patients_survive(benchmark: Path, volumes: Volumes, tmp_path: Path) -> None:
    out = imported(benchmark, tmp_path / "out")
    require_same(out, volumes)
    dataset = read_dataset(out)
    assert (dataset.name, dataset.classes) == ("ACDC", ("background", "RV", "MYO", "LV"))
    assert {case.name for case in dataset.cases if case.folder == "imagesTs"} == set(scans("patient011"))
    split = make_split(dataset, SplitSettings(file=out / "split.json", labeled=2))
    assert split.model_dump() == {
        "labeled": TRAIN[:2], "unlabeled": TRAIN[2:], "validation": ("patient028",), "test": ("patient011",),
    }  # fmt: skip
    labeled = cases_of(dataset, split.labeled, masked=True)
    assert sum(read_grid(case.images[0]).shape[2] for case in labeled) == 4 + 12 + 4 + 4
    plan = make_plan(dataset, PlanSettings())
    assert (plan.dimensions, plan.fit) == (2, "resize"), "and its spacing counts as lost"


def test_without_slices_the_volumes_are_taken(benchmark: Path, volumes: Volumes, tmp_path: Path) -> None:
    (benchmark / "train_slices.list").unlink()
    for name in scans(*TRAIN):
        save(benchmark / "data" / f"{name}.h5", *volumes[name])
    require_same(imported(benchmark, tmp_path / "out"), volumes)


def test_slices_may_be_counted_from_zero_and_the_test_list_may_be_missing(tmp_path: Path, volumes: Volumes) -> None:
    image, label = volumes["patient050_frame01"]
    root = tmp_path / "source"
    for number in range(4):
        save(root / "data" / "slices" / f"a_slice_{number}.h5", image[number], label[number])
    save(root / "data" / "b.h5", image, label)
    (root / "train_slices.list").write_text("a_slice_2.h5\n\na_slice_0\na_slice_3\na_slice_1")
    (root / "val.list").write_text("b")
    out = imported(root, tmp_path / "out")
    require_same(out, dict.fromkeys("ab", (image, label)))
    assert not (out / "imagesTs").exists()


def replaced(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new)


SLICE = "patient038_frame01_slice_2\n"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("train_slices", lambda text: replaced(text, SLICE, ""), "lacks slices of patient038_frame01, "),
        ("train_slices", lambda text: text + SLICE, "lacks slices of patient038_frame01, "),
        ("train_slices", lambda text: text + "patient038_frame01\n", "slices.list holds patient038_frame01;"),
        ("train_slices", lambda text: text + "x_slice_1\n", r"files that are not there: .*slices/x_slice_1\.h5"),
        ("train_slices", lambda text: "\n", "train_slices.list holds nothing"),
        ("val", lambda text: text + "patient077_frame01", r"files that are not there: .*data/patient077_frame01\.h5"),
        ("val", lambda text: text + "../patient028_frame01", r"val.list holds \.\./patient028_frame01"),
        ("val", lambda text: text + text, "val.list names scans more than once: patient028_frame01, patient028"),
        ("val", lambda text: text + "patient011_frame01", "ACDC lists scans more than once: patient011_frame01"),
        ("test", lambda text: "patient011_frame01\npatient028_frame02", "lists scans more than once: patient028"),
        ("test", lambda text: "patient011_frame01\npatient038_frame03", "files that are not there"),
    ],
)
def test_lists_that_cannot_be_right(
    benchmark: Path, tmp_path: Path, name: str, change: Callable[[str], str], message: str
) -> None:
    path = benchmark / f"{name}.list"
    path.write_text(change(path.read_text()))
    with pytest.raises(UserError, match=message):
        imported(benchmark, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["val.list", "train.list"])
def test_a_list_that_is_missing(benchmark: Path, name: str) -> None:
    (benchmark / "train_slices.list").unlink()
    (benchmark / name).unlink()
    with pytest.raises(UserError, match=rf"{name} cannot be read"):
        convert(benchmark)


PLANE, VOLUME = np.zeros((9, 7), np.float32), np.zeros((4, 9, 7), np.float32)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (b"no HDF5", "cannot be read"),
        ({"image": PLANE}, r"cannot be read as HDF5 with the arrays image and label \(.*'label'"),
        (
            {"image": PLANE, "label": PLANE[:5]},
            r"it holds image \(9, 7\) and label \(5, 7\), not two arrays of one size",
        ),
        ({"image": VOLUME, "label": VOLUME}, r"not two arrays of one size with 2 axes"),
        ({"image": PLANE[:, :5], "label": PLANE[:, :5]}, "the slices after it differ in size"),
        ({"image": PLANE, "label": PLANE + 0.5}, r"label holds .*0\.5.*; expected whole numbers from 0 to 255"),
        ({"image": PLANE, "label": PLANE - 1}, "label holds -1"),
    ],
)
def test_a_broken_file_is_named_and_nothing_is_left_behind(
    benchmark: Path, tmp_path: Path, broken: bytes | dict[str, np.ndarray], message: str
) -> None:
    path = benchmark / "data" / "slices" / "patient050_frame02_slice_1.h5"
    if isinstance(broken, bytes):
        path.write_bytes(broken)
    else:
        with h5py.File(path, "w") as file:
            for key, array in broken.items():
                file[key] = array
    with pytest.raises(UserError, match=rf"patient050_frame02_slice_1\.h5.*{message}"):
        imported(benchmark, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ACDC"]


def test_without_h5py_one_is_told_what_to_install(benchmark: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match=r"pip install 'patchcl\[hdf5\]'"):
        convert(benchmark)
