"""The contrastive losses against deliberately naive versions, sampling, and what is known of their limits."""

import math

import pytest
import torch
import torch.nn.functional as F

from patchcl.contrast.loss import (
    EVEN,
    FEW_CLASSES,
    Emphasis,
    Moments,
    even_weights,
    info_nce,
    memory_moments,
    moments,
    pseudo_label_guided_contrast,
    stand_ins,
)
from patchcl.core.batch import IGNORE

TEMPERATURE, LAMBDA, PSI = 0.2, 4.0, 4096.0
ALL = torch.ones(4, dtype=torch.bool)


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def similarity(embedding: torch.Tensor, members: torch.Tensor) -> torch.Tensor:
    return torch.einsum("pe,kme->pkm", embedding, members)


def guided(
    embedding,
    label,
    members,
    ready=None,
    temperature=TEMPERATURE,
    covariance_weight=LAMBDA,
    num_negatives=PSI,
    emphasis=EVEN,
):
    seen = moments(similarity(embedding, members), members.new_full(members.shape[:2], 1 / members.shape[1]))
    ready = torch.tensor([True] * len(members) if ready is None else ready)
    constants = (temperature, covariance_weight, num_negatives)
    return pseudo_label_guided_contrast(seen, label, ready, *constants, emphasis=emphasis)


def nce(embedding, label, members, ready=None, temperature=TEMPERATURE, emphasis=EVEN):
    written = torch.ones(members.shape[:2], dtype=torch.bool)
    ready = torch.tensor([True] * len(members) if ready is None else ready)
    return info_nce(similarity(embedding, members), written, label, ready, temperature, emphasis=emphasis)


LOSSES = pytest.mark.parametrize("loss", [guided, nce])


def naive_guided(embedding, label, members, ready, temperature, covariance_weight, num_negatives) -> float:
    """Loops over patches and classes, explicit covariance matrices, no log-sum-exp."""
    classes = [k for k in range(len(members)) if ready[k]]
    losses = []
    for q, k in zip(embedding, label.tolist(), strict=True):
        if k not in classes or len(classes) < 2:
            continue
        exponents = {}
        for j in classes:
            mean = members[j].mean(dim=0)
            covariance = sum(torch.outer(z - mean, z - mean) for z in members[j]) / len(members[j])
            exponents[j] = q @ mean / temperature + covariance_weight / (2 * temperature**2) * (q @ covariance @ q)
        total = torch.exp(exponents[k])
        for j in classes:
            if j != k:
                total = total + num_negatives / len(classes) * torch.exp(exponents[j])
        losses.append(torch.log(total) - q @ members[k].mean(dim=0) / temperature)
    return float(sum(losses) / len(losses)) if losses else 0.0


def naive_nce(embedding, label, members, ready, temperature) -> float:
    losses = []
    for q, k in zip(embedding, label.tolist(), strict=True):
        others = [z for j in range(len(members)) if j != k and ready[j] for z in members[j]]
        if k == IGNORE or not ready[k] or not others:
            continue
        rest = sum(math.exp(float(q @ z) / temperature) for z in others)
        each = [math.exp(float(q @ z) / temperature) for z in members[k]]
        losses.append(sum(-math.log(one / (one + rest)) for one in each) / len(each))
    return sum(losses) / len(losses) if losses else 0.0


@pytest.mark.parametrize("ready", [[True] * 4, [True, False, True, True]])
@pytest.mark.parametrize(("covariance_weight", "num_negatives"), [(0.0, 1.0), (4.0, 4096.0), (1.0, 7.0)])
def test_the_guided_loss_equals_the_naive_version(ready, covariance_weight, num_negatives):
    embedding, members = unit(9, 6), unit(4, 12, 6, seed=1)
    label = torch.tensor([0, 1, 2, 3, 3, 0, IGNORE, 1, 2])
    options = (TEMPERATURE, covariance_weight, num_negatives)
    expected = naive_guided(embedding, label, members, ready, *options)
    assert float(guided(embedding, label, members, ready, *options)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("ready", [[True] * 4, [True, False, True, True], [True, False, False, False]])
def test_infonce_equals_the_naive_version(ready):
    embedding, members = unit(9, 6), unit(4, 12, 6, seed=1)
    label = torch.tensor([0, 1, 2, 3, 3, 0, IGNORE, 1, 2])
    expected = naive_nce(embedding, label, members, ready, TEMPERATURE)
    assert float(nce(embedding, label, members, ready)) == pytest.approx(expected, abs=1e-9)


def test_infonce_with_one_key_a_class_is_cross_entropy():
    embedding, members, label = unit(8, 6), unit(3, 1, 6, seed=3), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    logits = similarity(embedding, members)[:, :, 0] / TEMPERATURE
    torch.testing.assert_close(nce(embedding, label, members), F.cross_entropy(logits, label))


def gaussian_classes(dimensions: int, classes: int, samples: int, seed: int):
    """Keys of every class from a Gaussian of its own; its mean and covariance."""
    generator = torch.Generator().manual_seed(seed)
    mean = F.normalize(torch.randn(classes, dimensions, generator=generator, dtype=torch.float64), dim=1) * 0.7
    root = (
        torch.randn(classes, dimensions, dimensions, generator=generator, dtype=torch.float64) * 0.3 / dimensions**0.5
    )
    noise = torch.randn(classes, samples, dimensions, generator=generator, dtype=torch.float64)
    return mean, root @ root.transpose(1, 2), mean.unsqueeze(1) + noise @ root.transpose(1, 2)


@pytest.mark.parametrize("dimensions", [2, 8, 32])
def test_lambda_one_is_the_expectation_over_gaussian_keys(dimensions):
    """log E exp(q·z / τ) for z ~ N(μ, Σ), by sampling: what the exponent of every class stands for."""
    mean, covariance, keys = gaussian_classes(dimensions, 3, 50_000, seed=dimensions)
    q = unit(1, dimensions)[0]
    values = torch.exp(keys @ q / TEMPERATURE)
    closed = torch.exp(mean @ q / TEMPERATURE + torch.einsum("e,kef,f->k", q, covariance, q) / (2 * TEMPERATURE**2))
    error = values.std(dim=1) / math.sqrt(values.shape[1])
    assert ((values.mean(dim=1) - closed).abs() < 4 * error).all()


@pytest.mark.parametrize("dimensions", [2, 8, 32])
@pytest.mark.parametrize("num_negatives", [1.0, 64.0])
def test_the_bound_is_never_below_the_exact_infonce_and_close_to_it(dimensions, num_negatives):
    """Exact: the mean over Gaussian positives z of -log(exp(q·z/τ) / (exp(q·z/τ) + S)), S the expected negatives."""
    mean, covariance, keys = gaussian_classes(dimensions, 3, 50_000, seed=dimensions)
    embedding, label = unit(6, dimensions, seed=5), torch.tensor([0, 1, 2, 0, 1, 2])
    seen = Moments(embedding @ mean.T, torch.einsum("pe,kef,pf->pk", embedding, covariance, embedding))
    bound = pseudo_label_guided_contrast(seen, label, ALL[:3], TEMPERATURE, 1.0, num_negatives)

    expected = torch.exp(seen.mean / TEMPERATURE + seen.variance / (2 * TEMPERATURE**2))
    exact, error = [], 0.0
    for p, k in enumerate(label.tolist()):
        rest = num_negatives / 3 * sum(expected[p, j] for j in range(3) if j != k)
        positive = keys[k] @ embedding[p] / TEMPERATURE
        each = torch.log(torch.exp(positive) + rest) - positive
        exact.append(each.mean())
        error = max(error, float(each.std()) / math.sqrt(len(each)))
    gap = float(bound - torch.stack(exact).mean())
    assert -4 * error < gap < 1


def test_without_spread_and_one_negative_a_class_it_is_infonce_on_the_class_means():
    embedding, members = unit(8, 6).float(), unit(3, 5, 6, seed=3).float()
    label = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    found = guided(embedding, label, members, covariance_weight=0.0, num_negatives=3.0)
    logits = embedding @ members.mean(dim=1).T / TEMPERATURE
    torch.testing.assert_close(found, F.cross_entropy(logits, label))


@pytest.mark.parametrize("classes", [2, 3])
def test_coinciding_classes_give_the_collapse_value(classes):
    embedding = F.normalize(torch.ones(6, 4), dim=1)
    members, label = embedding[:1].expand(classes, 10, 4), torch.arange(6) % classes
    found = guided(embedding, label, members)
    assert float(found) == pytest.approx(math.log(1 + PSI * (classes - 1) / classes), rel=1e-5)
    found = nce(embedding, label, members)
    assert float(found) == pytest.approx(math.log(1 + 10 * (classes - 1)), rel=1e-5)


@LOSSES
def test_separated_classes_cost_less_than_collapsed_ones(loss):
    members = torch.eye(4)[:, None].expand(4, 10, 4)
    collapsed = torch.ones(4, 10, 4) / 2
    apart = loss(torch.eye(4), torch.arange(4), members, temperature=0.1)
    assert apart < loss(torch.ones(4, 4) / 2, torch.arange(4), collapsed, temperature=0.1) - 3


@LOSSES
@pytest.mark.parametrize(
    ("label", "ready"),
    [([IGNORE] * 3, [True, True]), ([0, 0, 0], [True, False]), ([1, 1, 1], [True, False]), ([0, 1, 0], [False, False])],
)
def test_nothing_to_contrast_is_zero_and_stays_in_the_graph(loss, label, ready):
    embedding = unit(3, 4).float().requires_grad_()
    value = loss(embedding, torch.tensor(label), unit(2, 5, 4, seed=1).float(), ready)
    value.backward()
    assert value.item() == 0
    assert torch.equal(embedding.grad, torch.zeros(3, 4))


@LOSSES
def test_gradient_agrees_with_finite_differences(loss):
    members, label = unit(3, 6, 4, seed=1), torch.tensor([0, 2, IGNORE, 1])
    embedding = unit(4, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda q: loss(q, label, members), (embedding,))
    assert torch.autograd.gradcheck(lambda q: loss(q, label, members, [True, True, False]), (embedding,))


@LOSSES
def test_the_order_of_patches_means_nothing(loss):
    embedding, label = unit(6, 4).float(), torch.tensor([0, 1, 1, IGNORE, 0, 1])
    members, shuffled = unit(2, 6, 4, seed=1).float(), torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(loss(embedding, label, members), loss(embedding[shuffled], label[shuffled], members))
    torch.testing.assert_close(loss(embedding, label, members), loss(embedding, label, members[:, shuffled]))


@LOSSES
@pytest.mark.parametrize("temperature", [0.05, 0.2])
def test_it_is_finite_in_single_precision(loss, temperature):
    embedding, members = unit(6, 8), unit(3, 20, 8, seed=1)
    label = torch.tensor([0, 1, 2, 0, 1, 2])
    single = embedding.float().requires_grad_()
    value = loss(single, label, members.float(), temperature=temperature)
    value.backward()
    assert single.grad.isfinite().all()
    torch.testing.assert_close(
        value.double(), loss(embedding, label, members, temperature=temperature), rtol=1e-4, atol=0
    )


@LOSSES
def test_a_step_of_descent_moves_towards_the_own_class_and_away_from_others(loss):
    members = torch.eye(3)[:, None].expand(3, 10, 3)
    q = F.normalize(torch.tensor([[1.0, 1.0, 1.0]]), dim=1).requires_grad_()
    loss(q, torch.tensor([0]), members).backward()
    assert q.grad[0, 0] < 0 < min(q.grad[0, 1], q.grad[0, 2])


def test_moments_are_mean_and_variance_under_the_weights_and_rows_not_written_do_not_count():
    values = torch.randn(4, 2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    written = torch.tensor([[True, True, True, False, False], [False] * 5])
    found = moments(values, even_weights(written).double())
    torch.testing.assert_close(found.mean[:, 0], values[:, 0, :3].mean(dim=1))
    torch.testing.assert_close(found.variance[:, 0], values[:, 0, :3].var(dim=1, correction=0))
    assert found.mean[:, 1].abs().max() == found.variance[:, 1].abs().max() == 0
    assert even_weights(torch.tensor([[False, True]])).tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize("count", [2, FEW_CLASSES, FEW_CLASSES + 1, 20])
def test_moments_of_a_memory_are_those_of_its_similarities_and_so_is_their_gradient(count):
    """Bit for bit where classes are few, and but for rounding where mean and covariance stand for the members."""
    members, weights = unit(count, 50, 16, seed=1).float(), torch.randn(2, 30, count, dtype=torch.float32)
    written = torch.arange(50) < torch.arange(count).unsqueeze(1) * 50 // count  # of the first class nothing
    found = []
    for way in (memory_moments, lambda q, z, w: moments(similarity(q, z), even_weights(w))):
        embedding = unit(30, 16, seed=2).float().requires_grad_()
        seen = way(embedding, members, written)
        (seen.mean * weights[0] + seen.variance * weights[1]).sum().backward()
        found.append((seen.mean, seen.variance, embedding.grad))
    for mine, exact in zip(*found, strict=True):
        assert torch.equal(mine, exact) == (count <= FEW_CLASSES)
        torch.testing.assert_close(mine, exact, rtol=1e-5, atol=1e-5)
    assert (found[0][0] - found[1][0]).abs().max() < 1e-6
    assert (found[0][1] - found[1][1]).abs().max() < 1e-6


def test_each_class_of_a_sample_stands_for_as_many_as_there_are_beside_the_own():
    assert float(stand_ins(torch.tensor([True, False, True, True]), torch.arange(12) < 11)) == 10 / 2
    assert float(stand_ins(torch.tensor([True]), torch.tensor([True]))) == 1


def test_a_sample_has_the_negatives_of_all_classes_in_number():
    """One embedding, classes all alike: any sample of them gives what all give."""
    embedding, members = unit(1, 6), unit(1, 30, 6, seed=1).expand(12, 30, 6)
    exact, label = guided(embedding, torch.tensor([0]), members), torch.tensor([0])
    for count in (2, 5, 12):
        seen = moments(similarity(embedding, members[:count]), members.new_full((count, 30), 1 / 30))
        ready = torch.ones(count, dtype=torch.bool)
        standing = stand_ins(ready, torch.ones(12, dtype=torch.bool))
        found = pseudo_label_guided_contrast(seen, label, ready, TEMPERATURE, LAMBDA, PSI, standing)
        assert float(found) == pytest.approx(float(exact), rel=1e-6)


@pytest.mark.parametrize("loss", [guided, nce])
def test_a_patch_and_a_class_that_count_double_are_as_good_as_two_of_them(loss):
    """A class twice in the memory is two negatives; ψ grows with the number of classes, which the weights keep."""
    embedding, members, label = unit(6, 16), unit(4, 5, 16, seed=1), torch.tensor([0, 1, 2, IGNORE, 0, 1])
    twice = torch.tensor([2.0, 1, 1, 1, 1, 1], dtype=torch.float64)
    again = [0, *range(6)]
    found = loss(embedding, label, members, emphasis=Emphasis(patch=twice))
    torch.testing.assert_close(found, loss(embedding[again], label[again], members))
    heavy = torch.tensor([1.0, 1, 1, 2], dtype=torch.float64).expand(6, 4)
    found = loss(embedding, label, members, emphasis=Emphasis(negative=heavy))
    doubled = torch.cat([members, members[3:]])
    more = {"num_negatives": PSI * 5 / 4} if loss is guided else {}
    torch.testing.assert_close(found, loss(embedding, label, doubled, **more))


@pytest.mark.parametrize("loss", [guided, nce])
def test_without_any_weight_nothing_is_learned(loss):
    embedding = unit(3, 16).requires_grad_()
    found = loss(embedding, torch.tensor([0, 1, 2]), unit(4, 5, 16, seed=1), emphasis=Emphasis(patch=torch.zeros(3)))
    found.backward()
    assert found == 0
    assert not embedding.grad.any()
