"""Geometric augmentation: one affine draw per image, applied to image and mask alike."""

import itertools
import math
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor

from patchcl.augment import AugmentSettings

THICK = 3.0
"""Two axes whose spacings differ by more than this factor span no plane to rotate in."""


class Symmetry(NamedTuple):
    """A map of the pixel grid onto itself: quarter turns of the two axes of a slice, then mirrored along axes."""

    turns: int = 0
    mirrored: tuple[int, ...] = ()  # axes of the image, without batch and channels


IDENTITY = Symmetry()


def draw_transforms(
    batch: int,
    size: tuple[int, ...],
    settings: AugmentSettings,
    generator: Generator,
    spacing_mm: tuple[float, ...] | None = None,
) -> Tensor:
    """Random affine maps (B, D, D + 1) from output to input coordinates, as `F.affine_grid` wants them.

    Coordinates run from -1 to 1 along every axis, last axis first. Rotations and zooms keep shapes, in mm if
    `spacing_mm` is given and else in pixels: a circle stays a circle in an image that is not square. Thick slices turn
    in their plane alone.
    """
    dimensions, device = len(size), generator.device
    spacing = _constant((spacing_mm or (1.0,) * dimensions)[::-1], device)
    turn = rotation(_skew(batch, spacing, settings.rotate_degrees, generator))
    zoom = torch.exp(_uniform((batch, 1, 1), generator) * -math.log(1 - settings.scale))
    arranged = _ssl4mis_policy if settings.ssl4mis_policy else _everything
    matrix = arranged(turn, size, settings, generator) * zoom
    extent = _constant(size[::-1], device) * spacing
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


def drawn_symmetries(
    size: tuple[int, ...], settings: AugmentSettings, spacing_mm: tuple[float, ...] | None = None
) -> tuple[Symmetry, ...]:
    """The symmetries of the grid that `draw_transforms` draws with the same arguments, each once, the identity first.

    A quarter turn keeps shapes in mm, so where pixels are not square it stretches the grid and is none of them; the
    half turn is. With `ssl4mis_policy` they are no group: an image is mirrored along exactly one axis or left alone.
    """
    turns = range(0, 4, 1 if _square_pixels(spacing_mm) else 2) if _may_rotate_90(size, settings) else (0,)
    mirrors = _drawn_mirrors(len(size), settings)
    drawn = [_simplest(Symmetry(turn, mirrored), len(size)) for turn in turns for mirrored in mirrors]
    return tuple(dict.fromkeys([IDENTITY, *drawn]))


def _drawn_mirrors(dimensions: int, settings: AugmentSettings) -> list[tuple[int, ...]]:
    """The sets of axes along which one image may be mirrored."""
    if not settings.mirrors:
        return [()]
    counts = (1,) if settings.ssl4mis_policy else range(dimensions + 1)
    return [axes for count in counts for axes in itertools.combinations(range(dimensions), count)]


def _simplest(symmetry: Symmetry, dimensions: int) -> Symmetry:
    """The same map with the fewest mirrored axes: in a slice, mirroring both is half a turn."""
    if dimensions != 2 or 1 not in symmetry.mirrored:
        return symmetry
    return Symmetry((symmetry.turns + 2) % 4, () if 0 in symmetry.mirrored else (0,))


def _square_pixels(spacing_mm: tuple[float, ...] | None) -> bool:
    return spacing_mm is None or math.isclose(min(spacing_mm), max(spacing_mm), rel_tol=1e-3)


def rotation(skew: Float[Tensor, "B D D"]) -> Float[Tensor, "B D D"]:
    """The exponential of skew-symmetric matrices of two or three dimensions, by Rodrigues' formula.

    With θ² the sum of squares above the diagonal, exp(A) = I + sin θ / θ A + (1 - cos θ) / θ² A².
    """
    turn = skew.triu().square().sum(dim=(1, 2), keepdim=True).sqrt() / math.pi  # in half turns, as `sinc` has it
    identity = torch.eye(skew.shape[1], device=skew.device)
    return identity + torch.sinc(turn) * skew + 0.5 * torch.sinc(turn / 2).square() * (skew @ skew)


@lru_cache(maxsize=16)
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Made once and kept on the device, so that no step waits until the host has brought it there."""
    return torch.tensor(values, dtype=torch.float32, device=device)


def _uniform(shape: tuple[int, ...], generator: Generator) -> Tensor:
    """Uniform in [-1, 1)."""
    return torch.rand(shape, generator=generator, device=generator.device) * 2 - 1


def _skew(batch: int, spacing: Tensor, degrees: float, generator: Generator) -> Tensor:
    """Random skew-symmetric matrices whose exponentials turn by up to `degrees` in every plane that is not THICK."""
    angles = _uniform((batch, len(spacing), len(spacing)), generator).triu(diagonal=1) * math.radians(degrees)
    ratio = spacing.unsqueeze(0) / spacing.unsqueeze(1)
    angles = angles * ((ratio <= THICK) & (ratio >= 1 / THICK))
    return angles - angles.transpose(1, 2)


def _everything(turn: Tensor, size: tuple[int, ...], settings: AugmentSettings, generator: Generator) -> Tensor:
    """The rotations `turn` (B, D, D), each with a quarter turn and mirrored along any of the axes."""
    batch, dimensions, device = len(turn), len(size), generator.device
    if _may_rotate_90(size, settings):
        turn = turn @ _quarter_rotations(batch, generator)
    if settings.mirrors:
        turn = turn * (torch.randint(0, 2, (batch, 1, dimensions), generator=generator, device=device) * 2 - 1)
    return turn


def _ssl4mis_policy(turn: Tensor, size: tuple[int, ...], settings: AugmentSettings, generator: Generator) -> Tensor:
    """Half of the matrices (B, D, D) make quarter turns and mirror an axis, a quarter are of `turn`, a quarter stay.

    Source: SSL4MIS, `dataloaders/dataset.py`, `RandomGenerator`. Deviations: angles are real numbers, and the image is
    rotated after it was resized, not before, and linearly.
    """
    batch, dimensions, device = len(turn), len(size), generator.device
    exact = still = torch.eye(dimensions, device=device).expand(batch, -1, -1)
    if _may_rotate_90(size, settings):
        exact = _quarter_rotations(batch, generator)
    if settings.mirrors:
        axis = torch.randint(0, dimensions, (batch,), generator=generator, device=device)
        exact = exact * (1 - 2 * (axis.view(-1, 1, 1) == torch.arange(dimensions, device=device)).int())
    uniform = torch.rand((batch, 1, 1), generator=generator, device=device)
    return torch.where(uniform < 0.5, exact, torch.where(uniform < 0.75, turn, still))


def _may_rotate_90(size: tuple[int, ...], settings: AugmentSettings) -> bool:
    return settings.quarter_turns and len(size) == 2 and size[0] == size[1]


def _quarter_rotations(batch: int, generator: Generator) -> Tensor:
    """Turns (B, 2, 2) by 0, 90, 180 or 270 degrees."""
    angle = torch.randint(0, 4, (batch,), generator=generator, device=generator.device) * (math.pi / 2)
    cosine, sine = angle.cos().round(), angle.sin().round()
    return torch.stack([cosine, -sine, sine, cosine], dim=1).view(batch, 2, 2)
