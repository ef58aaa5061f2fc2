"""Exact where a draw is exact, and true to the shape of things where it is not."""

import itertools
import math

import pytest
import torch

from patchcl.augment import AugmentSettings
from patchcl.augment.geometry import IDENTITY, draw_transforms, drawn_symmetries, rotation, warp
from patchcl.core.batch import IGNORE

NOTHING = AugmentSettings(flip=False, rotate_90=False, rotate_degrees=0, scale=0, shift=0)
SIZES = pytest.mark.parametrize("size", [(6, 6), (5, 8), (4, 5, 6)], ids=["square", "oblong", "volume"])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(batch: int, size: tuple[int, ...], seed: int = 0, **changed: float) -> torch.Tensor:
    """Transforms that differ from doing nothing only in what is `changed`."""
    return draw_transforms(batch, size, NOTHING.model_copy(update=changed), seeded(seed))


def numbered(size: tuple[int, ...]) -> torch.Tensor:
    """An image (*S) without two equal pixels."""
    return torch.arange(1.0, math.prod(size) + 1).view(size)


def warp_all(image: torch.Tensor, transforms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One image (*S), and itself as mask, by each of the transforms (B, ...)."""
    batch = image.expand(len(transforms), *image.shape)
    warped, mask = warp(batch.unsqueeze(1), batch.long(), transforms)
    return warped.squeeze(1), mask


def coordinates(size: tuple[int, ...]) -> torch.Tensor:
    """Distance (D, *S) of every pixel from the middle along each axis, in pixels."""
    return torch.stack(torch.meshgrid(*(torch.arange(s) - (s - 1) / 2 for s in size), indexing="ij"))


def bright_at(place: tuple[float, ...], size: tuple[int, ...]) -> torch.Tensor:
    """A smooth spot (*S) at `place`, in pixels from the middle."""
    offset = coordinates(size) - torch.tensor(place).view(-1, *[1] * len(size))
    return torch.exp(-offset.square().sum(dim=0) / (2 * 1.5**2))


def centres(images: torch.Tensor) -> torch.Tensor:
    """Centre of mass (B, D) of each image (B, *S), in pixels from the middle."""
    weights = (images / images.flatten(1).sum(dim=1).view(-1, *[1] * (images.ndim - 1))).unsqueeze(1)
    return (weights * coordinates(images.shape[1:])).flatten(2).sum(dim=2)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("degrees", [0, 1e-3, 20, 90, 180])
def test_a_rotation_is_the_exponential_of_its_skew_matrix(dimensions, degrees):
    draws = (2 * torch.rand(50, dimensions, dimensions, generator=seeded()) - 1) * math.radians(degrees)
    skew = draws.triu(1) - draws.triu(1).transpose(1, 2)
    turn = rotation(skew)
    torch.testing.assert_close(turn.double(), torch.matrix_exp(skew.double()), rtol=0, atol=2e-6)
    unchanged = torch.eye(dimensions).expand(50, -1, -1)
    torch.testing.assert_close(turn @ turn.transpose(1, 2), unchanged, rtol=0, atol=2e-6)
    assert torch.equal(turn, unchanged) == (degrees == 0)


@SIZES
def test_settings_that_ask_for_nothing_change_nothing(size):
    image = numbered(size)
    warped, mask = warp_all(image, draw(3, size))
    torch.testing.assert_close(warped, image.expand(3, *size), rtol=1e-5, atol=1e-3)
    assert torch.equal(mask, image.long().expand(3, *size))


def exact_moves(image: torch.Tensor, flip: bool, turn: bool) -> dict[tuple, torch.Tensor]:
    """Every image that flips and quarter turns make of one."""
    axes = [axis for count in range(image.ndim + 1) for axis in itertools.combinations(range(image.ndim), count)]
    turned = [image.rot90(k) for k in (range(4) if turn else range(1))]
    return {tuple(each.flip(axis).flatten().tolist()): each for each in turned for axis in (axes if flip else [()])}


@pytest.mark.parametrize(
    ("size", "flip", "turn", "moves"),
    [
        ((6, 6), True, False, 4),
        ((5, 8), True, False, 4),
        ((4, 5, 6), True, False, 8),
        ((6, 6), False, True, 4),
        ((6, 6), True, True, 8),
        ((5, 8), True, True, 4),
        ((5, 8), False, True, 1),
        ((4, 4, 4), False, True, 1),
    ],
)
def test_flips_and_quarter_turns_only_change_the_order_of_pixels(size, flip, turn, moves):
    image = numbered(size)
    square = len(size) == 2 and size[0] == size[1]
    possible = exact_moves(image, flip, turn and square)
    warped, mask = warp_all(image, draw(96, size, flip=flip, rotate_90=turn))
    torch.testing.assert_close(warped, mask.float(), rtol=1e-5, atol=1e-3)
    found = {tuple(each.flatten().tolist()) for each in mask}
    assert found == set(possible)
    assert len(found) == moves


def test_a_shift_moves_towards_the_origin_and_zeros_come_in():
    """The map goes from output to input coordinates, last axis first, and an image is 2 wide."""
    image, mask = numbered((2, 4)).view(1, 1, 2, 4), torch.tensor([[[1, 2, IGNORE, 3], [1, 1, 2, 2]]])
    right_neighbour = torch.tensor([[[1.0, 0, 2 / 4], [0, 1, 0]]])
    warped, moved = warp(image, mask, right_neighbour)
    torch.testing.assert_close(warped, torch.tensor([[[[2.0, 3, 4, 0], [6, 7, 8, 0]]]]))
    assert moved.tolist() == [[[2, IGNORE, 3, 0], [1, 2, 2, 0]]]
    half = torch.tensor([[[1.0, 0, 1 / 4], [0, 1, 0]]])
    torch.testing.assert_close(warp(image, None, half)[0], torch.tensor([[[[1.5, 2.5, 3.5, 2], [5.5, 6.5, 7.5, 4]]]]))


def test_without_a_mask_the_image_is_the_same_and_there_is_none():
    image, transforms = torch.rand(2, 3, 8, 8, generator=seeded()), draw(2, (8, 8), rotate_degrees=30)
    warped, none = warp(image, None, transforms)
    assert none is None
    assert torch.equal(warped, warp(image, torch.zeros(2, 8, 8, dtype=torch.long), transforms)[0])


@pytest.mark.parametrize("size", [(32, 32), (24, 40), (16, 20, 24)], ids=["square", "oblong", "volume"])
def test_image_and_mask_move_together(size):
    """Where a warped one-hot image is sure of a class, the warped mask has it."""
    place = coordinates(size)
    mask = (place[0] + 2 > place[1]).long() + 2 * (place[-1] > -3).long()
    mask = mask.expand(8, *size)
    image = torch.nn.functional.one_hot(mask, 4).movedim(-1, 1).float()
    transforms = draw_transforms(8, size, AugmentSettings(), seeded())
    warped, moved = warp(image, mask, transforms)
    confidence, seen = warped.max(dim=1)
    sure = confidence > 0.999
    assert 0.5 < sure.float().mean() < 1
    assert torch.equal(seen[sure], moved[sure])
    assert set(moved.unique().tolist()) == {0, 1, 2, 3}
    assert moved.dtype == torch.int64


def test_a_mask_gets_no_class_from_between_two_others():
    mask = torch.full((8, 24, 24), 3)
    mask[:, ::4] = IGNORE
    _, moved = warp(torch.zeros(8, 1, 24, 24), mask, draw_transforms(8, (24, 24), AugmentSettings(), seeded()))
    assert moved.unique().tolist() == [IGNORE, 0, 3]


@pytest.mark.parametrize("size", [(32, 32), (24, 48), (48, 24), (20, 24, 32)])
def test_a_rotation_keeps_shapes_and_distances_in_pixels(size):
    place = (5.0, 2.0, 3.0)[: len(size)]
    transforms = draw(16, size, rotate_degrees=180)
    middle, aside = (warp_all(bright_at(each, size), transforms)[0] for each in ((0.0,) * len(size), place))
    torch.testing.assert_close(middle, bright_at((0,) * len(size), size).expand(16, *size), rtol=0, atol=0.15)
    found = centres(aside)
    torch.testing.assert_close(found.norm(dim=1), torch.full((16,), math.hypot(*place)), rtol=0, atol=0.15)
    assert found.std(dim=0).min() > 1, "and they do turn, about every axis"


@pytest.mark.parametrize(
    ("size", "spacing_mm"), [((32, 48), (1.5, 1.0)), ((24, 24, 12), (1.0, 1.0, 2.0))], ids=["oblong", "volume"]
)
def test_a_rotation_keeps_distances_in_mm_where_voxels_are_not_cubes(size, spacing_mm):
    place_mm = torch.tensor((4.5, 3.0, 2.0)[: len(size)])
    spacing = torch.tensor(spacing_mm)
    settings = NOTHING.model_copy(update={"rotate_degrees": 180.0})
    transforms = draw_transforms(32, size, settings, seeded(), spacing_mm)
    spots = warp_all(bright_at(tuple((place_mm / spacing).tolist()), size), transforms)[0]
    found_mm = centres(spots) * spacing
    torch.testing.assert_close(found_mm.norm(dim=1), place_mm.norm().expand(32), rtol=0.06, atol=0)
    assert (centres(spots).std(dim=0) > 1).all()


def test_thick_slices_turn_in_their_plane_alone():
    size, spacing_mm = (16, 16, 8), (1.0, 1.2, 4.0)
    settings = AugmentSettings(flip=False, scale=0, shift=0)
    transforms = draw_transforms(32, size, settings, seeded(), spacing_mm)
    assert torch.equal(transforms[:, 0], torch.tensor([1.0, 0, 0, 0]).expand(32, 4))  # the last axis comes first
    assert torch.equal(transforms[:, 1:, 0], torch.zeros(32, 2))
    assert transforms[:, 1, 2].abs().max() > 0.2, "and they do turn"
    thin = draw_transforms(32, size, settings, seeded(), (1.0, 1.2, 3.0))
    assert thin[:, 0, 1:3].abs().amin(dim=0).min() > 0


@pytest.mark.parametrize("size", [(32, 32), (24, 48), (20, 24, 32)])
def test_a_zoom_is_the_same_along_every_axis(size):
    place = torch.tensor((3.0, 3.0, 3.0)[: len(size)])
    zoomed = centres(warp_all(bright_at(tuple(place), size), draw(16, size, scale=0.4))[0]) / place
    torch.testing.assert_close(zoomed, zoomed[:, :1].expand_as(zoomed), rtol=0.03, atol=0)
    assert zoomed.min() < 0.8
    assert zoomed.max() > 1.25


@pytest.mark.parametrize("size", [(16, 16), (12, 16, 16)], ids=["slices", "volumes"])
def test_draws_fill_their_ranges_and_no_more(size):
    draws = 2000
    zoom = torch.linalg.det(draw(draws, size, scale=0.2)[..., :-1]) ** (1 / len(size))
    assert zoom.min() >= 0.8 - 1e-6
    assert zoom.max() <= 1.25 + 1e-6
    assert zoom.aminmax() == pytest.approx((0.8, 1.25), abs=0.005)
    assert zoom.log().mean().item() == pytest.approx(0, abs=0.02)
    shift = draw(draws, size, shift=0.1)[..., -1] / 2  # an image is 2 wide
    assert shift.aminmax() == pytest.approx((-0.1, 0.1), abs=0.002)


def test_angles_fill_their_range_to_both_sides():
    turn = draw(2000, (16, 16), rotate_degrees=20)
    degrees = torch.rad2deg(torch.atan2(turn[:, 1, 0], turn[:, 0, 0]))
    assert degrees.aminmax() == pytest.approx((-20, 20), abs=0.3)


@pytest.mark.parametrize(("size", "mirrored"), [((6, 6), 4), ((5, 8), 2), ((4, 5, 6), 3)])
def test_the_ssl4mis_policy_mirrors_half_rotates_a_quarter_and_leaves_a_quarter(size, mirrored):
    """Every mirror image of a square is one quarter turn and one mirrored axis, and no pure turn is."""
    settings = NOTHING.model_copy(
        update={"ssl4mis_policy": True, "flip": True, "rotate_90": True, "rotate_degrees": 20.0}
    )
    draws = 4000
    transforms = draw_transforms(draws, size, settings, seeded())
    image = numbered(size)
    moved = torch.cat([warp_all(image, some)[1] for some in transforms.split(500)]).flatten(1)
    still = (moved == image.long().flatten()).all(dim=1)
    exact = set(exact_moves(image, flip=True, turn=len(set(size)) == 1))
    found = [tuple(row) for row in moved.tolist()]
    mirrors = {row for row, handed in zip(found, torch.linalg.det(transforms[..., :-1]) < 0, strict=True) if handed}
    assert mirrors <= exact
    assert len(mirrors) == mirrored
    fraction = (torch.linalg.det(transforms[..., :-1]) < 0).float().mean().item()
    assert fraction == pytest.approx(0.5, abs=0.03)
    assert still.float().mean().item() >= 0.22
    untouched = torch.eye(len(size), len(size) + 1)
    assert (transforms == untouched).flatten(1).all(dim=1).float().mean().item() == pytest.approx(0.25, abs=0.03)


def test_the_ssl4mis_policy_rotates_both_ways_within_its_range():
    settings = NOTHING.model_copy(update={"ssl4mis_policy": True, "rotate_degrees": 20.0})
    turn = draw_transforms(4000, (16, 16), settings, seeded())
    degrees = torch.rad2deg(torch.atan2(turn[:, 1, 0], turn[:, 0, 0]))
    assert degrees.aminmax() == pytest.approx((-20, 20), abs=0.3)
    assert (degrees != 0).float().mean().item() == pytest.approx(0.25, abs=0.03)


@SIZES
def test_a_draw_follows_from_its_generator_and_is_another_for_every_image(size):
    first, again, other = (draw_transforms(8, size, AugmentSettings(), seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert len({tuple(each.flatten().tolist()) for each in torch.cat([first, other])}) == 16
    assert first.shape == (8, len(size), len(size) + 1)


@pytest.mark.parametrize("policy", [False, True], ids=["everything", "ssl4mis"])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("rotate_90", [False, True])
@pytest.mark.parametrize(
    ("size", "spacing_mm"),
    [((6, 6), None), ((6, 6), (0.5, 0.5)), ((6, 6), (1.0, 2.0)), ((5, 8), None), ((4, 4, 4), (1.0, 1.0, 1.0))],
    ids=["square", "even", "uneven", "oblong", "cube"],
)
def test_symmetries_are_exactly_the_exact_maps_that_are_drawn(size, spacing_mm, rotate_90, flip, policy):
    """Of many draws, those that only move pixels to the places of others, without zoom, shift or free rotation."""
    settings = NOTHING.model_copy(update={"flip": flip, "rotate_90": rotate_90, "ssl4mis_policy": policy})
    image = numbered(size)
    warped, _ = warp_all(image, draw_transforms(600, size, settings, seeded(), spacing_mm))
    drawn = {tuple(view.round().int().flatten().tolist()) for view in warped}
    exact = {view for view in drawn if sorted(view) == list(range(1, len(view) + 1))}
    symmetries = drawn_symmetries(size, settings, spacing_mm)
    views = []
    for turns, mirrored in symmetries:
        turned = torch.rot90(image, turns, (0, 1)) if turns else image
        views.append(tuple(turned.flip(mirrored).int().flatten().tolist()))
    assert set(views) == exact
    assert len(views) == len(exact)
    assert symmetries[0] == IDENTITY
