"""The captured step, on a CPU: its operations are recorded with the memory they use, and run again on that memory.

A CUDA graph does the same with kernels. A number of the host that crept into a step would be that of the recorded one
ever after, and the weights would show it.
"""

from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments import LightningEnvironment
from torch import Tensor
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import PolynomialLR
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from patchcl.augment import AugmentSettings
from patchcl.config import TrainingSettings
from patchcl.data.loading.image_store import ImageStore
from patchcl.data.loading.loader import BatchLoader, BatchStream
from patchcl.data.preprocessing.cache import PreparedCase
from patchcl.data.preprocessing.plan import Plan
from patchcl.methods import build_method, method_class, settings_classes
from patchcl.methods.base import Method, Task
from patchcl.methods.bcp import BCPSettings
from patchcl.methods.patchcl import PatchCLSettings
from patchcl.methods.supervised import Supervised, SupervisedSettings
from patchcl.networks import NetworkSettings, build_network
from patchcl.training.captured import WARM_UP, CapturedStep, StaticInputs
from patchcl.training.loop import build_optimizer
from patchcl.training.rescue import TrainingState
from patchcl.training.step import TrainingStep, can_capture

CPU, SIZE, STEPS = torch.device("cpu"), (16, 16), 6
READING = {"_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "lift_fresh"}
"""Operations that wait for the device on a GPU, or bring it something of the host's."""
QUICK = {"warm_up_fraction": 0.5, "pretrain_fraction": 0.5, "teacher_passes": 2, "ramp_fraction": 1.0}
CONTRAST = {
    "memory_min_size": 2, "memory_length": 32, "patches_per_class": 2, "embedding_size": 4, "weight": 0.5,
    "final_weight_fraction": 0.0, "covariance_ramp_fraction": 1.0,
}  # fmt: skip
KINDS = pytest.mark.parametrize("kind", settings_classes(), ids=lambda kind: kind.model_fields["name"].default)


class Recording(TorchDispatchMode):
    """What a step does, operation by operation, and on which memory."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, ...]] = []

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        made = operation(*arguments, **(named or {}))
        self.calls.append((operation, arguments, named or {}, made))
        return made

    @torch.no_grad()
    def replay(self) -> None:
        """All of it again, on that memory."""
        for operation, arguments, named, made in self.calls:
            again = tree_leaves(operation(*arguments, **named))
            for old, new in zip(tree_leaves(made), again, strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class Run:
    """A small run, step by step."""

    def __init__(self, folder, kind, optimizer=SGD, rescued=False, device="cpu", contrast=CONTRAST) -> None:
        self.device = torch.device(device)
        case = PreparedCase("c", "p", folder / "image.npy", folder / "mask.npy")
        draws = np.random.default_rng(0)
        np.save(case.image, draws.random((6, 1, *SIZE)).astype(np.float32))
        np.save(case.mask, draws.integers(0, 3, (6, *SIZE)).astype(np.uint8))
        names = ("0", "1", "2")
        plan = Plan(dimensions=2, fit="resize", size=SIZE, normalise="min_max", channels=("MR",), classes=names)
        stores = [ImageStore([each], plan, self.device, 10**9) for each in (case, case._replace(mask=None))]
        streams = [BatchStream(store, 2, name, 0) for store, name in zip(stores, ("l", "u"), strict=True)]
        name = kind.model_fields["name"].default
        self.batches = BatchLoader(*streams, AugmentSettings(), method_class(name).strong_views)

        torch.manual_seed(0)
        settings = {key: value for key, value in QUICK.items() if key in kind.model_fields}
        network = NetworkSettings(features=(4, 8))
        task = Task(lambda: build_network(network, 1, 3, SIZE), 3, SIZE, STEPS)
        self.method = build_method(kind(**settings | {"contrast": contrast}), task).train()
        weights = [weight for weight in self.method.parameters() if weight.requires_grad]
        options = {"momentum": 0.9} if optimizer is SGD else {}
        self.optimizer = optimizer(weights, lr=0.05, fused=True, **options)  # as on CUDA: its rate may be a tensor
        self.scheduler = PolynomialLR(self.optimizer, STEPS, power=0.9)
        fabric = Fabric(accelerator=device, devices=1, plugins=[LightningEnvironment()])
        wrapped, stepper = fabric.setup(self.method, self.optimizer)
        state = TrainingState(self.method, self.optimizer, self.scheduler)
        state.rescues = [1] * rescued
        self.step = TrainingStep(self.batches.augmented, wrapped, stepper, fabric, state)
        self.inputs, self.recorded, self.operations = {}, {}, {}

    def take(self, number: int, how: str) -> Tensor:
        """One step; its loss."""
        loaded = self.batches.load(number)
        torch.manual_seed(number)
        loss = self.step(loaded, number).loss.detach() if how == "plain" else self.static(loaded, number, how)
        self.scheduler.step()
        return loss.clone()

    def static(self, loaded: Any, number: int, how: str) -> Tensor:
        """One step on static memory; the second of its kind is recorded, and runs again for all that are `replayed`."""
        kind = self.step.kind(number)
        if kind not in self.inputs:
            self.inputs[kind], self.operations[kind] = StaticInputs(loaded, self.optimizer, self.device), []
        self.inputs[kind].fill(loaded, number)
        if how == "replayed" and kind in self.recorded:
            recording, result = self.recorded[kind]
            recording.replay()
            return result.loss
        with Recording() as recording:
            result = self.inputs[kind].take(self.step, number)
        self.operations[kind].append([call[0].__name__ for call in recording.calls])
        if len(self.operations[kind]) == 2:  # the first makes what stays, such as momentum
            self.recorded[kind] = recording, result
        return result.loss

    def everything(self) -> list[Tensor]:
        """Weights, memories, averages and moments, in an order."""
        moments = [value for state in self.optimizer.state.values() for value in state.values()]
        return [*self.method.state_dict().values(), *moments, self.step.watch._first]


def taken(folder, kind, how, **options):
    run = Run(folder, kind, **options)
    return torch.stack([run.take(number, how) for number in range(STEPS)]), run


@pytest.mark.parametrize(
    ("kind", "optimizer"), [*((kind, SGD) for kind in settings_classes()), (PatchCLSettings, AdamW)]
)
def test_a_recorded_step_of_every_method_serves_for_the_others_of_its_kind_bit_for_bit(kind, optimizer, tmp_path):
    losses, run = taken(tmp_path, kind, "static", optimizer=optimizer)
    replayed, again = taken(tmp_path, kind, "replayed", optimizer=optimizer)
    assert torch.equal(losses, replayed)
    assert all(torch.equal(one, other) for one, other in zip(run.everything(), again.everything(), strict=True))
    assert all(len(taken) == 2 for taken in again.operations.values())
    for alike in run.operations.values():  # which is what steps of one kind have in common
        assert len(alike) >= 3
        assert all(names == alike[1] for names in alike[2:])
        assert not READING & {name.partition(".")[0] for name in alike[1]}


@KINDS
def test_a_step_on_static_memory_is_the_plain_one(kind, tmp_path):
    without = CONTRAST | {"weight": 0.0}  # of which the normalised embeddings of six patches make much of rounding
    losses, run = taken(tmp_path, kind, "plain", contrast=without)
    static, other = taken(tmp_path, kind, "static", contrast=without)
    torch.testing.assert_close(static, losses, rtol=1e-5, atol=1e-6)
    for mine, theirs in zip(run.everything(), other.everything(), strict=True):
        torch.testing.assert_close(theirs, mine, rtol=1e-4, atol=1e-5)


def test_a_rescued_run_has_steps_of_another_kind_whose_gradients_are_clipped(tmp_path):
    losses, run = taken(tmp_path, SupervisedSettings, "static", rescued=True)
    replayed, again = taken(tmp_path, SupervisedSettings, "replayed", rescued=True)
    assert torch.equal(losses, replayed)
    assert not torch.equal(losses, taken(tmp_path, SupervisedSettings, "static")[0])
    assert run.step.kind(0) == ("all", True)
    assert all(torch.equal(one, other) for one, other in zip(run.everything(), again.everything(), strict=True))


@pytest.mark.parametrize(("settings", "kinds"), [
    (PatchCLSettings(warm_up_fraction=0.5), ["warm-up"] * 4 + ["semi-supervised"] * 4),
    (PatchCLSettings(warm_up_fraction=0.0), ["semi-supervised"] * 8),
    (BCPSettings(pretrain_fraction=0.25), ["pretraining"] * 2 + ["self-training"] * 6),
    (SupervisedSettings(), ["all"] * 8),
])  # fmt: skip
def test_the_kinds_of_steps_follow_the_stages_of_a_method(settings, kinds, make_task):
    method = build_method(settings, make_task(steps=8))
    assert [method.phase(step) for step in range(8)] == kinds


def test_a_method_that_does_not_say_its_kinds_is_never_captured(make_task):
    class Own(Method[SupervisedSettings]):
        training_step = Supervised.training_step

    assert Own(SupervisedSettings(), make_task()).phase(0) is None


def test_what_is_filled_stays_where_it_is(tmp_path):
    run = Run(tmp_path, SupervisedSettings)
    inputs = StaticInputs(run.batches.load(0), run.optimizer, CPU)
    places = [tensor.data_ptr() for tensor in (*inputs.loaded, *inputs._rates)]
    run.optimizer.param_groups[0]["lr"] = 0.25
    second = run.batches.load(1)
    inputs.fill(second, 1)
    assert [tensor.data_ptr() for tensor in (*inputs.loaded, *inputs._rates)] == places
    assert all(torch.equal(still, new) for still, new in zip(inputs.loaded, second, strict=True))
    assert [float(rate) for rate in inputs._rates] == [0.25]
    assert second.image.data_ptr() != inputs.loaded.image.data_ptr()


def test_outside_a_step_the_learning_rate_is_a_number(tmp_path):
    run = Run(tmp_path, SupervisedSettings)
    inputs, seen = StaticInputs(run.batches.load(0), run.optimizer, CPU), []

    def take(loaded, step):
        seen.append(run.optimizer.param_groups[0]["lr"])
        raise KeyError

    with pytest.raises(KeyError):
        inputs.take(take, 0)
    assert isinstance(seen[0], Tensor)
    assert run.optimizer.param_groups[0]["lr"] == 0.05


def test_on_a_cpu_steps_are_taken_as_they_come(tmp_path):
    fabric = Fabric(accelerator="cpu", devices=1, plugins=[LightningEnvironment()])
    assert not can_capture(fabric)
    steps = []
    take = CapturedStep(lambda loaded, step: steps.append((loaded, step)), lambda step: "all", None, CPU)
    take("loaded", 3)
    assert steps == [("loaded", 3)]


@pytest.mark.parametrize(("name", "kind"), [("adamw", AdamW), ("sgd", SGD)])
def test_the_optimizer_of_a_cuda_device_can_be_captured(name, kind, make_task):
    method, settings = Supervised(SupervisedSettings(), make_task()), TrainingSettings(optimizer=name)
    there, here = (build_optimizer(method, settings, torch.device(device)) for device in ("cuda", "cpu"))
    assert isinstance(there, kind)
    assert there.param_groups[0]["fused"] is True
    assert there.param_groups[0].get("capturable", True) is True
    assert not here.param_groups[0]["fused"]
    assert not here.param_groups[0].get("capturable")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@KINDS
def test_captured_steps_on_cuda_learn_as_eager_ones_do(kind, tmp_path):
    """Eager on static memory, and captured; the graph is used from the fourth step of a kind on."""
    found = []
    for captures in (False, True):
        run = Run(tmp_path, kind, device="cuda")
        take = CapturedStep(run.step, run.step.kind, run.optimizer, run.device, run.batches.generators, captures)
        losses = []
        for number in range(2 * STEPS):
            loaded = run.batches.load(number)
            torch.manual_seed(number)
            losses.append(take(loaded, number % STEPS).loss.detach().clone())
        found.append(torch.stack(losses))
        assert len(take._graphs) == captures * len({run.step.kind(number) for number in range(STEPS)})
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-3)
    assert 2 * STEPS > 2 * WARM_UP


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@KINDS
def test_no_step_on_cuda_waits_for_the_device(kind, tmp_path):
    """As torch tells it, of steps on static memory and of replayed ones; the first makes that memory, one the graph."""
    run, watched = Run(tmp_path, kind, device="cuda"), 0
    take = CapturedStep(run.step, run.step.kind, run.optimizer, run.device, run.batches.generators, captures=True)
    for number in range(2 * STEPS):
        loaded, step = run.batches.load(number), number % STEPS
        torch.manual_seed(number)
        makes = take._taken.get(run.step.kind(step), 0) in (0, WARM_UP)
        torch.cuda.set_sync_debug_mode("default" if makes else "error")
        try:
            take(loaded, step)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        watched += not makes
    assert watched >= STEPS
