"""Sliding-window inference: images of any size through a network of a fixed one, some at a time."""

from collections.abc import Sequence

import torch
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from patchcl.augment.geometry import Symmetry
from patchcl.core.devices import CPU
from patchcl.data.preprocessing.plan import Plan
from patchcl.inference.test_time_augmentation import ONE_PASS, average_probs

BATCH_SIZE = 16
"""Slices that pass through the network at once; volumes, being larger, an eighth as many."""


CPU_DIVISOR = 4
"""So many times fewer on a CPU, which they spare half of the memory and a third of the time."""


OVERLAP = 0.5
"""Share of a window that its neighbour covers too, for scans larger than what the network takes."""


def window_steps(plan: Plan) -> tuple[int, ...]:
    """Voxels from one window to the next along each axis."""
    return plan.window_stride or tuple(max(1, int(length * (1 - OVERLAP))) for length in plan.size)


@torch.inference_mode()
def network_probs(
    network: nn.Module,
    image: Tensor,
    plan: Plan,
    device: torch.device = CPU,
    batch_size: int = BATCH_SIZE,
    home: torch.device = CPU,
    symmetries: Sequence[Symmetry] = ONE_PASS,
) -> Tensor:
    """Probabilities (N, K, *S) of prepared slices or volumes (N, C, *S), averaged over `symmetries`.

    The network is on `device`, and what it says is put together at `home`.
    """
    at_once = images_at_once(plan, device, batch_size)
    if plan.fit == "crop":
        return _by_windows(network, image, plan, at_once, device, home, symmetries)
    batches = torch.split(image, at_once)
    return torch.cat([average_probs(network, batch.to(device), symmetries).to(home) for batch in batches])


def images_at_once(plan: Plan, device: torch.device, batch_size: int = BATCH_SIZE) -> int:
    """Slices or volumes that pass through the network at once on `device`."""
    divisor = (1 if plan.dimensions == 2 else 8) * (CPU_DIVISOR if device.type == "cpu" else 1)
    return max(1, batch_size // divisor)


def _by_windows(
    network: nn.Module,
    image: Tensor,
    plan: Plan,
    at_once: int,
    device: torch.device,
    home: torch.device,
    symmetries: Sequence[Symmetry],
) -> Tensor:
    """Windows of the size the network was trained on, overlapping, whose middle counts most; each is read once."""
    steps = zip(window_steps(plan), plan.size, strict=True)
    probs = sliding_window_inference(
        image,
        roi_size=plan.size,
        sw_batch_size=at_once,
        predictor=lambda window: average_probs(network, window, symmetries),
        overlap=[1 - min(step + 0.5, length) / length for step, length in steps],  # MONAI rounds the step down
        mode="gaussian",
        sw_device=device,
        device=home,
    )
    assert isinstance(probs, Tensor)  # as it is for a predictor that returns one
    return probs
