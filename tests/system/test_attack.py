"""A part of the campaign of benchmarks/attack.py, and that it can tell a fall from a hold."""

import importlib
import pickle
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from types import ModuleType

import pytest

from patchcl import cli
from patchcl.cli import verbs

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def campaign() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("attack")


def test_a_part_of_each_attack_is_held(campaign):
    result = campaign.attack(list(campaign.QUICK), quick=True)
    assert result["fallen"] == []
    assert result["counts"].keys() == campaign.QUICK.keys() == campaign.PARTS.keys() - {"full disks"}
    assert all(count["attempts"] >= 1 for count in result["counts"].values())


def test_there_are_as_many_attempts_as_are_promised(campaign):
    attempts = {part: len(list(make())) for part, make in campaign.PARTS.items()}
    assert attempts["tampering"] >= 40
    assert attempts["damage"] >= 30
    assert attempts["kills by time"] + attempts["kills by file operation"] >= 100
    assert attempts["hostile files"] >= 60
    assert all(len({attempt.name for attempt in make()}) == attempts[part] for part, make in campaign.PARTS.items())


def test_what_falls_is_told(campaign, monkeypatch):
    """Nothing is harmed, and a refusal is expected; something is harmed, and nobody looks; a traceback."""

    def explode(_):
        raise RuntimeError("boom")

    monkeypatch.setattr(verbs, "finish", lambda outcome: None)
    attempts = [
        campaign.Attempt("idle", lambda copy: None, campaign.refused("was replaced")),
        campaign.Attempt("seen", lambda copy: campaign.flip(copy.of("labelsTr")), campaign.mended("")),
    ]
    monkeypatch.setattr(campaign, "PARTS", {"falls": lambda: iter(attempts)})
    result = campaign.attack(["falls"])
    assert [fall["name"] for fall in result["fallen"]] == ["idle", "seen"]
    assert result["counts"] == {"falls": {"attempts": 2, "held": 0}}
    monkeypatch.setattr(cli, "main", lambda: explode(None))
    assert campaign.call("check", "x").code == -1


def test_a_run_that_was_not_killed_is_no_kill_that_held(campaign, monkeypatch):
    kills = importlib.import_module("kills")
    never = campaign.Attempt(
        "never",
        kills.nothing,
        lambda copy, ended: kills.equal(copy, ended, "supervised"),
        lambda copy: kills.killed_and_resumed(copy, "supervised", operation=("os.rename", "no such file", 1)),
    )
    monkeypatch.setattr(campaign, "PARTS", {"kills": lambda: iter([never])})
    (fall,) = campaign.attack(["kills"])["fallen"]
    assert fall["said"].startswith("was not killed but ended with 0")


def test_code_in_a_file_that_is_run_is_seen(campaign, tmp_path):
    hostile = importlib.import_module("hostile_files")
    holds, copy = hostile.unharmed(campaign.refused("")), campaign.Copy(tmp_path)
    assert holds(copy, campaign.Ended(2, "Error"))
    assert not holds(copy, campaign.Ended(2, "Error \x1b[2J"))
    with chdir(tmp_path):
        pickle.loads(hostile.CHECKPOINTS["a pickle that runs a command"](copy))
    assert not holds(copy, campaign.Ended(2, "Error"))
