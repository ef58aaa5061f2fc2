"""Intensity augmentation: changes of grey value, as between scanners, that leave the anatomy where it is."""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor


def change_intensity(image: Tensor, strength: float, generator: Generator | None = None) -> Tensor:
    """Random gamma, contrast, brightness, colour, blur and noise, drawn for every image of a batch (B, C, *S).

    Each image keeps to its own range of values, which its channels share. `strength` 0 changes nothing, 1 is the
    strong view. Drawn from `generator`, without one from the global generator.
    """
    if strength == 0:
        return image
    spatial = list(range(1, image.ndim))
    low, high = image.amin(dim=spatial, keepdim=True), image.amax(dim=spatial, keepdim=True)
    unit = (image - low) / (high - low).clamp(min=1e-6)
    unit = _change_gamma(unit, strength, generator)
    unit = _change_contrast(unit, strength, generator)
    unit = _change_colour(unit, strength, generator)
    unit = _blur(unit, strength, generator)
    unit = _add_noise(unit, strength, generator)
    return unit.clamp(0, 1) * (high - low) + low


def _per_image(image: Tensor, generator: Generator | None, normal: bool = False) -> Tensor:
    """A random number for every image, uniform in [0, 1) or standard normal, shaped to multiply a batch."""
    draw = torch.randn if normal else torch.rand
    return draw((len(image), *[1] * (image.ndim - 1)), generator=generator, device=image.device)


def _change_gamma(unit: Tensor, strength: float, generator: Generator | None) -> Tensor:
    exponent = torch.exp(0.4 * strength * _per_image(unit, generator, normal=True)).clamp(0.4, 2.5)
    return unit.clamp(min=1e-6) ** exponent


def _change_contrast(unit: Tensor, strength: float, generator: Generator | None) -> Tensor:
    mean = unit.mean(dim=list(range(1, unit.ndim)), keepdim=True)
    factor = torch.exp(0.35 * strength * _per_image(unit, generator, normal=True)).clamp(0.4, 2.5)
    offset = 0.15 * strength * _per_image(unit, generator, normal=True)
    return (unit - mean) * factor + mean + offset


def _change_colour(unit: Tensor, strength: float, generator: Generator | None) -> Tensor:
    """Contrast and brightness of each channel, as between stains; nothing, and no draw, where there is one channel."""
    if unit.shape[1] == 1:
        return unit
    mean = unit.mean(dim=list(range(2, unit.ndim)), keepdim=True)
    draws = strength * torch.randn((2, *mean.shape), generator=generator, device=unit.device)
    return (unit - mean) * torch.exp(0.15 * draws[0]).clamp(0.5, 2) + mean + 0.05 * draws[1]


def _add_noise(unit: Tensor, strength: float, generator: Generator | None) -> Tensor:
    amount = 0.1 * strength * _per_image(unit, generator) * (_per_image(unit, generator) < 0.5)
    return unit + amount * torch.randn(unit.shape, generator=generator, device=unit.device)


def _blur(unit: Tensor, strength: float, generator: Generator | None) -> Tensor:
    """Gaussian blur of half of the images, by up to 1.5 pixels, one axis after the other."""
    sigma = (1.5 * strength * _per_image(unit, generator) * (_per_image(unit, generator) < 0.5)).clamp(min=0.05)
    reach = torch.arange(-3, 4, device=unit.device)
    kernel = torch.exp(-0.5 * (reach / sigma.view(-1, 1)) ** 2)
    kernel = kernel / kernel.sum(dim=1, keepdim=True)
    for axis in range(2, unit.ndim):
        unit = _convolve_along(unit, kernel, axis)
    return unit


def _convolve_along(unit: Tensor, kernel: Tensor, axis: int) -> Tensor:
    """Each image of (B, C, *S) with its own row of `kernel` (B, 7) along one axis, edges repeated."""
    moved = unit.movedim(axis, -1)
    lines = moved.reshape(len(unit), -1, moved.shape[-1]).transpose(0, 1)
    padded = F.pad(lines, (3, 3), mode="replicate")
    blurred = F.conv1d(padded, kernel.unsqueeze(1), groups=len(unit))
    return blurred.transpose(0, 1).reshape(moved.shape).movedim(-1, axis)
