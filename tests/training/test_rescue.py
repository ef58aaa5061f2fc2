"""Training that diverges: seen at the next log row, rescued by what helps, told of, and never saved."""

import math

import pytest
import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments import LightningEnvironment

from patchcl.config import TrainingSettings
from patchcl.core.signals import StopRequest
from patchcl.methods.base import Method
from patchcl.methods.settings import SupervisedSettings
from patchcl.methods.supervised import Supervised
from patchcl.runs.checkpoint import all_finite
from patchcl.runs.folder import RunFolder
from patchcl.runs.log import read_rows, rescues_of
from patchcl.training.diagnostics import warnings
from patchcl.training.loop import train
from patchcl.training.rescue import CLIP_NORM, DivergedError, FiniteWatch

STEEP = {"optimizer": "sgd", "momentum": 0.0, "learning_rate": 1.0, "power": 0.0, "weight_decay": 0.0}
"""With `Steep` each step multiplies the distance from 0 by a million; clipped gradients keep it near."""
DECAY = {"learning_rate": 1e-3, "power": 0.0, "weight_decay": 3.99e3}
"""AdamW takes 3.99 times the weights away from themselves, whatever the gradients; at half the rate twice as much."""


class Steep(Method[SupervisedSettings]):
    """Adds a loss whose gradient is a million times the weights, from some step on."""

    first = 0

    def training_step(self, batch, step):
        result = self.supervised_step(batch.labeled)
        if step < self.first:
            return result
        steep = sum((weight**2).sum() for weight in self.student.parameters())
        return result._replace(loss=result.loss + 5e5 * steep)


class KilledError(Exception):
    """The process is gone."""


class Watched:
    """Progress that keeps what is said."""

    def __init__(self):
        self.notices, self.seen = [], []

    def advance(self, step):
        self.seen.append(step)

    def report(self, row, seconds_per_step, new_warnings):
        pass

    def notice(self, line):
        self.notices.append(line)


@pytest.fixture
def run_steps(make_task, make_batch):
    def run(root, kind=Steep, *, kill_in=None, stop_in=None, change=lambda step, batch: batch, **training):
        settings = TrainingSettings(
            **{"steps": 24, "validate_every": 8, "log_every": 2, "checkpoint_minutes": 1e-9} | training
        )
        torch.manual_seed(0)
        method = kind(SupervisedSettings(), make_task(steps=settings.steps))
        progress, stop, calls = Watched(), StopRequest(), []

        def batch_at(step):
            calls.append(step)
            if len(calls) - 1 == kill_in:
                raise KilledError
            if len(calls) - 1 == stop_in:
                stop.signal = 15
            return change(step, make_batch(seed=step))

        def validate(method, step):
            return {"validation_dice": 0.5}

        fabric = Fabric(accelerator="cpu", devices=1, plugins=[LightningEnvironment()])
        done = train(method, batch_at, validate, settings, RunFolder(root), fabric, progress, stop)
        return method, done, progress, calls

    return run


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_clipped_gradients_rescue_a_run_from_its_last_validation(run_steps, tmp_path, monkeypatch):
    monkeypatch.setattr(Steep, "first", 10)
    method, done, progress, calls = run_steps(tmp_path, Steep, **STEEP | {"learning_rate": 1e-2})
    assert done == 24
    assert all_finite(method.state_dict().values())
    (notice,) = progress.notices
    assert notice.startswith("training diverged at step 1")
    assert notice.endswith("Going on from step 8 with clipped gradients.")
    assert calls == [*range(calls.index(8, 9)), *range(8, 24)]
    rows = read_rows(RunFolder(tmp_path))
    assert [row["step"] for row in rows if "loss" in row] == list(range(2, 25, 2))
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert [row.get("rescues") for row in rows if "validation_dice" in row] == [None, 1, 1]
    assert rescues_of(rows) == 1
    assert ["rescued with clipped gradients" in warning for warning in warnings(rows)] == [True]


def test_before_the_first_validation_it_goes_back_to_the_start(run_steps, tmp_path):
    _, done, progress, calls = run_steps(tmp_path, **STEEP)
    assert done == 24
    assert "Going on from step 0" in progress.notices[0]
    assert calls[-24:] == list(range(24))
    assert torch.load(RunFolder(tmp_path).last)["rescues"] == [int(progress.notices[0].split()[4].rstrip(":"))]


def test_what_clipping_does_not_help_half_the_learning_rate_does(run_steps, tmp_path):
    method, done, progress, _ = run_steps(tmp_path, Supervised, steps=60, **DECAY)
    assert done == 60
    assert ["clipped gradients." in notice for notice in progress.notices] == [True, False]
    assert "with clipped gradients and half the learning rate." in progress.notices[1]
    assert all_finite(method.state_dict().values())
    rates = {row["learning_rate"] for row in read_rows(RunFolder(tmp_path)) if "learning_rate" in row}
    assert 0.5e-3 in rates
    assert rates <= {0.5e-3, 1e-3}


@pytest.mark.parametrize(
    "training",
    [
        {"learning_rate": math.inf},
        {"weight_decay": 1e30},
        {"optimizer": "sgd", "learning_rate": 1e35},
    ],
    ids=["infinite rate", "weight decay", "sgd"],
)
@pytest.mark.parametrize("validate_every", [1, 8])
def test_a_run_that_nothing_helps_ends_with_reason_step_and_remedy(run_steps, tmp_path, training, validate_every):
    with pytest.raises(
        DivergedError, match=r"Training diverged: at step \d+ .*good step is \d+.*training\.learning_rate"
    ):
        run_steps(tmp_path, Supervised, validate_every=validate_every, **training)
    assert DivergedError.exit_code == 1
    run = RunFolder(tmp_path)
    for path in (run.last, run.best, run.previous):
        assert not path.exists() or all_finite(torch.load(path)["method"].values())
    assert run.previous.exists()


@pytest.mark.parametrize("extreme", [3e38, -3e38, math.nan])
def test_an_image_that_no_network_can_take_ends_the_run(run_steps, tmp_path, extreme):
    def spoil(step, batch):
        if step == 13:
            batch.labeled.image[0] = extreme
            batch.labeled.image[0, 0, ::2] = -extreme
        return batch

    with pytest.raises(DivergedError, match=r"at step 14 .*last good step is 8;"):
        run_steps(tmp_path, Supervised, change=spoil)
    assert torch.load(RunFolder(tmp_path).last)["step"] == 12


def test_gradients_that_overflow_are_seen_though_loss_and_weights_stay_finite(make_task):
    method = Supervised(SupervisedSettings(), make_task())
    watch = FiniteWatch(method, torch.device("cpu"))
    weights = list(method.student.parameters())
    for step, gradient in enumerate((1.0, 1e30, 1.0), start=1):
        weights[0].grad = torch.full_like(weights[0], gradient)
        watch.before_step(clip=False)
        watch.after_step(torch.tensor(1.0), step)
    assert watch.diverged_at(3) == 2
    assert watch.diverged_at(3) is None


def test_a_buffer_or_a_teacher_that_is_not_finite_is_seen_too(make_task):
    method = Supervised(SupervisedSettings(), make_task())
    watch = FiniteWatch(method, torch.device("cpu"))
    assert watch.diverged_at(4) is None
    next(method.teacher.parameters()).data[0] = math.nan
    assert watch.diverged_at(4) == 4


def test_gradients_are_clipped_all_together_when_asked(make_task):
    method = Supervised(SupervisedSettings(), make_task())
    watch = FiniteWatch(method, torch.device("cpu"))
    weights = list(method.student.parameters())
    for clip, norm in ((False, 10.0), (True, CLIP_NORM)):
        weights[0].grad = torch.zeros_like(weights[0])
        weights[1].grad = torch.zeros_like(weights[1])
        weights[0].grad.view(-1)[0], weights[1].grad.view(-1)[0] = 6.0, 8.0
        watch.before_step(clip)
        assert torch.nn.utils.get_total_norm([weights[0].grad, weights[1].grad]) == pytest.approx(norm, rel=1e-5)


@pytest.mark.parametrize("training", [STEEP, STEEP | {"learning_rate": 1e-2}, DECAY], ids=["at once", "later", "twice"])
@pytest.mark.parametrize("kill_in", [1, 6, 13, 27])
def test_a_rescued_run_that_is_killed_and_resumed_equals_one_that_is_not(run_steps, tmp_path, training, kill_in):
    """A checkpoint by the clock stands at every log row, so the kill comes before, within and after the rescue."""
    kind, steps = (Supervised, 48) if training is DECAY else (Steep, 24)
    straight, _, progress, _ = run_steps(tmp_path / "straight", kind, steps=steps, **training)
    assert progress.notices
    with pytest.raises(KilledError):
        run_steps(tmp_path / "killed", kind, steps=steps, kill_in=kill_in, **training)
    run_steps(tmp_path / "killed", kind, steps=steps, stop_in=2, **training)
    resumed, done, _, _ = run_steps(tmp_path / "killed", kind, steps=steps, **training)
    assert done == steps
    assert same(straight.state_dict(), resumed.state_dict())
    contents = [torch.load(RunFolder(tmp_path / name).last) for name in ("straight", "killed")]
    assert contents[0]["rescues"] == contents[1]["rescues"]
    assert contents[0]["scheduler"] == contents[1]["scheduler"]


def test_a_signal_while_it_diverges_leaves_a_run_that_resumes_to_the_same_weights(run_steps, tmp_path):
    straight, _, _, _ = run_steps(tmp_path / "straight", **STEEP)
    for stop_in in (0, 4, 5, 6):
        run_steps(tmp_path / f"{stop_in}", stop_in=stop_in, **STEEP)
        resumed, done, _, _ = run_steps(tmp_path / f"{stop_in}", **STEEP)
        assert done == 24
        assert same(straight.state_dict(), resumed.state_dict())
