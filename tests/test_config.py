"""Which value wins, what is refused and how it is said, and that what is written can be read again."""

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from patchcl.config import Settings, load_settings, planned, read_settings, settings_yaml
from patchcl.core.errors import UserError
from patchcl.data.preprocessing.plan import Plan, save_plan
from patchcl.methods.mean_teacher import MeanTeacherSettings
from patchcl.methods.patchcl import PatchCLSettings
from patchcl.methods.supervised import SupervisedSettings


@pytest.fixture
def written(tmp_path):
    def write(text: str) -> Path:
        file = tmp_path / "settings.yaml"
        file.write_text(text, encoding="utf-8")
        return file

    return write


def test_without_file_and_overrides_there_are_the_defaults():
    settings = load_settings()
    assert settings == Settings()
    assert settings.method == PatchCLSettings()


def test_the_file_changes_defaults_and_the_last_override_changes_the_file(written):
    file = written("training: {steps: 10, seed: 7}\nnetwork: {norm: group}\n")
    settings = load_settings(file, ["training.steps=20", "training.steps=30"])
    assert (settings.training.steps, settings.training.seed, settings.network.norm) == (30, 7, "group")
    assert settings.training.learning_rate == Settings().training.learning_rate


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("training.learning_rate=1e-4", "training", "learning_rate", 1e-4),
        ("network.features=[8, 16]", "network", "features", (8, 16)),
        ("split.labeled=[a, b]", "split", "labeled", ("a", "b")),
        ("split.labeled=3", "split", "labeled", 3),
        ("split.labeled=null", "split", "labeled", None),
        ("split.patient_pattern=(?P<p>.+)=x", "split", "patient_pattern", "(?P<p>.+)=x"),
        ("augment.flip=false", "augment", "flip", False),
    ],
)
def test_an_override_is_read_as_yaml(override, section, key, value):
    assert getattr(getattr(load_settings(overrides=[override]), section), key) == value


@pytest.mark.parametrize(
    ("text", "overrides", "expected"),
    [
        ("method: supervised", [], SupervisedSettings()),
        ("method: {name: mean_teacher, ramp_fraction: 0.5}", [], MeanTeacherSettings(ramp_fraction=0.5)),
        ("method: {teacher_decay: 0.5}", [], PatchCLSettings(teacher_decay=0.5)),
        ("method: patchcl", ["method.name=supervised"], SupervisedSettings()),
        ("method: supervised", ["method.teacher_decay=0.5"], SupervisedSettings(teacher_decay=0.5)),
        ("", ["method=mean_teacher", "method.ramp_fraction=0"], MeanTeacherSettings(ramp_fraction=0)),
        ("method:", ["method.contrast.memory_min_size=5"], PatchCLSettings(contrast={"memory_min_size": 5})),
    ],
)
def test_a_method_can_be_named_in_short_and_its_settings_follow_its_name(written, text, overrides, expected):
    assert load_settings(written(text), overrides).method == expected


def test_what_is_written_is_read_again_with_every_default_spelled_out(tmp_path):
    overrides = ["method=mean_teacher", "plan.size=[32, 64]", "split.labeled=[ä, b]", "split.file=s.json", "data=scans"]
    settings = load_settings(overrides=overrides)
    text = settings_yaml(settings)
    file = tmp_path / "settings.yaml"
    file.write_text(text, encoding="utf-8")
    assert read_settings(file) == settings
    tree = yaml.safe_load(text)
    assert set(tree) == set(Settings.model_fields)
    for key in ("network", "plan", "split", "augment", "training"):
        assert set(tree[key]) == set(Settings.model_fields[key].annotation.model_fields)
    assert set(tree["method"]) == set(MeanTeacherSettings.model_fields)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainin.steps=4", "trainin is not a setting. Did you mean training?"),
        ("training.step=4", "training.step is not a setting. Did you mean steps?"),
        ("training.qqqq=4", "training.qqqq is not a setting."),
        ("method.contrast.overlp=4", "method.contrast.overlp is not a setting. Did you mean overlap?"),
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
        ("network.features=[0, 16]", "network.features.0 is 0: Input should be greater than 0."),
        ("network.norm=layer", "network.norm is 'layer': Input should be 'batch', 'instance' or 'group'."),
        ("augment.scale=1", "augment.scale is 1"),
        ("training.steps.x=4", "training.steps is {'x': 4}"),
        ("plan.normalise=z", "plan.normalise is 'z': Input should be 'min_max', 'percentile', "),
    ],
)
def test_a_wrong_setting_is_named_with_what_was_found(override, message):
    with pytest.raises(UserError) as error:
        load_settings(overrides=[override])
    assert str(error.value).startswith(f"In the settings:\n  {message}")


def test_group_norm_is_refused_where_channels_do_not_make_groups():
    with pytest.raises(UserError, match="12"):
        load_settings(overrides=["network.norm=group", "network.features=[8, 12]"])


def test_all_wrong_settings_are_told_at_once_with_their_file(written):
    file = written("training: {steps: 0, stepz: 1}\nmethod: {name: supervised, ramp_fraction: 0.5}\n")
    with pytest.raises(UserError) as error:
        load_settings(file)
    first, *lines = str(error.value).splitlines()
    assert first == f"In {file}:"
    assert {line.split()[0] for line in lines} == {"training.steps", "training.stepz", "method.ramp_fraction"}


@pytest.mark.parametrize("override", ["training.steps", "=4", "training.steps=[", "training.steps.x=4", "data.x=4"])
def test_an_override_that_cannot_be_placed_is_named(written, override):
    file = written("data: scans\ntraining: {steps: 5}")
    with pytest.raises(UserError) as error:
        load_settings(file, [override])
    assert repr(override) in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"training: [1\n", "is not valid YAML"),
        (b"training: \xff\n", "is not valid YAML"),
        (b"- training\n", "holds a list"),
        (b"7\n", "holds a int"),
    ],
)
@pytest.mark.parametrize("read", [load_settings, read_settings])
def test_a_file_without_settings_is_named(tmp_path, read, content, message):
    file = tmp_path / "settings.yaml"
    file.write_bytes(content)
    with pytest.raises(UserError) as error:
        read(file)
    assert str(file) in str(error.value)
    assert message in str(error.value)


@pytest.mark.parametrize("name", ["missing.yaml", "."])
def test_a_file_that_cannot_be_read_is_named(tmp_path, name):
    with pytest.raises(UserError, match="Cannot read the settings file") as error:
        load_settings(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)


def test_an_empty_file_holds_the_defaults(written):
    assert load_settings(written("")) == Settings()


@pytest.mark.parametrize(
    "file", sorted((Path(__file__).parents[1] / "experiments").glob("*.yaml")), ids=lambda file: file.stem
)
def test_every_published_experiment_can_be_run_again(file):
    assert load_settings(file) != Settings()


@pytest.fixture
def plan(tmp_path):
    return Plan(
        dimensions=2,
        fit="resize",
        size=(32, 32),
        normalise="percentile",
        channels=("MRI",),
        classes=("0", "A"),
        patch_fraction=0.2,
        labeled_per_batch=3,
        unlabeled_per_batch=2,
    )


@pytest.mark.parametrize(
    ("text", "overrides", "expected"),
    [
        ("", [], (3, 2)),
        ("training: {labeled_per_batch: 5}", [], (5, 2)),
        (
            "training: {labeled_per_batch: 5}",
            ["training.labeled_per_batch=6", "training.unlabeled_per_batch=12"],
            (6, 12),
        ),
    ],
)
def test_the_batch_of_a_plan_file_stands_unless_it_is_set(tmp_path, written, plan, text, overrides, expected):
    save_plan(tmp_path / "plan.yaml", plan)
    training = load_settings(written(text), [*overrides, f"plan.file={tmp_path / 'plan.yaml'}"]).training
    assert (training.labeled_per_batch, training.unlabeled_per_batch) == expected
    save_plan(tmp_path / "plan.yaml", plan.model_copy(update={"unlabeled_per_batch": None}))
    training = load_settings(None, [f"plan.file={tmp_path / 'plan.yaml'}"]).training
    assert (training.labeled_per_batch, training.unlabeled_per_batch) == (3, 12)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], None),
        (["method.contrast.weight=0.2"], None),
        (["method.contrast.patch_fraction=0.25"], 0.25),
        (["method=fixmatch", "method.contrast.patch_fraction=0.5"], 0.5),
        (["method.contrast.patch_fraction=0.5", "plan.patch_fraction=0.3"], 0.3),
        (["method=supervised"], None),
    ],
)
def test_patches_that_the_user_has_set_are_those_of_the_plan(overrides, expected):
    assert load_settings(overrides=overrides).plan.patch_fraction == expected


def test_the_patches_of_the_plan_are_those_of_the_method(plan):
    settings = load_settings(overrides=["method.contrast.weight=0.3"])
    contrast = planned(settings, plan).method.contrast
    assert contrast == settings.method.contrast.model_copy(update={"patch_fraction": 0.2})
    assert planned(settings, plan).training == settings.training
    assert planned(settings, plan.model_copy(update={"patch_fraction": None})) == settings
    supervised = load_settings(overrides=["method=supervised"])
    assert planned(supervised, plan) == supervised


def test_classes_that_differ_by_their_side_are_not_mirrored_unless_asked_for(plan):
    sides = plan.model_copy(update={"classes": ("background", "left kidney", "right kidney")})
    assert planned(load_settings(), plan).augment.flip
    augment = planned(load_settings(), sides).augment
    assert (augment.flip, augment.rotate_90, augment.scale) == (False, False, load_settings().augment.scale)
    assert planned(load_settings(overrides=["augment.flip=true"]), sides).augment.flip


def test_settings_do_not_change_once_made():
    with pytest.raises(ValidationError, match="frozen"):
        load_settings().training.steps = 3
