"""The average is that over the symmetries of training, each once, and over no other."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from patchcl.augment import AugmentSettings
from patchcl.augment.symmetries import applied, undone
from patchcl.data.geometry import Grid
from patchcl.data.preprocessing.plan import Plan
from patchcl.data.scan import Scan
from patchcl.inference.predict import predict_scan
from patchcl.inference.sliding_window import network_probs
from patchcl.inference.test_time_augmentation import ONE_PASS, average_probs, symmetries_of
from patchcl.networks import NetworkSettings, build_network

SEEN = torch.arange(16.0).view(1, 1, 4, 4)
"""An image without two equal pixels."""


def plan_of(size: tuple[int, ...] = (16, 16), **changes) -> Plan:
    names = {"channels": ("MRI",), "classes": ("background", "a", "b")}
    made = {"dimensions": len(size), "fit": "resize", "size": size, "normalise": "min_max"}
    return Plan.model_validate(made | names | changes)


def network_for(plan: Plan) -> nn.Module:
    torch.manual_seed(0)
    return build_network(NetworkSettings(features=(4, 8)), 1, len(plan.classes), plan.size).eval()


class Spy(nn.Module):
    """Notes what it is shown."""

    def __init__(self):
        super().__init__()
        self.shown = []

    def forward(self, image):
        self.shown.append(image)
        return torch.cat([image, -image, 0 * image], dim=1)


def views_shown(augment: AugmentSettings, plan: Plan) -> list[torch.Tensor]:
    spy = Spy()
    network_probs(spy, SEEN.expand(2, -1, -1, -1), plan, symmetries=symmetries_of(augment, plan))
    assert all(len(batch) == 2 for batch in spy.shown)  # whole batches
    return [batch[0, 0] for batch in spy.shown]


MIRRORED = [SEEN[0, 0].flip(axes) for axes in ([], [0], [1], [0, 1])]
TURNED = [torch.rot90(SEEN[0, 0], turns) for turns in range(4)]
DIAGONAL = [SEEN[0, 0].T, SEEN[0, 0].flip([0, 1]).T]


@pytest.mark.parametrize(
    ("settings", "plan", "allowed"),
    [
        ({}, {}, [*MIRRORED, TURNED[1], TURNED[3], *DIAGONAL]),
        ({"rotate_90": False}, {}, MIRRORED),
        ({"flip": False}, {}, TURNED),
        ({"flip": False, "rotate_90": False}, {}, MIRRORED[:1]),
        ({}, {"fit": "crop", "spacing_mm": (1.0, 1.0)}, [*MIRRORED, TURNED[1], TURNED[3], *DIAGONAL]),
        ({}, {"fit": "crop", "spacing_mm": (1.0, 2.0)}, MIRRORED),
        ({"flip": False}, {"fit": "crop", "spacing_mm": (1.0, 2.0)}, [TURNED[0], TURNED[2]]),
        ({"ssl4mis_policy": True}, {}, [*MIRRORED[:3], *DIAGONAL]),
        ({"ssl4mis_policy": True, "flip": False}, {}, TURNED),
    ],
    ids=["all", "mirrors", "turns", "none", "even", "uneven", "half turns", "ssl4mis", "ssl4mis turns"],
)
def test_the_network_sees_what_training_drew_and_nothing_else(settings, plan, allowed):
    shown = views_shown(AugmentSettings(**settings), plan_of((4, 4), **plan))
    assert {tuple(view.flatten().tolist()) for view in shown} == {tuple(view.flatten().tolist()) for view in allowed}
    assert len(shown) == len(allowed)  # each once
    assert torch.equal(shown[0], SEEN[0, 0])


@pytest.mark.parametrize("size", [(16, 16), (16, 8), (8, 8, 4)], ids=["square", "oblong", "volume"])
def test_the_average_is_that_over_the_group_by_hand(size):
    plan = plan_of(size)
    network, image = network_for(plan), torch.rand(3, 1, *size)
    total, count = 0, 0
    turns = range(4) if size == (16, 16) else (0,)
    for turn, mirrored in itertools.product(turns, itertools.product((False, True), repeat=len(size))):
        axes = [2 + axis for axis, mirror in enumerate(mirrored) if mirror]
        with torch.inference_mode():
            probs = network(torch.rot90(image, turn, (2, 3)).flip(axes)).softmax(dim=1)
        total, count = total + torch.rot90(probs.flip(axes), -turn, (2, 3)), count + 1
    symmetries = symmetries_of(AugmentSettings(), plan)
    assert len(symmetries) == {(16, 16): 8, (16, 8): 4, (8, 8, 4): 8}[size]
    averaged = network_probs(network, image, plan, symmetries=symmetries)
    torch.testing.assert_close(averaged, total / count, atol=1e-5, rtol=0)
    assert (averaged - network_probs(network, image, plan)).abs().max() > 1e-3


@pytest.mark.parametrize("size", [(4, 4), (3, 4, 5)], ids=["slices", "volumes"])
def test_every_symmetry_is_undone(size):
    image = torch.rand(2, 3, *size)
    for symmetry in symmetries_of(AugmentSettings(), plan_of(size)):
        assert torch.equal(undone(applied(image, symmetry), symmetry), image)


def test_one_pass_is_the_plain_forward_pass_bit_for_bit():
    plan = plan_of()
    network, image = network_for(plan), torch.rand(2, 1, 16, 16)
    with torch.inference_mode():
        assert torch.equal(average_probs(network, image, ONE_PASS), network(image).softmax(dim=1))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(
    "changes",
    [{}, {"fit": "crop", "size": (20, 18), "spacing_mm": (1.0, 1.0)}, {"dimensions": 3, "size": (16, 16, 8)}],
    ids=["slices", "windows", "volumes"],
)
def test_a_mirrored_scan_gives_the_mirrored_mask(axis, changes):
    plan = plan_of(**{"size": (16, 16), **changes})
    network, symmetries = network_for(plan), symmetries_of(AugmentSettings(), plan)
    voxels, grid = np.random.default_rng(0).random((1, 20, 18, 3), np.float32), Grid((20, 18, 3), np.eye(4), (1, 1, 4))

    def probs_of(voxels, symmetries):
        return predict_scan(network, Scan(np.ascontiguousarray(voxels), grid), plan, symmetries=symmetries)

    straight, mirrored = (probs_of(seen, symmetries) for seen in (voxels, np.flip(voxels, 1 + axis)))
    np.testing.assert_allclose(np.flip(mirrored, 1 + axis), straight, atol=1e-5)
    one, other = (probs_of(seen, ONE_PASS) for seen in (voxels, np.flip(voxels, 1 + axis)))
    assert np.abs(np.flip(other, 1 + axis) - one).max() > 1e-3  # the network alone cannot do that


def test_windows_are_averaged_where_they_are_read():
    plan = plan_of((8, 8), fit="crop", spacing_mm=(1.0, 1.0))
    spy = Spy()
    image = torch.rand(1, 1, 20, 20)
    network_probs(spy, image, plan)
    alone = len(spy.shown)
    network_probs(spy, image, plan, symmetries=symmetries_of(AugmentSettings(), plan))
    assert len(spy.shown) == 9 * alone
    assert all(batch.shape[1:] == (1, 8, 8) for batch in spy.shown)
