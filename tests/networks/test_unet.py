"""Shapes, size and gradients, and that what is embedded is what segments."""

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from patchcl.core.errors import UserError
from patchcl.networks import NetworkSettings, build_network
from patchcl.networks.blocks import ResidualBlock
from patchcl.networks.unet import UNet, halvings

SMALL = (4, 8, 16)


def small(size, channels=1, classes=2, features=SMALL, norm="batch"):
    return UNet(halvings(size, None, len(features) - 1), channels, classes, features, norm)


def test_the_default_is_the_network_of_the_published_tables():
    """1.81 M in SSL4MIS; interpolating instead of transposed convolutions or not, it stays below 2 M."""
    weights = build_network(NetworkSettings(), channels=1, classes=4, size=(256, 256)).parameters()
    assert 1.8e6 < sum(weight.numel() for weight in weights if weight.requires_grad) < 2.0e6


@pytest.mark.parametrize(
    ("size", "features"),
    [
        ((16, 24), SMALL),
        ((17, 23), SMALL),
        ((16, 8), (4, 8)),
        ((16, 20, 16), SMALL),
        ((17, 19, 21), SMALL),
    ],
)
def test_logits_have_the_size_of_the_image_and_features_a_fraction_of_it(size, features):
    network = small(size, channels=3, classes=5, features=features)
    image = torch.randn(2, 3, *size)
    assert network(image).shape == (2, 5, *size)
    assert network.reduction == (2 ** (len(features) - 1),) * len(size)
    smallest = [length // by for length, by in zip(size, network.reduction, strict=True)]
    assert network.encode(image).shape == (2, features[-1], *smallest)
    assert network.encoded_channels == features[-1]


@pytest.mark.parametrize(
    ("size", "spacing_mm", "factors"),
    [
        ((256, 256), None, [(2, 2)] * 4),
        ((32, 48, 32), None, [(2, 2, 2)] * 3 + [(1, 1, 1)]),
        ((64, 128, 8), None, [(2, 2, 2), (2, 2, 1), (2, 2, 1), (2, 2, 1)]),
        ((128, 128, 16), (1.5, 1.5, 10.0), [(2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2)]),
        ((128, 128, 3), (1.0, 1.0, 2.0), [(2, 2, 1)] * 4),
        ((8, 64, 64), (0.5, 1.0, 1.5), [(2, 1, 1), (1, 2, 2), (1, 2, 2), (1, 2, 2)]),
    ],
    ids=["slices", "small", "flat", "thick slices", "few slices", "one fine axis"],
)
def test_an_axis_is_halved_when_the_others_are_as_coarse_and_while_it_is_long_enough(size, spacing_mm, factors):
    assert halvings(size, spacing_mm, levels=4) == factors


def test_volumes_of_thick_slices_pass_through_the_default_network():
    network = build_network(NetworkSettings(features=(2, 2, 2, 2, 2)), 1, 3, (64, 48, 5), (1.0, 1.0, 6.0))
    image = torch.randn(1, 1, 64, 48, 5)
    assert network.reduction == (16, 8, 1)
    assert network.encode(image).shape == (1, 2, 4, 6, 5)
    assert network(image).shape == (1, 3, 64, 48, 5)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_logits_are_made_of_the_encoded_features(dimensions):
    network = small((16,) * dimensions).eval()
    image, seen = torch.randn(2, 1, *[16] * dimensions), []
    with network.up[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])):
        logits = network(image)
    assert torch.equal(seen[0], network.encode(image))
    with network.up[0].register_forward_pre_hook(lambda _, inputs: (torch.zeros_like(inputs[0]), *inputs[1:])):
        assert not torch.allclose(network(image), logits)


@pytest.mark.parametrize(
    ("norm", "layer"), [("batch", nn.BatchNorm2d), ("instance", nn.InstanceNorm2d), ("group", nn.GroupNorm)]
)
def test_a_gradient_reaches_every_weight_whatever_the_norm(norm, layer):
    network = build_network(NetworkSettings(features=(8, 16, 24), norm=norm), channels=2, classes=3, size=(16, 16))
    network(torch.randn(2, 2, 16, 16)).square().mean().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in network.parameters())
    still = [
        name for name, weight in network.named_parameters() if not name.endswith(".conv.bias") and not weight.grad.any()
    ]
    assert still == []
    norms = [module for module in network.modules() if "Norm" in type(module).__name__]
    assert {type(module) for module in norms} == {layer}
    assert len(norms) == 2 * (3 + 2), "two in every block of the way down and up"
    assert all(module.weight.requires_grad and module.bias.requires_grad for module in norms)


def test_only_the_way_down_learns_from_encoded_features():
    network = small((16, 16))
    network.encode(torch.randn(2, 1, 16, 16)).square().mean().backward()
    reached = {name.split(".")[0] for name, weight in network.named_parameters() if weight.grad is not None}
    assert reached == {"inlet", "down"}


def test_dropout_is_everywhere_and_drops_while_training_alone():
    network = build_network(NetworkSettings(features=SMALL, dropout=0.5), channels=1, classes=2, size=(16, 16))
    assert [module.p for module in network.modules() if isinstance(module, _DropoutNd)] == [0.5] * 2 * (3 + 2)
    image = torch.randn(2, 1, 16, 16)
    assert not torch.equal(network(image), network(image))
    network.eval()
    assert torch.equal(network(image), network(image))


def test_encoder_dropout_grows_on_the_way_down_and_leaves_the_way_up_alone():
    """The rates of SSL4MIS; the weights have the names and the first values that they have without."""
    rates, networks = (0.05, 0.1, 0.2, 0.3, 0.5), []
    for given in (rates, ()):
        torch.manual_seed(0)
        networks.append(build_network(NetworkSettings(features=(4, 4, 4, 4, 8), encoder_dropout=given), 1, 2, (32, 32)))
    dropping, plain = networks
    rated = [(name, module.p) for name, module in dropping.named_modules() if isinstance(module, _DropoutNd)]
    blocks = ("inlet", *(f"down.{level}.convs" for level in range(4)))
    expected = [(f"{block}.dropout", rate) for block, rate in zip(blocks, rates, strict=True)]
    assert [(name, rate) for name, rate in rated if rate > 0] == expected
    image = torch.randn(2, 1, 32, 32)
    assert not torch.equal(dropping(image), dropping(image))
    dropping.load_state_dict(plain.state_dict())
    assert torch.equal(dropping.eval()(image), plain.eval()(image))


def deeply_supervised(dimensions=2, **changes):
    settings = NetworkSettings(features=(4, 4, 6, 8, 8), deep_supervision=True, **changes)
    return build_network(settings, 1, 3, (32,) * dimensions)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_lower_logits_are_those_of_the_levels_between_the_first_and_the_lowest(dimensions):
    network, seen = deeply_supervised(dimensions), []
    for up in network.up:
        up.register_forward_hook(lambda _, __, decoded: seen.append(decoded))
    network(torch.randn(2, 1, *[32] * dimensions))
    lowest, quarter, half, _ = seen
    assert lowest.shape[2:] == (4,) * dimensions
    expected = [classify(level) for classify, level in zip(network.classify_lower, (half, quarter), strict=True)]
    assert [level.shape[2] for level in network.lower_logits] == [16, 8]
    assert all(torch.equal(one, two) for one, two in zip(network.lower_logits, expected, strict=True))


def test_lower_logits_stay_those_of_the_pass_that_is_learned_from():
    network, image = deeply_supervised(), torch.randn(2, 1, 32, 32)
    network(image)
    kept = network.lower_logits
    with torch.no_grad():
        network(image)
    network(image, feature_dropout=0.5)
    network.eval()(image)
    assert network.lower_logits is kept
    assert deeply_supervised().eval()(image).shape == (2, 3, 32, 32)


@pytest.mark.parametrize(("features", "lower"), [((4, 8), 0), ((4, 8, 8), 0), ((4, 8, 8, 8), 1)])
def test_lower_levels_learn_by_default_where_some_lie_between_the_first_and_the_lowest(features, lower):
    network = build_network(NetworkSettings(features=features), 1, 3, (32, 32))
    network(torch.randn(2, 1, 32, 32))
    assert len(network.lower_logits) == lower


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_residual_encoder_has_blocks_with_a_skip_on_the_way_down_alone(dimensions):
    network = build_network(NetworkSettings(features=SMALL, residual_encoder=True), 1, 3, (16,) * dimensions)
    assert [name for name, module in network.named_modules() if isinstance(module, ResidualBlock)] == [
        "inlet", "down.0.convs", "down.1.convs"
    ]  # fmt: skip
    network(torch.randn(2, 1, *[16] * dimensions)).square().mean().backward()
    still = [name for name, weight in network.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert [name for name in still if not name.endswith(".conv.bias")] == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"features": SMALL, "encoder_dropout": (0.1, 0.2)}, "encoder_dropout has 2 rates for 3 features: give 3"),
        ({"features": SMALL, "encoder_dropout": (0.1, 0.2, 1.0)}, "less than 1"),
    ],
)
def test_settings_that_the_levels_do_not_bear_are_refused(settings, said):
    with pytest.raises(ValidationError, match=said):
        NetworkSettings(**settings)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_perturbed_features_miss_whole_channels_on_every_level_and_keep_their_mean(dimensions):
    """What the decoder is given, with and without, by hooks on its blocks."""
    network, seen = small((16,) * dimensions, features=(32, 32, 32), norm="instance").eval(), []
    for up in network.up:
        up.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    image = torch.randn(4, 1, *[16] * dimensions)
    network(image)
    torch.manual_seed(0)
    network(image, feature_dropout=0.25)
    (deepest, skip), (_, top), (dropped_deepest, dropped_skip), (_, dropped_top) = seen
    for features, dropped in ((deepest, dropped_deepest), (skip, dropped_skip), (top, dropped_top)):
        gone = (dropped == 0).flatten(2).all(dim=2)
        assert 0.1 < gone.float().mean() < 0.4
        assert not torch.equal(gone[0], gone[1]), "each image loses channels of its own"
        torch.testing.assert_close(dropped[~gone], features[~gone] / 0.75)


def test_without_perturbation_nothing_is_drawn():
    network, image = small((16, 16)), torch.randn(2, 1, 16, 16)
    state = torch.get_rng_state()
    assert torch.equal(network(image, feature_dropout=0.0), network(image))
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(network(image, feature_dropout=0.5), network(image))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated:DeprecationWarning")  # what torch.compile imports
@pytest.mark.parametrize(("dimensions", "feature_dropout"), [(2, 0.0), (3, 0.0), (2, 0.5)])
def test_it_compiles_in_one_piece_and_computes_the_same(dimensions, feature_dropout):
    network = build_network(NetworkSettings(features=(8, 16)), 1, 3, (8,) * dimensions)
    image = torch.rand(2, 1, *(8,) * dimensions)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    logits = []
    for one in (compiled, network):
        torch.manual_seed(0)
        logits.append(one(image, feature_dropout))
    torch.testing.assert_close(*logits)


@pytest.mark.parametrize("size", [(16, 24), (17, 23), (16, 20, 16)])
@pytest.mark.parametrize("levels", [(0,), (1,), (2,), (2, 0)])
def test_embedded_features_are_those_after_that_many_levels_of_the_decoder(levels, size):
    network, decoded = small(size, features=SMALL), []
    network.embed_at(levels)
    image = torch.randn(2, 1, *size)
    network.down[-1].register_forward_hook(lambda _, __, seen: decoded.append(seen))
    for up in network.up:
        up.register_forward_hook(lambda _, __, seen: decoded.append(seen))
    found = network.segment(image)[1]
    finest = decoded[max(levels)].shape[2:]
    expected = [F.interpolate(decoded[level], size=finest) for level in levels]
    assert torch.equal(found, torch.cat(expected, dim=1))
    assert found.shape[1] == network.encoded_channels == sum(SMALL[2 - level] for level in levels)
    assert network.encoded_reduction == (4 // 2 ** max(levels),) * len(size)
    network.eval()
    assert torch.equal(network.encode(image), network.segment(image)[1])


def test_levels_that_the_decoder_does_not_have_are_refused():
    with pytest.raises(UserError, match=r"method.contrast.levels is \[3\], but the decoder has 2 levels"):
        small((16, 16)).embed_at((3,))


def test_thick_slices_are_enlarged_along_the_axes_that_were_halved():
    network = build_network(NetworkSettings(features=(2, 2, 2, 2, 2)), 1, 3, (64, 48, 5), (1.0, 1.0, 6.0))
    network.embed_at((3,))
    assert network.encoded_reduction == (2, 2, 1)
    assert network.encode(torch.randn(1, 1, 64, 48, 5)).shape == (1, 2, 32, 24, 5)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated:DeprecationWarning")  # what torch.compile imports
def test_deep_supervision_and_residual_blocks_compile_in_one_piece():
    network, image = deeply_supervised(residual_encoder=True), torch.rand(2, 1, 32, 32)
    compiled = torch.compile(network.segment, backend="aot_eager", fullgraph=True)
    network.segment(image)
    kept = network.lower_logits
    compiled(image)
    assert network.lower_logits is not kept
    torch.testing.assert_close(network.lower_logits, kept)
