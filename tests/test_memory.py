"""The ring buffer against a list per class, and its statistics against NumPy."""

import numpy as np
import torch

from patchcl.batch import IGNORE
from patchcl.memory import ClassMemory


def lists_after(pushes, classes: int, length: int) -> list[list[list[float]]]:
    """The plain version: a list per class that forgets from the front."""
    kept = [[] for _ in range(classes)]
    for embedding, label in pushes:
        for row, k in zip(embedding.tolist(), label.tolist(), strict=True):
            if k != IGNORE:
                kept[k] = [*kept[k], row][-length:]
    return kept


def random_pushes(count: int, classes: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        yield torch.randn(5, 3, generator=generator), torch.randint(-1, classes, (5,), generator=generator)


def test_it_keeps_what_a_list_per_class_would_keep():
    memory, pushes = ClassMemory(classes=3, length=7, dimensions=3), list(random_pushes(20, 3))
    for count, (embedding, label) in enumerate(pushes, start=1):
        memory.push(embedding, label)
        for k, expected in enumerate(lists_after(pushes[:count], 3, 7)):
            found = memory.embedding[k, : int(memory.filled[k])].tolist()
            assert sorted(found) == sorted(expected)


def test_rows_are_overwritten_oldest_first_and_other_classes_untouched():
    memory = ClassMemory(classes=2, length=3, dimensions=1)
    memory.push(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([0, 0, 0]))
    memory.push(torch.tensor([[9.0], [4.0], [5.0]]), torch.tensor([1, 0, 0]))
    assert memory.embedding[0].flatten().tolist() == [4, 5, 3]
    assert memory.embedding[1].flatten().tolist() == [9, 0, 0]
    assert memory.filled.tolist() == [3, 1]


def test_statistics_are_mean_and_biased_covariance_of_what_is_there():
    memory, pushes = ClassMemory(classes=2, length=6, dimensions=3), list(random_pushes(2, 2))
    for push in pushes:
        memory.push(*push)
    statistics, q = memory.statistics(least=2), torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    for k, members in enumerate(lists_after(pushes, 2, 6)):
        covariance = np.cov(np.array(members).T, bias=True)
        np.testing.assert_allclose(statistics.mean[k].numpy(), np.mean(members, axis=0), rtol=1e-5, atol=1e-6)
        expected = np.einsum("pe,ef,pf->p", q.numpy(), covariance, q.numpy())
        np.testing.assert_allclose(statistics.spread(q)[:, k].numpy(), expected, rtol=1e-4, atol=1e-6)


def test_a_class_is_ready_from_the_least_number_on():
    memory = ClassMemory(classes=2, length=4, dimensions=2)
    memory.push(torch.ones(3, 2), torch.tensor([0, 0, 1]))
    assert memory.statistics(least=2).ready.tolist() == [True, False]


def test_a_checkpoint_carries_it():
    memory = ClassMemory(classes=3, length=4, dimensions=3)
    for push in random_pushes(3, 3):
        memory.push(*push)
    restored = ClassMemory(classes=3, length=4, dimensions=3)
    restored.load_state_dict(memory.state_dict())
    for push in random_pushes(2, 3, seed=5):
        memory.push(*push)
        restored.push(*push)
    assert torch.equal(memory.embedding, restored.embedding)
    assert torch.equal(memory.filled, restored.filled)
