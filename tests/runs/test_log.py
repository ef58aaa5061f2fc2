"""Means by hand, three files that agree, and a log that goes on after a crash as if there had been none."""

import csv
import gc
import json
import weakref

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer

from patchcl.core.batch import StepResult
from patchcl.core.files import write_text
from patchcl.runs.folder import RunFolder
from patchcl.runs.log import RunLog, read_rows, rescues_of


@pytest.fixture
def run(tmp_path):
    return RunFolder.create(tmp_path / "run")


@pytest.fixture(autouse=True)
def files_in_order(monkeypatch):
    """TensorBoard reads files of one second by the number at the end of their names, where 10 comes before 9."""
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(1000))


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


def test_the_table_is_written_anew_only_for_a_new_column(run, open_log, monkeypatch):
    whole = []
    monkeypatch.setattr("patchcl.runs.log.write_text", lambda path, text: [whole.append(path), write_text(path, text)])
    log = open_log(0)
    whole.clear()
    for step in range(1, 9):
        log.write(step, {"loss": 0.5})
        log.write(step, {"validation_dice": 0.25, "ece": 0.125} if step % 4 == 0 else {"validation_dice": 0.25})
        with run.log_csv.open(newline="") as file:
            rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
        assert rows == log.rows
    assert whole == [run.log_csv] * 3  # loss, validation_dice, ece


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


ROWS = '{"step": 10, "loss": 1.0}\n{"step": 20, "loss": 0.5}\n'
FOREIGN = {
    "garbage": b"\x00\xff\x13garbage\n",
    "another object": b'{"hello": 1}\n',
    "a list": b"[1, 2]\n",
    "a text for a number": b'{"step": 15, "loss": "low"}\n',
    "no step": b'{"step": true, "loss": 1.0}\n',
    "a number of 5,000 digits": b'{"step": ' + b"9" * 5000 + b"}\n",
    "nested deep": b'{"step": 1, "a": ' + b"[" * 100_000 + b"\n",
}


@pytest.mark.parametrize("line", FOREIGN.values(), ids=list(FOREIGN))
@pytest.mark.parametrize("at", ["start", "middle", "end"])
def test_a_log_with_foreign_lines_is_set_aside_and_nothing_is_lost(run, open_log, capsys, line, at):
    first, second = (row + b"\n" for row in ROWS.encode().splitlines())
    damaged = {"start": line + first + second, "middle": first + line + second, "end": first + second + line}[at]
    run.log_jsonl.write_bytes(damaged)
    assert [row["step"] for row in read_rows(run)] == [10, 20]
    log = open_log(20)
    assert "kept as log.damaged-1.jsonl" in capsys.readouterr().out.replace("\n", "")
    assert (run.root / "log.damaged-1.jsonl").read_bytes() == damaged
    assert run.log_jsonl.read_text() == ROWS
    log.write(30, {"loss": 0.25})
    assert [row["step"] for row in read_rows(run)] == [10, 20, 30]


def test_a_second_damage_is_set_aside_beside_the_first(run, open_log):
    for number in (1, 2):
        run.log_jsonl.write_text(f"{number} is no row\n")
        open_log(0)
    assert (run.root / "log.damaged-2.jsonl").read_text() == "2 is no row\n"


@pytest.mark.parametrize("cut", ["", "{", '{"ste', '{"step": 3', '{"step": 30, "loss": 1.0, "superv'])
def test_what_a_crash_leaves_is_no_damage(run, open_log, cut):
    run.log_jsonl.write_text(ROWS + cut)
    open_log(20)
    assert not list(run.root.glob("log.damaged*"))
    assert run.log_jsonl.read_text() == ROWS


def test_names_of_structures_are_safe_as_tags(run):
    log = RunLog(run, 0)
    log.write(10, {"validation_dice_NCR/NET": 0.5, "validation_dice_a b": 0.25})
    log.close()
    assert read_rows(run) == [{"step": 10, "validation_dice_NCR/NET": 0.5, "validation_dice_a b": 0.25}]
    board = EventAccumulator(str(run.tensorboard)).Reload()
    assert sorted(board.Tags()["scalars"]) == ["validation_dice_NCR%2FNET", "validation_dice_a b"]


def test_rescues_are_the_most_that_any_row_tells_of():
    assert rescues_of([{"step": 2}]) == rescues_of([]) == 0
    assert rescues_of([{"step": 2, "rescues": 1}, {"step": 4, "rescues": 2}, {"step": 4, "loss": 1.0}]) == 2
