"""Patches come and go, and what batch norm knows of whole images stays bit for bit."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from patchcl.networks.frozen_norm import running_statistics_untouched

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@pytest.fixture
def network():
    """Two layers of batch norm that have seen images, and a dropout that must stay out of this."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2)
    )
    for _ in range(3):
        network(torch.randn(4, 1, 8, 8) + 1)
    return network


def patches() -> torch.Tensor:
    """Unlike the images: mostly zero."""
    return (torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(1)) > 0.8).float() * 10


def statistics_of(network: nn.Module) -> dict[str, torch.Tensor]:
    found = {name: tensor.clone() for name, tensor in network.state_dict().items() if name.endswith(STATISTICS)}
    assert len(found) == 6
    return found


def changed(network: nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    return {
        name.split(".")[1] for name, tensor in statistics_of(network).items() if not torch.equal(tensor, before[name])
    }


@pytest.mark.parametrize("training", [True, False])
def test_inside_nothing_is_remembered_and_outside_it_is_as_before(network, training):
    network.train(training)
    before = statistics_of(network)
    with running_statistics_untouched(network):
        network(patches()).sum().backward()
        network(patches())
    assert changed(network, before) == set()
    network(patches())
    assert changed(network, before) == (set(STATISTICS) if training else set())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("layer", "size"), [(nn.BatchNorm1d, ()), (nn.BatchNorm2d, (4, 4)), (nn.BatchNorm3d, (2, 3, 4))]
)
def test_inside_patches_are_normalised_by_themselves(layer, size, training):
    norm = layer(3).train(training)
    nn.init.constant_(norm.weight, 2)
    nn.init.constant_(norm.bias, -1)
    norm.running_mean.fill_(7)
    image = 3 * torch.randn(6, 3, *size, generator=torch.Generator().manual_seed(0)) + 5
    with running_statistics_untouched(norm):
        found = norm(image)
    torch.testing.assert_close(found, F.batch_norm(image, None, None, norm.weight, norm.bias, training=True))
    per_channel = found.transpose(0, 1).flatten(1)
    torch.testing.assert_close(per_channel.mean(dim=1), torch.full((3,), -1.0))
    torch.testing.assert_close(per_channel.std(dim=1, correction=0), torch.full((3,), 2.0), rtol=1e-4, atol=0)


def test_a_network_in_evaluation_mode_predicts_afterwards_as_before(network):
    network.eval()
    image = torch.randn(2, 1, 8, 8)
    before = network(image)
    with running_statistics_untouched(network):
        assert not torch.allclose(network(image), before)
    assert torch.equal(network(image), before)


@pytest.mark.parametrize("fails", [True, False])
def test_every_layer_gets_its_own_mode_back(network, fails):
    """One layer is frozen in evaluation mode, as fine-tuning does."""
    network[1].eval()
    network[4].track_running_stats = False
    modes = [(module.training, getattr(module, "track_running_stats", None)) for module in network.modules()]
    try:
        with running_statistics_untouched(network):
            assert [module.training for module in network.modules()] == [True] * 6
            if fails:
                raise RuntimeError
    except RuntimeError:
        assert fails
    assert [(module.training, getattr(module, "track_running_stats", None)) for module in network.modules()] == modes


def test_other_layers_keep_their_mode(network):
    network.eval()
    with running_statistics_untouched(network):
        assert not network[2].training, "dropout"
        assert torch.equal(network(patches()), network(patches()))
