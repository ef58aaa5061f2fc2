"""The loop: what it keeps, when it stops, and that a stop costs nothing."""

import gc
import json
import math

import pytest
import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments import LightningEnvironment

from patchcl.config import TrainingSettings
from patchcl.core.errors import UserError
from patchcl.core.signals import StopRequest
from patchcl.methods import build_method, settings_classes
from patchcl.methods.settings import FixMatchSettings, PatchCLSettings, SupervisedSettings
from patchcl.runs.checkpoint import CheckpointWriter
from patchcl.runs.folder import RunFolder
from patchcl.runs.log import read_rows
from patchcl.training.loop import build_optimizer, train

CONTRAST = {"patches_per_class": 4, "embedding_size": 8, "memory_length": 64, "memory_min_size": 2}
SMALL = {"contrast": CONTRAST, "warm_up_fraction": 0.3}
KINDS = pytest.mark.parametrize("kind", settings_classes(), ids=lambda kind: kind.model_fields["name"].default)


class Silence:
    """Progress that nobody watches, and that asks to stop after some step."""

    def __init__(self, stop: StopRequest | None = None, after: int = -1) -> None:
        self.stop, self.after, self.seen, self.warnings, self.notices = stop, after, [], [], []

    def advance(self, step: int) -> None:
        self.seen.append(step)

    def report(self, row, seconds_per_step, new_warnings) -> None:
        self.warnings += [(row["step"], warning) for warning in new_warnings]

    def notice(self, line) -> None:
        self.notices.append(line)


def run_steps(root, kind, task, batch_at, *, stop_in=None, steps=8, validate=None, **training):
    """Trains in `root`; a signal arrives while the batch of step `stop_in` is made."""
    settings = TrainingSettings(**{"steps": steps, "validate_every": 4, "log_every": 2} | training)
    torch.manual_seed(0)
    method = build_method(
        kind(**{name: value for name, value in SMALL.items() if name in kind.model_fields}), task(steps=steps)
    )
    stop, progress = StopRequest(), Silence()

    def batch_or_signal(step):
        if step == stop_in:
            stop.signal = 15
        return batch_at(step)

    fabric = Fabric(accelerator="cpu", devices=1, plugins=[LightningEnvironment()])
    done = train(
        method,
        batch_or_signal,
        validate or (lambda method, step: {"validation_dice": 0.5}),
        settings,
        RunFolder(root),
        fabric,
        progress,
        stop,
    )
    return method, done, progress


def without_times(rows):
    return [{key: value for key, value in row.items() if key != "seconds_per_step"} for row in rows]


@KINDS
@pytest.mark.parametrize("stop_in", [0, 2, 3, 6])
def test_stopping_and_resuming_equals_not_stopping_bit_for_bit(kind, stop_in, tmp_path, make_task, make_batch):
    def batch_at(step):
        return make_batch(seed=step)

    straight, done, _ = run_steps(tmp_path / "straight", kind, make_task, batch_at)
    assert done == 8
    _, done, _ = run_steps(tmp_path / "stopped", kind, make_task, batch_at, stop_in=stop_in)
    assert done == stop_in + 1
    resumed, done, progress = run_steps(tmp_path / "stopped", kind, make_task, batch_at)
    assert done == 8
    assert progress.seen == list(range(stop_in + 2, 9))

    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in straight.state_dict().items())
    checkpoints = [torch.load(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("straight", "stopped")]
    assert checkpoints[0].keys() == checkpoints[1].keys()
    moments = [checkpoint["optimizer"]["state"] for checkpoint in checkpoints]
    assert all(torch.equal(moments[0][p][k], moments[1][p][k]) for p in moments[0] for k in moments[0][p])
    assert checkpoints[0]["scheduler"] == checkpoints[1]["scheduler"]


@KINDS
@pytest.mark.parametrize("killed_in", [3])
def test_killed_after_a_checkpoint_by_the_clock_and_resumed_equals_not_killed(
    kind, killed_in, tmp_path, make_task, make_batch
):
    def batch_at(step):
        return make_batch(seed=step)

    def kill(step):
        if step == killed_in:
            raise ConnectionResetError
        return make_batch(seed=step)

    straight, _, _ = run_steps(tmp_path / "straight", kind, make_task, batch_at)
    with pytest.raises(ConnectionResetError):
        run_steps(tmp_path / "killed", kind, make_task, kill, checkpoint_minutes=1e-9)
    resumed, done, progress = run_steps(tmp_path / "killed", kind, make_task, batch_at, checkpoint_minutes=1e-9)
    assert done == 8
    assert progress.seen == list(range(killed_in // 2 * 2 + 1, 9)), "from the last log row on"
    assert progress.notices == []
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in straight.state_dict().items())
    rows = [without_times(read_rows(RunFolder(tmp_path / name))) for name in ("straight", "killed")]
    assert rows[0] == rows[1]


def test_memory_does_not_grow_with_the_steps(tmp_path, make_task, make_batch):
    """After warm-up, two steps that are alike by rows and validations: as many tensors, of as many bytes."""
    seen = {}

    def batch_at(step):
        if step in (14, 30):
            gc.collect()
            tensors = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]
            seen[step] = len(tensors), sum(tensor.nbytes for tensor in tensors)
        return make_batch(seed=step)

    run_steps(tmp_path, PatchCLSettings, make_task, batch_at, steps=31)
    assert seen[14] == seen[30]
    assert seen[14][0] > 50


@pytest.mark.parametrize(("minutes", "expected"), [(1e-9, [2, 4, 6, 8]), (60, [4, 8])])
def test_checkpoints_come_with_the_minutes_and_with_validations(
    minutes, expected, tmp_path, make_task, make_batch, monkeypatch
):
    saved = []
    original = CheckpointWriter.save

    def save(writer, content, *arguments):
        saved.append(content["step"])
        original(writer, content, *arguments)

    monkeypatch.setattr(CheckpointWriter, "save", save)
    run_steps(tmp_path, SupervisedSettings, make_task, lambda step: make_batch(seed=step), checkpoint_minutes=minutes)
    assert saved == expected


def test_a_damaged_last_checkpoint_costs_the_steps_since_the_one_before_and_says_so(tmp_path, make_task, make_batch):
    def steps(name, stop_in=None):
        return run_steps(
            tmp_path / name, SupervisedSettings, make_task, lambda step: make_batch(seed=step), stop_in=stop_in
        )

    straight, _, _ = steps("straight")
    steps("damaged", stop_in=5)
    run = RunFolder(tmp_path / "damaged")
    run.last.write_bytes(run.last.read_bytes()[:-200])
    resumed, done, progress = steps("damaged")
    (notice,) = progress.notices
    assert "last.ckpt cannot be read" in notice
    assert "that of step 4, 2 steps before the end of the log" in notice
    assert (done, progress.seen) == (8, [5, 6, 7, 8])
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in straight.state_dict().items())
    assert torch.load(run.previous)["step"] == 4


def test_both_checkpoints_damaged_is_one_message(tmp_path, make_task, make_batch):
    run = RunFolder(tmp_path)
    run_steps(tmp_path, SupervisedSettings, make_task, lambda step: make_batch(seed=step), stop_in=5)
    run.last.write_bytes(b"")
    run.previous.write_bytes(b"")
    with pytest.raises(UserError, match="cannot be read: the file is damaged"):
        run_steps(tmp_path, SupervisedSettings, make_task, lambda step: make_batch(seed=step))


def test_a_checkpoint_of_version_0_1_goes_on_and_is_kept_as_the_one_before(tmp_path, make_task, make_batch):
    def steps(name, stop_in=None):
        return run_steps(
            tmp_path / name, SupervisedSettings, make_task, lambda step: make_batch(seed=step), stop_in=stop_in
        )

    straight, _, _ = steps("straight")
    steps("old", stop_in=5)
    run = RunFolder(tmp_path / "old")
    torch.save({key: value for key, value in torch.load(run.last).items() if key != "rescues"}, run.last)
    run.previous.unlink()
    resumed, _, progress = steps("old")
    assert progress.seen == [7, 8]
    assert torch.load(run.previous)["step"] == 6
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in straight.state_dict().items())


def test_a_checkpoint_of_another_optimizer_is_refused(tmp_path, make_task, make_batch):
    run_steps(tmp_path, SupervisedSettings, make_task, lambda step: make_batch(seed=step), stop_in=5)
    with pytest.raises(UserError, match=r"does not fit .* optimizer"):
        run_steps(tmp_path, SupervisedSettings, make_task, lambda step: make_batch(seed=step), optimizer="sgd")


def test_a_disk_that_is_full_is_told_at_the_latest_at_the_next_checkpoint(tmp_path, make_task, make_batch, monkeypatch):
    def full(path, write):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("patchcl.runs.checkpoint.atomic_write", full)
    with pytest.raises(OSError, match="No space left"):
        run_steps(tmp_path, SupervisedSettings, make_task, lambda step: make_batch(seed=step))


def test_the_log_of_a_resumed_run_has_each_step_once(tmp_path, make_task, make_batch):
    kind = SupervisedSettings
    for name, stop_in in (("straight", None), ("stopped", 5), ("stopped", None)):
        run_steps(tmp_path / name, kind, make_task, lambda step: make_batch(seed=step), stop_in=stop_in)
    assert without_times(read_rows(RunFolder(tmp_path / "straight"))) == without_times(
        read_rows(RunFolder(tmp_path / "stopped"))
    )


def test_warnings_are_counted_in_the_log_and_said_once_resumed_or_not(tmp_path, make_task, make_batch):
    kind = FixMatchSettings
    ill = {"accepted_left": 0.5, "agreement_left": 0.25, "found_left": 0.5}

    def steps(name, stop_in=None):
        _, _, progress = run_steps(
            tmp_path / name,
            kind,
            make_task,
            lambda step: make_batch(seed=step),
            stop_in=stop_in,
            validate=lambda method, step: {"validation_dice": 0.5} | (ill if step < 8 else {}),
            validate_every=1,
        )
        said = [(step, warning.partition(":")[0]) for step, warning in progress.warnings]
        return said, [row["warnings"] for row in read_rows(RunFolder(tmp_path / name)) if "warnings" in row]

    said, counted = steps("straight")
    assert said == [(3, "Pseudo-labels are wrong more often than right")]
    assert counted == [0, 0, 1, 1, 1, 1, 1, 0]
    for stop_in in (1, 2):
        first, _ = steps(f"stopped {stop_in}", stop_in=stop_in)
        second, counted_in_two = steps(f"stopped {stop_in}")
        assert first + second == said
        assert counted_in_two == counted


@KINDS
def test_the_remedies_of_a_warning_are_those_of_the_method(kind, tmp_path, make_task, make_batch):
    ill = {"validation_dice": 0.5, "accepted_left": 0.5, "agreement_left": 0.25}
    _, _, progress = run_steps(
        tmp_path, kind, make_task, lambda step: make_batch(seed=step), validate=lambda *_: ill, validate_every=2
    )
    text = " ".join(warning for _, warning in progress.warnings)
    remedies = ("confidence_threshold", "warm_up_fraction", "pretrain_fraction", "consistency_weight")
    assert [name for name in remedies if f"method.{name} (now" in text] == [
        name for name in remedies if name in kind.model_fields
    ]


def test_best_is_the_checkpoint_of_the_best_validation_and_last_the_last(tmp_path, make_task, make_batch):
    scores = {4: 0.7, 8: 0.9, 12: 0.6}
    run_steps(
        tmp_path,
        SupervisedSettings,
        make_task,
        lambda step: make_batch(seed=step),
        steps=12,
        validate=lambda method, step: {"validation_dice": scores[step]},
    )
    run = RunFolder(tmp_path)
    assert torch.load(run.best)["step"] == 8
    assert torch.load(run.last)["step"] == 12


def test_a_finished_run_is_left_as_it_is(tmp_path, make_task, make_batch):
    kind = SupervisedSettings
    run_steps(tmp_path, kind, make_task, lambda step: make_batch(seed=step))
    before = RunFolder(tmp_path).last.read_bytes()
    _, done, progress = run_steps(tmp_path, kind, make_task, lambda step: make_batch(seed=step))
    assert (done, progress.seen) == (8, [])
    assert RunFolder(tmp_path).last.read_bytes() == before


def test_log_rows_are_means_over_their_interval(tmp_path, make_task, make_batch):
    kind = SupervisedSettings
    run_steps(tmp_path / "coarse", kind, make_task, lambda step: make_batch(seed=step), log_every=4)
    run_steps(tmp_path / "fine", kind, make_task, lambda step: make_batch(seed=step), log_every=1)
    fine = [row["loss"] for row in read_rows(RunFolder(tmp_path / "fine")) if "loss" in row]
    coarse = [row["loss"] for row in read_rows(RunFolder(tmp_path / "coarse")) if "loss" in row]
    assert len(fine) == 8
    assert coarse == pytest.approx([sum(fine[:4]) / 4, sum(fine[4:]) / 4], rel=1e-5)


def test_the_learning_rate_falls_to_nothing_as_a_power(tmp_path, make_task, make_batch):
    kind = SupervisedSettings
    run_steps(tmp_path, kind, make_task, lambda step: make_batch(seed=step), log_every=1, learning_rate=0.01)
    rates = [row["learning_rate"] for row in read_rows(RunFolder(tmp_path)) if "learning_rate" in row]
    assert rates == pytest.approx([0.01 * (1 - step / 8) ** 0.9 for step in range(1, 9)], abs=1e-9)


def test_weights_learn_but_a_teacher_is_never_given_to_the_optimizer(make_task):
    for kind in settings_classes():
        method = build_method(kind(), make_task())
        for name, expected in (("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)):
            optimizer = build_optimizer(method, TrainingSettings(optimizer=name))
            assert isinstance(optimizer, expected)
            held = {id(p) for group in optimizer.param_groups for p in group["params"]}
            assert held == {id(p) for name, p in method.named_parameters() if "teacher" not in name}


def test_the_log_is_json_and_csv(tmp_path, make_task, make_batch):
    run_steps(tmp_path, SupervisedSettings, make_task, lambda step: make_batch(seed=step))
    run = RunFolder(tmp_path)
    rows = [json.loads(line) for line in run.log_jsonl.read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4, 4, 6, 8, 8]
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert len(run.log_csv.read_text().splitlines()) == 1 + len(rows)
    assert any(run.tensorboard.iterdir())
