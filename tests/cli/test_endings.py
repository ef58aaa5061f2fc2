"""What a call says last, and its exit code; what users have named is no markup."""

import io
from pathlib import Path

import pytest
import typer
from rich.console import Console

from patchcl.cli import endings
from patchcl.comparison.runner import Ending
from patchcl.core.signals import StopRequest
from patchcl.runs.folder import RunFolder
from patchcl.training.experiment import Outcome


@pytest.fixture
def said(monkeypatch):
    out = io.StringIO()
    for name in ("console", "errors"):
        monkeypatch.setattr(endings, name, Console(file=out, width=200))
    return out


def test_a_mistake_is_said_as_it_is(said):
    with pytest.raises(SystemExit) as ended:
        endings.tell("[/red] is not a setting.")
    assert ended.value.code == 2
    assert said.getvalue() == "Error [/red] is not a setting.\n"


def test_a_run_that_ended_names_the_next_commands(said):
    endings.finish(Outcome(RunFolder(Path("runs/[/a]")), 40, StopRequest()))
    assert "Trained 40 steps into runs/[/a]. Next: patchcl evaluate runs/[/a]" in said.getvalue()


def test_failures_are_listed_with_exit_code_1_and_none_is_well(said):
    endings.finish_comparison(Ending({}, StopRequest()))
    assert said.getvalue() == ""
    with pytest.raises(typer.Exit) as ended:
        endings.finish_comparison(Ending({"[b]": "no room"}, StopRequest()))
    assert ended.value.exit_code == 1
    assert said.getvalue() == "Failed [b]: no room\n"


def test_after_a_stop_no_more_is_said_than_what_is_known(said):
    stop = StopRequest()
    stop.signal = 15
    for unseen, told in (
        ((), "all of it is saved"),
        (("a/[b]", "c"), "not seen to end, and perhaps still saving: a/[b], c"),
    ):
        with pytest.raises(typer.Exit) as ended:
            endings.finish_comparison(Ending({}, stop, unseen))
        assert ended.value.exit_code == 143
        assert said.getvalue().endswith(f"Stopped; {told}. Call the same command again to go on.\n")
