"""Warnings before training: each where it belongs, none where nothing is doubtful."""

from patchcl.data.dataset import read_dataset
from patchcl.data.doubts import absent_classes, general_warnings, sides_matter
from patchcl.data.splits import SplitSettings, make_split


def test_a_sound_data_set_brings_no_warning_and_one_without_unlabeled_scans_does(make_dataset):
    root = make_dataset({f"p{number}": True for number in range(4)}, ("u",))
    dataset = read_dataset(root)
    split = make_split(dataset, SplitSettings())
    assert general_warnings(dataset, split, {"background": 0.5, "A": 0.5}, False) == []
    alone = split.model_copy(update={"unlabeled": ()})
    assert any("no unlabeled scans" in line for line in general_warnings(dataset, alone, {"A": 1}, False))


def test_patients_on_no_side_are_named(make_dataset):
    dataset = read_dataset(make_dataset({f"p{number}": True for number in range(4)}, ("u",)))
    split = make_split(dataset, SplitSettings())
    fewer = split.model_copy(update={"labeled": split.labeled[1:]})
    (line,) = general_warnings(dataset, fewer, {"A": 1}, False)
    assert split.labeled[0] in line
    assert "1 patients on no side" in line


def test_classes_that_no_mask_holds_are_named():
    assert absent_classes({"background": 0.9, "A": 0.1}) == []
    assert absent_classes({"background": 0.9, "A": 0.0, "B": 0.0}) == [
        "No labeled mask holds A, B, so that cannot be learned."
    ]


def test_sides_are_warned_of_where_nobody_decided():
    assert "neither mirrored" in sides_matter(("background", "left kidney", "right kidney"))[0]
    assert "is on one side" in sides_matter(("background", "left atrium"))[0]
    assert sides_matter(("background", "left kidney", "right kidney"), decided=True) == []
    assert sides_matter(("background", "liver")) == []
