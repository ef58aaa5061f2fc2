"""A plan that this machine cannot hold is refused with what it can hold, and what it says is true."""

import re

import pytest

from patchcl.config import load_settings
from patchcl.core.errors import UserError
from patchcl.data.preprocessing.plan import Plan
from patchcl.training import room
from patchcl.training.memory_estimate import GIB, estimate_memory, taken
from patchcl.training.room import require_room


def plan_of(*size: int) -> Plan:
    return Plan(
        dimensions=len(size),
        fit="resize",
        size=size,
        spacing_mm=(1.0,) * 3 if len(size) == 3 else None,
        normalise="percentile",
        channels=("MRI",),
        classes=("0", "A"),
    )


def settings_of(*overrides: str):
    return load_settings(None, ["training.device=cpu", "network.features=[8, 16]", *overrides])


def refusal(monkeypatch, gib, settings, plan):
    monkeypatch.setattr(room, "total_memory", lambda device: int(gib * GIB))
    with pytest.raises(UserError) as error:
        require_room(settings, plan)
    return str(error.value)


def test_the_batch_and_the_size_that_it_names_fit(monkeypatch):
    plan = plan_of(96, 96, 64)
    said = refusal(monkeypatch, 1.0, settings_of(), plan)
    assert re.match(
        r"A step with 12 \+ 12 images of 96 × 96 × 64 takes about \d+\.\d GiB, and the cpu here has 1\.0", said
    )
    batch = settings_of(*re.findall(r"training\.\w+=\d+", said))
    assert taken(estimate_memory(batch, plan, ()), (batch.training.labeled_per_batch,) * 2) <= GIB
    smaller = plan_of(*map(int, re.search(r"plan\.size=\[(.*?)\]", said)[1].split(",")))
    require_room(settings_of(), smaller)
    require_room(batch, plan)


def test_where_not_even_one_of_each_fits_a_size_is_named_alone(monkeypatch):
    said = refusal(monkeypatch, 0.05, settings_of("method=supervised"), plan_of(96, 96, 64))
    assert "training." not in said
    assert "plan.size=[" in said


@pytest.mark.parametrize("gib", [None, 64])
def test_what_fits_or_cannot_be_known_is_not_refused(gib, monkeypatch):
    monkeypatch.setattr(room, "total_memory", lambda device: None if gib is None else gib * GIB)
    require_room(settings_of(), plan_of(96, 96, 64))


def test_slices_of_the_default_plan_are_not_even_looked_at(monkeypatch):
    monkeypatch.setattr(room, "total_memory", lambda device: 24 * GIB)
    monkeypatch.setattr(room, "estimate_memory", None)
    require_room(settings_of(), plan_of(256, 256))
