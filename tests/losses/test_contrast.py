"""The contrastive loss against a deliberately naive version, sampling, and what is known of its limits."""

import math

import pytest
import torch

from patchcl.batch import IGNORE
from patchcl.losses.contrast import collapse_value, pseudo_label_guided_contrast
from patchcl.memory import ClassMemory, ClassStatistics

TEMPERATURE, LAMBDA, PSI = 0.2, 4.0, 4096.0


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def statistics_of(members: torch.Tensor, ready: list[bool] | None = None) -> ClassStatistics:
    mean = members.mean(dim=1)
    deviation = (members - mean[:, None]) / math.sqrt(members.shape[1])
    return ClassStatistics(mean, deviation, torch.tensor(ready or [True] * len(members)))


def naive(embedding, label, members, ready, temperature, spread_weight, negatives) -> float:
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
            exponents[j] = q @ mean / temperature + spread_weight / (2 * temperature**2) * (q @ covariance @ q)
        total = torch.exp(exponents[k])
        for j in classes:
            if j != k:
                total = total + negatives / len(classes) * torch.exp(exponents[j])
        losses.append(torch.log(total) - q @ members[k].mean(dim=0) / temperature)
    return float(sum(losses) / len(losses)) if losses else 0.0


@pytest.mark.parametrize("ready", [[True] * 4, [True, False, True, True]])
@pytest.mark.parametrize(("spread_weight", "negatives"), [(0.0, 1.0), (4.0, 4096.0), (1.0, 7.0)])
def test_it_equals_the_naive_version(ready, spread_weight, negatives):
    embedding, members = unit(9, 6), unit(4, 12, 6, seed=1)
    label = torch.tensor([0, 1, 2, 3, 3, 0, IGNORE, 1, 2])
    found = pseudo_label_guided_contrast(
        embedding, label, statistics_of(members, ready), TEMPERATURE, spread_weight, negatives
    )
    assert float(found) == pytest.approx(
        naive(embedding, label, members, ready, TEMPERATURE, spread_weight, negatives), abs=1e-9
    )


def test_lambda_one_is_the_expectation_over_gaussian_keys():
    """log E exp(q·z / τ) for z ~ N(μ, Σ), by sampling: what the exponent of every class stands for."""
    q, members = unit(1, 5)[0], unit(1, 40, 5, seed=2)
    statistics = statistics_of(members)
    root = torch.linalg.cholesky(torch.cov(members[0].T, correction=0))
    generator = torch.Generator().manual_seed(0)
    samples = statistics.mean[0] + torch.randn(100_000, 5, generator=generator, dtype=torch.float64) @ root.T
    values = torch.exp(samples @ q / 0.5)
    closed = torch.exp(q @ statistics.mean[0] / 0.5 + statistics.spread(q[None])[0, 0] / (2 * 0.5**2))
    assert abs(values.mean() - closed) < 4 * values.std() / math.sqrt(len(values))


def test_without_spread_and_one_negative_a_class_it_is_infonce_on_the_class_means():
    embedding, members = unit(8, 6).float(), unit(3, 5, 6, seed=3).float()
    label = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    found = pseudo_label_guided_contrast(embedding, label, statistics_of(members), TEMPERATURE, 0.0, 3.0)
    logits = embedding @ members.mean(dim=1).T / TEMPERATURE
    torch.testing.assert_close(found, torch.nn.functional.cross_entropy(logits, label))


def test_coinciding_classes_give_the_collapse_value():
    embedding = torch.nn.functional.normalize(torch.ones(6, 4), dim=1)
    members = embedding[:1].expand(3, 10, 4)
    found = pseudo_label_guided_contrast(
        embedding, torch.tensor([0, 1, 2, 0, 1, 2]), statistics_of(members), TEMPERATURE, LAMBDA, PSI
    )
    torch.testing.assert_close(found, collapse_value(torch.tensor([True] * 3), PSI))
    assert float(found) == pytest.approx(math.log(1 + PSI * 2 / 3), rel=1e-5)


def test_separated_classes_cost_less_than_collapsed_ones():
    members = torch.eye(4)[:, None].expand(4, 10, 4)
    found = pseudo_label_guided_contrast(torch.eye(4), torch.arange(4), statistics_of(members), 0.1, LAMBDA, PSI)
    assert found < collapse_value(torch.tensor([True] * 4), PSI) - 5


@pytest.mark.parametrize(
    ("label", "ready"),
    [([IGNORE] * 3, [True, True]), ([0, 0, 0], [True, False]), ([1, 1, 1], [True, False]), ([0, 1, 0], [False, False])],
)
def test_nothing_to_contrast_is_zero_and_stays_in_the_graph(label, ready):
    embedding = unit(3, 4).float().requires_grad_()
    members = unit(2, 5, 4, seed=1).float()
    loss = pseudo_label_guided_contrast(
        embedding, torch.tensor(label), statistics_of(members, ready), TEMPERATURE, LAMBDA, PSI
    )
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(embedding.grad, torch.zeros(3, 4))


def test_an_empty_memory_is_zero_with_a_finite_gradient():
    embedding = unit(3, 4).float().requires_grad_()
    statistics = ClassMemory(classes=2, length=8, dimensions=4).statistics(least=2)
    pseudo_label_guided_contrast(embedding, torch.tensor([0, 1, 0]), statistics, TEMPERATURE, LAMBDA, PSI).backward()
    assert embedding.grad.isfinite().all()


def test_gradient_agrees_with_finite_differences():
    statistics = statistics_of(unit(3, 6, 4, seed=1), [True, True, True])
    label = torch.tensor([0, 2, IGNORE, 1])
    embedding = unit(4, 4).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda q: pseudo_label_guided_contrast(q, label, statistics, TEMPERATURE, LAMBDA, PSI), (embedding,)
    )


def test_the_order_of_patches_means_nothing():
    embedding, label = unit(6, 4).float(), torch.tensor([0, 1, 1, IGNORE, 0, 1])
    statistics = statistics_of(unit(2, 6, 4, seed=1).float())
    shuffled = torch.tensor([3, 0, 5, 1, 4, 2])
    arguments = (statistics, TEMPERATURE, LAMBDA, PSI)
    torch.testing.assert_close(
        pseudo_label_guided_contrast(embedding, label, *arguments),
        pseudo_label_guided_contrast(embedding[shuffled], label[shuffled], *arguments),
    )


@pytest.mark.parametrize("temperature", [0.05, 0.2])
def test_it_is_finite_in_single_precision_and_under_bf16_autocast(temperature):
    embedding, statistics = unit(6, 8).float().requires_grad_(), statistics_of(unit(3, 20, 8, seed=1).float())
    label = torch.tensor([0, 1, 2, 0, 1, 2])
    exact = pseudo_label_guided_contrast(embedding, label, statistics, temperature, LAMBDA, PSI)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = pseudo_label_guided_contrast(embedding, label, statistics, temperature, LAMBDA, PSI)
    loss.backward()
    assert embedding.grad.isfinite().all()
    torch.testing.assert_close(loss, exact)


def test_a_step_of_descent_moves_towards_the_own_class_and_away_from_others():
    members = torch.eye(3)[:, None].expand(3, 10, 3)
    q = torch.nn.functional.normalize(torch.tensor([[1.0, 1.0, 1.0]]), dim=1).requires_grad_()
    pseudo_label_guided_contrast(q, torch.tensor([0]), statistics_of(members), TEMPERATURE, LAMBDA, PSI).backward()
    assert q.grad[0, 0] < 0 < min(q.grad[0, 1], q.grad[0, 2])
