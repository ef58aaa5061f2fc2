"""Every patient with masks is held out once; what is hidden or for testing stays so in every fold."""

import json

import pytest

from patchcl.core.errors import UserError
from patchcl.data.dataset import read_dataset
from patchcl.data.folds import fold_splits, joined
from patchcl.data.splits import SplitSettings, make_split


def test_every_labeled_patient_is_held_out_once_and_labeled_in_all_other_folds(cardiac):
    dataset, settings = read_dataset(cardiac), SplitSettings()
    whole = make_split(dataset, settings)
    splits = fold_splits(dataset, settings, 3)
    everyone = {*whole.labeled, *whole.validation}
    assert sorted(patient for split in splits for patient in split.validation) == sorted(everyone)
    for split in splits:
        assert {*split.labeled, *split.validation} == everyone
        assert not {*split.labeled} & {*split.validation}
        assert (set(split.unlabeled), split.test) == (set(whole.unlabeled), whole.test)
    assert sorted(len(split.validation) for split in splits) == [1, 1, 2]


def test_masks_that_are_hidden_stay_so_in_every_fold(cardiac):
    dataset, settings = read_dataset(cardiac), SplitSettings(labeled=2)
    whole = make_split(dataset, settings)
    for split in fold_splits(dataset, settings, 2):
        assert {*split.labeled, *split.validation} == {*whole.labeled}
        assert {*split.unlabeled} == {*whole.unlabeled, *whole.validation}


def test_folds_of_nnunet_are_taken_as_they_are(cardiac, tmp_path):
    dataset = read_dataset(cardiac)
    names = sorted(case.name for case in dataset.cases if case.mask is not None and case.folder == "imagesTr")
    file = tmp_path / "splits_final.json"
    file.write_text(json.dumps([{"train": names[2:], "val": names[:2]}, {"train": names[:2], "val": names[2:]}]))
    first, second = fold_splits(dataset, SplitSettings(file=file), 2)
    assert (first.labeled, first.validation) == (second.validation, second.labeled)
    with pytest.raises(UserError, match="has 2 folds, and --folds asks for 3"):
        fold_splits(dataset, SplitSettings(file=file), 3)


@pytest.mark.parametrize("count", [1, 5])
def test_there_are_no_more_folds_than_patients(cardiac, count):
    with pytest.raises(UserError, match=rf"--folds is {count}, but .* has 4 patients .* Choose 2 to 4 folds"):
        fold_splits(read_dataset(cardiac), SplitSettings(), count)


def test_all_folds_together_hold_nobody_out(cardiac):
    dataset = read_dataset(cardiac)
    whole, everyone = make_split(dataset, SplitSettings()), joined(fold_splits(dataset, SplitSettings(), 4))
    assert set(everyone.labeled) == {*whole.labeled, *whole.validation}
    assert (everyone.validation, everyone.test, set(everyone.unlabeled)) == ((), whole.test, set(whole.unlabeled))
