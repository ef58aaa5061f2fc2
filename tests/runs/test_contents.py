"""What a run rests on: kept, read back, and compared."""

import pytest

from patchcl.config import load_settings
from patchcl.core.errors import UserError
from patchcl.data.preprocessing.plan import Plan
from patchcl.data.splits import Split
from patchcl.runs.contents import changed_files, contents_of, differences, read_contents, write_contents

PLAN = Plan(dimensions=2, fit="resize", size=(8, 8), normalise="z_score", channels=("MRI",), classes=("0", "A"))
SPLIT = Split(labeled=("a",), unlabeled=("b",), validation=("c",), test=())


def contents(*overrides: str, plan: Plan = PLAN, split: Split = SPLIT, classes=("0", "A"), **files: str):
    return contents_of(files.items(), load_settings(None, overrides), plan, split, classes, ("MRI",))


def test_contents_are_read_back_as_they_were(tmp_path):
    known = contents("training.seed=3", "augment.rotate_degrees=1e-5", one="1", other="2")
    write_contents(tmp_path / "contents.json", known)
    assert read_contents(tmp_path / "contents.json") == known
    assert differences(known, known) == []


@pytest.mark.parametrize("text", [None, "", "[]", "{}", "[" * 100_000])
def test_damaged_contents_are_one_message(text, tmp_path):
    if text is not None:
        (tmp_path / "contents.json").write_text(text)
    with pytest.raises(UserError, match=r"contents\.json cannot be read.*--accept-changes"):
        read_contents(tmp_path / "contents.json")


def test_every_difference_is_named():
    split = SPLIT.model_copy(update={"labeled": ("b",), "unlabeled": ("a",)})
    plan = PLAN.model_copy(update={"size": (16, 16)})
    now = contents("training.seed=1", plan=plan, split=split, classes=("0", "B"), same="1", new="2", changed="4")
    assert differences(contents(same="1", gone="2", changed="3"), now) == [
        "changed was replaced",
        "gone is gone",
        "new is new",
        "training.seed was 0, now 1",
        "plan: size was [8, 8], now [16, 16]",
        "the split: who is on which side",
        "dataset.json: classes were 0, A, now 0, B",
    ]


def test_where_things_lie_and_reasons_make_no_difference():
    plan = PLAN.model_copy(update={"reasons": {"size": "other words"}})
    moved = contents("data=/elsewhere", "cache=/there", "training.device=cpu", "training.memory_gib=1", plan=plan)
    assert differences(contents(), moved) == []


def test_a_setting_that_only_a_newer_version_knows_makes_no_difference():
    old = contents()
    fewer = {key: value for key, value in old.settings.items() if key != "training.compile"}
    assert differences(old.model_copy(update={"settings": fewer}), old) == []


def test_of_many_files_some_are_named_and_the_rest_counted():
    lines = list(changed_files({f"{number:02d}": "a" for number in range(25)}, {}))
    assert lines[:2] == ["00 is gone", "01 is gone"]
    assert lines[10:] == ["and 15 more: is gone"]
