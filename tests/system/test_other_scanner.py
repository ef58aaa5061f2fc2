"""The copy of a data set with scans of a made-up second scanner: who is changed, what stays, and what is not there."""

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from patchcl.data.dataset import read_dataset
from patchcl.data.scan import read_grid, read_image
from patchcl.data.splits import SplitSettings, make_split, with_split_of

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def scanner() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        return importlib.import_module("other_scanner")


def copied(scanner: ModuleType, monkeypatch: pytest.MonkeyPatch, data: Path, copy: Path, *more: str) -> dict:
    monkeypatch.setattr(sys, "argv", ["other_scanner.py", str(data), str(copy), "--labeled", "2", *more])
    scanner.main()
    return json.loads((copy / "split.json").read_text(encoding="utf-8"))


def test_half_of_the_unlabeled_and_all_of_validation_are_changed(scanner, monkeypatch, cardiac, tmp_path, capsys):
    said = copied(scanner, monkeypatch, cardiac, tmp_path / "copy")
    before, after = read_dataset(cardiac), read_dataset(tmp_path / "copy")
    split = make_split(after, with_split_of(tmp_path / "copy", SplitSettings())[0])
    assert split == make_split(before, SplitSettings(labeled=2))
    assert len(split.unlabeled) == 6
    assert len(set(said["changed"]) & set(split.unlabeled)) == 3
    assert set(said["changed"]) - set(split.unlabeled) == set(split.validation)
    assert len(said["turned_over"]) == 1
    assert set(said["turned_over"]) <= set(said["changed"]) & set(split.unlabeled)
    for case in before.cases:
        other = after.case(case.name)
        own, seen = read_image(case.images).voxels, read_image(other.images).voxels
        assert np.array_equal(own, seen) != (case.patient in said["changed"])
        alike = np.corrcoef(own.ravel(), seen.ravel())[0, 1]
        assert (alike < 0) == (case.patient in said["turned_over"])
        assert np.array_equal(read_grid(case.images[0]).affine, read_grid(other.images[0]).affine)
        assert (other.mask is None) == (case.mask is None or case.patient in split.unlabeled)
        assert case.folder == other.folder
    assert "of 6 unlabeled ones 3 from another scanner, 1 of them with contrast turned over" in capsys.readouterr().out


def test_the_seed_decides_everything(scanner, monkeypatch, cardiac, tmp_path):
    for name, seed in {"a": 0, "b": 0, "c": 1}.items():
        copied(scanner, monkeypatch, cardiac, tmp_path / name, "--seed", str(seed))
    files = {name: {str(f.relative_to(tmp_path / name)) for f in (tmp_path / name).rglob("*.*")} for name in "abc"}
    assert files["a"] == files["b"]

    def scans(name: str) -> list[np.ndarray]:
        return [read_image(case.images).voxels for case in read_dataset(tmp_path / name).cases]

    same = [np.array_equal(one, two) for one, two in zip(scans("a"), scans("b"), strict=True)]
    other = [np.array_equal(one, two) for one, two in zip(scans("a"), scans("c"), strict=True)]
    assert all(same)
    assert not all(other)


def test_a_folder_that_is_there_is_not_written_into(scanner, monkeypatch, cardiac, tmp_path):
    with pytest.raises(SystemExit, match="is there already"):
        copied(scanner, monkeypatch, cardiac, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_whole_numbers_stay_whole_and_in_their_range(scanner):
    draws = [np.random.default_rng(seed) for seed in (1, 2)]
    values = np.arange(16 * 20, dtype=np.uint8).reshape(16, 20)
    shown = scanner.scanned_elsewhere(values, (1.0, 1.0), *draws, True)
    assert (shown.dtype, shown.shape) == (np.dtype(np.uint8), (16, 20))
    field = scanner.bias_field((1, 16, 20), np.random.default_rng(0))
    assert np.log(field).std() == pytest.approx(scanner.BIAS)
