"""What a checkpoint holds, and what is said where it cannot be read."""

import pytest
import torch

from patchcl.core.errors import UserError
from patchcl.runs.checkpoint import read_checkpoint, weights_of, weights_used
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


def test_weights_are_those_of_one_network(run):
    assert list(weights_of(STATE, "teacher")) == ["bias", "deep.weight"]
    assert torch.equal(weights_of(STATE, "student")["bias"], torch.zeros(2))


def test_where_there_is_no_teacher_the_student_predicts():
    alone = {"student.bias": torch.zeros(2)}
    assert [weights_used(state, "teacher") for state in (STATE, alone)] == ["teacher", "student"]
    assert weights_used(STATE, "student") == "student"
