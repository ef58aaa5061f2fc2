"""What a call says becomes one tree: the file first, single settings next, named arguments last."""

import pytest

from patchcl.config import make_settings, overrides_of
from patchcl.core.errors import UserError


def test_named_arguments_have_the_last_word(written):
    file = written("training: {steps: 10, seed: 7, power: 0.5}")
    settings = make_settings(config=file, settings={"training.steps": 20, "training.seed": 8}, steps=30, labeled=3)
    training = settings.training
    assert (training.steps, training.seed, training.power, settings.split.labeled) == (30, 8, 0.5, 3)


@pytest.mark.parametrize("single", [{"network.features": (8, 16)}, ["network.features=[8, 16]"]])
def test_single_settings_are_values_or_as_the_command_line_has_them(single):
    assert make_settings(settings=single).network.features == (8, 16)


def test_what_is_not_given_changes_nothing_and_files_are_known_from_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert overrides_of(method=None, seed=None) == []
    assert overrides_of(split="split.json") == [f'split.file="{tmp_path / "split.json"}"']


def test_a_wrong_argument_is_named_by_its_setting():
    with pytest.raises(UserError, match=r"training\.precision is '16'"):
        make_settings(precision="16")
