"""Hard negatives are what they promise: nearer to the anchor's class than plain ones, finite, and without surprises."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from patchcl.contrast.hard_negatives import (
    SHARPNESS,
    SHRINKAGE,
    distance,
    gaussians,
    mixed,
    mixes,
    neighbour_weights,
    reweighted,
    slab,
    slab_samples,
    touching,
)
from patchcl.contrast.loss import even_weights, moments
from patchcl.losses.supervised import one_hot

CLASSES, LENGTH, SIZE = 3, 200, 16


@pytest.fixture
def world():
    """A memory of three overlapping classes on the sphere, and embeddings of the first."""
    generator = torch.Generator().manual_seed(0)
    centres = F.normalize(torch.randn(CLASSES, 1, SIZE, generator=generator), dim=2)
    memory = F.normalize(centres + 0.25 * torch.randn(CLASSES, LENGTH, SIZE, generator=generator), dim=2)
    embedding = F.normalize(centres[0] + 0.25 * torch.randn(10, SIZE, generator=generator), dim=1)
    written = torch.ones(CLASSES, LENGTH, dtype=torch.bool)
    written[1, 150:] = False
    return embedding, torch.zeros(10, dtype=torch.int64), memory * written.unsqueeze(2), written


def similarity(embedding, memory):
    return torch.einsum("pe,kme->pkm", embedding, memory)


def seen(kind, embedding, label, memory, written):
    values = similarity(embedding, memory)
    return {
        "none": lambda: moments(values, even_weights(written)),
        "reweight": lambda: reweighted(values, written),
        "mix": lambda: mixed(embedding, values, memory, written),
        "slab": lambda: slab(embedding, label, memory, written),
    }[kind]()


@pytest.mark.parametrize("kind", ["reweight", "mix", "slab"])
def test_negatives_become_more_similar_to_the_anchor_class(kind, world):
    torch.manual_seed(0)
    plain, hard = (seen(each, *world).mean[:, 1:].mean(dim=0) for each in ("none", kind))
    assert (hard > plain + 0.03).all(), (plain, hard)


@pytest.mark.parametrize("kind", ["reweight", "mix", "slab"])
def test_the_gradient_reaches_the_embeddings_alone_and_is_finite(kind, world):
    embedding, label, memory, written = world
    embedding.requires_grad_()
    memory.requires_grad_()
    torch.manual_seed(0)
    found = seen(kind, embedding, label, memory.detach(), written)
    assert (found.variance >= 0).all()
    (found.mean[:, 1:].sum() + found.variance[:, 1:].sum()).backward()
    assert embedding.grad.isfinite().all()
    assert embedding.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", ["reweight", "mix", "slab"])
def test_an_empty_memory_gives_finite_moments(kind, world):
    embedding, label, memory, written = world
    found = seen(kind, embedding, label, torch.zeros_like(memory), torch.zeros_like(written))
    assert found.mean.isfinite().all()
    assert found.variance.isfinite().all()


@pytest.mark.parametrize("kind", ["reweight", "mix", "slab"])
def test_rows_that_were_never_written_do_not_count(kind, world):
    embedding, label, memory, written = world
    spoiled = memory.masked_fill(~written.unsqueeze(2), 7.0)
    torch.manual_seed(0)
    clean = seen(kind, embedding, label, memory, written)
    torch.manual_seed(0)
    found = seen(kind, embedding, label, spoiled, written)
    torch.testing.assert_close(found, clean)


def test_weights_grow_exponentially_with_similarity():
    values = torch.tensor([[[0.9, 0.1, -0.5]]])
    weight = np.exp(SHARPNESS * np.array([0.9, 0.1, -0.5]))
    expected = (weight / weight.sum()) @ np.array([0.9, 0.1, -0.5])
    assert float(reweighted(values, torch.ones(1, 3, dtype=torch.bool)).mean) == pytest.approx(expected, abs=1e-6)


def test_a_mix_lies_between_its_two_negatives_on_the_sphere():
    pair = torch.eye(2).unsqueeze(0)
    torch.manual_seed(0)
    found = torch.cat([mixes(pair) for _ in range(100)])
    torch.testing.assert_close(found.norm(dim=2), torch.ones(100, 2))
    angle = torch.atan2(found[..., 1], found[..., 0])
    lowest, highest = math.atan2(0.3, 0.7), math.atan2(0.7, 0.3)
    assert angle.min() >= lowest - 1e-5
    assert angle.max() <= highest + 1e-5
    assert angle.max() - angle.min() > 0.6 * (highest - lowest)


def test_mixing_takes_the_nearest_negatives_only():
    embedding = torch.tensor([[1.0, 0.0]])
    angles = torch.cat([torch.linspace(0.5, 0.6, 32), torch.linspace(2, 3, 68)])
    memory = torch.stack([angles.cos(), angles.sin()], dim=1).unsqueeze(0)
    found = mixed(embedding, similarity(embedding, memory), memory, torch.ones(1, 100, dtype=torch.bool))
    assert math.cos(0.6) - 1e-5 <= float(found.mean) <= math.cos(0.5) + 1e-5


def test_gaussians_are_mean_and_shrunk_covariance_and_distances_are_mahalanobis(world):
    _, _, memory, written = world
    mean, root = gaussians(memory.double(), written)
    points = memory[:, :5].double()
    found = distance(points, mean, root)
    for k in range(CLASSES):
        members = memory[k][written[k]].double().numpy()
        covariance = np.cov(members.T, bias=True)
        shrunk = (1 - SHRINKAGE) * covariance + SHRINKAGE * np.trace(covariance) / SIZE * np.eye(SIZE)
        np.testing.assert_allclose(mean[k].numpy(), members.mean(axis=0), atol=1e-9)
        np.testing.assert_allclose((root[k] @ root[k].T).numpy(), shrunk, atol=1e-9)
        for j in range(CLASSES):
            apart = points[j].numpy() - members.mean(axis=0)
            expected = np.einsum("se,ef,sf->s", apart, np.linalg.inv(shrunk), apart)
            np.testing.assert_allclose(found[k, j].numpy(), expected, rtol=1e-6)


def test_slab_samples_turn_towards_the_class_they_are_hard_for(world):
    _, _, memory, written = world
    torch.manual_seed(0)
    samples = slab_samples(memory, written)
    mean = F.normalize(gaussians(memory, written)[0], dim=1)
    torch.testing.assert_close(samples.norm(dim=3), torch.ones(samples.shape[:3]))
    for k in range(CLASSES):
        for j in range(CLASSES):
            if j != k:
                plain = memory[j][written[j]] @ mean[k]
                assert (samples[k, j] @ mean[k]).mean() > plain.mean() + 0.03


def test_one_remembered_negative_is_its_own_mix():
    memory, written = torch.zeros(2, 10, 2), torch.zeros(2, 10, dtype=torch.bool)
    memory[0, 0], written[0, 0] = torch.tensor([0.6, 0.8]), True
    embedding = torch.tensor([[1.0, 0.0]])
    found = mixed(embedding, similarity(embedding, memory), memory, written)
    torch.testing.assert_close(found.mean, torch.tensor([[0.6, 0.0]]))
    torch.testing.assert_close(found.variance, torch.zeros(1, 2))


def test_slab_negatives_all_weigh_the_same(world):
    embedding, _, memory, written = world
    label = torch.arange(10) % CLASSES
    torch.manual_seed(0)
    found = slab(embedding, label, memory, written)
    torch.manual_seed(0)
    values = torch.stack([slab_samples(memory, written)[k] @ q for q, k in zip(embedding[:1], label[:1], strict=True)])
    torch.testing.assert_close(found.mean[:1], values.mean(dim=2))
    torch.testing.assert_close(found.variance[:1], values.var(dim=2, correction=0))


def test_a_set_may_have_more_members_than_dimensions_and_each_has_another_for_partner():
    """Members on the axes of six dimensions: a mix shows which two it is of."""
    torch.manual_seed(0)
    for _ in range(20):
        found = mixes(torch.eye(6)[:5].unsqueeze(0))[0]
        assert ((found > 0).sum(dim=1) == 2).all()
        assert (found.diagonal() > 0).all()
        assert ((found > 0).sum(dim=0) == torch.tensor([2, 2, 2, 2, 2, 0])).all()  # each is a partner once
        assert found.diagonal().diff().abs().min() > 1e-4  # by a fraction of its own


@pytest.mark.parametrize("dimensions", [2, 3])
def test_classes_touch_as_often_as_their_pixels_are_neighbours(dimensions):
    mask = torch.zeros(1, *[4] * dimensions, dtype=torch.int64)
    mask[:, 2:] = 1
    mask[0, 3, 3] = 2
    found = touching(one_hot(mask, 4))
    across, edge = 4 ** (dimensions - 1), 4 ** (dimensions - 2)
    assert found[0, 1] == found[1, 0] == across
    assert found[1, 2] == found[2, 1] == 2 * edge
    assert found[0, 2] == 0
    assert not found[3].any()


def test_half_of_a_negative_class_weighs_evenly_and_half_as_often_as_it_touches():
    pairs = torch.tensor([[9.0, 3, 1, 7], [3, 9, 0, 0], [1, 0, 9, 0], [7, 0, 0, 9]])
    ready = torch.tensor([True, True, True, False])
    found = neighbour_weights(pairs, ready)
    torch.testing.assert_close(found[0], torch.tensor([1.0, 0.5 + 0.75, 0.5 + 0.25, 1.0]))
    torch.testing.assert_close(found[1], torch.tensor([1.5, 1.0, 0.5, 1.0]))
    others = ready & ~torch.eye(4, dtype=torch.bool)
    assert (found * others).sum(dim=1)[:3].tolist() == [2, 2, 2]
    torch.testing.assert_close(
        found[3], torch.tensor([0.5 + 1.5, 0.5, 0.5, 1.0])
    )  # three others, as it is not ready itself
    assert torch.equal(neighbour_weights(torch.zeros(4, 4), ready), torch.ones(4, 4))
