"""What a preset sets, and that everything else that is said has the last word."""

from typing import get_args

import pytest

from patchcl.config import Settings, load_settings, make_settings, read_settings, settings_yaml
from patchcl.config.presets import preset, with_preset
from patchcl.core.choices import Preset
from patchcl.core.errors import UserError
from patchcl.core.settings import flatten

NAMES = get_args(Preset)


@pytest.mark.parametrize("name", NAMES)
def test_all_that_a_preset_sets_is_set_and_nothing_else(name):
    own, settings = flatten(preset(name)), make_settings(preset=name)
    found = flatten(settings.model_dump(mode="json"))
    assert {key: found[key] for key in own} == own
    assert found | dict.fromkeys(["preset", *own]) == flatten(Settings().model_dump(mode="json")) | dict.fromkeys(
        ["preset", *own]
    )
    assert settings.preset == name


def test_presets_set_the_same_so_that_each_undoes_the_other():
    first, second = (set(flatten(preset(name))) for name in NAMES)
    assert first ^ second <= {"plan.input_interpolation", "augment.strong_intensity"}  # one leaves them to others


def test_the_file_and_single_settings_have_the_last_word_wherever_the_preset_is_named(written):
    file = written("preset: matched\naugment: {scale: 0.3}\nplan:\n")
    settings = load_settings(file, ["augment.shift=0.2"])
    assert (settings.augment.scale, settings.augment.shift, settings.augment.strong_intensity) == (0.3, 0.2, 0.6)
    assert settings.plan.output_interpolation == "linear"
    other = make_settings(config=file, preset="published")
    assert (other.preset, other.augment.scale, other.augment.ssl4mis_policy) == ("published", 0.3, True)
    assert other.inference.symmetries is False


def test_an_unknown_preset_is_refused_by_name():
    with pytest.raises(UserError, match=r"preset is 'strong': .*'published' or 'matched'"):
        make_settings(preset="strong")
    assert with_preset({"preset": ["matched"]}) == {"preset": ["matched"]}


def test_what_a_run_was_begun_with_is_kept_beside_it_and_not_applied_again(tmp_path):
    settings = make_settings(preset="published", settings={"augment.scale": 0.1})
    path = tmp_path / "settings.yaml"
    path.write_text(settings_yaml(settings).replace("scale: 0.1", "scale: 0.2"), encoding="utf-8")
    assert read_settings(path).augment.scale == 0.2
    assert read_settings(path).preset == "published"
    (tmp_path / "old.yaml").write_text("preset: published\n", encoding="utf-8")
    assert read_settings(tmp_path / "old.yaml").augment == Settings().augment
