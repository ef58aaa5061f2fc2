"""Each change of grey value against what it stands for, and their chain by its laws."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from patchcl.augment.intensity import (
    _add_noise,
    _blur,
    _change_colour,
    _change_contrast,
    _change_gamma,
    change_intensity,
)

SIZES = pytest.mark.parametrize("size", [(12, 10), (6, 8, 7)], ids=["slices", "volumes"])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(size: tuple[int, ...], batch: int = 8, channels: int = 2) -> torch.Tensor:
    """Noise with values from 0 to 1, every image with a 0 and a 1."""
    image = torch.rand(batch, channels, *size, generator=seeded(99))
    image.view(batch, -1)[:, :2] = torch.tensor([0.0, 1.0])
    return image


def spread(image: torch.Tensor) -> torch.Tensor:
    """Smallest and largest value (2, B) of every image."""
    return torch.stack([image.flatten(1).amin(dim=1), image.flatten(1).amax(dim=1)])


@SIZES
def test_strength_zero_changes_nothing_and_draws_nothing(size):
    image, generator = images(size), seeded()
    assert torch.equal(change_intensity(image, 0, generator), image)
    assert torch.equal(generator.get_state(), seeded().get_state())


@SIZES
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_each_image_keeps_to_its_own_range(size, strength):
    per_image = [8, *[1] * (len(size) + 1)]
    image = images(size) * torch.linspace(0.1, 3, 8).view(per_image) + torch.linspace(-4, 1, 8).view(per_image)
    changed = change_intensity(image, strength, seeded())
    assert changed.shape == image.shape
    (low, high), (lowest, highest) = spread(image), spread(changed)
    assert (lowest >= low - 1e-5).all()
    assert (highest <= high + 1e-5).all()
    assert (highest - lowest > 0.1 * (high - low)).all(), "and does not fade to one grey"


@SIZES
def test_units_do_not_matter(size):
    image = images(size)
    changed = change_intensity(image, 1.0, seeded())
    torch.testing.assert_close(change_intensity(5 * image - 2, 1.0, seeded()), 5 * changed - 2, rtol=0, atol=1e-4)


def test_channels_share_the_range_of_their_image():
    image = images((12, 10), batch=16)
    image[:, 1] /= 10
    assert change_intensity(image, 1.0, seeded())[:, 1].amax() > 0.2


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_all_changes_happen_one_after_the_other(strength):
    image, generator = images((12, 10)), seeded()
    expected = image
    for change in (_change_gamma, _change_contrast, _change_colour, _blur, _add_noise):
        expected = change(expected, strength, generator)
    torch.testing.assert_close(change_intensity(image, strength, seeded()), expected.clamp(0, 1))


def test_an_image_of_one_grey_stays_as_it_is():
    image = torch.full((2, 1, 6, 6), 0.25)
    assert torch.equal(change_intensity(image, 1.0, seeded()), image)


@SIZES
def test_changes_follow_from_the_generator_and_are_others_for_every_image(size):
    image = images(size, batch=1).expand(6, -1, *[-1] * len(size))
    first, again, other = (change_intensity(image, 1.0, seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert len({tuple(each.flatten().tolist()) for each in torch.cat([first, other])}) == 12


def test_without_a_generator_the_global_one_decides():
    image = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(change_intensity(image, 1.0))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(drawn[0], change_intensity(image, 1.0, torch.Generator().manual_seed(1)))


def test_a_greater_strength_changes_more():
    image = images((12, 10), batch=64)
    change = [(change_intensity(image, strength, seeded()) - image).abs().mean() for strength in (0.1, 0.5, 1.0)]
    assert 0 < change[0] < 0.5 * change[1] < change[1] < 0.8 * change[2]


@SIZES
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_blur_is_the_gaussian_filter_of_scipy_with_seven_taps(size, strength):
    """The spot that each image makes of a point tells its width; the same draw then blurs a texture."""
    batch = 48
    point, middle = torch.zeros(batch, 1, *size), tuple(length // 2 for length in size)
    point[(slice(None), 0, *middle)] = 1
    spots, texture = _blur(point, strength, seeded()), images(size, batch)
    blurred = _blur(texture, strength, seeded())
    widths = []
    for spot, before, after in zip(spots[:, 0], texture.double().numpy(), blurred.double().numpy(), strict=True):
        centre, beside = spot[middle].item(), spot[(*middle[:-1], middle[-1] + 1)].item()
        widths.append(math.sqrt(0.5 / math.log(centre / beside)) if beside else 0)
        expected = [gaussian_filter(each, widths[-1], mode="nearest", radius=3) if beside else each for each in before]
        np.testing.assert_allclose(after, expected, rtol=0, atol=2e-5)
    assert 14 <= widths.count(0) <= 34, "about half of the images are left sharp"
    assert 1.3 * strength < max(widths) <= 1.5 * strength


def test_gamma_is_a_power_of_the_grey_value_and_keeps_black_and_white():
    image = images((12, 10), batch=64)
    changed = _change_gamma(image, 1.0, seeded())
    torch.testing.assert_close(spread(changed), spread(image), rtol=0, atol=5e-3)
    inner = (image > 0.05) & (image < 0.95)
    exponents = [
        (after[each].log() / before[each].log()) for before, after, each in zip(image, changed, inner, strict=True)
    ]
    for exponent in exponents:
        torch.testing.assert_close(exponent, exponent.mean().expand_as(exponent), rtol=1e-3, atol=0)
    means = torch.stack([exponent.mean() for exponent in exponents])
    assert 0.39 < means.min() < 0.6
    assert 1.7 < means.max() < 2.51
    assert means.log().mean().item() == pytest.approx(0, abs=0.2)


def test_contrast_is_a_line_about_the_mean_of_the_image():
    image = images((12, 10), batch=64)
    changed = _change_contrast(image, 1.0, seeded())
    factors, offsets = [], []
    for before, after in zip(image.flatten(1).double().numpy(), changed.flatten(1).double().numpy(), strict=True):
        factor, offset = np.polyfit(before - before.mean(), after, 1)
        np.testing.assert_allclose(factor * (before - before.mean()) + offset, after, atol=1e-5)
        factors.append(factor)
        offsets.append(offset - before.mean())
    assert np.std(np.log(factors)) == pytest.approx(0.35, abs=0.12)
    assert np.std(offsets) == pytest.approx(0.15, abs=0.05)
    assert abs(np.mean(np.log(factors))) < 0.2
    assert abs(np.mean(offsets)) < 0.08
    assert abs(np.corrcoef(np.log(factors), offsets)[0, 1]) < 0.5, "two draws, not one"


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_noise_is_normal_new_in_every_pixel_and_spares_half_of_the_images(strength):
    image = images((24, 20), batch=64)
    noise = (_add_noise(image, strength, seeded()) - image).flatten(1) / strength
    amounts = noise.std(dim=1)
    noisy = amounts > 1e-6
    assert 20 <= noisy.sum() <= 44
    assert 0.05 < amounts.max() < 0.11
    assert amounts[noisy].min() < 0.03, "in every image as strong as it happens to be"
    standard = noise[noisy] / amounts[noisy].unsqueeze(1)
    assert standard.mean(dim=1).abs().max() < 0.15
    assert (standard.abs() > 1).float().mean().item() == pytest.approx(0.317, abs=0.02)
    assert torch.corrcoef(standard).fill_diagonal_(0).abs().max() < 0.2


@pytest.mark.parametrize("change", [_change_gamma, _change_contrast, _blur])
def test_channels_of_an_image_change_alike(change):
    image = images((12, 10), channels=1).expand(-1, 3, -1, -1)
    changed = change(image, 1.0, seeded())
    torch.testing.assert_close(changed, changed[:, :1].expand_as(changed))
    assert (changed - image).abs().max() > 0.05


@SIZES
def test_grey_images_have_no_colour_to_change(size):
    image, generator = images(size, channels=1), seeded()
    assert torch.equal(_change_colour(image, 1.0, generator), image)
    assert torch.equal(generator.get_state(), seeded().get_state())


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_each_channel_has_a_contrast_and_a_brightness_of_its_own(strength):
    """Means move by a normal of 0.05, deviations by the exponential of one of 0.15; no channel follows another."""
    image = images((6, 6), batch=4000, channels=3)
    changed = _change_colour(image, strength, seeded())
    moved = changed.mean(dim=(2, 3)) - image.mean(dim=(2, 3))
    stretched = (changed.std(dim=(2, 3)) / image.std(dim=(2, 3))).log()
    for drawn, deviation in ((moved, 0.05 * strength), (stretched, 0.15 * strength)):
        torch.testing.assert_close(drawn.std(dim=0), torch.full((3,), deviation), rtol=0.05, atol=0)
        assert (torch.corrcoef(drawn.T) - torch.eye(3)).abs().max() < 0.07
    assert torch.corrcoef(torch.stack([moved.flatten(), stretched.flatten()]))[0, 1].abs() < 0.07
