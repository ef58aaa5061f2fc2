"""Patch contrast as a whole: what it remembers, what it compares, and what it must leave alone."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from patchcl.contrast import ContrastSettings
from patchcl.contrast import patch_contrast as module
from patchcl.contrast.class_maps import CLASSES_PER_STEP, ClassMaps, class_maps
from patchcl.contrast.hard_negatives import mixed, neighbour_weights, reweighted, slab, touching
from patchcl.contrast.loss import Moments, info_nce, pseudo_label_guided_contrast
from patchcl.contrast.memory_bank import ClassMemory
from patchcl.contrast.patch_contrast import PatchContrast, embedded, patch_side
from patchcl.contrast.patches import (
    ChosenPatches,
    class_attended_features,
    class_attended_patches,
    flip_at_random,
    patch_grid,
)
from patchcl.contrast.prototypes import Embedded, prototype_positive
from patchcl.core.batch import IGNORE, StudentView
from patchcl.losses.supervised import one_hot
from patchcl.methods.settings import SupervisedSettings
from patchcl.methods.supervised import Supervised
from patchcl.networks.ema import frozen_copy

SMALL = {"patches_per_class": 4, "embedding_size": 8, "memory_length": 64, "memory_min_size": 2}


def build(make_task, dimensions=2, norm="batch", **changes):
    torch.manual_seed(0)
    task = make_task(dimensions, norm=norm)
    student, settings = task.build_network().train(), ContrastSettings(**(SMALL | changes))
    student.embed_at(settings.levels)
    contrast = PatchContrast(settings, student, task.classes, task.size, task.steps)
    return contrast, student, frozen_copy(student)


def step(contrast, student, teacher, batch, number=0, seed=0):
    torch.manual_seed(seed)
    return contrast(student, teacher, StudentView(batch.labeled, features=student.encode(batch.labeled.image)), number)


def test_the_memory_holds_teacher_embeddings_under_the_classes_they_show(make_task, make_batch):
    contrast, student, teacher = build(make_task)
    _, terms = step(contrast, student, teacher, make_batch())
    drawn = torch.stack([terms[f"patches_{k}"] for k in range(3)]).long()
    assert drawn.sum() > 0
    assert torch.equal(contrast.memory.filled, drawn)
    lengths = contrast.memory.rows[:-1].norm(dim=1)
    assert ((lengths - 1).abs() < 1e-5).sum() == drawn.sum()


def test_the_loss_is_the_guided_one_with_explicit_means_and_covariances(make_task):
    contrast, *_ = build(make_task, covariance_ramp_fraction=0.0)
    generator = torch.Generator().manual_seed(0)
    rows = F.normalize(torch.randn(3, 20, 8, generator=generator), dim=2)
    contrast.memory.push(rows.flatten(0, 1), torch.arange(3).repeat_interleave(20))
    embedding = F.normalize(torch.randn(5, 8, generator=generator), dim=1)
    label = torch.tensor([0, 1, IGNORE, 2, 2])
    loss, collapsed = contrast.compare(embedding, label, 0)
    mean = rows.mean(dim=1)
    covariance = torch.stack([torch.cov(members.T, correction=0) for members in rows])
    seen = Moments(embedding @ mean.T, torch.einsum("pe,kef,pf->pk", embedding, covariance, embedding))
    expected = pseudo_label_guided_contrast(seen, label, torch.tensor([True] * 3), 0.2, 1.0, 4096.0)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(collapsed, torch.log(torch.tensor(1 + 4096 * 2 / 3)))


@pytest.mark.parametrize("sampler", ["entropy", "topk", "uniform", "coverage"])
@pytest.mark.parametrize("hard_negatives", ["none", "reweight", "mix", "slab"])
def test_every_sampler_goes_with_every_kind_of_negative(sampler, hard_negatives, make_task, make_batch):
    contrast, *networks = build(make_task, sampler=sampler, hard_negatives=hard_negatives)
    for number in range(3):
        loss, _ = step(contrast, *networks, make_batch(seed=number), number)
    loss.backward()
    assert loss > 0
    assert all(p.grad.isfinite().all() for p in contrast.student_head.parameters())
    assert all(p.grad is None for p in (*contrast.teacher_head.parameters(), *networks[1].parameters()))


@pytest.mark.parametrize(
    "changes",
    [
        *({"embed": "crops"}, {"loss": "info_nce"}, {"entropy_source": "attended"}, {"overlap": 0.2}),
        *({"levels": (1,)}, {"levels": (0, 2)}, {"levels": (2,), "embed": "crops"}, {"where": "border"}),
        {"patch_weights": "confidence", "negative_classes": "neighbours", "positives": "other_images"},
    ],
    ids=str,
)
@pytest.mark.parametrize("dimensions", [2, 3])
def test_every_other_switch_works_on_slices_and_volumes(changes, dimensions, make_task, make_batch):
    contrast, *networks = build(make_task, dimensions, **changes)
    for number in range(2):
        loss, terms = step(contrast, *networks, make_batch(dimensions, seed=number), number)
    loss.backward()
    assert loss > 0
    assert terms["contrast_over_collapse"].isfinite()


@pytest.mark.parametrize(
    "changes",
    [
        *({"sampler": name} for name in ("entropy", "topk", "uniform", "coverage")),
        *({"hard_negatives": name} for name in ("reweight", "mix", "slab")),
        *({"embed": "crops"}, {"loss": "info_nce"}, {"entropy_source": "attended"}, {"overlap": 0.2}),
        {"levels": (0, 2), "where": "border", "patch_weights": "confidence", "negative_classes": "neighbours"},
        {"positives": "other_images"},
    ],
    ids=str,
)
@pytest.mark.parametrize("count", [3, CLASSES_PER_STEP + 1])
def test_all_of_it_is_made_on_the_device_of_the_images(changes, count, make_task, make_batch, monkeypatch):
    """The meta device refuses to work with tensors of another, and holds no values that could be asked for."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # which does not know that device
    contrast, *networks = (part.to("meta") for part in many_classes(make_task, count, **changes))
    labeled, unlabeled = make_batch()
    views = (type(batch)(*(view.to("meta") for view in batch)) for batch in (labeled, unlabeled))
    probs = torch.rand(3, count, 16, 16, device="meta")
    loss, terms = contrast(*networks, StudentView(*views, probs), 0)
    loss.backward()
    assert {value.device.type for value in (loss, *terms.values())} == {"meta"}


@pytest.mark.parametrize("loss", ["pseudo_label_guided", "info_nce"])
def test_the_excess_over_collapse_is_zero_when_all_embeddings_coincide(loss, make_task, make_batch):
    contrast, *networks = build(make_task, loss=loss)
    for head in (contrast.student_head, contrast.teacher_head):
        torch.nn.init.zeros_(head[-1].weight)
        torch.nn.init.ones_(head[-1].bias)
    for number in range(2):
        value, terms = step(contrast, *networks, make_batch(), number)
    assert value > 1
    assert terms["contrast_over_collapse"].abs() < 1e-4
    assert contrast.diagnostics()["separability"] < 1e-6


@pytest.mark.parametrize("hard_negatives", ["none", "reweight", "mix", "slab"])
def test_hard_negatives_change_other_classes_and_never_the_own(hard_negatives, make_task):
    contrast, *_ = build(make_task, hard_negatives=hard_negatives)
    generator = torch.Generator().manual_seed(0)
    rows = F.normalize(torch.randn(3, 64, 8, generator=generator), dim=2)
    contrast.memory.push(rows.flatten(0, 1), torch.arange(3).repeat_interleave(64))
    embedding, label = F.normalize(torch.randn(6, 8, generator=generator), dim=1), torch.arange(6) % 3
    similarity = torch.einsum("pe,kme->pkm", embedding, contrast.memory.embedding)
    found = contrast.class_moments(embedding, label, contrast.remembered()).mean
    own = F.one_hot(label, 3).bool()
    torch.testing.assert_close(found[own], similarity.mean(dim=2)[own])
    assert torch.allclose(found[~own], similarity.mean(dim=2)[~own]) == (hard_negatives == "none")


@pytest.mark.parametrize("kind", ["reweight", "mix", "slab"])
def test_each_kind_of_mined_negatives_is_the_one_that_is_asked_for(kind, make_task):
    contrast, *_ = build(make_task, hard_negatives=kind)
    generator = torch.Generator().manual_seed(0)
    rows = F.normalize(torch.randn(3, 20, 8, generator=generator), dim=2)
    contrast.memory.push(rows.flatten(0, 1), torch.arange(3).repeat_interleave(20))
    embedding, memory = F.normalize(torch.randn(5, 8, generator=generator), dim=1), contrast.remembered()
    similarity = torch.einsum("pe,kme->pkm", embedding, memory.embedding)
    label = torch.zeros(5, dtype=torch.int64)
    torch.manual_seed(1)
    found = contrast.class_moments(embedding, label, memory).mean[:, 1:]
    torch.manual_seed(1)
    expected = {
        "reweight": lambda: reweighted(similarity, memory.written),
        "mix": lambda: mixed(embedding, similarity, memory.embedding, memory.written),
        "slab": lambda: slab(embedding, label, memory.embedding, memory.written),
    }[kind]()
    torch.testing.assert_close(found, expected.mean[:, 1:])


def test_the_entropy_that_is_logged_is_the_mean_of_the_patches_that_count(make_task):
    contrast, *_ = build(make_task)
    where = torch.zeros(3, dtype=torch.int64), torch.zeros(3, 2, dtype=torch.int64)
    for label, expected in (([1, IGNORE, IGNORE], 0.5), ([1, 0, IGNORE], 0.375), ([IGNORE] * 3, 0.0)):
        chosen = ChosenPatches(*where, torch.tensor(label), torch.tensor([0.5, 0.25, 1.0]))
        assert contrast.chosen_terms(chosen)["patch_entropy"].item() == expected


def test_the_loss_is_info_nce_where_that_is_asked_for(make_task):
    contrast, *_ = build(make_task, loss="info_nce")
    generator = torch.Generator().manual_seed(0)
    rows = F.normalize(torch.randn(3, 20, 8, generator=generator), dim=2)
    contrast.memory.push(rows.flatten(0, 1), torch.arange(3).repeat_interleave(20))
    embedding, label = F.normalize(torch.randn(5, 8, generator=generator), dim=1), torch.tensor([0, 1, IGNORE, 2, 2])
    seen = contrast.remembered()
    similarity = torch.einsum("pe,kme->pkm", embedding, seen.embedding)
    expected = info_nce(similarity, seen.written, label, seen.ready, contrast.settings.temperature)
    torch.testing.assert_close(contrast.compare(embedding, label, 0)[0], expected)


def test_a_head_is_two_layers_with_a_norm_between_them(make_task):
    contrast, *_ = build(make_task)
    assert [type(part).__name__ for part in contrast.student_head] == ["Linear", "LayerNorm", "ReLU", "Linear"]


def test_the_head_of_the_teacher_follows_that_of_the_student(make_task):
    contrast, *_ = build(make_task)
    for head, value in ((contrast.teacher_head, 1.0), (contrast.student_head, 3.0)):
        for weight in head.parameters():
            weight.data.fill_(value)
    contrast.ema_update(0.75)
    assert {float(value) for weight in contrast.teacher_head.parameters() for value in weight.flatten()} == {1.5}


def test_it_is_the_same_under_bf16_autocast_once_embedded(make_task):
    contrast, *_ = build(make_task, temperature=0.05)
    generator = torch.Generator().manual_seed(0)
    rows = F.normalize(torch.randn(3, 64, 8, generator=generator), dim=2)
    contrast.memory.push(rows.flatten(0, 1), torch.arange(3).repeat_interleave(64))
    embedding, label = F.normalize(torch.randn(6, 8, generator=generator), dim=1), torch.arange(6) % 3
    exact, _ = contrast.compare(embedding, label, 9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = contrast.compare(embedding, label, 9)
    assert torch.equal(found, exact)


def test_one_class_in_the_batch_contrasts_nothing_and_stays_in_the_graph(make_task, make_batch):
    contrast, *networks = build(make_task)
    batch = make_batch()
    batch = batch._replace(labeled=batch.labeled._replace(mask=torch.zeros_like(batch.labeled.mask)))
    loss, terms = step(contrast, *networks, batch)
    loss.backward()
    assert loss == terms["contrast_over_collapse"] == 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in contrast.student_head.parameters())


def many_classes(make_task, count, **changes):
    torch.manual_seed(0)
    task = make_task()
    student, settings = task.build_network().train(), ContrastSettings(**(SMALL | changes))
    student.embed_at(settings.levels)
    contrast = PatchContrast(settings, student, count, task.size, task.steps)
    return contrast, student, frozen_copy(student)


@pytest.mark.parametrize("sampler", ["entropy", "coverage"])
@pytest.mark.parametrize("hard_negatives", ["none", "reweight", "mix", "slab"])
def test_of_many_classes_a_step_contrasts_a_sample_of_those_it_shows(sampler, hard_negatives, make_task, make_batch):
    count, shown = 2 * CLASSES_PER_STEP, CLASSES_PER_STEP + 2
    contrast, *networks = many_classes(make_task, count, sampler=sampler, hard_negatives=hard_negatives)
    for number in range(4):
        batch = make_batch(seed=number)
        place = torch.arange(batch.labeled.mask[0].numel()).view_as(batch.labeled.mask[0]) * shown // 256
        batch = batch._replace(labeled=batch.labeled._replace(mask=place.expand_as(batch.labeled.mask)))
        pushed = contrast.memory.pushed.clone()
        loss, terms = step(contrast, *networks, batch, number, seed=number)
        compared = {k for k in range(count) if terms[f"patches_{k}"] > 0}
        remembered = set((contrast.memory.pushed > pushed).nonzero().flatten().tolist())
        assert remembered == compared or sampler == "coverage"  # whose threshold moves in between
        assert 1 < len(compared) <= CLASSES_PER_STEP
        assert max(compared | remembered) < shown
    loss.backward()
    assert loss > 0
    assert all(p.grad.isfinite().all() for p in contrast.student_head.parameters())
    assert int((contrast.memory.pushed[:shown] > 0).sum()) > CLASSES_PER_STEP  # each step drew others


def test_the_classes_that_were_drawn_are_chosen_remembered_and_compared(make_task, make_batch, monkeypatch):
    contrast, *networks = many_classes(make_task, 40)
    drawn, grids, compared, compare = torch.arange(0, 32, 2), [], [], contrast.compare
    monkeypatch.setattr(module, "classes_of_step", lambda seen, count: drawn)
    monkeypatch.setattr(module, "patch_grid", lambda *given: [grids.append(given), patch_grid(*given)][1])
    monkeypatch.setattr(contrast, "compare", lambda *given: [compared.append(given), compare(*given)][1])
    _, terms = step(contrast, *networks, make_batch(), 3)
    assert compared[0][3] is drawn
    assert compared[0][2] == 3
    assert [others is None for *_, others in grids] == [False, False]
    assert contrast.memory.pushed.nonzero().flatten().tolist() == [0, 2]  # of masks with the classes 0, 1 and 2
    assert terms["patches_0"] > 0 == terms["patches_1"]
    assert terms["patches_2"] > 0


def test_its_diagnostics_are_those_of_its_memory(make_task, make_batch):
    contrast, *networks = build(make_task)
    step(contrast, *networks, make_batch())
    memory = contrast.memory
    expected = {"separability": memory.separability(), "effective_rank": memory.effective_rank()}
    assert contrast.diagnostics() == expected


def test_every_setting_of_the_sampler_reaches_it(make_task):
    contrast, *_ = build(make_task, sampler="topk", coverage=0.3, overlap=0.2, patches_per_class=5, where="border")
    sampler = contrast.sampler
    found = (sampler.kind, sampler.per_class, sampler.min_ratio, sampler.overlap, sampler.border)
    assert found == ("topk", 5, 0.3, 0.2, True)


def test_what_counts_more_is_taken_from_the_maps_of_the_student(make_task, make_batch):
    contrast, *networks = build(make_task, sampler="uniform", patch_weights="confidence", negative_classes="neighbours")
    labeled, unlabeled = make_batch()
    probs, strong_probs = (0.1 + 0.7 * one_hot(labeled.mask.roll(n, dims=0), 3) for n in (1, 2))
    kept, compare = [], contrast.compare
    contrast.compare = lambda *given: [kept.append(given), compare(*given)][1]
    seen = StudentView(labeled, unlabeled, probs, strong_probs)
    torch.manual_seed(1)
    loss, _ = contrast(*networks, seen, 5)
    embedding, label, _, _, emphasis, *_ = kept[0]
    shown = torch.cat([one_hot(labeled.mask, 3), strong_probs])
    expected = neighbour_weights(touching(shown), contrast.remembered().ready)
    known = label >= 0
    assert torch.equal(emphasis.negative[known], expected[label[known]])
    assert ((emphasis.patch == 1) | (emphasis.patch < 0.81))[known].all()
    assert 0 < (emphasis.patch == 1).sum() < known.sum()
    assert loss == compare(embedding, label, 5, None, emphasis)[0] != compare(embedding, label, 5)[0]


def test_the_class_of_a_patch_is_that_of_other_images_where_these_are_its_positives(make_task, make_batch):
    """The student's patches, by their images, against the teacher's of the same step."""
    contrast, *networks = build(make_task, positives="other_images")
    kept, compare, push = [], contrast.compare, contrast.memory.push
    contrast.compare = lambda *given: [kept.append(given), compare(*given)][1]
    contrast.memory.push = lambda *given: [kept.append(given), push(*given)][1]
    draws, choose = [], contrast.choose
    contrast.choose = lambda *given: [draws.append(choose(*given)), draws[-1]][1]
    loss, _ = step(contrast, *networks, make_batch(), 5)
    (remembered, label), (embedding, *given, positive) = kept
    weak, strong = draws
    teacher = Embedded(remembered, label, weak.image)
    expected = prototype_positive(Embedded(embedding, strong.label, strong.image), teacher)
    assert expected.found.any()
    torch.testing.assert_close(positive, expected)
    assert loss == compare(embedding, *given, expected)[0] != compare(embedding, *given)[0]


@pytest.mark.parametrize("loss", ["pseudo_label_guided", "info_nce"])
def test_a_sample_of_the_classes_estimates_the_loss_against_all(loss, make_task):
    """Against all classes, and the mean over many samples: the logarithm of an unbiased estimate is a little low."""
    count, generator = 40, torch.Generator().manual_seed(0)
    contrast, *_ = many_classes(make_task, count, loss=loss, covariance_ramp_fraction=0.0, temperature=1.0)
    rows = F.normalize(torch.randn(count, 20, 8, generator=generator), dim=2)
    contrast.memory.push(rows.flatten(0, 1), torch.arange(count).repeat_interleave(20))
    own = torch.arange(count)
    embedding = F.normalize(torch.randn(count, 8, generator=generator), dim=1)
    exact = contrast.compare(embedding, own, 0)[0]
    found = []
    for _ in range(400):
        classes = torch.randperm(count, generator=generator)[:16].sort().values
        found.append(contrast.compare(embedding[classes], torch.arange(16), 0, classes)[0])
    estimates = torch.stack(found)
    assert float(exact - estimates.mean()) == pytest.approx(0, abs=0.01)
    assert estimates.std() < 0.1
    whole, plain = (contrast.compare(embedding, own, 0, classes) for classes in (own, None))
    torch.testing.assert_close(whole, plain)


def test_the_collapse_value_does_not_depend_on_the_sample(make_task):
    contrast, *_ = many_classes(make_task, 40)
    contrast.memory.push(F.normalize(torch.ones(80, 8), dim=1), torch.arange(80) % 40)
    embedding, classes = F.normalize(torch.ones(16, 8), dim=1), torch.arange(10, 26)
    _, collapsed = contrast.compare(embedding, torch.arange(16), 0, classes)
    torch.testing.assert_close(collapsed, torch.log(torch.tensor(1 + 4096 * 39 / 40)))


def test_what_the_teacher_has_encoded_for_pseudo_labels_is_not_encoded_again(make_task, make_batch, monkeypatch):
    (labeled, unlabeled), kept, seen_by_teacher = make_batch(), [], []
    for given in (False, True):
        contrast, student, teacher = build(make_task)
        encode = teacher.encode
        monkeypatch.setattr(
            teacher, "encode", lambda image, encode=encode: [seen_by_teacher.append(image), encode(image)][1]
        )
        probs, features = one_hot(labeled.mask, 3), encode(unlabeled.weak) if given else None
        torch.manual_seed(1)
        contrast(student, teacher, StudentView(labeled, unlabeled, probs, weak_features=features), 0)
        kept.append(contrast.memory.rows)
    assert [len(image) for image in seen_by_teacher] == [6, 3]
    torch.testing.assert_close(*kept)
    assert kept[0].any()


@pytest.mark.parametrize("norm", ["batch", "instance", "group"])
@pytest.mark.parametrize(("way", "given"), [("features", True), ("features", False), ("crops", True)])
def test_patches_leave_every_running_statistic_alone(norm, way, given, make_task, make_batch):
    """The trap: class-attended patches are mostly zeros, and would drag the statistics away from whole images."""
    contrast, student, teacher = build(make_task, norm=norm, embed=way)
    labeled = make_batch().labeled
    seen = StudentView(labeled, features=student.encode(labeled.image) if given else None)
    before = {name: value.clone() for name, value in student.named_buffers()}
    after_teacher = {name: value.clone() for name, value in teacher.named_buffers()}
    contrast(student, teacher, seen, 0)
    assert (len(before) > 5) == (norm == "batch")
    assert all(torch.equal(value, before[name]) for name, value in student.named_buffers())
    assert all(torch.equal(value, after_teacher[name]) for name, value in teacher.named_buffers())


@pytest.mark.parametrize(
    ("length", "fraction", "reduction", "side"),
    [(256, 0.25, 16, 64), (256, 0.3, 16, 64), (128, 0.5, 8, 64), (64, 0.25, 16, 32), (16, 0.25, 16, 16)],
)
def test_a_patch_is_a_share_of_the_image_in_whole_features_but_never_less_than_two(length, fraction, reduction, side):
    assert patch_side(length, fraction, reduction) == side


def test_embeddings_are_standardised_over_the_patches_that_show_a_class():
    projected = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)) * 3 + 7
    label = torch.where(torch.arange(50) < 40, 1, IGNORE)
    known = projected[:40]
    expected = F.normalize((known - known.mean(dim=0)) / known.std(dim=0, correction=0), dim=1)
    torch.testing.assert_close(embedded(projected, label)[:40], expected, atol=1e-4, rtol=0)
    projected[40:] = 1e4
    torch.testing.assert_close(embedded(projected, label)[:40], expected, atol=1e-4, rtol=0)


def test_one_patch_alone_has_no_direction_and_is_no_error():
    assert torch.equal(embedded(torch.ones(1, 6), torch.zeros(1, dtype=torch.int64)), torch.zeros(1, 6))


def test_embeddings_of_a_fresh_network_do_not_all_point_the_same_way(make_task, make_batch):
    """Else the contrast starts at its collapse value, where its gradient vanishes, and stays there."""
    contrast, *networks = build(make_task)
    step(contrast, *networks, make_batch())
    members = contrast.memory.embedding[contrast.memory.written]
    assert members.mean(dim=0).norm() < 0.2


@pytest.mark.parametrize(
    "wrong", [{"memory_length": 8, "memory_min_size": 32}, {"memory_length": 32, "patches_per_class": 64}]
)
def test_a_memory_too_short_for_its_settings_is_refused(wrong):
    with pytest.raises(ValidationError, match="memory_length"):
        ContrastSettings(**wrong)


@pytest.mark.parametrize("way", ["features", "crops"])
def test_the_teacher_of_weak_views_is_remembered_and_the_student_of_its_own_is_compared(way, make_task, make_batch):
    """Teacher, views, their maps and the features all differ, so that none can stand in for another."""
    contrast, student, teacher = build(make_task, embed=way)
    for weight in (*teacher.parameters(), *contrast.teacher_head.parameters()):
        weight.add_(0.1 * torch.randn_like(weight))
    labeled, unlabeled = make_batch()
    masks, probs = one_hot(labeled.mask, 3), one_hot(labeled.mask.roll(1, dims=0), 3)
    weak, strong = (torch.cat([labeled.image, view]) for view in (unlabeled.weak, unlabeled.strong))
    weak_probs, strong_probs = torch.cat([masks, probs]), torch.cat([masks, probs.flip(2)])
    features = student.encode(strong) + 1
    torch.manual_seed(1)
    loss, _ = contrast(student, teacher, StudentView(labeled, unlabeled, probs, probs.flip(2), features), 0)
    found = contrast.memory.rows.clone()

    def embed(network, head, image, probs, features):
        chosen = contrast.choose(ClassMaps(image, probs))
        if way == "crops":
            pooled = contrast.encoded_crops(network, ClassMaps(image, probs), chosen)
        else:
            pooled = class_attended_features(features, probs, chosen, contrast.side, contrast.reduction)
        return embedded(head(pooled), chosen.label), chosen.label

    torch.manual_seed(1)
    expected = ClassMemory(3, SMALL["memory_length"], SMALL["embedding_size"])
    expected.push(*embed(teacher, contrast.teacher_head, weak, weak_probs, teacher.encode(weak)))
    assert torch.equal(found, expected.rows)
    compared = embed(student, contrast.student_head, strong, strong_probs, features)
    torch.testing.assert_close(loss, contrast.compare(*compared, 0)[0])


def test_a_method_has_student_and_teacher_embed_at_the_levels_that_are_set(make_task, make_batch):
    """Up to the features that segment, whose decoder the contrast then reaches."""
    torch.manual_seed(0)
    settings = SupervisedSettings(contrast=ContrastSettings(**SMALL, levels=(2,)))
    method = Supervised(settings, make_task())
    assert method.student.encoded_levels == method.teacher.encoded_levels == (2,)
    assert method.contrast.student_head[0].in_features == 8
    seen = StudentView(make_batch().labeled)
    for number in range(2):
        loss, _ = method.contrast(method.student, method.teacher, seen, number)
    loss.backward()
    assert all(weight.grad.any() for weight in (method.student.up[-1].merge.conv_1.conv.weight,))


def test_what_is_not_at_hand_is_taken_from_the_views_as_the_student_sees_them(make_task, make_batch):
    """Features from a pass of its own, and the pseudo-labels of weak views for strong ones that were not mixed."""
    (labeled, unlabeled), losses = make_batch(), []
    probs = one_hot(labeled.mask.roll(1, dims=0), 3)
    images = torch.cat([labeled.image, unlabeled.strong])
    for given in (False, True):
        contrast, student, teacher = build(make_task)
        seen = StudentView(labeled, unlabeled, probs, *((probs, student.encode(images)) if given else ()))
        torch.manual_seed(1)
        losses.append(contrast(student, teacher, seen, 0)[0])
    assert torch.equal(*losses)
    assert losses[0] > 0


def test_labeled_images_alone_are_both_views(make_batch):
    labeled = make_batch().labeled
    for maps in class_maps(StudentView(labeled), 3):
        assert torch.equal(maps.image, labeled.image)
        assert torch.equal(maps.probs, one_hot(labeled.mask, 3))


def test_crops_are_mirrored_before_they_are_encoded(make_task, make_batch, monkeypatch):
    contrast, student, _ = build(make_task, embed="crops")
    image, mask = make_batch().labeled
    maps, encoded, encode = ClassMaps(image, one_hot(mask, 3)), [], student.encode
    chosen = contrast.choose(maps)
    monkeypatch.setattr(student, "encode", lambda crops: [encoded.append(crops), encode(crops)][1])
    torch.manual_seed(1)
    contrast.encoded_crops(student, maps, chosen)
    plain = class_attended_patches(maps.image, maps.probs, chosen, contrast.side)
    torch.manual_seed(1)
    assert torch.equal(encoded[0], flip_at_random(plain))
    assert not torch.equal(encoded[0], plain)


def test_the_weight_falls_evenly_to_its_fraction_at_the_last_step(make_task):
    contrast, *_ = build(make_task, weight=0.4, final_weight_fraction=0.25)  # of 10 steps
    assert [contrast.weight(step) for step in (0, 5, 10)] == pytest.approx([0.4, 0.25, 0.1])


def test_the_covariance_weight_rises_from_nothing_over_its_ramp(make_task):
    generator = torch.Generator().manual_seed(0)
    rows = F.normalize(torch.randn(3, 20, 8, generator=generator), dim=2)
    embedding, label = F.normalize(torch.randn(6, 8, generator=generator), dim=1), torch.arange(6) % 3

    def loss(step, **changes):
        contrast, *_ = build(make_task, **changes)  # of 10 steps
        contrast.memory.push(rows.flatten(0, 1), torch.arange(3).repeat_interleave(20))
        return contrast.compare(embedding, label, step)[0]

    for step, covariance_weight in ((0, 0.0), (2, 2.0), (4, 4.0), (9, 4.0)):
        ramped = loss(step, covariance_ramp_fraction=0.4, covariance_weight=4.0)
        fixed = loss(0, covariance_ramp_fraction=0.0, covariance_weight=covariance_weight)
        torch.testing.assert_close(ramped, fixed)
