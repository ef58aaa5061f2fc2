"""What a checkpoint holds, and what is said where it cannot be read."""

import math
from threading import Event

import pytest
import torch

from patchcl.core.errors import UserError
from patchcl.core.files import atomic_write
from patchcl.runs import checkpoint
from patchcl.runs.checkpoint import CheckpointWriter, read_checkpoint, read_newest, weights_of, weights_used
from patchcl.runs.folder import RunFolder

STATE = {"student.bias": torch.zeros(2), "teacher.bias": torch.ones(2), "teacher.deep.weight": torch.ones(1)}


@pytest.fixture
def run(tmp_path):
    made = RunFolder.create(tmp_path / "run")
    torch.save({"method": STATE, "step": 7}, made.last)
    return made


def test_a_checkpoint_is_read_whole(run):
    content = read_checkpoint(run, "last")
    assert content["step"] == 7
    assert list(content["method"]) == list(STATE)


def test_one_that_was_never_written_is_named(run):
    with pytest.raises(UserError, match=r"best\.ckpt does not exist"):
        read_checkpoint(run, "best")


@pytest.mark.parametrize("content", [b"", b"PK", b"\x80\x02."])
def test_a_damaged_one_is_named(run, content):
    run.last.write_bytes(content)
    with pytest.raises(UserError, match=r"last\.ckpt cannot be read: the file is damaged"):
        read_checkpoint(run, "last")


@pytest.mark.parametrize("content", [[1, 2], {"step": 7}, {"method": STATE}, {"method": STATE, "step": "seven"}])
def test_a_file_that_holds_something_else_is_named(run, content):
    torch.save(content, run.last)
    with pytest.raises(UserError, match=r"last\.ckpt cannot be read: the file is damaged"):
        read_checkpoint(run, "last")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_whose_weights_are_not_finite_is_refused(run, value):
    torch.save({"method": STATE | {"student.bias": torch.tensor([0.0, value])}, "step": 7}, run.last)
    with pytest.raises(UserError, match=r"last\.ckpt holds weights that are not finite.*diverged.*learning_rate"):
        read_checkpoint(run, "last")


def test_every_flipped_byte_is_either_found_or_harmless(run):
    """Eighty places over the whole file; weights that changed without a word would be worse than a message."""
    sound = run.last.read_bytes()
    for place in range(0, len(sound), len(sound) // 80):
        run.last.write_bytes(sound[:place] + bytes([sound[place] ^ 0xFF]) + sound[place + 1 :])
        try:
            content = read_checkpoint(run, "last")
        except UserError:
            continue
        assert content["step"] == 7
        assert all(torch.equal(value, STATE[name]) for name, value in content["method"].items())


def test_the_one_before_is_used_for_a_damaged_last_and_said_with_what_it_costs(run):
    run.log_jsonl.write_text('{"step": 7, "loss": 1.0}\n{"step": 9, "loss": 1.0}\n', encoding="utf-8")
    assert read_newest(run)[1] == ""
    torch.save({"method": STATE, "step": 4}, run.previous)
    run.last.write_bytes(b"PK")
    content, notice = read_newest(run)
    assert content["step"] == 4
    assert "last.ckpt cannot be read: the file is damaged. The checkpoint before it" in notice
    assert "of step 4, 5 steps before the end of the log" in notice


def test_the_start_of_a_run_is_not_what_predicts(run):
    torch.save({"method": STATE, "step": 0}, run.previous)
    run.last.write_bytes(b"PK")
    assert read_newest(run, min_step=0)[0]["step"] == 0
    with pytest.raises(UserError, match=r"last\.ckpt cannot be read"):
        read_newest(run)


def content_of(step):
    return {"method": STATE, "step": step}


def test_a_last_that_was_made_at_a_validation_becomes_the_one_before(tmp_path):
    run = RunFolder.create(tmp_path / "run")
    steps = {"previous": run.previous, "last": run.last, "best": run.best}
    with CheckpointWriter(run, minutes=5, last_is_validated=False) as writer:
        writer.save_start(content_of(0))
        for step, validated, expected in (
            (1, False, (0, 1)),
            (2, True, (0, 2)),
            (3, False, (2, 3)),
            (4, False, (2, 4)),
            (5, True, (2, 5)),
            (6, True, (5, 6)),
        ):
            writer.save(content_of(step), validated, best=step == 2)
            writer.finish()
            assert tuple(torch.load(steps[name])["step"] for name in ("previous", "last")) == expected
            assert writer.validated == (run.last if validated else run.previous)
    assert torch.load(run.best)["step"] == 2
    assert sorted(path.name for path in run.last.parent.iterdir()) == ["best.ckpt", "last.ckpt", "previous.ckpt"]


def test_steps_go_on_while_a_checkpoint_is_written(run, monkeypatch):
    """A disk that takes its time: `save` returns before the file is there, and what is saved is the state of then."""
    disk, weights = Event(), torch.zeros(2)

    def slow_write(path, write):
        assert disk.wait(timeout=20), "nobody goes on before it is written"
        atomic_write(path, write)

    monkeypatch.setattr(checkpoint, "atomic_write", slow_write)
    with CheckpointWriter(run, minutes=5, last_is_validated=False) as writer:
        writer.save({"method": {"student.bias": weights}, "step": 8}, validated=False)
        weights += 1
        assert torch.load(run.last)["step"] == 7
        disk.set()
    written = torch.load(run.last)
    assert (written["step"], written["method"]["student.bias"].tolist()) == (8, [0, 0])


def test_the_one_before_is_kept_where_files_have_one_name_only(run, monkeypatch):
    def no_links(*_):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", no_links)
    with CheckpointWriter(run, minutes=5, last_is_validated=True) as writer:
        writer.save(content_of(8), validated=False)
    assert [torch.load(path)["step"] for path in (run.previous, run.last)] == [7, 8]


def test_what_is_saved_is_the_state_at_that_moment(run):
    """Training goes on while the file is written."""
    weights = torch.zeros(3)
    with CheckpointWriter(run, minutes=5, last_is_validated=False) as writer:
        writer.save({"method": {"student.bias": weights}, "step": 8}, validated=False)
        weights += 1
    assert torch.equal(read_checkpoint(run, "last")["method"]["student.bias"], torch.zeros(3))


def test_a_write_that_failed_is_told_at_the_next(run, monkeypatch):
    writer = CheckpointWriter(run, minutes=5, last_is_validated=False)
    monkeypatch.setattr("patchcl.runs.checkpoint.atomic_write", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    writer.save(content_of(8), validated=False)
    with pytest.raises(OSError, match="full"):
        writer.save(content_of(9), validated=False)


def test_checkpoints_are_due_after_minutes(run, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with CheckpointWriter(run, minutes=5, last_is_validated=False) as writer:
        due = []
        for seconds in (0, 299, 300, 301, 599, 600):
            now[0] = seconds
            due.append(writer.due)
            if writer.due:
                writer.save(content_of(8), validated=False)
    assert due == [False, False, True, False, False, True]


def test_weights_are_those_of_one_network(run):
    assert list(weights_of(STATE, "teacher")) == ["bias", "deep.weight"]
    assert torch.equal(weights_of(STATE, "student")["bias"], torch.zeros(2))


def test_where_there_is_no_teacher_the_student_predicts():
    alone = {"student.bias": torch.zeros(2)}
    assert [weights_used(state, "teacher") for state in (STATE, alone)] == ["teacher", "student"]
    assert weights_used(STATE, "student") == "student"
