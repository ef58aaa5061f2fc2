"""Which value wins, what is refused and how it is said, and that what is written can be read again."""

from pathlib import Path

import pytest
import yaml

from patchcl.config import Settings, load_settings, read_settings, settings_yaml
from patchcl.core.errors import UserError
from patchcl.data.preprocessing.plan import save_plan
from patchcl.methods.settings import MeanTeacherSettings, PatchCLSettings, SupervisedSettings


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


def test_keys_with_dots_go_below_their_heading(written):
    settings = load_settings(written("training.steps: 7\ntraining: {seed: 3}\nmethod: supervised\nnetwork:\n"))
    assert (settings.training.steps, settings.training.seed, settings.method.name) == (7, 3, "supervised")
    with pytest.raises(UserError, match=r"gives training\.steps twice"):
        load_settings(written("training.steps: 7\ntraining: {steps: 3}\n"))
    with pytest.raises(UserError, match=r"training\.steps\.x: steps is a single setting"):
        load_settings(written("training.steps.x: 7\ntraining: {steps: 3}\n"))


def test_an_empty_file_holds_the_defaults(written):
    assert load_settings(written("")) == Settings()


@pytest.mark.parametrize(
    "file", sorted((Path(__file__).parents[2] / "experiments").glob("*.yaml")), ids=lambda file: file.stem
)
def test_every_published_experiment_can_be_run_again(file):
    assert load_settings(file) != Settings()


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
