"""The process that the first one starts: what goes wrong there is one message and an exit code."""

import io
import sys

import pytest

from patchcl.config import load_settings
from patchcl.training import crew
from patchcl.training.crew import Task
from patchcl.training.member import main
from patchcl.training.place import Place


def test_a_first_process_that_is_not_there_is_one_message(monkeypatch, capsys):
    monkeypatch.setattr(crew, "JOIN_SECONDS", 0.2)
    task = Task(place=Place(1, 2, 1, port=1), settings=load_settings(None, ["training.device=cpu"]))
    monkeypatch.setattr(sys, "stdin", io.StringIO(task.model_dump_json()))
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "Not all 2 processes of this run came to 127.0.0.1:1" in capsys.readouterr().err
