"""The ring buffer against a list per class, on one process and on two, and its figures against NumPy."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from patchcl.contrast.memory_bank import ClassMemory
from patchcl.core.batch import IGNORE


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


def test_a_class_is_ready_from_the_least_number_on():
    memory = ClassMemory(classes=2, length=4, dimensions=2)
    memory.push(torch.ones(3, 2), torch.tensor([0, 0, 1]))
    assert memory.ready(min_size=2).tolist() == [True, False]
    assert memory.written.tolist() == [[True, True, False, False], [True, False, False, False]]


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


def filled_memory(rows: torch.Tensor) -> ClassMemory:
    """All of `rows` (K, M, E), no more and no less."""
    memory = ClassMemory(*rows.shape)
    memory.push(rows.flatten(0, 1), torch.arange(rows.shape[0]).repeat_interleave(rows.shape[1]))
    return memory


def test_separability_is_the_variance_between_classes_over_that_within():
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 2.0]])
    rows = centres.unsqueeze(1) + torch.randn(3, 500, 2, generator=generator)
    means = rows.mean(dim=1).numpy()
    between = np.sum((means - means.mean(axis=0)) ** 2) / 3
    within = np.mean([np.trace(np.cov(members.numpy().T, bias=True)) for members in rows])
    assert filled_memory(rows).separability() == pytest.approx(between / within, rel=1e-5)
    assert filled_memory(torch.ones(2, 5, 3)).separability() == 0
    assert ClassMemory(2, 5, 3).separability() == 0


def test_separability_is_of_the_classes_that_hold_something_however_little_they_are_wide():
    memory = ClassMemory(classes=3, length=5, dimensions=1)
    memory.push(torch.tensor([[0.5], [0.0], [0.2]]), torch.tensor([0, 1, 1]))  # means 0.5 and 0.1, widths 0 and 0.1
    assert memory.separability() == pytest.approx(0.2**2 / (0.1**2 / 2), rel=1e-5)


@pytest.mark.parametrize("directions", [1, 2, 5])
def test_effective_rank_counts_directions_of_equal_variance(directions):
    axes = torch.eye(5)[:directions]
    rows = torch.cat([axes, -axes]).unsqueeze(0)
    for scale in (1.0, 0.01):
        assert filled_memory(scale * rows).effective_rank() == pytest.approx(directions, rel=1e-6)


def test_effective_rank_lies_between_the_counts_where_variances_differ_and_is_0_for_nothing():
    rows = torch.tensor([[[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]]])
    fractions = np.array([0.9, 0.1])
    assert filled_memory(rows).effective_rank() == pytest.approx(
        np.exp(-(fractions * np.log(fractions)).sum()), rel=1e-6
    )
    assert ClassMemory(2, 5, 3).effective_rank() == 0
    assert filled_memory(torch.full((2, 5, 3), torch.nan)).effective_rank() == 0


def push_on_one_of_two(rank: int, folder: str) -> None:
    """What a process of two does: it sees its half of every push."""
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    memory = ClassMemory(classes=3, length=7, dimensions=3)
    for embedding, label in random_pushes(6, 3):
        half = slice(0, 2) if rank == 0 else slice(2, 4)
        memory.push(embedding[half], label[half])
    torch.save(memory.state_dict(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_remember_what_one_would(tmp_path: Path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2])  # where the processes find this very module
    mp.start_processes(push_on_one_of_two, (str(tmp_path),), nprocs=2, start_method="spawn")
    alone = ClassMemory(classes=3, length=7, dimensions=3)
    for embedding, label in random_pushes(6, 3):
        alone.push(embedding[:4], label[:4])
    for rank in range(2):
        state = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert all(torch.equal(state[name], value) for name, value in alone.state_dict().items())
