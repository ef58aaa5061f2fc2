"""Some images or windows at a time give what all at once would."""

import pytest
import torch
from torch import nn

from patchcl.data.preprocessing.plan import Plan
from patchcl.inference.sliding_window import BATCH_SIZE, CPU_DIVISOR, network_probs


def plan_of(fit: str, size: tuple[int, ...] = (8, 8)) -> Plan:
    names = {"channels": ("MRI",), "classes": ("background", "gland")}
    return Plan(dimensions=len(size), fit=fit, size=size, spacing_mm=(1,) * len(size), normalise="min_max", **names)


@pytest.mark.parametrize("fit", ["resize", "crop"])
def test_a_cpu_is_given_few_windows_at_once(fit):
    """As many as it is as fast with: memory grows with each, and a large picture has hundreds."""
    seen = []
    network = nn.Conv2d(1, 2, 1)
    network.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    image = torch.zeros(37, 1, 8, 8) if fit == "resize" else torch.zeros(1, 1, 40, 40)
    network_probs(network, image, plan_of(fit))
    assert max(seen) == BATCH_SIZE // CPU_DIVISOR == 4


@pytest.mark.parametrize("size", [(8, 8), (8, 8, 4)], ids=["slices", "volumes"])
def test_where_every_pixel_is_judged_by_itself_windows_agree_with_the_whole(size):
    torch.manual_seed(0)
    network = getattr(nn, f"Conv{len(size)}d")(1, 2, 1)
    image = torch.rand(2, 1, *(2 * length + 5 for length in size))
    probs = network_probs(network, image, plan_of("crop", size))
    assert probs.shape == (2, 2, *image.shape[2:])
    torch.testing.assert_close(probs, network(image).softmax(dim=1).detach())


def test_windows_reach_no_farther_than_they_are_large():
    """A network that answers with the mean of all it is shown knows, far from a bright corner, nothing of it."""
    image = torch.zeros(1, 1, 40, 40)
    image[..., :4, :4] = 1

    def mean_everywhere(seen):
        mean = seen.mean(dim=(2, 3), keepdim=True).expand_as(seen)
        return torch.cat([torch.zeros_like(mean), mean], dim=1)

    windows, whole = (network_probs(mean_everywhere, image, plan_of(fit)) for fit in ("crop", "resize"))
    assert (windows[0, 1, 8:, 8:] == 0.5).all()
    assert (windows[0, 1, :4, :4] > 0.5).all()
    assert (whole[0, 1] > 0.5).all()


@pytest.mark.parametrize(
    ("size", "stride", "places"),
    [
        ((7, 10), (2, 3), ([0, 2, 4, 6, 8, 9], [0, 3, 6, 9, 12, 15])),
        ((8, 8), None, ([0, 4, 8], [0, 4, 8, 12, 16, 17])),
        ((8, 8), (8, 1), ([0, 8], list(range(18)))),
    ],
)
def test_windows_follow_one_another_by_the_stride(size, stride, places):
    """Every window tells where it lies: the network sees the first of its rows and columns."""
    image = torch.stack(torch.meshgrid(torch.arange(16.0), torch.arange(25.0), indexing="ij"))[None]
    plan = plan_of("crop", size).model_copy(update={"window_stride": stride})
    seen = []

    def note(windows):
        seen.extend((int(window[0, 0, 0]), int(window[1, 0, 0])) for window in windows)
        return torch.zeros(len(windows), 2, *size)

    network_probs(note, image, plan)
    assert sorted(seen) == [(row, column) for row in places[0] for column in places[1]]
