"""Means by hand, three files that agree, and a log that goes on after a crash as if there had been none."""

import csv
import gc
import json
import weakref

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from patchcl.core.batch import StepResult
from patchcl.runs.folder import RunFolder
from patchcl.runs.log import RunLog, read_rows, rescues_of


@pytest.fixture
def run(tmp_path):
    return RunFolder.create(tmp_path / "run")


@pytest.fixture
def open_log(run):
    """Opens logs of `run`, and closes them when the test is over."""
    opened: list[RunLog] = []

    def open_at(first_step: int) -> RunLog:
        opened.append(RunLog(run, first_step))
        return opened[-1]

    yield open_at
    for log in opened:
        log.close()


def step_of(loss: float, **terms: float) -> StepResult:
    return StepResult(torch.tensor(loss), {name: torch.tensor(value) for name, value in terms.items()})


def test_a_row_holds_means_since_the_last_row_each_over_the_steps_that_had_it(open_log):
    log = open_log(0)
    log.add(step_of(1.0, supervised=0.5))
    log.add(step_of(2.0, supervised=0.25))
    log.add(step_of(6.0, supervised=0.0, contrast=8.0))
    assert log.flush(3, {"learning_rate": 0.1}) == {
        "step": 3, "loss": 3.0, "supervised": 0.25, "contrast": 8.0, "learning_rate": 0.1
    }  # fmt: skip
    log.add(step_of(5.0))
    assert log.flush(4, {}) == {"step": 4, "loss": 5.0}
    assert log.flush(5, {"learning_rate": 0.1}) == {"step": 5, "learning_rate": 0.1}


def test_every_row_is_on_disk_at_once(run, open_log):
    log = open_log(0)
    log.add(step_of(1.5))
    rows = [log.flush(1, {}), log.write(1, {"validation_dice": 0.5})]
    assert [json.loads(line) for line in run.log_jsonl.read_text().splitlines()] == rows
    assert read_rows(run) == rows


def test_csv_and_tensorboard_hold_the_same_figures(run):
    log = RunLog(run, 0)
    log.write(10, {"loss": 2.0})
    log.write(20, {"loss": 1.0, "validation_dice": 0.5})
    log.close()
    with run.log_csv.open(newline="") as file:
        assert list(csv.DictReader(file)) == [
            {"step": "10", "loss": "2.0", "validation_dice": ""},
            {"step": "20", "loss": "1.0", "validation_dice": "0.5"},
        ]
    board = EventAccumulator(str(run.tensorboard)).Reload()
    assert [(event.step, event.value) for event in board.Scalars("loss")] == [(10, 2.0), (20, 1.0)]
    assert [(event.step, event.value) for event in board.Scalars("validation_dice")] == [(20, 0.5)]


def test_it_goes_on_from_the_checkpoint_and_forgets_what_came_after_it(run):
    first = RunLog(run, 0)
    for step in (10, 20, 30):
        first.write(step, {"loss": float(step)})
    first.close()
    second = RunLog(run, 20)
    assert second.rows == [{"step": 10, "loss": 10.0}, {"step": 20, "loss": 20.0}]
    second.write(30, {"loss": 0.5})
    second.close()
    assert read_rows(run) == [{"step": 10, "loss": 10.0}, {"step": 20, "loss": 20.0}, {"step": 30, "loss": 0.5}]
    assert run.log_csv.read_text().split() == ["step,loss", "10,10.0", "20,20.0", "30,0.5"]
    board = EventAccumulator(str(run.tensorboard)).Reload()
    assert [(event.step, event.value) for event in board.Scalars("loss")] == [(10, 10.0), (20, 20.0), (30, 0.5)]


def test_a_line_cut_short_by_a_crash_is_written_anew(run, open_log):
    run.log_jsonl.write_text('{"step": 10, "loss": 1.0}\n{"step": 20, "lo')
    assert read_rows(run) == [{"step": 10, "loss": 1.0}]
    open_log(20).write(30, {"loss": 2.0})
    assert read_rows(run) == [{"step": 10, "loss": 1.0}, {"step": 30, "loss": 2.0}]


def test_a_run_that_has_not_begun_has_no_rows(run):
    assert read_rows(run) == []


def test_a_step_is_taken_in_without_bringing_it_to_the_host(open_log):
    """A tensor on the meta device has no value that could be asked for."""
    open_log(0).add(StepResult(torch.zeros((), device="meta"), {"supervised": torch.zeros((), device="meta")}))


def test_no_graph_is_held_after_its_step(open_log):
    class Token:
        pass

    class Square(torch.autograd.Function):
        @staticmethod
        def forward(context, value):
            context.token = Token()
            alive.append(weakref.ref(context.token))
            return value**2

        @staticmethod
        def backward(context, gradient):
            return gradient

    alive: list[weakref.ref] = []
    log = open_log(0)
    loss = Square.apply(torch.tensor(3.0, requires_grad=True))
    log.add(StepResult(loss, {}))
    assert alive[0]() is not None
    del loss
    gc.collect()
    assert alive[0]() is None
    assert log.flush(1, {})["loss"] == 9.0


def test_half_precision_terms_are_summed_and_written(open_log):
    log = open_log(0)
    for loss in (1.0, 2.0):
        log.add(StepResult(torch.tensor(loss), {"accepted": torch.tensor(0.5, dtype=torch.bfloat16)}))
    assert log.flush(2, {}) == {"step": 2, "loss": 1.5, "accepted": 0.5}


def test_a_log_of_version_0_1_is_read_and_goes_on_under_the_names_of_today(run, open_log):
    run.log_jsonl.write_text('{"step": 1, "loss": 2.0}\n{"step": 1, "validation_dice": 0.5, "alarms": 1}\n')
    assert read_rows(run)[1] == {"step": 1, "validation_dice": 0.5, "warnings": 1}
    log = open_log(1)
    log.write(2, {"warnings": 0})
    assert "alarms" not in run.log_jsonl.read_text()
    assert [row["warnings"] for row in read_rows(run) if "warnings" in row] == [1, 0]


def test_rescues_are_the_most_that_any_row_tells_of():
    assert rescues_of([{"step": 2}]) == rescues_of([]) == 0
    assert rescues_of([{"step": 2, "rescues": 1}, {"step": 4, "rescues": 2}, {"step": 4, "loss": 1.0}]) == 2
