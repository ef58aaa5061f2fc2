"""A plan that this machine cannot hold is refused with what it can hold, and what it says is true."""

import re

import pytest
import torch

from patchcl.config import load_settings
from patchcl.core.errors import UserError
from patchcl.data.preprocessing.plan import Plan
from patchcl.training import room
from patchcl.training.memory_estimate import GIB, estimate_memory, taken
from patchcl.training.room import full_memory_as_message, require_room


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


@pytest.mark.parametrize("gib", [None, 2, 64])
def test_a_device_that_is_full_is_told_with_a_batch_shares_and_a_size_that_take_less(gib, monkeypatch):
    """Of what they were thought to take and of what there is the less, and four fifths of that."""
    monkeypatch.setattr(room, "total_memory", lambda device: None if gib is None else gib * GIB)
    plan, before = plan_of(96, 96, 64), settings_of()
    whole = taken(estimate_memory(before, plan, ()), (12, 12))
    most = 0.8 * min(whole, (gib or 64) * GIB)
    with pytest.raises(UserError) as error, full_memory_as_message(before, plan, torch.device("cuda", 1)):
        raise torch.OutOfMemoryError
    said = str(error.value)
    assert said.startswith("The memory of cuda:1 is full, in a run whose steps have 12 + 12 images of 96 × 96 × 64; ")
    batch = settings_of(*re.findall(r"training\.\w+_per_batch=\d+", said))
    shares = settings_of(*re.findall(r"training\.batch_shares=\d+", said))
    sized = plan_of(*map(int, re.search(r"plan\.size=\[(.*?)\]", said)[1].split(",")))
    found = [
        taken(estimate, estimate.batch)
        for estimate in (estimate_memory(batch, plan, ()), estimate_memory(shares, plan, ()))
    ]
    assert all(0.3 * most < size <= most for size in found)
    assert taken(estimate_memory(before, sized, ()), (12, 12)) <= 1.1 * most
    assert batch.training.batch_shares == 1
    assert shares.training.batch_shares > 1


def test_shares_take_what_one_of_them_does_and_a_batch_that_they_can_share_is_named(monkeypatch):
    plan, halves = plan_of(96, 96, 64), settings_of("training.batch_shares=2")
    assert taken(estimate_memory(halves, plan, ()), (12, 12)) == taken(estimate_memory(settings_of(), plan, ()), (6, 6))
    said = refusal(monkeypatch, 1.0, halves, plan)
    assert "12 + 12 images of 96 × 96 × 64 in 2 parts takes" in said
    counts = [int(count) for count in re.findall(r"_per_batch=(\d+)", said)]
    assert [count % 2 for count in counts] == [0, 0]
    assert int(re.search(r"batch_shares=(\d+)", said)[1]) in (4, 6, 12)
