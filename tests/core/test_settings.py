"""Trees of settings by dotted keys."""

import pytest
from pydantic import ValidationError

from patchcl.core.settings import FrozenSettings, differing_keys, flatten

TREE = {"data": None, "training": {"steps": 3, "sizes": [1, 2], "schedule": {"kind": "cosine"}}, "empty": {}}
KIND = "training.schedule.kind"


def test_every_setting_has_its_dotted_key() -> None:
    expected = {"data": None, "training.steps": 3, "training.sizes": [1, 2], "training.schedule.kind": "cosine"}
    assert flatten(TREE) == expected
    assert list(flatten(TREE)) == list(expected)
    assert flatten({"steps": 3, "inner": {"a": 1}}, "method.") == {"method.steps": 3, "method.inner.a": 1}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, []),
        ({"data": "there"}, ["data"]),
        ({"training": {**TREE["training"], "steps": 4, "schedule": {"kind": "linear"}}}, ["training.steps", KIND]),
        ({"training": None}, ["training.steps", "training.sizes", KIND, "training"]),
        ({"new": None}, ["new"]),
    ],
)
def test_what_differs_is_named_also_where_one_tree_lacks_it(change, expected) -> None:
    assert differing_keys(TREE, TREE | change) == expected
    assert sorted(differing_keys(TREE | change, TREE)) == sorted(expected)


def test_a_group_of_settings_is_frozen_and_refuses_what_it_does_not_know() -> None:
    class Two(FrozenSettings):
        one: int = 1

    with pytest.raises(ValidationError, match="frozen"):
        Two().one = 2
    with pytest.raises(ValidationError, match="Extra inputs"):
        Two(two=2)
