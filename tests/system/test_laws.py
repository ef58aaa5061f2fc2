"""Laws that every method must obey. A new method is covered by these as soon as it is registered."""

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from patchcl.core.batch import IGNORE, LabeledBatch, TrainingBatch, UnlabeledBatch
from patchcl.methods import build_method, method_class, settings_classes
from patchcl.methods.settings import MethodSettings, PatchCLSettings
from patchcl.networks.unet import UNet

NAMES = {settings: settings.model_fields["name"].default for settings in settings_classes()}
QUICK = {
    "warm_up_fraction": 0.0,
    "pretrain_fraction": 0.0,
    "ramp_fraction": 0.0,
    "teacher_passes": 2,
    "entropy_threshold": 1.0,
    "confidence_threshold": 0.0,
    "mix_probability": 1.0,
    "contrast": {"weight": 0.1, "memory_min_size": 2, "memory_length": 64, "patches_per_class": 4, "embedding_size": 8},
}
"""Settings, of those methods that have them, under which all of a method happens in its first steps."""
WEIGHTLESS = {"consistency_weight": 0.0, "contrast": None}
LEARNS_FROM = {
    "supervised": set(),
    "mean_teacher": {"strong"},
    "uncertainty_mean_teacher": {"strong"},
    "cross_pseudo": {"strong"},
    "fixmatch": {"strong"},
    "unimatch": {"weak", "strong", "second_strong"},
    "bcp": {"strong"},
    "patchcl": {"strong"},
}
"""Views of unlabeled images that a gradient must reach; the others are targets and must get none."""

every = pytest.mark.parametrize("kind", settings_classes(), ids=NAMES.get)
both = pytest.mark.parametrize("dimensions", [2, 3], ids=["slices", "volumes"])
semi = pytest.mark.parametrize("kind", [k for k in NAMES if method_class(NAMES[k]).needs_unlabeled], ids=NAMES.get)


def settings_of(kind: type[MethodSettings], **changes: object) -> MethodSettings:
    quick = QUICK | changes
    return kind(**{name: value for name, value in quick.items() if name in kind.model_fields})


def build(kind, task, **changes):
    torch.manual_seed(0)
    return build_method(settings_of(kind, **changes), task).train()


def learn(method, batches, optimizer, first: int = 0):
    for step, batch in enumerate(batches, start=first):
        torch.manual_seed(step)
        method(batch, step).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(step)


def sgd(method):
    return torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.05, momentum=0.9)


def equal_states(one, other) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)


@every
@both
def test_the_loss_is_a_finite_scalar_and_the_terms_are_for_the_log_only(kind, dimensions, make_task, make_batch):
    method = build(kind, make_task(dimensions))
    for step in range(3):
        result = method(make_batch(dimensions, seed=step), step)
        assert result.loss.shape == ()
        assert result.loss.isfinite()
        assert all(term.shape == () and term.isfinite() and not term.requires_grad for term in result.terms.values())
        result.loss.backward()


@every
@both
def test_everything_that_can_learn_is_reached_by_the_gradient_and_nothing_else(kind, dimensions, make_task, make_batch):
    method = build(kind, make_task(dimensions))
    for step in range(2):
        method.zero_grad()
        method(make_batch(dimensions), step).loss.backward()
    missed = [name for name, p in method.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert [name for name in missed if not name.endswith(".bias")] == []
    assert all(p.grad is None for p in method.parameters() if not p.requires_grad)


@every
def test_under_deep_supervision_masks_teach_the_lower_levels_of_the_pass_that_saw_their_images(
    kind, make_task, make_batch, monkeypatch
):
    """Every network that learns; `supervised_loss` is told where the images of its logits were in the last pass."""
    method = build(kind, make_task(features=(8, 8, 8, 16), deep_supervision=True))
    whole: dict[UNet, torch.Tensor] = {}
    told, loss, segment = [], method.supervised_loss, UNet.segment

    def segment_and_keep(network, image, feature_dropout=0.0):
        logits, features = segment(network, image, feature_dropout)
        if logits.requires_grad and feature_dropout == 0:
            whole[network] = logits
        return logits, features

    def look(logits, mask, first=0, network=method.student):
        told.append(torch.equal(whole[network][first : first + len(logits)], logits))
        return loss(logits, mask, first, network)

    monkeypatch.setattr(UNet, "segment", segment_and_keep)
    monkeypatch.setattr(method, "supervised_loss", look)
    method(make_batch(), 0).loss.backward()
    assert told
    assert all(told)
    for network in whole:
        assert all(weight.grad.any() for weight in network.classify_lower.parameters())


@every
@pytest.mark.parametrize("embed", ["features", "crops"])
def test_contrast_leaves_running_statistics_as_they_are_without_it(kind, embed, make_task, make_batch):
    """The mean and variance that batch norm keeps come from the method's own passes alone."""
    kept = []
    for weight in (0.0, 0.1):
        method = build(kind, make_task(2), contrast=QUICK["contrast"] | {"weight": weight, "embed": embed})
        before = {name: buffer.clone() for name, buffer in method.student.named_buffers()}
        torch.manual_seed(1)
        method(make_batch(2), 0)
        kept.append(dict(method.student.named_buffers()))
        assert any(not torch.equal(before[name], kept[-1][name]) for name in before)
    assert all(torch.equal(kept[0][name], kept[1][name]) for name in kept[0])


@every
@pytest.mark.parametrize(
    ("contrast", "dimensions"),
    [(None, 2), (QUICK["contrast"], 2), (QUICK["contrast"], 3)],
    ids=["", "contrast", "contrast of volumes"],
)
def test_the_gradient_reaches_exactly_the_views_learned_from(kind, dimensions, contrast, make_task, make_batch):
    if contrast is None and NAMES[kind] == "patchcl":
        contrast = {"weight": 0.0}
    method, batch = build(kind, make_task(dimensions), contrast=contrast), make_batch(dimensions)
    method(batch, 0)
    for view in batch.unlabeled:
        view.requires_grad_()
    method(batch, 1).loss.backward()
    reached = {
        name for name, view in batch.unlabeled._asdict().items() if view.grad is not None and view.grad.abs().sum() > 0
    }
    assert reached == LEARNS_FROM[NAMES[kind]]


@every
def test_the_teacher_starts_as_the_student_gets_no_gradient_and_follows_in_closed_form(kind, make_task, make_batch):
    method = build(kind, make_task(), teacher_decay=0.6)
    frozen = [name for name, p in method.named_parameters() if not p.requires_grad]
    assert {name.split(".")[0] for name in frozen} >= {"teacher"}
    pairs = [(name, name.replace("teacher", "student")) for name in frozen]
    state = {name: value.clone() for name, value in method.state_dict().items()}
    assert all(torch.equal(state[teacher], state[student]) for teacher, student in pairs)
    expected = {teacher: state[teacher].double() for teacher, _ in pairs}

    optimizer = sgd(method)
    for step in range(4):
        learn(method, [make_batch(seed=step)], optimizer, first=step)
        decay = min(0.6, (1 + step) / (10 + step))
        for teacher, student in pairs:
            expected[teacher] = decay * expected[teacher] + (1 - decay) * method.state_dict()[student].double()
    for teacher, _ in pairs:
        torch.testing.assert_close(method.state_dict()[teacher].double(), expected[teacher], rtol=1e-5, atol=1e-6)
        assert method.get_parameter(teacher).grad is None


@semi
@both
def test_zero_unlabeled_weight_is_supervised_learning_bit_for_bit(kind, dimensions, make_task, make_batch):
    none = WEIGHTLESS | ({"contrast": {"weight": 0.0}} if NAMES[kind] == "patchcl" else {})
    supervised = next(k for k, name in NAMES.items() if name == "supervised")
    methods = [build(kind, make_task(dimensions), **none), build(supervised, make_task(dimensions), contrast=None)]
    for method in methods:
        learn(method, [make_batch(dimensions, seed=step) for step in range(3)], sgd(method))
    state = methods[0].state_dict()
    assert all(torch.equal(state[name], value) for name, value in methods[1].state_dict().items())


@semi
def test_unlabeled_images_change_what_is_learned(kind, make_task, make_batch):
    """Else the law above would hold for a method that ignores them."""
    methods = [build(kind, make_task()) for _ in range(2)]
    for method, seed in zip(methods, (1, 2), strict=True):
        other = make_batch(seed=seed).unlabeled
        learn(method, [make_batch()._replace(unlabeled=other) for _ in range(3)], sgd(method))
    assert not equal_states(methods[0].student, methods[1].student)


@pytest.mark.parametrize(
    ("kind", "dimensions"),
    [*((kind, 2) for kind in settings_classes()), (PatchCLSettings, 3)],
    ids=lambda value: NAMES.get(value, value),
)
def test_a_saved_method_goes_on_exactly_as_one_that_was_not(kind, dimensions, make_task, make_batch):
    batches = [make_batch(dimensions, seed=step) for step in range(6)]
    straight = build(kind, make_task(dimensions))
    learn(straight, batches, sgd(straight))

    stopped = build(kind, make_task(dimensions))
    optimizer = sgd(stopped)
    learn(stopped, batches[:3], optimizer)
    saved = copy.deepcopy((stopped.state_dict(), optimizer.state_dict()))
    torch.manual_seed(123)
    resumed = build_method(settings_of(kind), make_task(dimensions)).train()
    resumed.load_state_dict(saved[0])
    optimizer = sgd(resumed)
    optimizer.load_state_dict(saved[1])
    learn(resumed, batches[3:], optimizer, first=3)
    assert equal_states(straight, resumed)


@every
def test_draws_depend_on_the_seed_of_the_step_alone(kind, make_task, make_batch):
    losses = []
    for noise in (0, 99):
        method = build(kind, make_task())
        torch.manual_seed(noise)
        torch.rand(5)
        learn(method, [make_batch(seed=step) for step in range(2)], sgd(method))
        torch.manual_seed(7)
        losses.append(method(make_batch(seed=3), 2).loss)
    assert torch.equal(*losses)


@every
def test_half_precision_gives_nearly_the_same_loss(kind, make_task, make_batch):
    losses = []
    for enabled in (False, True):
        method = build(kind, make_task())
        torch.manual_seed(0)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            losses.append(method(make_batch(), 0).loss)
    torch.testing.assert_close(*losses, rtol=0.05, atol=0.05)


@every
@both
def test_a_step_never_waits_for_a_value_from_the_device(kind, dimensions, make_task, make_batch, monkeypatch):
    """The meta device holds no values, so whatever asks for one fails."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # which does not know that device
    method = build(kind, make_task(dimensions)).to("meta")
    labeled, unlabeled = make_batch(dimensions)
    batch = TrainingBatch(LabeledBatch(*on_meta(labeled)), UnlabeledBatch(*on_meta(unlabeled)))
    method(batch, 0).loss.backward()
    method.after_step(0)


def on_meta(batch):
    return [view.to("meta") for view in batch]


class Pixelwise(UNet):
    """A network that sees every pixel by itself, so that a loss can know of a pixel's image by that pixel alone."""

    def __init__(self, dimensions):
        nn.Module.__init__(self)  # without the layers of a UNet
        conv = {2: nn.Conv2d, 3: nn.Conv3d}[dimensions]
        self.reduction, self.encoded_channels = (1,) * dimensions, 4
        self.encoded_reduction = self.reduction
        self.inlet, self.classify = conv(1, 4, kernel_size=1), conv(4, 3, kernel_size=1)

    def encode(self, image):
        return self.inlet(3 * image).tanh()

    def segment(self, image, feature_dropout=0.0):
        features = self.encode(image)
        return self.classify(features), features

    def forward(self, image, feature_dropout=0.0):
        return self.segment(image, feature_dropout)[0]


def pixelwise(kind, task, **changes):
    dimensions = len(task.size)
    return build(kind, task._replace(build_network=lambda: Pixelwise(dimensions)), **changes)


def loss_and_gradients(method, batch):
    """Of the second step on `batch`, when a memory has something to compare with."""
    method.zero_grad()
    for step in range(2):
        torch.manual_seed(step)
        result = method(batch, step)
    result.loss.backward()
    return result, [p.grad for p in method.parameters() if p.requires_grad]


def looked_at(batch, where):
    """The labeled images of `batch` with other pixels in places of the mask (B, *S) `where`."""
    image, mask = batch.labeled
    other = torch.rand(image.shape, generator=torch.Generator().manual_seed(1))
    return batch._replace(labeled=LabeledBatch(torch.where(where.unsqueeze(1), other, image), mask))


CONTRASTS = [
    {"embed": "features", "sampler": "topk", "entropy_source": "attended"},
    {"embed": "crops", "sampler": "coverage"},
    {"embed": "features", "sampler": "coverage", "loss": "info_nce"},
    {
        "where": "border",
        "positives": "other_images",
        "negative_classes": "neighbours",
        "patch_weights": "confidence",
    },
]


@every
@both
@pytest.mark.parametrize("contrast", CONTRASTS, ids=lambda contrast: "-".join(contrast.values()))
def test_nothing_is_learned_from_ignored_pixels(kind, dimensions, contrast, make_task, make_batch):
    contrast = QUICK["contrast"] | {"weight": 1.0, "patch_fraction": 0.5} | contrast
    batch, task = make_batch(dimensions, side=8), make_task(dimensions, side=8)
    ignored = torch.rand(batch.labeled.mask.shape, generator=torch.Generator().manual_seed(2)) < 0.3
    ignored[:, :3] = True
    partly = batch._replace(labeled=batch.labeled._replace(mask=batch.labeled.mask.masked_fill(ignored, IGNORE)))
    (result, gradients), (same, same_gradients), (other, _) = (
        loss_and_gradients(pixelwise(kind, task, contrast=contrast), seen)
        for seen in (partly, looked_at(partly, ignored), looked_at(partly, ~ignored))
    )
    assert torch.equal(result.loss, same.loss)
    assert all(torch.equal(one, two) for one, two in zip(gradients, same_gradients, strict=True))
    assert not torch.equal(result.loss, other.loss)
    assert result.terms["contrast"] > 0


@every
@both
def test_a_batch_of_which_nothing_is_annotated_has_a_finite_loss(kind, dimensions, make_task, make_batch):
    batch = make_batch(dimensions)
    nothing = batch._replace(labeled=batch.labeled._replace(mask=torch.full_like(batch.labeled.mask, IGNORE)))
    result, gradients = loss_and_gradients(build(kind, make_task(dimensions)), nothing)
    assert result.loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert result.terms["supervised"] == pytest.approx(0, abs=1e-5)
