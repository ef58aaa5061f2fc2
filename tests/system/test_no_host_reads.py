"""Nothing in a step is read to the host or made from its values, so that a GPU never waits: told on a CPU.

The first step may make what is kept for all others. The optimizer, which is torch's, is not looked at.
"""

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from patchcl.augment import AugmentSettings
from patchcl.data.loading.image_store import ImageStore
from patchcl.data.loading.loader import BatchLoader, BatchStream
from patchcl.data.preprocessing.cache import PreparedCase
from patchcl.data.preprocessing.plan import Plan
from patchcl.methods import build_method, settings_classes
from patchcl.methods.base import Task
from patchcl.methods.settings import PatchCLSettings
from patchcl.networks import NetworkSettings, build_network

CPU = torch.device("cpu")
NAMES = {kind: kind.model_fields["name"].default for kind in settings_classes()}
READING = {
    "_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "bincount", "_unique2", "unique_dim",
    "linalg_matrix_exp", "linalg_cholesky", "lift_fresh", "lift",
}  # fmt: skip
"""Operations that wait for the device on a GPU, or bring it something of the host's."""
CALLS = [
    (Tensor, name) for name in ("tolist", "numpy", "item", "cpu", "new_tensor", "__bool__", "__float__", "__int__")
]
CALLS += [(torch, name) for name in ("tensor", "as_tensor", "from_numpy")]
ALLOWED = {
    "_window": "corners of crops come from a generator of the CPU, and slicing takes numbers; no device is asked",
}
"""Functions in which the host's values are used -> why."""
QUICK = {
    "warm_up_fraction": 0.0,
    "pretrain_fraction": 0.0,
    "teacher_passes": 2,
    "contrast": {"memory_min_size": 2, "memory_length": 32, "patches_per_class": 2, "embedding_size": 4},
}
SWITCHES = [
    *({"sampler": name} for name in ("topk", "uniform", "coverage")),
    *({"hard_negatives": name} for name in ("reweight", "mix", "slab")),
    {"embed": "crops"},
    {"entropy_source": "attended"},
    {"overlap": 0.5},
    {"loss": "info_nce"},
]

INGREDIENTS = [
    {"confidence_weighting": True, "consistency_final_fraction": 0.5, "consistency_gate": "agreement"},
    {"mix_direction": "both", "mix_before_intensity": True},
    {"strong_views": 2, "feature_dropout": 0.5},
    {"average_symmetries": True, "clean_pseudo_masks": True},
]


class _Watch(TorchDispatchMode):
    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__()
        self.note = note

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        name = operation.__name__.partition(".")[0]
        chosen = arguments[1] if name in ("index", "index_put", "index_put_") else []
        if name in READING or any(index is not None and index.dtype == torch.bool for index in chosen):
            self.note(name)
        return operation(*arguments, **(named or {}))


@contextmanager
def host_values(patch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Where, inside, a tensor is read to the host or made from its values, but for what is ALLOWED."""
    found: list[str] = []

    def note(what: str) -> None:
        frames = [frame for frame in traceback.extract_stack() if "patchcl" in frame.filename or "test_" in frame.name]
        if not any(frame.name in ALLOWED for frame in frames):
            found.append(f"{what} at {frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno} {frames[-1].name}")

    def watched(call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def noted(*arguments: Any, **named: Any) -> Any:
            note(name)
            return call(*arguments, **named)

        return noted

    with patch.context() as inside, _Watch(note):
        for owner, name in CALLS:
            inside.setattr(owner, name, watched(getattr(owner, name), name))
        yield found


def batches_of(folder, dimensions, fit="resize", classes=3, strong_views=1, **augment) -> BatchLoader:
    size, draws = (16,) * dimensions, np.random.default_rng(0)
    shape = (6, *size) if fit == "resize" else (6, *(length + 3 for length in size))
    np.save(folder / "image.npy", draws.random((shape[0], 1, *shape[1:])).astype(np.float32))
    np.save(folder / "mask.npy", draws.integers(0, classes, shape).astype(np.uint8))
    plan = Plan(
        dimensions=dimensions, fit=fit, size=size, spacing_mm=(1.0,) * dimensions if fit == "crop" else None,
        normalise="min_max", channels=("MR",), classes=tuple(map(str, range(classes))),
    )  # fmt: skip
    case = PreparedCase("c", "p", folder / "image.npy", folder / "mask.npy")
    labeled = BatchStream(ImageStore([case], plan, CPU, 10**9), 2, "labeled", 0)
    unlabeled = BatchStream(ImageStore([case._replace(mask=None)], plan, CPU, 10**9), 2, "unlabeled", 0)
    return BatchLoader(labeled, unlabeled, AugmentSettings(**augment), strong_views, (1.0,) * dimensions)


def step_of(settings, batches, dimensions=2, classes=3):
    torch.manual_seed(0)
    size, network = (16,) * dimensions, NetworkSettings(features=(4, 8))
    method = build_method(settings, Task(lambda: build_network(network, 1, classes, size), classes, size, 10)).train()

    def step(number: int) -> None:
        method(batches.at(number), number).loss.backward()
        method.after_step(number)

    return step


def quick(kind, **contrast):
    settings = {name: value for name, value in QUICK.items() if name in kind.model_fields}
    return kind(**settings | {"contrast": QUICK["contrast"] | contrast})


def host_values_of(step, patch) -> list[str]:
    step(0)
    with host_values(patch) as found:
        step(1)
        step(2)
    return found


@pytest.mark.parametrize("dimensions", [2, 3], ids=["slices", "volumes"])
@pytest.mark.parametrize("kind", NAMES, ids=NAMES.get)
def test_no_step_of_any_method_knows_a_value(kind, dimensions, tmp_path, monkeypatch):
    batches = batches_of(tmp_path, dimensions, strong_views=2)
    assert host_values_of(step_of(quick(kind), batches, dimensions), monkeypatch) == []


@pytest.mark.parametrize("classes", [3, 20])
@pytest.mark.parametrize("switch", SWITCHES, ids=lambda switch: "=".join(map(str, *switch.items())))
def test_nor_does_any_kind_of_contrast(switch, classes, tmp_path, monkeypatch):
    step = step_of(quick(PatchCLSettings, **switch), batches_of(tmp_path, 2, classes=classes), classes=classes)
    assert host_values_of(step, monkeypatch) == []


@pytest.mark.parametrize("ingredient", INGREDIENTS, ids=lambda ingredient: "-".join(ingredient))
def test_nor_does_any_ingredient_of_our_recipe(ingredient, tmp_path, monkeypatch):
    step = step_of(quick(PatchCLSettings).model_copy(update=ingredient), batches_of(tmp_path, 2, strong_views=2))
    assert host_values_of(step, monkeypatch) == []


@pytest.mark.parametrize("augment", [{}, {"ssl4mis_policy": True}], ids=["everything", "ssl4mis"])
@pytest.mark.parametrize("fit", ["resize", "crop"])
@pytest.mark.parametrize("dimensions", [2, 3], ids=["slices", "volumes"])
def test_nor_does_loading_and_augmentation(dimensions, fit, augment, tmp_path, monkeypatch):
    assert host_values_of(batches_of(tmp_path, dimensions, fit, **augment).at, monkeypatch) == []


READERS: list[Callable[[Tensor], object]] = [
    lambda x: x.sum().item(), lambda x: bool(x.any()), lambda x: float(x[0]), lambda x: x.tolist(), lambda x: x[x > 0],
    lambda x: torch.tensor([1.0]), lambda x: torch.as_tensor([1.0]), lambda x: x.new_tensor(1.0), lambda x: x.nonzero(),
    lambda x: torch.matrix_exp(x.view(1, 1, -1) * torch.eye(4)), lambda x: x.numpy(), lambda x: torch.equal(x, x),
    lambda x: x.index_put((x > 0,), x.sum()), lambda x: x.long().bincount(), lambda x: x.unique(),
]  # fmt: skip


@pytest.mark.parametrize("place", range(len(READERS)))
def test_the_watch_sees_whoever_reads_a_value_or_brings_one(place, monkeypatch):
    values = torch.arange(4.0)
    with host_values(monkeypatch) as found:
        READERS[place](values)
    assert len(found) > 0
    assert "test_no_host_reads.py" in found[0]
