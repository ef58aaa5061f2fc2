import json
from collections.abc import Callable
from pathlib import Path

import pytest

from patchcl.core.errors import UserError
from patchcl.data.dataset import Dataset, read_dataset
from patchcl.data.scan import read_grid
from patchcl.data.splits import (
    Split,
    SplitSettings,
    cases_of,
    load_split,
    make_split,
    save_split,
    visible_to_training,
    with_split_of,
)

Make = Callable[..., Path]
TRAIN = {f"p{number}_frame{frame}": True for number in range(10) for frame in (1, 2)}


@pytest.fixture
def dataset(make_dataset: Make) -> Dataset:
    """Ten patients with masks, three without, two held out."""
    root = make_dataset(TRAIN | {"q0_frame1": False}, ("u0", "u1"), {"t0": True, "t1": False}, shape=(2, 2, 2))
    return read_dataset(root)


def split_file(tmp_path: Path, **sides: list[str]) -> SplitSettings:
    path = tmp_path / "split.json"
    path.write_text(json.dumps(sides))
    return SplitSettings(file=path)


def everyone(split: Split) -> list[str]:
    return sorted(patient for side in split.model_dump().values() for patient in side)


def test_the_default_split(dataset: Dataset) -> None:
    split = make_split(dataset, SplitSettings())
    assert [len(side) for side in split.model_dump().values()] == [8, 3, 2, 2]
    assert split.unlabeled == ("q0", "u0", "u1")
    assert split.test == ("t0", "t1")
    assert everyone(split) == sorted(dataset.patients)
    assert split == make_split(dataset, SplitSettings())
    assert split.validation != make_split(dataset, SplitSettings(seed=1)).validation
    assert len(make_split(dataset, SplitSettings(validation_fraction=0.5)).validation) == 5
    assert len(make_split(dataset, SplitSettings(validation_fraction=0.001)).validation) == 1
    assert len(make_split(dataset, SplitSettings(validation_fraction=0.999)).labeled) == 1


def test_with_a_share_of_0_everybody_with_a_mask_trains(dataset: Dataset) -> None:
    split, drawn = make_split(dataset, SplitSettings(validation_fraction=0)), make_split(dataset, SplitSettings())
    assert sorted(split.labeled) == sorted((*drawn.labeled, *drawn.validation))
    assert (split.validation, split.unlabeled, split.test) == ((), drawn.unlabeled, drawn.test)


@pytest.mark.parametrize("labeled", [1, 3, 8])
def test_hiding_masks_moves_patients_and_keeps_the_others(dataset: Dataset, labeled: int) -> None:
    full, split = make_split(dataset, SplitSettings()), make_split(dataset, SplitSettings(labeled=labeled))
    assert split.labeled == full.labeled[:labeled]
    assert set(split.unlabeled) == {*full.labeled[labeled:], *full.unlabeled}
    assert (split.validation, split.test) == (full.validation, full.test)


def test_labeled_patients_may_be_named(dataset: Dataset) -> None:
    split = make_split(dataset, SplitSettings(labeled=("p3", "p1")))
    assert split.labeled == ("p3", "p1")
    assert len(split.validation) == 2
    assert everyone(split) == sorted(dataset.patients)
    for wrong in (("q0",), ("t0",), ("nobody",), ()):
        with pytest.raises(UserError, match=rf"split\.labeled names .*{''.join(wrong)}"):
            make_split(dataset, SplitSettings(labeled=wrong))


@pytest.mark.parametrize("labeled", [0, 9])
def test_too_many_labeled_patients(dataset: Dataset, labeled: int) -> None:
    with pytest.raises(UserError, match=rf"split\.labeled is {labeled}, but .* has 8 .* Choose 1 to 8"):
        make_split(dataset, SplitSettings(labeled=labeled))


def test_one_patient_with_masks_is_too_few(make_dataset: Make) -> None:
    dataset = read_dataset(make_dataset({"a_frame1": True, "a_frame2": True, "b": False}, shape=(2, 2, 2)))
    with pytest.raises(UserError, match="has 1 training patients with a mask in labelsTr; at least 2"):
        make_split(dataset, SplitSettings())


def test_a_split_file_is_followed_in_its_order(dataset: Dataset, tmp_path: Path) -> None:
    settings = split_file(tmp_path, train=["p5", "q0", "p2", "p9"], validation=["p0"], test=["t1"])
    assert make_split(dataset, settings) == Split(
        labeled=("p5", "p2", "p9"), unlabeled=("q0",), validation=("p0",), test=("t1",)
    )
    fewer = make_split(dataset, settings.model_copy(update={"labeled": 2}))
    assert fewer.labeled == ("p5", "p2")
    assert set(fewer.unlabeled) == {"q0", "p9"}
    named = split_file(tmp_path, labeled=["p1"], unlabeled=["p2", "u0"], validation=["p0"], test=["p3"])
    assert make_split(dataset, named).model_dump() == {
        "labeled": ("p1",), "unlabeled": ("p2", "u0"), "validation": ("p0",), "test": ("p3",),
    }  # fmt: skip
    benchmark = split_file(
        tmp_path, train_patients_in_benchmark_order=["p4", "p1"], val_patients=["p0"], test_patients=["t0"],
        labelled_patients=["not", "ours"],
    )  # fmt: skip
    assert make_split(dataset, benchmark).labeled == ("p4", "p1")


@pytest.mark.parametrize(
    ("sides", "message"),
    [
        ({"train": ["p1", "x9"], "validation": ["p0"]}, r"split\.json names train patients .*: x9"),
        ({"train": ["p1"], "validation": ["x9"]}, r"split\.json names validation patients .*: x9"),
        ({"train": ["p1"], "validation": ["p0"], "test": ["x9"]}, r"split\.json names test patients .*: x9"),
        ({"train": ["p1", "t0"], "validation": ["p0"]}, r"split\.json names train patients .*: t0"),
        ({"train": ["p1", "p0"], "validation": ["p0"]}, "on two sides .*: p0"),
        ({"train": ["p1"], "validation": ["p0"], "test": ["p1"]}, "on two sides .*: p1"),
        ({"train": ["p1", "p1"], "validation": ["p0"]}, "on two sides .*: p1"),
        ({"train": ["p1"], "validation": ["q0"]}, "Validation patients without any mask .*: q0"),
        ({"labeled": ["q0", "p1"], "validation": ["p0"]}, "Labeled patients without any mask .*: q0"),
        ({"train": ["q0"], "validation": ["p0"]}, "no patient with a mask is left to learn from"),
        ({"train": ["p1"]}, r"split\.json must hold the lists"),
        ({"train": "p1", "validation": ["p0"]}, r"split\.json: train must be a list"),
    ],
)
def test_a_wrong_split_file_names_patient_and_side(
    dataset: Dataset, tmp_path: Path, sides: dict[str, list[str]], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        make_split(dataset, split_file(tmp_path, **sides))


def test_a_file_need_not_name_validation_patients_where_none_are_wanted(dataset: Dataset, tmp_path: Path) -> None:
    settings = split_file(tmp_path, train=["p3", "p1", "p0"], test=["t0"]).model_copy(
        update={"validation_fraction": 0.0, "labeled": 2}
    )
    split = make_split(dataset, settings)
    assert (split.labeled, split.unlabeled, split.validation) == (("p3", "p1"), ("p0",), ())


def folds_file(tmp_path: Path, *folds: object) -> SplitSettings:
    path = tmp_path / "splits_final.json"
    path.write_text(json.dumps(folds))
    return SplitSettings(file=path)


def scans(*patients: str) -> list[str]:
    return [f"{patient}_frame{frame}" for patient in patients for frame in (1, 2)]


def test_folds_of_nnunet_name_scans_with_masks_and_the_others_keep_their_place(
    dataset: Dataset, tmp_path: Path
) -> None:
    first = {"train": [*scans("p4", "p1", "p3"), "q0_frame1"], "val": ["p0_frame2"]}
    settings = folds_file(tmp_path, first, {"train": scans("p0"), "val": scans("p4", "p1")})
    assert make_split(dataset, settings) == Split(
        labeled=("p4", "p1", "p3"), unlabeled=("q0", "u0", "u1"), validation=("p0",), test=("t0", "t1")
    )
    assert make_split(dataset, settings.model_copy(update={"fold": 1})) == Split(
        labeled=("p0",), unlabeled=("q0", "u0", "u1"), validation=("p4", "p1"), test=("t0", "t1")
    )
    fewer = make_split(dataset, settings.model_copy(update={"labeled": 1}))
    assert (fewer.labeled, set(fewer.unlabeled)) == (("p4",), {"p1", "p3", "q0", "u0", "u1"})
    named = make_split(dataset, settings.model_copy(update={"labeled": ("p3",)}))
    assert (named.labeled, named.validation) == (("p3",), ("p0",))


def test_folds_follow_the_pattern_of_patients(make_dataset: Make, tmp_path: Path) -> None:
    dataset = read_dataset(make_dataset({"a1": True, "a2": True, "b1": True}, shape=(2, 2, 2)), "(.).")
    split = make_split(dataset, folds_file(tmp_path, {"train": ["a2", "a1"], "val": ["b1"]}))
    assert (split.labeled, split.validation) == (("a",), ("b",))


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        ([{"train": scans("p1", "p2"), "val": scans("p3")[:1] + scans("p2")[1:]}], r'both "train" and "val" .* p2\.'),
        ([{"train": ["p1_frame1", "p1"], "val": ["p0_frame1"]}], r"names scans that are neither .*: p1\."),
        ([{"train": ["p1_frame1", "t0"], "val": ["p0_frame1"]}], r"names scans that are neither .*: t0\."),
        ([{"train": ["p1_frame1"], "val": ["u0"]}], "Validation patients without any mask .*: u0"),
        ([{"train": ["u0"], "val": ["p1_frame1"]}], "no patient with a mask is left to learn from"),
        ([{"train": ["p1_frame1"]}], "must hold a list of folds"),
        ([{"train": ["p1_frame1"], "val": []}], "must hold a list of folds"),
        ([{"train": [1], "val": ["p1_frame1"]}], "must hold a list of folds"),
        (["p1"], "must hold a list of folds"),
        ([], r"split\.fold is 0, but .*splits_final\.json has 0 folds"),
    ],
)
def test_a_wrong_fold_names_scan_and_side(dataset: Dataset, tmp_path: Path, folds: list[object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_split(dataset, folds_file(tmp_path, *folds))


def test_a_fold_that_nothing_has_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    second = {"fold": 1}
    folds = folds_file(tmp_path, {"train": scans("p1"), "val": scans("p0")})
    lists = split_file(tmp_path, train=["p1"], validation=["p0"])
    for settings, message in (
        (folds, r"splits_final\.json has 1 folds"),
        (lists, r"split\.json is no list of folds"),
        (SplitSettings(), "no file has folds"),
    ):
        with pytest.raises(UserError, match=rf"split\.fold is 1, but .*{message}"):
            make_split(dataset, settings.model_copy(update=second))


def test_a_split_file_in_the_data_set_is_used_unless_the_settings_say_otherwise(make_dataset: Make) -> None:
    root = make_dataset({f"p{number}_frame1": True for number in range(4)}, ("u0",), {"t0": True})
    dataset = read_dataset(root)
    assert with_split_of(root, SplitSettings()) == (SplitSettings(), "")
    folds = [
        {"train": ["p3_frame1", "p1_frame1"], "val": ["p0_frame1"]},
        {"train": ["p0_frame1"], "val": ["p1_frame1"]},
    ]
    (root / "splits_final.json").write_text(json.dumps(folds))
    settings, line = with_split_of(root, SplitSettings(labeled=1))
    assert f"The split is that of {root / 'splits_final.json'}" in line
    assert make_split(dataset, settings) == Split(
        labeled=("p3",), unlabeled=("p1", "u0"), validation=("p0",), test=("t0",)
    )
    (root / "split.json").write_text('{"train": ["p2"], "validation": ["p1"], "test": ["p0"]}')
    settings, line = with_split_of(root, SplitSettings())
    assert "split.json" in line
    assert make_split(dataset, settings).test == ("p0",)
    for own in (SplitSettings(file=None), SplitSettings(file=root / "splits_final.json")):
        assert with_split_of(root, own) == (own, "")


def test_a_split_file_that_cannot_be_read(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.json cannot be read"):
        make_split(dataset, SplitSettings(file=tmp_path / "none.json"))
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(UserError, match=r"bad\.json cannot be read"):
        make_split(dataset, SplitSettings(file=tmp_path / "bad.json"))


def test_a_patient_in_two_folders_is_refused(make_dataset: Make) -> None:
    root = make_dataset({"a_frame1": False, "b": True, "c": True}, (), {"a_frame2": True}, shape=(2, 2, 2))
    dataset = read_dataset(root)
    split = make_split(dataset, SplitSettings())
    assert split.test == ("a",)
    assert "a" not in {*split.labeled, *split.unlabeled, *split.validation}
    masked = make_dataset({"c_frame1": True}, (), {"c_frame2": True}, shape=(2, 2, 2), root=root.with_name("masked"))
    with pytest.raises(UserError, match="has 0 training patients"):
        make_split(read_dataset(masked), SplitSettings())


def test_a_split_of_version_01_is_read_and_still_guarded(tmp_path: Path) -> None:
    split = Split(labeled=("a", "b"), unlabeled=("c",), validation=("d",), test=())
    content = {**split.model_dump(mode="json"), "fingerprint": split.hash}
    (tmp_path / "split.json").write_text(json.dumps(content))
    assert load_split(tmp_path / "split.json") == split
    (tmp_path / "split.json").write_text(json.dumps(content | {"test": ["e"]}))
    with pytest.raises(UserError, match="was changed after the run began"):
        load_split(tmp_path / "split.json")


def test_the_hash_follows_the_content() -> None:
    split = Split(labeled=("a", "b"), unlabeled=("c",), validation=("d",), test=())
    assert len(split.hash) == 64
    assert split.hash == split.model_copy(update={"labeled": ("b", "a")}).hash
    changed = [
        Split(labeled=("a",), unlabeled=("b", "c"), validation=("d",), test=()),
        Split(labeled=("a", "b"), unlabeled=("c",), validation=("d",), test=("e",)),
        Split(labeled=("a", "b"), unlabeled=("d",), validation=("c",), test=()),
        Split(labeled=("ab",), unlabeled=("c",), validation=("d",), test=()),
    ]
    assert len({split.hash, *(other.hash for other in changed)}) == 5


def test_training_is_handed_no_hidden_mask(dataset: Dataset) -> None:
    split = make_split(dataset, SplitSettings(labeled=3))
    visible = visible_to_training(dataset, split)
    shown = {case.patient for case in visible.cases if case.mask is not None}
    assert shown == {*split.labeled, *split.validation}
    assert visible.cases == tuple(
        case if case.mask is None or case.patient in shown else case._replace(mask=None)
        for case in dataset.cases
        if case.patient not in split.test
    )


def test_training_is_handed_no_test_scan_wherever_it_lies(dataset: Dataset, tmp_path: Path) -> None:
    sides = {"train": ["p1", "q0"], "validation": ["p0"], "test": ["p2", "t0"]}
    split = make_split(dataset, split_file(tmp_path, **sides))
    visible = visible_to_training(dataset, split)
    assert {case.patient for case in visible.cases} == {"p0", "p1", "q0"}


def test_scans_of_patients(dataset: Dataset) -> None:
    assert [case.name for case in cases_of(dataset, ("p1", "p0", "q0"), masked=True)] == [
        "p0_frame1", "p0_frame2", "p1_frame1", "p1_frame2",
    ]  # fmt: skip
    assert [case.name for case in cases_of(dataset, ("p1", "q0"), masked=False)] == ["q0_frame1"]
    assert len(cases_of(dataset, ("p1", "q0"), masked=None)) == 3


def test_a_split_file_cannot_bring_scans_out_of_the_test_folder(make_dataset: Make, tmp_path: Path) -> None:
    root = make_dataset({"a": True, "b_frame1": True, "c": True}, (), {"b_frame2": True}, shape=(2, 2, 2))
    dataset = read_dataset(root)
    for side in ("train", "validation"):
        sides = {"train": ["a"], "validation": ["c"]}
        settings = split_file(tmp_path, **sides | {side: [*sides[side], "b"]})
        with pytest.raises(UserError, match=r"imagesTs, which is for testing alone, are on another side: b\."):
            make_split(dataset, settings)
    tested = split_file(tmp_path, train=["a"], validation=["c"], test=["b"])
    assert make_split(dataset, tested).test == ("b",)


@pytest.mark.realdata
@pytest.mark.parametrize(("labeled", "slices"), [(3, 68), (7, 136), (14, 256), (None, 1312)])
def test_acdc_has_the_published_number_of_slices(acdc: Path, labeled: int | None, slices: int) -> None:
    dataset = read_dataset(acdc)
    split = make_split(dataset, SplitSettings(file=acdc / "ssl4mis_split.json", labeled=labeled))
    cases = cases_of(dataset, split.labeled, masked=True)
    assert sum(read_grid(case.images[0]).shape[2] for case in cases) == slices
    training = cases_of(dataset, (*split.labeled, *split.unlabeled), masked=None)
    assert sum(read_grid(case.images[0]).shape[2] for case in training) == 1312
    assert (len(split.validation), len(split.test)) == (10, 20)


def test_a_split_comes_back_as_it_was_saved(tmp_path):
    split = Split(labeled=("a", "b"), unlabeled=("c",), validation=("d",), test=())
    save_split(tmp_path / "split.json", split)
    assert load_split(tmp_path / "split.json") == split


def test_a_split_that_was_changed_after_the_fact_is_refused(tmp_path):
    path = tmp_path / "split.json"
    save_split(path, Split(labeled=("a",), unlabeled=(), validation=("d",), test=()))
    path.write_text(path.read_text().replace('"a"', '"b"'))
    with pytest.raises(UserError, match=r"split\.json was changed"):
        load_split(path)
    path.write_text("{}")
    with pytest.raises(UserError, match=r"split\.json cannot be read"):
        load_split(path)


def test_folds_in_the_data_set_are_left_aside_where_nobody_is_to_validate(tmp_path):
    """Who asks for all masks gets them; a split that is named, or that keeps a test side, still counts."""
    all_masks = SplitSettings(validation_fraction=0)
    (tmp_path / "splits_final.json").write_text(json.dumps([{"train": ["a"], "val": ["b"]}]))
    settings, line = with_split_of(tmp_path, all_masks)
    assert settings == all_masks
    assert "splits_final.json is left aside" in line
    assert with_split_of(tmp_path, SplitSettings())[0].file == tmp_path / "splits_final.json"
    (tmp_path / "split.json").write_text(json.dumps({"train": ["a"], "test": ["b"]}))
    assert with_split_of(tmp_path, all_masks)[0].file == tmp_path / "split.json"
