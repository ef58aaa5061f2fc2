"""Renamed settings: each new key is a setting, and no old one is."""

import pytest

from patchcl.config import load_settings
from patchcl.core.errors import UserError
from patchcl.core.renamed import RENAMED_SETTINGS
from patchcl.methods import settings_classes


def method_with(key: str) -> str:
    """The name of a method that has the setting, or any method for a setting of another section."""
    _, name, *_ = key.split(".")
    owners = [kind for kind in settings_classes() if name in kind.model_fields] or [settings_classes()[0]]
    return owners[0].model_fields["name"].default


@pytest.mark.parametrize(("old", "new"), RENAMED_SETTINGS.items())
def test_the_new_key_is_a_setting_and_the_old_one_is_not(old, new):
    value = "true" if new.startswith("augment") else "0.5"
    count = "32" if new.endswith("_size") else value
    name = f"method.name={method_with(new)}"
    assert load_settings(overrides=[name, f"{new}={count}"])
    with pytest.raises(UserError, match=old):
        load_settings(overrides=[name, f"{old}={count}"])


def test_no_setting_was_renamed_twice_or_into_another_section():
    assert not set(RENAMED_SETTINGS) & set(RENAMED_SETTINGS.values())
    assert len(set(RENAMED_SETTINGS.values())) == len(RENAMED_SETTINGS)
    assert all(old.rpartition(".")[0] == new.rpartition(".")[0] for old, new in RENAMED_SETTINGS.items())
