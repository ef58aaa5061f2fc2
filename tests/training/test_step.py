"""One step of training: what it does, in which order, is what the loop did."""

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.fabric.plugins.precision import MixedPrecision
from torch.optim import SGD
from torch.optim.lr_scheduler import PolynomialLR

from patchcl.config import TrainingSettings
from patchcl.core.signals import StopRequest
from patchcl.methods.supervised import Supervised, SupervisedSettings
from patchcl.networks.ema import ema_decay_at
from patchcl.runs.folder import RunFolder
from patchcl.training.loop import train
from patchcl.training.rescue import CLIP_NORM, TrainingState
from patchcl.training.step import TrainingStep, can_capture


def made(task, rescues):
    torch.manual_seed(0)
    method = Supervised(SupervisedSettings(), task).train()
    optimizer = SGD([weight for weight in method.parameters() if weight.requires_grad], lr=0.5)
    fabric = Fabric(accelerator="cpu", devices=1, plugins=[LightningEnvironment()])
    wrapped, stepper = fabric.setup(method, optimizer)
    state = TrainingState(method, optimizer, PolynomialLR(optimizer, 10))
    state.rescues = rescues
    return method, TrainingStep(lambda doubled: doubled[0], wrapped, stepper, fabric, state)


def test_weights_move_against_the_gradient_of_the_augmented_batch_and_the_teacher_follows(make_task, make_batch):
    for rescues in ([], [3]):
        method, step = made(make_task(), rescues)
        weights = [weight for weight in method.parameters() if weight.requires_grad]
        before = [weight.detach().clone() for weight in weights]
        slow = [weight.detach().clone() for weight in method.teacher.parameters()]
        gradients = torch.autograd.grad(method(make_batch(), 4).loss, weights)
        norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
        factor = (CLIP_NORM / norm).clamp(max=1.0) if rescues else 1.0

        result = step((make_batch(), "not looked at"), 4)
        assert torch.isfinite(result.loss)
        for weight, was, gradient in zip(weights, before, gradients, strict=True):
            torch.testing.assert_close(weight.detach(), was - 0.5 * factor * gradient, rtol=1e-4, atol=1e-5)
        decay = ema_decay_at(method.settings.teacher_decay, 4)
        for now, was, ahead in zip(method.teacher.parameters(), slow, method.student.parameters(), strict=True):
            torch.testing.assert_close(now, decay * was + (1 - decay) * ahead.detach(), rtol=1e-4, atol=1e-5)
        assert all(weight.grad is None for weight in weights)
        assert step.kind(4) == ("all", bool(rescues))
        assert step.watch.diverged_at(5) is None


def half_precision(root, task, make_batch, stop_in=None):
    """Six steps with float16 and a loss that is scaled far too much at first."""
    torch.manual_seed(0)
    method, stop, notices = Supervised(SupervisedSettings(), task), StopRequest(), []
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30, growth_interval=2, backoff_factor=2.0**-8)
    precision = MixedPrecision("16-mixed", device="cpu", scaler=scaler)
    fabric = Fabric(accelerator="cpu", devices=1, plugins=[LightningEnvironment(), precision])

    def load(step):
        if step == stop_in:
            stop.signal = 15
        return make_batch(seed=step)

    class Told:
        def __getattr__(self, name):
            return lambda *given: notices.append(given) if name == "notice" else None

    settings = TrainingSettings(steps=6, validate_every=6, log_every=1, learning_rate=0.01)
    train(method, load, lambda *_: {"validation_dice": 0.5}, settings, RunFolder(root), fabric, Told(), stop)
    assert not can_capture(fabric)
    return method.state_dict(), scaler.state_dict(), notices


def test_float16_leaves_out_steps_whose_gradients_overflow_and_resumes_with_its_scale(tmp_path, make_task, make_batch):
    torch.manual_seed(0)
    fresh = Supervised(SupervisedSettings(), make_task()).state_dict()
    straight, scale, notices = half_precision(tmp_path / "straight", make_task(), make_batch)
    assert notices == []
    assert 0 < scale["scale"] < 2.0**30
    assert not torch.equal(straight["student.classify.weight"], fresh["student.classify.weight"])
    half_precision(tmp_path / "stopped", make_task(), make_batch, stop_in=2)
    resumed, same_scale, _ = half_precision(tmp_path / "stopped", make_task(), make_batch)
    assert same_scale == scale
    assert all(torch.equal(value, resumed[name]) for name, value in straight.items())
