"""Whole or not at all, and nothing written over."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from patchcl.core.errors import UserError
from patchcl.data.dataset import read_dataset
from patchcl.data.importers.writer import SourceDataset, SourceScan, Subset, write_raw_folder
from patchcl.data.scan import read_mask


def write_file(value: int, target: Path) -> set[int]:
    nib.save(nib.Nifti1Image(np.full((4, 4, 3), value, dtype=np.uint8), np.eye(4)), target)
    return {0, value}


def write_image(target: Path) -> None:
    write_file(7, target)


def write_values(values: Sequence[int], target: Path) -> set[int]:
    """A mask that holds each of `values` once, in their order, then zeros."""
    mask = np.zeros((4, 4, 3), np.uint8)
    mask.flat[: len(values)] = values
    nib.save(nib.Nifti1Image(mask, np.eye(4)), target)
    return set(values)


def scan(name: str, side: Subset, value: int | None = 1) -> SourceScan:
    mask = None if value is None else partial(write_file, value)
    return SourceScan(name, side, (write_image,), mask)


def found(*scans: SourceScan) -> SourceDataset:
    return SourceDataset("Tiny", ("MRI",), (*scans, scan("a", "train"), scan("v", "validation")))


def write(tmp_path: Path, *scans: SourceScan, structures: Sequence[str] | None = None) -> Path:
    return write_raw_folder(found(*scans), tmp_path / "out", structures).folder


def test_every_scan_goes_to_its_folder_and_is_reported(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    scans = (scan("u", "train", None), scan("t", "test"), scan("s", "test", None))
    (tmp_path / "out").mkdir()
    write_raw_folder(found(*scans), tmp_path / "out", on_progress=lambda *done: told.append(done))
    assert told == [(count, 5) for count in range(1, 6)]
    files = sorted(str(path.relative_to(tmp_path / "out")) for path in tmp_path.rglob("*.*"))
    assert files == [
        "dataset.json", "imagesTr/a_0000.nii.gz", "imagesTr/v_0000.nii.gz", "imagesTs/s_0000.nii.gz",
        "imagesTs/t_0000.nii.gz", "imagesUn/u_0000.nii.gz", "labelsTr/a.nii.gz", "labelsTr/v.nii.gz",
        "labelsTs/t.nii.gz", "split.json",
    ]  # fmt: skip
    assert read_dataset(tmp_path / "out").classes == ("background", "structure_1")


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").touch()
    with pytest.raises(UserError, match="out is not empty, and nothing is ever written over"):
        write(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="not empty"):
        write_raw_folder(found(), tmp_path / "file")
    with pytest.raises(UserError, match=r"file/out cannot be written: .* choose another folder"):
        write_raw_folder(found(), tmp_path / "file" / "out")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "out", "precious"]


@pytest.mark.parametrize("error", [UserError("broken"), OSError("disk full"), KeyboardInterrupt()])
def test_what_is_interrupted_leaves_nothing_behind(tmp_path: Path, error: BaseException) -> None:
    def stop(target: Path) -> None:
        target.write_bytes(b"half")
        raise error

    expected = UserError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected):
        write(tmp_path, SourceScan("b", "train", (stop,), None))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("value", "structures", "message"),
    [
        (3, None, r"hold the values 0, 1, 3; expected whole numbers from 0"),
        (3, ("A", "B"), "structures are A=1, B=2, but the masks hold the values 0, 1, 3. Name"),
        (2, ("A=2", "B=7"), "structures are A=2, B=7, but the masks hold the values 0, 1, 2"),
        (2, ("A", "A"), "--structures A,A: every structure needs a name of its own"),
        (2, ("background", "A"), "--structures background,A: every structure needs a name of its own"),
        (2, ("A=1", "B=1"), "A=1,B=1: .* and a value of its own"),
        (2, ("A=0", "B=1"), "A=0,B=1: .* and a value of its own from 1"),
        (2, ("A=1", "B=256"), "A=1,B=256: .* from 1 to 255"),
        (2, ("A=1", "B"), "--structures A=1,B: give all structures a value, or none"),
    ],
)
def test_values_that_no_structure_has(
    tmp_path: Path, value: int, structures: Sequence[str] | None, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        write(tmp_path, scan("b", "train", value), structures=structures)
    assert not list(tmp_path.iterdir())


def test_structures_may_be_absent_from_the_masks_if_they_are_named(tmp_path: Path) -> None:
    write(tmp_path, scan("b", "train", 3), structures=("A", "B", "C", "D"))
    assert read_dataset(tmp_path / "out").classes == ("background", "A", "B", "C", "D")


def test_masks_of_background_alone_teach_nothing(tmp_path: Path) -> None:
    scans = (scan("a", "train", 0), scan("v", "validation", 0))
    with pytest.raises(UserError, match="hold the values 0; expected"):
        write_raw_folder(SourceDataset("Tiny", ("MRI",), scans), tmp_path / "out", ("A",))


@pytest.mark.parametrize(
    ("values", "structures", "labels", "expected"),
    [
        ((0, 255), None, {"background": 0, "structure_1": 1}, (0, 1)),
        ((0, 255), ("A",), {"background": 0, "A": 1}, (0, 1)),
        ((0, 255), ("A=255",), {"background": 0, "A": 1}, (0, 1)),
        ((0, 170, 85), ("A=85", "B=170"), {"background": 0, "A": 1, "B": 2}, (0, 2, 1)),
        ((0, 1, 3), ("B=3", "A=1"), {"background": 0, "B": 1, "A": 2}, (0, 2, 1)),
        ((0, 255, 2), ("ignore=255", "A=2"), {"background": 0, "A": 1, "ignore": 2}, (0, 2, 1)),
    ],
)
def test_values_become_numbers_without_gaps(
    tmp_path: Path, values: Sequence[int], structures: Sequence[str] | None, labels: dict[str, int], expected: object
) -> None:
    precious = tmp_path / "precious.nii.gz"
    write_values(values, precious)
    before = precious.read_bytes()

    def link(target: Path) -> set[int]:
        target.hardlink_to(precious)
        return set(values)

    scans = tuple(SourceScan(name, side, (write_image,), link) for name, side in (("a", "train"), ("b", "test")))
    result = write_raw_folder(SourceDataset("Tiny", ("MRI",), scans), tmp_path / "out", structures)
    assert list(json.loads((tmp_path / "out" / "dataset.json").read_text())["labels"].items()) == list(labels.items())
    for mask in ("labelsTr/a.nii.gz", "labelsTs/b.nii.gz"):
        assert tuple(read_mask(result.folder / mask, 9).flat[: len(values)]) == expected
    assert precious.read_bytes() == before, "the source is linked to, and must not change"
    assert (result.labels, set(result.source_values)) == (labels, set(labels))
    assert all(result.source_values[name] == values[expected.index(labels[name])] for name in labels)  # type: ignore[attr-defined]


def test_a_source_may_name_its_structures_and_users_may_rename_them(tmp_path: Path) -> None:
    dataset = found()._replace(structures={"kidney": 1, "tumour": 2})
    assert write_raw_folder(dataset, tmp_path / "one").labels == {"background": 0, "kidney": 1, "tumour": 2}
    renamed = write_raw_folder(dataset, tmp_path / "two", ("K",))
    assert (renamed.labels, renamed.source_values) == ({"background": 0, "K": 1}, {})


def test_sides_are_written_where_there_is_somebody_to_validate_on(tmp_path: Path) -> None:
    with_sides = write_raw_folder(found(scan("t", "test"), scan("u", "train", None)), tmp_path / "one")
    assert with_sides.split == tmp_path / "one" / "split.json"
    assert (with_sides.scans, with_sides.masks) == (4, 3)
    assert json.loads(with_sides.split.read_text()) == {"train": ["u", "a"], "validation": ["v"], "test": ["t"]}
    without = write_raw_folder(
        SourceDataset("Tiny", ("MRI",), (scan("a", "train"), scan("t", "test"))), tmp_path / "two"
    )
    assert without.split is None
    assert not (without.folder / "split.json").exists()


def test_files_have_the_ending_of_the_data_set_and_objects_their_own_folder(tmp_path: Path) -> None:
    alone = scan("a", "train")._replace(instances=write_image)
    held_out = scan("t", "test")._replace(instances=write_image)
    write_raw_folder(SourceDataset("Tiny", ("MRI",), (alone, held_out), ".nii"), tmp_path / "out")
    files = sorted(str(path.relative_to(tmp_path / "out")) for path in tmp_path.rglob("*.nii*"))
    assert files == [
        "imagesTr/a_0000.nii", "imagesTs/t_0000.nii", "instancesTr/a.nii.gz", "instancesTs/t.nii.gz",
        "labelsTr/a.nii.gz", "labelsTs/t.nii.gz",
    ]  # fmt: skip
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["file_ending"] == ".nii"


@pytest.mark.parametrize(
    ("scans", "message"),
    [
        ((scan("a", "train", None),), "Tiny has no scan with a mask to learn from"),
        ((scan("a", "train"), scan("v", "validation", None)), "Tiny has no scan with a mask to validate on"),
        ((scan("a", "train"), scan("a", "train")), "Tiny lists scans more than once: a"),
        ((scan("a_scan1", "train"), scan("a_scan2", "test")), "Tiny has patients on two sides: a"),
    ],
)
def test_scans_that_contradict_each_other(tmp_path: Path, scans: tuple[SourceScan, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        write_raw_folder(SourceDataset("Tiny", ("MRI",), scans), tmp_path / "out")
    assert not list(tmp_path.iterdir())
