"""The commit against git itself in a small repository, and the rest against the machine."""

import json
import os
import platform
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch

import patchcl
import patchcl.runs.provenance as module
from patchcl.runs.provenance import ACCEPTED, commit, hardware, note_time, origin, provenance, read_provenance

CPU = torch.device("cpu")


def git(root: Path, *arguments: str) -> str:
    """Git without the settings of whoever runs the tests, and with an author."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    author = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", root, *author, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.strip()


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository with one commit, out of which the module believes to run."""
    source = tmp_path / "src" / "patchcl" / "runs" / "provenance.py"
    source.parent.mkdir(parents=True)
    source.write_text("first")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    git(tmp_path, "tag", "--annotate", "v1", "--message", "v1")
    monkeypatch.setattr(module, "__file__", str(source))
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    return tmp_path


def test_the_commit_is_named_and_marked_where_the_code_was_changed(checkout):
    head = git(checkout, "rev-parse", "--short=12", "HEAD")
    assert commit() == head
    (checkout / "notes.txt").write_text("not code")
    assert commit() == head
    (checkout / "src" / "patchcl" / "runs" / "provenance.py").write_text("second")
    assert commit() == f"{head}-dirty"


def test_an_installed_package_has_no_commit_even_inside_somebody_elses_checkout(checkout, monkeypatch):
    installed = checkout / ".venv" / "lib" / "python3" / "site-packages" / "patchcl" / "runs" / "provenance.py"
    installed.parent.mkdir(parents=True)
    installed.touch()
    monkeypatch.setattr(module, "__file__", str(installed))
    assert commit() is None


def test_there_is_no_commit_outside_a_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "__file__", str(tmp_path / "src" / "patchcl" / "runs" / "provenance.py"))
    assert commit() is None


def test_there_is_no_commit_without_git(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert commit() is None


def test_the_command_can_be_given_to_a_shell_again(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/some/where/bin/patchcl", "train", "my scans", "--set", "split.labeled=[a, b]"])
    words = ["patchcl", "train", "my scans", "--set", "split.labeled=[a, b]"]
    assert shlex.split(provenance(CPU)["command"]) == words


def test_versions_time_and_device_are_those_of_now():
    notes = provenance(CPU)
    assert (notes["patchcl"], notes["torch"]) == (patchcl.__version__, torch.__version__)
    assert notes["python"] == ".".join(map(str, sys.version_info[:3]))
    assert timedelta(0) <= datetime.now(UTC) - datetime.fromisoformat(notes["started"]) < timedelta(seconds=60)
    assert notes["device"] == "cpu"
    assert notes["hardware"] == hardware(CPU)
    assert (notes["seconds"], notes["steps_per_second"]) == (None, None)
    assert json.loads(json.dumps(notes)) == notes


def test_a_run_notes_its_origin_and_its_duration():
    notes = provenance(CPU)
    assert origin(CPU).items() < notes.items()
    assert set(notes) - set(origin(CPU)) == {"started", "seconds", "steps_per_second"}


def test_the_processor_is_named_with_its_cores():
    name, _, cores = hardware(CPU).rpartition(", ")
    assert cores == f"{os.cpu_count()} cores"
    information = Path("/proc/cpuinfo")
    known = re.findall(r"^model name\s*: (.+)$", information.read_text() if information.exists() else "", re.MULTILINE)
    assert name in (known or [platform.processor(), platform.machine()])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_card_is_named():
    device = torch.device("cuda", 0)
    assert hardware(device) == torch.cuda.get_device_name(0)
    assert provenance(device)["device"] == "cuda:0"


@pytest.mark.parametrize(
    "content", ["", "[]", "null", "{", '{"seconds": "long", "started": 7, "commit": ["x"]}', "[" * 100_000, None]
)
def test_damaged_provenance_is_rebuilt_and_says_so(tmp_path, content):
    path = tmp_path / "provenance.json"
    if content is not None:
        path.write_text(content)
    note_time(path, 2.0, 10, 0, CPU)
    notes = json.loads(path.read_text())
    assert (notes["seconds"], notes["steps_per_second"], notes["rebuilt"]) == (2.0, 5.0, True)
    assert notes["torch"] == torch.__version__
    assert read_provenance(path) == notes


def test_time_adds_up_over_sessions(tmp_path):
    path = tmp_path / "provenance.json"
    path.write_text(json.dumps(provenance(CPU) | {"started": "then", "seconds": 3.0, ACCEPTED: ["a changed"]}))
    note_time(path, 2.0, 10, 0, CPU)
    notes = json.loads(path.read_text())
    assert (notes["started"], notes["seconds"], notes["steps_per_second"]) == ("then", 5.0, 2.0)
    assert notes[ACCEPTED] == ["a changed"]
    assert "rebuilt" not in notes


@pytest.mark.parametrize("value", ["long", True, -1, float("nan"), float("inf"), [1]])
def test_a_duration_that_is_none_is_left_out(tmp_path, value):
    (tmp_path / "p.json").write_text(json.dumps({"seconds": value, "commit": "abc", "command": 3, ACCEPTED: [1]}))
    assert read_provenance(tmp_path / "p.json") == {"commit": "abc"}
