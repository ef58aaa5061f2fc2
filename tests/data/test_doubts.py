"""Warnings before training: each where it belongs, none where nothing is doubtful."""

from patchcl.data.dataset import read_dataset
from patchcl.data.doubts import absent_classes, general_warnings, sides_matter, sparse_channels
from patchcl.data.preprocessing.plan import Plan
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


def test_few_voxels_that_decide_how_a_channel_is_scaled_are_told_by_what_becomes_of_them():
    plan = Plan(dimensions=2, fit="resize", size=(32, 32), normalise=("ct", "percentile"), channels=("CT", "PET"),
                classes=("background", "A"))  # fmt: skip
    lit = {"a": (0.001, 0.004), "b": (0.9, 0.005), "broken": ()}
    (line,) = sparse_channels(lit, plan)
    assert line.startswith("In 1 of 3 scans fewer than 0.5% of the voxels of PET are not background, for example 0.40%")
    assert "so all of them become 1, however bright" in line
    (line,) = sparse_channels(lit, plan.model_copy(update={"background": "ignored"}))
    assert "The 99.5 percentile of those few becomes 1." in line
    assert sparse_channels({"b": (0.9, 0.005)}, plan) == sparse_channels(lit, None) == []
