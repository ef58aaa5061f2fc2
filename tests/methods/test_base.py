"""What all methods share: the register, the loss, the contrast that is added, and the teacher."""

import copy
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

import patchcl.methods
from patchcl.core.batch import StepResult, StudentView
from patchcl.core.errors import UserError
from patchcl.methods import (
    METHODS,
    any_method_settings,
    build_method,
    method_class,
    method_names,
    settings,
    settings_classes,
)
from patchcl.methods.base import Method, weighted_sum
from patchcl.methods.settings import (
    BCPSettings,
    CrossPseudoSettings,
    FixMatchSettings,
    MeanTeacherSettings,
    MethodSettings,
    PatchCLSettings,
    SupervisedSettings,
    UncertaintyMeanTeacherSettings,
    UniMatchSettings,
)

CONTRAST = {"patches_per_class": 4, "embedding_size": 8, "memory_length": 64, "memory_min_size": 2}
CONTRIBUTING = Path(__file__).parents[2] / "CONTRIBUTING.md"


class Halved(Method[SupervisedSettings]):
    """Says nothing of what it has seen."""

    def training_step(self, batch, step):
        return StepResult(self.student(batch.labeled.image).mean() / 2, {})


def test_the_loss_is_the_weighted_sum_and_the_log_gets_the_terms_unweighted():
    weight = torch.tensor(3.0, requires_grad=True)
    result = weighted_sum(one=(2.0, weight), other=(0.5, weight * 4))
    result.loss.backward()
    assert result.loss.item() == pytest.approx(12)
    assert weight.grad.item() == pytest.approx(4)
    assert {name: term.item() for name, term in result.terms.items()} == {"one": 3, "other": 12}
    assert result.seen is None


def test_a_teacher_stays_in_evaluation_mode_when_the_method_trains(make_task):
    method = build_method(SupervisedSettings(), make_task()).train()
    assert method.student.training
    assert not any(module.training for module in method.teacher.modules())


@pytest.mark.parametrize("module", ["patchcl.methods", "patchcl.cli"])
def test_the_names_are_known_without_torch(module):
    said = "print(*patchcl.methods.method_names(), 'torch' in sys.modules)"
    code = f"import sys, {module}, patchcl.methods; {said}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [*METHODS, "False"]


def test_a_method_names_the_class_of_its_settings():
    assert Halved.settings_class is SupervisedSettings
    with pytest.raises(TypeError, match=r"Bare must name its settings: class Bare\(Method\[SomeSettings\]\)"):
        type("Bare", (Method,), {})


@pytest.mark.parametrize("name", method_names())
def test_contrast_is_added_once_to_what_the_step_returns(name, make_task, make_batch):
    """With its weight, half of which has faded after half of the steps; the loop is not given what was seen."""
    settings = method_class(name).settings_class(contrast=CONTRAST | {"weight": 0.5})
    method, results = build_method(settings, make_task(steps=10)).train(), []
    for step in (method.training_step, method):
        torch.manual_seed(1)
        results.append(step(make_batch(), 5))
    bare, whole = results
    assert (bare.seen is None, whole.seen is None) == (False, True)
    assert not bare.terms.keys() & {"contrast", "patches_0"}
    assert whole.terms["contrast"] > 0
    torch.testing.assert_close(whole.loss - bare.loss, 0.5 * 0.5 * whole.terms["contrast"])


def test_contrast_is_refused_where_a_method_does_not_say_what_it_has_seen(make_task, make_batch):
    assert Halved(SupervisedSettings(), make_task())(make_batch(), 0).loss.isfinite()
    with pytest.raises(UserError, match=r"method\.contrast: supervised does not say what it has seen"):
        Halved(SupervisedSettings(contrast=CONTRAST), make_task())(make_batch(), 0)


def test_the_method_of_contributing_works_as_it_is_written(make_task, make_batch, monkeypatch):
    text = CONTRIBUTING.read_text(encoding="utf-8")
    section = text.partition("## Add a method")[2]
    constants, code, line = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)[:3]
    name, target = re.findall(r'"(.+?)"', line)
    module = ModuleType(target.partition(":")[0])
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(settings, "SelfTrainingSettings", None, raising=False)  # is taken back afterwards
    exec(constants, settings.__dict__)
    exec(code, module.__dict__)
    monkeypatch.setitem(patchcl.methods.METHODS, name, target)

    kind = method_class(name).settings_class
    assert issubclass(kind, MethodSettings)
    assert kind in settings_classes()
    method = build_method(kind(confidence_threshold=0.4, contrast=CONTRAST), make_task()).train()
    result = method(make_batch(), 0)
    result.loss.backward()
    assert result.loss.isfinite()
    assert set(result.terms) >= {"supervised", "consistency", "contrast"}
    assert method.confidence_threshold == 0.4


@pytest.mark.parametrize(
    ("settings", "steps", "lengths"),
    [
        (PatchCLSettings(), 800, {"warm_up_steps": 240, "ramp_steps": 160}),
        (PatchCLSettings(), 22000, {"warm_up_steps": 660, "ramp_steps": 3300}),
        (PatchCLSettings(), 30000, {"warm_up_steps": 660, "ramp_steps": 3300}),
        (PatchCLSettings(warm_up_fraction=0.3), 22000, {"warm_up_steps": 6600, "ramp_steps": 3300}),
        (PatchCLSettings(ramp_fraction=0.2, ramp_max_steps=50), 22000, {"warm_up_steps": 660, "ramp_steps": 50}),
        (MeanTeacherSettings(), 30000, {"ramp_steps": 30000}),
        (MeanTeacherSettings(ramp_max_steps=3300), 30000, {"ramp_steps": 3300}),
        (BCPSettings(pretrain_max_steps=100), 30000, {"pretrain_steps": 100}),
        (UncertaintyMeanTeacherSettings(ramp_max_steps=500), 30000, {"ramp_steps": 500}),
    ],
)
def test_stages_are_fractions_of_the_run_up_to_a_limit_that_a_fraction_set_alone_does_not_have(
    settings, steps, lengths, make_task
):
    method = build_method(settings, make_task(steps=steps))
    assert {name: getattr(method, name) for name in lengths} == pytest.approx(lengths)


@pytest.mark.parametrize(
    ("settings", "network", "keeps_features"),
    [
        (MeanTeacherSettings(ramp_fraction=0.0), "teacher", True),
        (BCPSettings(pretrain_fraction=0.0), "teacher", True),
        (UncertaintyMeanTeacherSettings(noise=0.0), "teacher", False),
        (CrossPseudoSettings(ramp_fraction=0.0), "student", False),
        (FixMatchSettings(), "student", False),
        (UniMatchSettings(), "student", False),
    ],
    ids=lambda given: getattr(given, "name", None),
)
def test_a_method_says_what_it_has_seen(settings, network, keeps_features, make_task, make_batch):
    torch.manual_seed(0)
    method, batch = build_method(settings, make_task()).train(), make_batch()
    logits, features = getattr(copy.deepcopy(method), network).segment(batch.unlabeled.weak)
    seen = method.training_step(batch, 5).seen
    assert seen.labeled is batch.labeled
    assert seen.unlabeled is batch.unlabeled
    torch.testing.assert_close(seen.pseudo_probs, logits.softmax(dim=1))
    assert seen.strong_probs is None
    assert seen.features is None
    assert (seen.weak_features is not None) == keeps_features
    if keeps_features:
        torch.testing.assert_close(seen.weak_features, features)


def test_pretraining_has_seen_labeled_images_alone(make_task, make_batch):
    batch = make_batch()
    assert build_method(BCPSettings(), make_task()).training_step(batch, 0).seen == StudentView(batch.labeled)


def test_without_unlabeled_images_a_method_has_seen_labeled_ones_and_their_features(make_task, make_batch):
    torch.manual_seed(0)
    method, batch = build_method(FixMatchSettings(), make_task()).train(), make_batch()
    _, features = copy.deepcopy(method).student.segment(batch.labeled.image)
    seen = method.training_step(batch._replace(unlabeled=None), 5).seen
    assert seen.labeled is batch.labeled
    assert seen.unlabeled is None
    torch.testing.assert_close(seen.features, features)


def test_patchcl_has_seen_the_features_of_all_that_its_student_saw_and_accepts_what_is_sure(make_task, make_batch):
    """As the student sees the boxes of other images, too, these are what the contrast is told of."""
    torch.manual_seed(0)
    settings = PatchCLSettings(warm_up_fraction=0.0, mix_probability=0.0, confidence_threshold=0.4, contrast=CONTRAST)
    method, batch = build_method(settings, make_task(norm="instance")).train(), make_batch()
    with torch.no_grad():
        _, features = method.student.segment(torch.cat([batch.labeled.image, batch.unlabeled.strong]))
        sure = method.teacher(batch.unlabeled.weak).softmax(dim=1).max(dim=1).values >= 0.4
    result = method.training_step(batch, 0)
    torch.testing.assert_close(result.seen.features.detach(), features)
    assert 0.1 < sure.float().mean() < 0.9
    assert result.terms["accepted"] == sure.float().mean()


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        (PatchCLSettings(warm_up_fraction=0.5), ["warm-up"] * 2 + ["semi-supervised"] * 2),
        (BCPSettings(pretrain_fraction=0.25), ["pretraining"] + ["self-training"] * 3),
        *((kind(), ["all"] * 4) for kind in settings_classes() if kind not in (PatchCLSettings, BCPSettings)),
    ],
    ids=lambda given: getattr(given, "name", ""),
)
def test_steps_of_one_kind_have_one_name_and_every_pseudo_label_counts_unless_told(settings, names, make_task):
    method = build_method(settings, make_task(steps=4))
    assert [method.phase(step) for step in range(4)] == names
    assert method.confidence_threshold == getattr(settings, "confidence_threshold", 0.0)


def test_settings_are_those_of_the_method_that_they_name():
    adapter = TypeAdapter(any_method_settings())
    assert adapter.validate_python({"name": "bcp"}) == BCPSettings()
    with pytest.raises(ValidationError, match="does not match any of the expected tags"):
        adapter.validate_python({"name": "other"})
