"""One volume on a CPU goes through oneDNN, gives what it gave, and nothing else is changed."""

import copy

import pytest
import torch
from torch import nn

from patchcl.networks import NetworkSettings, build_network
from patchcl.networks.single_volume import quick_for_one

SIZE = (8, 16, 12)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build_network(NetworkSettings(features=(4, 8)), 1, 3, SIZE)


@pytest.fixture
def asked(monkeypatch):
    """The convolutions that oneDNN was asked for, as they come."""
    calls, convolution = [], torch.mkldnn_convolution
    monkeypatch.setattr(torch, "mkldnn_convolution", lambda *given: calls.append(given) or convolution(*given))
    return calls


def plain(network: nn.Module) -> nn.Module:
    """The same network out of torch's own convolutions."""
    network = copy.deepcopy(network)
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            module.__class__ = nn.Conv3d
    return network


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch has no oneDNN here")
def test_one_volume_goes_through_onednn_and_gives_what_it_gave(network, asked):
    network.eval()
    wide = [each for each in network.modules() if isinstance(each, nn.Conv3d) and max(each.kernel_size) > 1]
    one, two = torch.rand(1, 1, *SIZE), torch.rand(2, 1, *SIZE)
    with torch.inference_mode():
        network(two)
        with torch.autocast("cpu", torch.bfloat16):
            network(one)
        assert asked == []
        found = network(one)
        assert len(asked) == len(wide) > 4
        torch.testing.assert_close(found, plain(network)(one), rtol=1e-4, atol=1e-5)


def test_what_is_trained_stays_bit_for_bit(network, asked):
    same, image = plain(network), torch.rand(1, 1, *SIZE)
    found, expected = network(image), same(image)
    with torch.no_grad():
        network(image)
    assert asked == []
    assert torch.equal(found, expected)
    found.square().sum().backward()
    expected.square().sum().backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(network.parameters(), same.parameters(), strict=True))


def test_layers_of_others_are_left_as_they_are():
    class Own(nn.Conv3d):
        pass

    layers = nn.Sequential(nn.Conv3d(1, 2, 3), Own(2, 2, 3), nn.ConvTranspose3d(2, 2, 3), nn.Conv2d(1, 1, 3))
    quick_for_one(layers)
    assert isinstance(layers[0], nn.Conv3d)
    assert type(layers[0]) is not nn.Conv3d
    assert [type(layer) for layer in layers[1:]] == [Own, nn.ConvTranspose3d, nn.Conv2d]
