"""A part of the campaign of benchmarks/attack.py, and that it can tell a fall from a hold."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def campaign() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("attack")


def test_a_part_of_each_attack_is_held(campaign):
    result = campaign.attack(list(campaign.PARTS), quick=True)
    assert result["fallen"] == []
    assert result["counts"].keys() == campaign.PARTS.keys()
    assert all(count["attempts"] >= 1 for count in result["counts"].values())


def test_there_are_as_many_attempts_as_are_promised(campaign):
    attempts = {part: len(list(make())) for part, make in campaign.PARTS.items()}
    assert attempts["tampering"] >= 40
    assert attempts["damage"] >= 30
    assert all(len({attempt.name for attempt in make()}) == attempts[part] for part, make in campaign.PARTS.items())


def test_what_falls_is_told(campaign, monkeypatch):
    """Nothing is harmed, and a refusal is expected; something is harmed, and nobody looks; a traceback."""

    def explode(_):
        raise RuntimeError("boom")

    monkeypatch.setattr(campaign.cli, "_finish", lambda outcome: None)
    attempts = [
        campaign.Attempt("idle", lambda copy: None, campaign.refused("was replaced")),
        campaign.Attempt("seen", lambda copy: campaign.flip(copy.of("labelsTr")), campaign.mended("")),
    ]
    monkeypatch.setattr(campaign, "PARTS", {"falls": lambda: iter(attempts)})
    result = campaign.attack(["falls"])
    assert [fall["name"] for fall in result["fallen"]] == ["idle", "seen"]
    assert result["counts"] == {"falls": {"attempts": 2, "held": 0}}
    monkeypatch.setattr(campaign.cli, "main", lambda: explode(None))
    assert campaign.call("check", "x").code == -1
