"""What an encoder looks with: two convolutions, as MONAI has them, with dropout between or a skip around."""

import pytest
import torch
from monai.networks.nets.basic_unet import TwoConv
from torch import nn

from patchcl.networks.blocks import encoder_block
from patchcl.networks.unet import LEAKY, NORMS

dimensions = pytest.mark.parametrize("dimensions", [2, 3])


def block(dimensions, wide=2, deep=4, **changes):
    torch.manual_seed(0)
    return encoder_block(dimensions, wide, deep, LEAKY, NORMS["batch"], **changes)


@dimensions
def test_a_plain_block_is_that_of_monai(dimensions):
    torch.manual_seed(0)
    monai = TwoConv(dimensions, 2, 4, LEAKY, NORMS["batch"], True, 0.0)
    mine, image = block(dimensions), torch.randn(2, 2, *[8] * dimensions)
    assert mine.state_dict().keys() == monai.state_dict().keys()
    assert torch.equal(mine(image), monai(image))


def test_dropout_between_zeroes_what_the_first_convolution_found_while_training_alone():
    dropping, plain, image = block(2, dropout_between=0.5), block(2), torch.randn(2, 2, 32, 32)
    assert dropping.state_dict().keys() == plain.state_dict().keys(), "a checkpoint fits either"
    seen = []
    dropping.conv_1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    dropping(image)
    assert 0.45 < (seen[0] == 0).float().mean() < 0.55
    dropping.eval()
    assert torch.equal(dropping(image), dropping(image))


@dimensions
def test_a_residual_block_adds_what_it_was_given(dimensions):
    """With a last norm that answers zero only the skip is left, positive as it is and negative at a hundredth."""
    image = torch.randn(2, 4, *[8] * dimensions)
    same, wider = block(dimensions, 4, 4, residual=True), block(dimensions, 4, 6, residual=True)
    for residual in (same, wider):
        nn.init.zeros_(residual.convs.conv_1.adn.N.weight)
    torch.testing.assert_close(same(image), torch.where(image > 0, image, image / 100))
    skipped = wider.skip(image)
    assert skipped.shape == (2, 6, *[8] * dimensions)
    torch.testing.assert_close(wider(image), torch.where(skipped > 0, skipped, skipped / 100))
    assert wider.skip.conv.kernel_size == (1,) * dimensions
