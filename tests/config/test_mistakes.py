"""What is refused and how it is said."""

import pytest

from patchcl.config import load_settings, read_settings, settings_yaml
from patchcl.core.errors import UserError


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainin.steps=4", "trainin is not a setting. Did you mean training?"),
        ("training.step=4", "training.step is not a setting. Did you mean training.steps?"),
        (
            "training.labelled_per_batch=4",
            "training.labelled_per_batch is not a setting. Did you mean training.labe",
        ),
        ("training.sead=4", "training.sead is not a setting. Did you mean training.seed?"),
        ("split.fiel=a", "split.fiel is not a setting. Did you mean split.file?"),
        ("steps=4", "steps is not a setting. Did you mean training.steps?"),
        ("training.qqqq=4", "training.qqqq is not a setting."),
        ("method.contrast.overlp=4", "method.contrast.overlp is not a setting. Did you mean method.contrast.overlap?"),
        ("method.patchcl=4", "method.patchcl is not a setting."),
        ("[/red]=4", "[/red] is not a setting."),
        ("training.[0]=4", "training.[0] is not a setting."),
        ("patchcl.memory_min_size=4", "patchcl is not a setting."),
        ("method.name=unet", "method.name is 'unet'; choose one of bcp, cross_pseudo, "),
        ("method.contrast.memory_min_size=1", "method.contrast.memory_min_size is 1: Input should be greater than 1."),
        ("method=5", "method is 5"),
        ("training=5", "training is 5"),
        ("training.steps=0", "training.steps is 0: Input should be greater than 0."),
        ("training.steps=2.5", "training.steps is 2.5"),
        ("training.seed=-1", "training.seed is -1"),
        ("training.learning_rate=.nan", "training.learning_rate is nan"),
        ("training.precision=16", "training.precision is 16"),
        ("network.features=[16]", "network.features is [16]"),
        ("network.features=8,16", "network.features is '8,16': Input should be a list in brackets, such as [8, 16]."),
        ("network.features=[0, 16]", "network.features.0 is 0: Input should be greater than 0."),
        ("network.norm=layer", "network.norm is 'layer': Input should be 'batch', 'instance' or 'group'."),
        ("augment.scale=1", "augment.scale is 1"),
        ("training.steps.x=4", "training.steps is {'x': 4}"),
        ("method.smallest_box=0.9", "method: smallest_box 0.9 must not be above largest_box 0.6."),
        ("plan.normalise=z", "plan.normalise is 'z': Input should be 'min_max', 'percentile', "),
    ],
)
def test_a_wrong_setting_is_named_with_what_was_found(override, message):
    with pytest.raises(UserError) as error:
        load_settings(overrides=[override])
    assert str(error.value).startswith(f"In the settings:\n  {message}")


@pytest.mark.parametrize("without", ["network.deep_supervision=false", "network.features=[8, 16, 32]"])
def test_lower_levels_that_the_network_has_not_cannot_be_taught(without, tmp_path):
    with pytest.raises(UserError, match=r"^In the settings:\n  method.deep_consistency teaches lower levels .* four"):
        load_settings(overrides=["method.deep_consistency=true", without])
    settings = load_settings(overrides=["method.deep_consistency=true"])
    network = load_settings(overrides=[without]).network
    (tmp_path / "settings.yaml").write_text(settings_yaml(settings.model_copy(update={"network": network})))
    assert read_settings(tmp_path / "settings.yaml").method.deep_consistency  # of a run from before there was a rule


def test_all_wrong_settings_are_told_at_once_with_their_file(written):
    file = written("training: {steps: 0, stepz: 1}\nmethod: {name: supervised, ramp_fraction: 0.5}\n")
    with pytest.raises(UserError) as error:
        load_settings(file)
    first, *lines = str(error.value).splitlines()
    assert first == f"In {file}:"
    assert {line.split()[0] for line in lines} == {"training.steps", "training.stepz", "method.ramp_fraction"}
