"""PatchCL's own promises: what its step consists of, worked through by hand."""

import math
from pathlib import Path

import pytest
import torch

from patchcl.augment import AugmentSettings
from patchcl.augment.geometry import drawn_symmetries
from patchcl.augment.symmetries import applied, undone
from patchcl.config import load_settings
from patchcl.core.batch import IGNORE, LabeledBatch
from patchcl.core.components import largest_components
from patchcl.losses.pseudo_labels import PseudoLabels, pseudo_labels
from patchcl.losses.supervised import dice_and_cross_entropy, one_hot, over_levels
from patchcl.methods import build_method, patchcl
from patchcl.methods.settings import PatchCLSettings

FAITHFUL = Path(__file__).parents[2] / "experiments" / "patchcl_faithful.yaml"
SMALL = {"patches_per_class": 4, "embedding_size": 8, "memory_length": 64, "memory_min_size": 2}


def build(task, **changes):
    """PatchCL with these settings, those of its contrast among them."""
    own = {name: changes.pop(name) for name in set(changes) & set(PatchCLSettings.model_fields)}
    torch.manual_seed(0)
    return build_method(PatchCLSettings(contrast=SMALL | changes, **own), task).train()


def test_the_loss_is_the_weighted_sum_of_its_three_terms(make_task, make_batch):
    method = build(make_task(), warm_up_fraction=0.0, ramp_fraction=0.0, consistency_weight=0.7, weight=0.3)
    result = method(make_batch(), 0)
    terms = result.terms
    expected = terms["supervised"] + 0.7 * terms["consistency"] + 0.3 * terms["contrast"]
    torch.testing.assert_close(result.loss.detach(), expected)


def test_without_mixing_consistency_is_the_loss_against_the_teachers_confident_mask(make_task, make_batch):
    """With instance norm, where an image's logits do not depend on the images beside it."""
    method = build(make_task(norm="instance"), warm_up_fraction=0.0, mix_probability=0.0, confidence_threshold=0.4)
    batch = make_batch()
    with torch.no_grad():
        pseudo = pseudo_labels(method.teacher(batch.unlabeled.weak))
        target = torch.where(pseudo.confidence >= 0.4, pseudo.mask, IGNORE)
        expected = dice_and_cross_entropy(method.student(batch.unlabeled.strong), target)
    assert 0 < (target >= 0).sum() < target.numel()
    torch.testing.assert_close(method(batch, 0).terms["consistency"], expected)


def test_pixels_of_pseudo_labels_count_by_their_confidence_and_pasted_masks_in_full(make_task, make_batch):
    """With instance norm, as above."""
    batch = make_batch()
    for chance in (0.0, 1.0):
        method = build(
            make_task(norm="instance"), warm_up_fraction=0.0, mix_probability=chance, confidence_weighting=True
        )
        with torch.no_grad():
            pseudo = pseudo_labels(method.teacher(batch.unlabeled.weak))
            torch.manual_seed(5)
            _, mixed = method.views(method.annotated(batch.labeled), method.believed(batch.unlabeled.strong, pseudo))
            expected = dice_and_cross_entropy(method.student(mixed.image), mixed.mask, mixed.weight)
        sure = (3 * pseudo.confidence - 1) / 2
        inside = (mixed.image != batch.unlabeled.strong).squeeze(1)
        assert inside.any() == bool(chance)
        torch.testing.assert_close(mixed.weight, torch.where(inside, 1.0, sure))
        torch.manual_seed(5)
        torch.testing.assert_close(method(batch, 0).terms["consistency"], expected)


def test_the_weight_of_consistency_falls_evenly_after_its_ramp(make_task):
    method = build(
        make_task(steps=20),
        warm_up_fraction=0.2,
        ramp_fraction=0.3,
        consistency_weight=2,
        consistency_final_fraction=0.25,
    )
    weights = [method.consistency_weight(step) for step in (10, 15, 20)]
    assert weights == pytest.approx([2, 2 * 0.625, 0.5])
    assert method.consistency_weight(4) == pytest.approx(2 * math.exp(-5))


def test_consistency_weighs_as_much_as_student_and_teacher_agree(make_task, make_batch, monkeypatch):
    """Where pseudo-labels are, and over all processes: here two, the other one agrees on 100 pixels of each class."""
    shared = torch.full((1, 2, 3), 100.0)
    monkeypatch.setattr(
        patchcl, "gathered", lambda counts: torch.cat([counts, shared * torch.tensor([[[1.0], [2.0]]])])
    )
    stages = {"warm_up_fraction": 0.0, "ramp_fraction": 0.0, "consistency_weight": 0.7}
    method = build(make_task(norm="instance"), consistency_gate="agreement", weight=0.0, **stages)
    batch = make_batch()
    with torch.no_grad():
        pseudo = pseudo_labels(method.teacher(batch.unlabeled.weak))
        torch.manual_seed(5)
        _, mixed = method.views(method.annotated(batch.labeled), method.believed(batch.unlabeled.strong, pseudo))
        outside = (mixed.image == batch.unlabeled.strong).squeeze(1)
        seen, told = method.student(mixed.image).argmax(dim=1)[outside], mixed.mask[outside]
    pairs = [((seen == k) & (told == k)).sum() + 100 for k in (1, 2)]
    sizes = [(seen == k).sum() + (told == k).sum() + 200 for k in (1, 2)]
    expected = sum(2 * pair / size for pair, size in zip(pairs, sizes, strict=True)) / 2
    torch.manual_seed(5)
    result = method(batch, 0)
    terms = result.terms
    torch.testing.assert_close(terms["agreement"], expected)
    assert 0.1 < expected < 0.99
    torch.testing.assert_close(result.loss.detach(), terms["supervised"] + 0.7 * expected * terms["consistency"])


def plain_views():
    """Unlabeled image k is all k, its class k % 2; three labeled images are all 10, 11 and 12, their class is 2."""
    image = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 16, 16)
    mask = image[:, 0].long() % 2
    pseudo = PseudoLabels(one_hot(mask, 3), mask, torch.ones(4, 16, 16), torch.zeros(4, 16, 16))
    return LabeledBatch(10 + image[:3], torch.full((3, 16, 16), 2)), image, pseudo


@pytest.mark.parametrize("from_labeled", [0.0, 1.0], ids=["of unlabeled images", "of labeled images"])
def test_boxes_bring_along_what_they_show(from_labeled, make_task):
    method = build(make_task(), mix_probability=1.0, labeled_mix_probability=from_labeled, confidence_threshold=0.0)
    labeled, image, pseudo = plain_views()
    _, mixed = method.views(method.annotated(labeled), method.believed(image, pseudo))
    boxes = [set(mixed.image[k].unique().tolist()) - {k} for k in range(4)]
    assert boxes == ([{10}, {11}, {12}, {10}] if from_labeled else [{3}, {0}, {1}, {2}])
    grey = mixed.image[:, 0]
    assert torch.equal(mixed.mask, torch.where(grey >= 10, 2, grey.long() % 2))
    assert torch.equal(mixed.probs, one_hot(mixed.mask, 3))


def test_boxes_go_into_labeled_images_as_well(make_task):
    method = build(make_task(), mix_direction="both", smallest_box=0.5, largest_box=0.5)
    labeled, image, pseudo = plain_views()
    first, strong = method.views(method.annotated(labeled), method.believed(image, pseudo))
    assert [set(first.image[k].unique().tolist()) for k in range(3)] == [{k, 10 + k} for k in range(3)]
    for view in (first, strong):
        grey = view.image[:, 0]
        assert torch.equal(view.annotated, grey >= 10)
        assert torch.equal(view.mask, torch.where(grey >= 10, 2, grey.long() % 2))
        assert set((view.annotated != view.annotated[:, :1, :1]).sum(dim=(1, 2)).tolist()) == {64}, "half of each side"


def test_masks_teach_what_they_are_of_and_consistency_the_boxes_between(make_task, make_batch):
    """With instance norm, where an image's logits do not depend on the images beside it."""
    method = build(make_task(norm="instance"), warm_up_fraction=0.0, mix_direction="both", confidence_weighting=True)
    batch = make_batch()
    with torch.no_grad():
        pseudo = pseudo_labels(method.teacher(batch.unlabeled.weak))
        torch.manual_seed(5)
        first, strong = method.views(method.annotated(batch.labeled), method.believed(batch.unlabeled.strong, pseudo))
        logits = method.student(torch.cat([first.image, strong.image]))
        masks, boxes = (first.mask.masked_fill(hidden, IGNORE) for hidden in (~first.annotated, first.annotated))
        target, weight = torch.cat([boxes, strong.mask]), torch.cat([first.weight, strong.weight])
    torch.manual_seed(5)
    terms = method(batch, 0).terms
    torch.testing.assert_close(terms["supervised"], dice_and_cross_entropy(logits[:3], masks))
    torch.testing.assert_close(terms["consistency"], dice_and_cross_entropy(logits, target, weight))


def test_images_that_are_mixed_before_change_together(make_task, monkeypatch):
    """Were a box pasted afterwards, it alone would have what labeled images have, or what another view has."""
    monkeypatch.setattr(patchcl, "change_intensity", lambda image, strength: image + 100 * strength)
    method = build(make_task(), mix_before_intensity=True, mix_direction="both")
    labeled, image, pseudo = plain_views()
    torch.manual_seed(0)
    first, strong = method.views(method.annotated(labeled), method.believed(image, pseudo))
    unchanged = build(make_task(), mix_direction="both")
    torch.manual_seed(0)
    plain = unchanged.views(unchanged.annotated(labeled), unchanged.believed(image, pseudo))
    assert torch.equal(first.image, plain[0].image + 50)
    assert torch.equal(strong.image, plain[1].image + 100)
    assert method.strong_views == 0, "or the loader has changed them already"


def test_a_second_strong_view_has_boxes_of_its_own_and_shares_the_weight(make_task, make_batch):
    """With instance norm, as above; contrast is of the first view."""
    method, batch = build(make_task(norm="instance"), strong_views=2, warm_up_fraction=0.0), make_batch()
    with torch.no_grad():
        pseudo = pseudo_labels(method.teacher(batch.unlabeled.weak))
        torch.manual_seed(5)
        believed = [method.believed(view, pseudo) for view in batch.unlabeled[1:]]
        _, strong = method.views(method.annotated(batch.labeled), *believed)
        expected = dice_and_cross_entropy(method.student(strong.image), strong.mask)
    boxes = [(strong.image[3 * k :][:3] != view) for k, view in enumerate(batch.unlabeled[1:])]
    assert strong.image.shape == (6, 1, 16, 16)
    assert not torch.equal(*boxes)
    torch.manual_seed(5)
    result = method.training_step(batch, 0)
    torch.testing.assert_close(result.terms["consistency"], expected)
    assert torch.equal(result.seen.unlabeled.strong, strong.image[:3])
    assert torch.equal(result.seen.strong_probs, strong.probs[:3])
    assert len(result.seen.features) == 6
    assert method.strong_views == 2
    assert method(batch, 1).loss.isfinite()


def test_half_of_consistency_is_of_weak_views_with_perturbed_features(make_task, make_batch):
    """With instance norm, as above."""
    stages = {"warm_up_fraction": 0.0, "ramp_fraction": 0.0, "consistency_weight": 0.7}
    method, batch = build(make_task(norm="instance"), feature_dropout=0.5, weight=0.0, **stages), make_batch()
    with torch.no_grad():
        pseudo = pseudo_labels(method.teacher(batch.unlabeled.weak))
        torch.manual_seed(5)
        method.views(method.annotated(batch.labeled), method.believed(batch.unlabeled.strong, pseudo))
        perturbed = dice_and_cross_entropy(method.student(batch.unlabeled.weak, 0.5), pseudo.mask)
        plain = dice_and_cross_entropy(method.student(batch.unlabeled.weak), pseudo.mask)
    torch.manual_seed(5)
    result = method(batch, 0)
    terms = result.terms
    torch.testing.assert_close(terms["perturbed"], perturbed)
    assert (perturbed - plain).abs() > 1e-3
    expected = terms["supervised"] + 0.35 * terms["consistency"] + 0.35 * perturbed
    torch.testing.assert_close(result.loss.detach(), expected)


@pytest.mark.parametrize("direction", ["into_unlabeled", "both"])
def test_pseudo_masks_teach_the_lower_levels_if_so_set(make_task, make_batch, direction):
    """Under deep supervision, and with instance norm, as above."""
    task, batch = make_task(norm="instance", features=(4, 8, 8, 8), deep_supervision=True), make_batch()
    stages = {"warm_up_fraction": 0.0, "ramp_fraction": 0.0, "mix_direction": direction, "confidence_weighting": True}
    method = build(task, deep_consistency=True, weight=0.0, **stages)
    torch.manual_seed(5)
    pseudo, _ = method.pseudo_labels(batch.unlabeled.weak)
    first, strong = method.views(method.annotated(batch.labeled), method.believed(batch.unlabeled.strong, pseudo))
    logits, taught = method.taught(method.student(torch.cat([first.image, strong.image])), first, strong)
    (lower,) = (level[-len(logits) :] for level in method.student.lower_logits)
    torch.manual_seed(5)
    told = method(batch, 0).terms["consistency"]
    expected = over_levels(dice_and_cross_entropy, logits, (lower,), taught.mask, taught.weight)
    torch.testing.assert_close(told, expected.detach())
    assert (told - dice_and_cross_entropy(logits, taught.mask, taught.weight)).abs() > 1e-3


def test_pseudo_labels_are_means_over_the_weak_view_and_a_symmetry_of_it(make_task, make_batch):
    """A fresh teacher knows where up is; every image has a symmetry of its own. With instance norm, as above."""
    method, weak = build(make_task(norm="instance"), average_symmetries=True), make_batch(count=6).unlabeled.weak
    symmetries = drawn_symmetries((16, 16), AugmentSettings())[1:]
    with torch.no_grad():
        straight, features = method.teacher.segment(weak)
        straight = straight.softmax(dim=1)
        turned = [undone(method.teacher(applied(weak, by)).softmax(dim=1), by) for by in symmetries]
        torch.manual_seed(0)
        pseudo, seen = method.pseudo_labels(weak)
    means = torch.stack([(straight + probs) / 2 for probs in turned])
    wrong = (means - pseudo.probs).flatten(2).abs().amax(dim=2)
    assert (wrong.amin(dim=0) < 1e-5).all()
    assert len(wrong.argmin(dim=0).unique()) > 1
    assert (pseudo.probs - straight).abs().max() > 1e-3
    assert torch.equal(pseudo.mask, pseudo.probs.argmax(dim=1))
    torch.testing.assert_close(seen, features)


def test_images_that_are_never_mirrored_have_nothing_to_average(make_task, make_batch):
    upright = make_task()._replace(augment=AugmentSettings(flip=False, rotate_90=False))
    weak = make_batch().unlabeled.weak
    plain, averaging = build(make_task()), build(upright, average_symmetries=True)
    assert torch.equal(plain.pseudo_labels(weak)[0].probs, averaging.pseudo_labels(weak)[0].probs)


def test_a_clean_pseudo_mask_has_one_component_of_each_class(make_task, make_batch):
    method, cleaning = (build(make_task(norm="instance"), clean_pseudo_masks=clean) for clean in (False, True))
    torch.nn.init.normal_(method.teacher.classify.weight)  # so that it finds something
    cleaning.load_state_dict(method.state_dict())
    weak = make_batch().unlabeled.weak
    (pseudo, _), (clean, _) = method.pseudo_labels(weak), cleaning.pseudo_labels(weak)
    assert torch.equal(clean.mask, largest_components(pseudo.mask, 3))
    assert not torch.equal(clean.mask, pseudo.mask)
    assert torch.equal(clean.probs, pseudo.probs)


def test_with_every_ingredient_a_run_that_stopped_goes_on_as_if_it_had_not(make_task, make_batch):
    ingredients = {
        "confidence_weighting": True, "consistency_final_fraction": 0.5, "consistency_gate": "agreement",
        "mix_direction": "both", "mix_before_intensity": True, "strong_views": 2, "feature_dropout": 0.5,
        "average_symmetries": True, "clean_pseudo_masks": True, "warm_up_fraction": 0.0,
    }  # fmt: skip
    straight, stopped = (build(make_task(), **ingredients) for _ in range(2))
    for step in range(3):
        torch.manual_seed(step)
        straight(make_batch(seed=step), step)
        straight.after_step(step)
        if step == 1:
            stopped.load_state_dict(straight.state_dict())
    torch.manual_seed(2)
    result = stopped(make_batch(seed=2), 2)
    stopped.after_step(2)
    assert result.loss.isfinite()
    assert {"supervised", "consistency", "perturbed", "agreement", "contrast"} <= set(result.terms)
    found, expected = stopped.state_dict(), straight.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize(("before", "seen"), [(False, 0.0), (True, 50.0)])
def test_warming_up_changes_intensities_that_nobody_else_does(before, seen, make_task, make_batch, monkeypatch):
    monkeypatch.setattr(patchcl, "change_intensity", lambda image, strength: image + 100 * strength)
    method, images = build(make_task(), mix_before_intensity=before, weight=0.0), []
    method.student.inlet.register_forward_pre_hook(lambda _, given: images.append(given[0]))
    batch = make_batch()
    method(batch, 0)
    assert torch.equal(images[0], batch.labeled.image + seen)


def test_the_contrast_fades_evenly(make_task, make_batch):
    """Two runs of 10 steps: a quarter of the weight is left at the end of one, all of it at that of the other."""
    batch = make_batch()
    for step in (0, 5, 9):
        losses = []
        for left in (0.25, 1.0):
            method = build(make_task(steps=10), warm_up_fraction=1.0, weight=0.4, final_weight_fraction=left)
            torch.manual_seed(0)
            losses.append(method(batch, step))
        fading, staying = losses
        assert staying.terms["contrast"] > 0
        lost = 0.4 * (0.75 * step / 10) * staying.terms["contrast"]
        torch.testing.assert_close(staying.loss - fading.loss, lost)


def test_warming_up_sees_no_unlabeled_image(make_task, make_batch):
    results = []
    for seed in (0, 1):
        method = build(make_task(steps=10), warm_up_fraction=0.5)
        batch = make_batch()._replace(unlabeled=make_batch(seed=seed).unlabeled)
        torch.manual_seed(0)
        results.append((method(batch, 4).loss, method(batch, 5).loss))
    assert torch.equal(results[0][0], results[1][0])
    assert not torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("step", [0, 9], ids=["warm-up", "semi-supervised"])
def test_patches_leave_every_running_statistic_alone(step, make_task, make_batch):
    """The trap: class-attended patches are mostly zeros, and would drag the statistics away from whole images."""
    states = []
    for weight in (0.0, 0.5):
        method = build(make_task(), weight=weight, mix_probability=0.0)
        torch.manual_seed(0)
        method(make_batch(), step)
        states.append({name: value for name, value in method.named_buffers() if not name.startswith("contrast")})
    assert states[0].keys() == states[1].keys()
    assert len(states[0]) > 10
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_patches_of_unlabeled_images_are_named_by_the_teacher(make_task, make_batch):
    """Labeled images without any known class: whatever is chosen then comes from pseudo-labels."""
    method, batch = build(make_task(), warm_up_fraction=0.0), make_batch()
    batch = batch._replace(labeled=batch.labeled._replace(mask=torch.full_like(batch.labeled.mask, IGNORE)))
    terms = method(batch, 0).terms
    with torch.no_grad():
        found = method.teacher(batch.unlabeled.weak).argmax(dim=1).unique().tolist()
    assert sum(terms[f"patches_{k}"].item() for k in found) > 0
    assert method.contrast.memory.filled.sum() == sum(terms[f"patches_{k}"] for k in range(3))


def test_a_batch_whose_classes_are_unknown_has_no_patch_and_learns_on(make_task, make_batch):
    method, batch = build(make_task(), warm_up_fraction=1.0), make_batch()
    batch = batch._replace(labeled=batch.labeled._replace(mask=torch.full_like(batch.labeled.mask, IGNORE)))
    result = method(batch, 0)
    result.loss.backward()
    assert [result.terms[f"patches_{k}"].item() for k in range(3)] == [0, 0, 0]
    assert method.contrast.memory.filled.sum() == 0
    assert result.loss.isfinite()


def test_contrast_separates_the_classes_of_an_easy_task(make_task, make_batch):
    """The figures that a collapsed run never moves: the loss over its collapse value, and what is remembered."""
    method, batch = (
        build(make_task(steps=60), warm_up_fraction=1.0, weight=1.0, final_weight_fraction=1.0, covariance_weight=0.0),
        make_batch(),
    )
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=3e-3)
    for step in range(60):
        torch.manual_seed(step)
        result = method(batch, step)
        result.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(step)
    assert result.terms["contrast_over_collapse"] < -2
    assert method.diagnostics()["separability"] > 1


def test_without_contrast_there_is_neither_head_nor_memory(make_task, make_batch):
    method = build(make_task(), weight=0.0)
    assert method.contrast is None
    assert "contrast" not in method(make_batch(), 9).terms
    assert method.diagnostics() == {}


def test_cross_entropy_alone_can_be_asked_for(make_task, make_batch):
    method, batch = build(make_task(norm="instance"), segmentation_loss="cross_entropy"), make_batch()
    with torch.no_grad():
        expected = torch.nn.functional.cross_entropy(method.student(batch.labeled.image), batch.labeled.mask)
    for step in (0, 9):
        torch.testing.assert_close(method(batch, step).terms["supervised"], expected)


def test_the_faithful_preset_has_the_constants_of_the_authors_code_and_takes_its_steps(make_task, make_batch):
    settings = load_settings(FAITHFUL)
    method, contrast = settings.method, settings.method.contrast
    assert (contrast.temperature, contrast.covariance_weight, contrast.num_negatives) == (0.2, 4.0, 4096)
    assert (contrast.memory_length, contrast.embedding_size, 4 * contrast.patches_per_class) == (4096, 128, 128)
    assert (contrast.weight, contrast.final_weight_fraction) == (0.5, 1.0)
    assert (method.consistency_weight, method.teacher_decay) == (4.0, 0.999)
    assert (contrast.sampler, contrast.hard_negatives, contrast.overlap, contrast.patch_fraction) == (
        "coverage",
        "slab",
        0.8,
        0.5,
    )
    assert (settings.training.learning_rate, settings.training.power) == (0.007, 2.0)
    small = contrast.model_copy(update={"memory_length": 64, "memory_min_size": 2, "embedding_size": 8})
    torch.manual_seed(0)
    built = build_method(method.model_copy(update={"contrast": small}), make_task(steps=6)).train()
    for step in range(6):
        result = built(make_batch(seed=step), step)
        result.loss.backward()
        assert result.loss.isfinite()
    assert {"consistency", "contrast"} <= set(result.terms)


def test_consistency_sets_in_over_its_ramp_after_the_warm_up(make_task, make_batch):
    method = build(make_task(), warm_up_fraction=0.2, ramp_fraction=0.4, consistency_weight=4.0, weight=0.0)
    for step, fraction in ((2, math.exp(-5)), (4, math.exp(-1.25)), (6, 1.0), (9, 1.0)):
        result = method(make_batch(), step)
        expected = result.terms["supervised"] + 4 * fraction * result.terms["consistency"]
        torch.testing.assert_close(result.loss.detach(), expected)
