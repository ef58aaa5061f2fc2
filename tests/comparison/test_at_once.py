"""How many runs go side by side: by cores, by what a card holds, and never more than there are."""

import pytest

from patchcl.cli.options import jobs
from patchcl.comparison import at_once
from patchcl.comparison.at_once import MOST_ON_A_CARD, PROCESS_BYTES, count_at_once, fitting
from patchcl.config import load_settings
from patchcl.core.errors import UserError
from patchcl.training.memory_estimate import GIB, MemoryEstimate, MemoryModel


def estimate_of(device: str, available_gib: float | None, run_gib: float) -> MemoryEstimate:
    """Of a run that takes so much, its process counted."""
    model = MemoryModel(0.5 * GIB, 0.0, 0.0)
    images = int(run_gib * GIB - PROCESS_BYTES - 2 * GIB)
    available = None if available_gib is None else available_gib * GIB
    return MemoryEstimate(None, model, (4, 4), (False, False), images, device, available)


@pytest.mark.parametrize(
    ("device", "available_gib", "run_gib", "cards", "count"),
    [
        ("cuda", 70, 5, 1, MOST_ON_A_CARD),
        ("cuda", 14, 5, 1, 2),
        ("cuda", 14, 5, 3, 6),
        ("cuda", 4, 5, 1, 1),
        ("cuda", 4, 5, 2, 2),
        ("cuda", None, 5, 0, 4),
        ("cpu", 100, 5, 0, 6),
        ("cpu", 17, 5, 2, 3),
        ("cpu", None, 5, 0, 6),
        ("mps", 100, 5, 0, 1),
    ],
)
def test_the_machine_says_how_many(device, available_gib, run_gib, cards, count):
    """With six cores."""
    assert fitting(estimate_of(device, available_gib, run_gib), cores=6, cards=cards) == count


def test_auto_takes_the_largest_run_and_no_more_places_than_runs(cardiac, monkeypatch, capsys):
    small = ("plan.dimensions=2", "plan.fit=resize", "plan.size=[16, 16]", "training.device=cpu")
    settings = [
        load_settings(None, [*small, f"network.features={features}", "training.memory_gib=0", "split.labeled=2"])
        for features in ([4, 8], [64, 128])
    ]
    monkeypatch.setattr(at_once, "usable_cores", lambda: 6.5)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(at_once, "PROCESS_BYTES", 0)
    need = max(at_once._bytes_of(each) for each in at_once._estimates(cardiac, settings))
    assert need > 2 * min(at_once._bytes_of(each) for each in at_once._estimates(cardiac, settings))
    monkeypatch.setattr("patchcl.training.memory_estimate.total_memory", lambda _: 2 * 3.5 * need)  # half is for runs
    assert count_at_once("auto", cardiac, settings, runs=20) == 3
    assert "3 runs at a time (" in capsys.readouterr().out
    assert count_at_once("auto", cardiac, settings, runs=2) == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert count_at_once("auto", cardiac, settings, runs=20) == 1
    assert count_at_once(7, cardiac / "nowhere", settings, runs=2) == 7


def test_the_option_takes_a_number_or_auto():
    assert (jobs("3"), jobs("auto")) == (3, "auto")
    for wrong in ("0", "all", "-1", "1.5"):
        with pytest.raises(UserError, match=r"--jobs is .*; expected a whole number from 1 on, or auto"):
            jobs(wrong)
