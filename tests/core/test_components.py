"""Connected components agree with SciPy's."""

import pytest
import torch
import torch.nn.functional as F

from patchcl.core.components import component_roots, largest_components


def blobs(*size: int) -> torch.Tensor:
    """Four classes, in pieces of all sizes."""
    generator = torch.Generator().manual_seed(0)
    pool = getattr(F, f"avg_pool{len(size)}d")
    return pool(torch.randn(3, 4, *size, generator=generator), 5, stride=1, padding=2).argmax(dim=1)


def noise(*size: int, density: float = 0.41) -> torch.Tensor:
    """Two classes, near the density at which pieces are most ragged."""
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(2, *size, generator=generator) < density).long()


def maze(side: int) -> torch.Tensor:
    """One path through the whole image, walked to and fro, and the same turned."""
    path = torch.zeros(side, side, dtype=torch.long)
    path[::4] = 1
    for row in range(0, side - 4, 4):
        path[row : row + 4, -1 if row // 4 % 2 == 0 else 0] = 1
    return torch.stack([path, path.T, path.flip(0), path.flip(1)])


@pytest.mark.parametrize(
    "mask",
    [blobs(64, 48), blobs(16, 20, 24), noise(80, 80), noise(80, 80, density=0.3), noise(12, 12, 12, density=0.1)],
    ids=["blobs", "volumes", "ragged", "sparse", "sparse volumes"],
)
def test_of_every_class_the_largest_component_stays_as_scipy_finds_it(largest_by_scipy, mask):
    kept = largest_components(mask, 4)
    assert torch.equal(kept, torch.from_numpy(largest_by_scipy(mask.numpy(), 4)))
    assert 0 < (kept > 0).sum() < (mask > 0).sum()


@pytest.mark.parametrize("side", [33, 129])
def test_a_maze_is_one_component(side):
    mask = maze(side)
    last = torch.where(mask > 0, torch.arange(side * side).view(side, side), 0).amax(dim=(1, 2))
    roots = component_roots(mask, 2).view_as(mask)
    assert torch.equal(torch.where(mask > 0, roots, 0), mask * last.view(-1, 1, 1))


def test_of_components_of_one_size_the_first_stays_and_an_empty_mask_stays_empty():
    mask = torch.tensor([[[2, 0, 2, 0, 1], [2, 0, 2, 0, 0], [0, 0, 0, 0, 1]], [[0] * 5] * 3])
    kept = largest_components(mask, 4)
    assert kept.tolist() == [[[2, 0, 0, 0, 1], [2, 0, 0, 0, 0], [0, 0, 0, 0, 0]], [[0] * 5] * 3]
