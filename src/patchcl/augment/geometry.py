"""One geometric draw per image, applied to image and mask alike."""

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from patchcl.augment import AugmentSettings


def draw_transforms(batch: int, size: tuple[int, ...], settings: AugmentSettings, generator: Generator) -> Tensor:
    """Random affine maps (B, D, D + 1) from output to input coordinates, as `F.affine_grid` wants them.

    Coordinates run from -1 to 1 along every axis, last axis first. Rotations and zooms keep the shape of pixels: a
    circle stays a circle in an image that is not square.
    """
    dimensions, device = len(size), generator.device
    turn = torch.matrix_exp(_skew(batch, dimensions, settings.rotate_degrees, generator))
    zoom = torch.exp(_uniform((batch, 1, 1), generator) * -math.log(1 - settings.scale))
    matrix = turn * zoom
    if settings.quarter_turns and dimensions == 2 and size[0] == size[1]:
        matrix = matrix @ _quarter_turns(batch, generator)
    if settings.flip:
        side = torch.randint(0, 2, (batch, 1, dimensions), generator=generator, device=device) * 2 - 1
        matrix = matrix * side
    extent = torch.tensor(size[::-1], dtype=torch.float32, device=device)
    matrix = matrix * extent.view(1, 1, -1) / extent.view(1, -1, 1)
    shift = _uniform((batch, dimensions, 1), generator) * 2 * settings.shift
    return torch.cat([matrix, shift], dim=2)


def warp(image: Tensor, mask: Tensor | None, transforms: Tensor) -> tuple[Tensor, Tensor | None]:
    """Image (B, C, *S) resampled linearly and mask (B, *S) by nearest neighbour; 0 comes in from outside."""
    grid = F.affine_grid(transforms, list(image.shape), align_corners=False)
    warped = F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    if mask is None:
        return warped, None
    moved = F.grid_sample(mask.unsqueeze(1).float(), grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return warped, moved.squeeze(1).round().long()


def _uniform(shape: tuple[int, ...], generator: Generator) -> Tensor:
    """Uniform in [-1, 1)."""
    return torch.rand(shape, generator=generator, device=generator.device) * 2 - 1


def _skew(batch: int, dimensions: int, degrees: float, generator: Generator) -> Tensor:
    """Random skew-symmetric matrices whose exponentials turn by up to `degrees` in every coordinate plane."""
    angles = _uniform((batch, dimensions, dimensions), generator).triu(diagonal=1) * math.radians(degrees)
    return angles - angles.transpose(1, 2)


def _quarter_turns(batch: int, generator: Generator) -> Tensor:
    """Turns (B, 2, 2) by 0, 90, 180 or 270 degrees."""
    angle = torch.randint(0, 4, (batch,), generator=generator, device=generator.device) * (math.pi / 2)
    cosine, sine = angle.cos().round(), angle.sin().round()
    return torch.stack([cosine, -sine, sine, cosine], dim=1).view(batch, 2, 2)
