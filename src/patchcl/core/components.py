"""Connected components of masks, on the device."""

import torch
import torch.nn.functional as F
from torch import Tensor


def largest_components(mask: Tensor, classes: int) -> Tensor:
    """(B, *S) `mask` with all but the largest connected component of each class turned into background.

    Pixels that touch at a corner are connected. Of components of one size the one that comes first stays.

    Source: `get_ACDC_2DLargestCC` of the authors' code, which labels components on the host; here on the device.
    """
    root, flat = component_roots(mask, classes), mask.flatten(1)
    sizes = torch.zeros_like(root).scatter_add(1, root, torch.ones_like(root)).gather(1, root)
    member = flat.unsqueeze(1) == torch.arange(classes, device=mask.device).view(1, -1, 1)
    largest = root.gather(1, torch.where(member, sizes.unsqueeze(1), 0).argmax(dim=2))  # (B, K) its root
    return torch.where(root == largest.gather(1, flat), flat, 0).view_as(mask)


def component_roots(mask: Tensor, classes: int) -> Tensor:
    """(B, pixels) one pixel of the connected component that each pixel of (B, *S) belongs to: its last one.

    A pixel of background is its own root. In every round all pixels look at their neighbours, the roots found so far
    join the farthest root that any of their pixels sees, and all pixels ask their root for its own. As many rounds as
    the number of pixels has binary digits are enough for mazes, too; a fixed number never makes the
    host wait for the device.
    """
    size, pixels = mask.shape[1:], mask[0].numel()
    pool = getattr(F, f"max_pool{len(size)}d")
    own = torch.arange(pixels, device=mask.device).expand(len(mask), -1)
    member = mask.unsqueeze(1) == torch.arange(1, classes, device=mask.device).view(1, -1, *[1] * len(size))
    channel, background = (mask - 1).clamp(min=0).flatten(1).unsqueeze(1), mask.flatten(1) == 0
    root = own
    for _ in range(pixels.bit_length()):
        neighbour = torch.where(member, root.view_as(mask).unsqueeze(1), -1).float()  # exact up to 256³ pixels
        best = pool(neighbour, kernel_size=3, stride=1, padding=1).flatten(2).gather(1, channel).squeeze(1).long()
        best = torch.where(background, own, best)
        root = root.scatter_reduce(1, root, best, "amax")
        root = root.gather(1, root)
    return root
