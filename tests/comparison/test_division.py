"""Who learns and who judges; and that what makes no sense is refused."""

import json

import pytest

from patchcl.comparison.division import divide, division_hash, require_side, suggest_folds
from patchcl.core.errors import UserError
from patchcl.data.dataset import read_dataset
from patchcl.data.splits import Split, SplitSettings


@pytest.fixture
def dataset(make_dataset):
    return read_dataset(make_dataset(dict.fromkeys((f"p{number}" for number in range(8)), True)))


def test_without_folds_there_is_one_split_and_its_hash(dataset):
    (split,) = division = divide(dataset, SplitSettings(), None)
    assert len(split.validation) == 2
    assert division_hash(division) == split.hash


def test_with_folds_everybody_who_is_labeled_judges_once_and_of_a_count_only_those(dataset):
    for labeled, count in ((None, 8), (4, 4)):
        splits = divide(dataset, SplitSettings(labeled=labeled), 2)
        judges = [patient for split in splits for patient in split.validation]
        assert len(judges) == len(set(judges)) == count
        assert all({*split.labeled, *split.validation} == set(judges) for split in splits)


def test_the_hash_tells_who_judges_in_which_fold(dataset):
    hashes = {division_hash(divide(dataset, SplitSettings(seed=seed), folds)) for seed in (0, 1) for folds in (2, 3)}
    assert len(hashes) == 4


def test_a_count_of_labeled_patients_is_refused_where_a_file_has_the_folds(dataset, tmp_path):
    names = [f"p{number}" for number in range(8)]
    file = tmp_path / "splits_final.json"
    folds = [{"train": names[:4], "val": names[4:]}, {"train": names[4:], "val": names[:4]}]
    file.write_text(json.dumps(folds), encoding="utf-8")
    assert divide(dataset, SplitSettings(file=file), 2)[1].validation == tuple(names[:4])
    with pytest.raises(UserError, match="says who is in which fold, and --labeled 2 would"):
        divide(dataset, SplitSettings(file=file, labeled=2), 2)


def test_test_patients_are_not_scored_with_folds():
    require_side("validation", 2)
    require_side("test", None)
    with pytest.raises(UserError, match="Leave --on out; patchcl evaluate"):
        require_side("test", 2)


@pytest.mark.parametrize(
    ("validation", "labeled", "count", "told"),
    [
        (1, 5, None, "1 validation patient cannot show which run is to be used: that takes 6. With --folds 5 all 6 "),
        (5, 9, 9, "5 validation patients cannot show which run is to be used: that takes 6. With --folds 5 all 9 "),
        (6, 9, None, ""),
        (1, 4, None, ""),
        (1, 5, 5, ""),  # validation patients are none of the 5 that are asked for
    ],
)
def test_folds_are_suggested_where_they_give_a_verdict_that_validation_cannot(validation, labeled, count, told):
    judges = tuple(f"v{number}" for number in range(validation))
    split = Split(
        labeled=tuple(f"l{number}" for number in range(labeled)), unlabeled=(), validation=judges, test=("t",)
    )
    line = suggest_folds([split], count, None)
    assert line.startswith(told) if told else line == ""


def test_seeds_that_draw_other_validation_patients_judge_together():
    splits = [
        Split(labeled=("a",) * 9, unlabeled=(), validation=(f"{seed}a", f"{seed}b"), test=()) for seed in range(3)
    ]
    assert suggest_folds(splits, None, None) == ""
