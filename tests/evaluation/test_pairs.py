"""Pairs of masks over many processes: the scores of one."""

from contextlib import contextmanager
from threading import Barrier

import pytest

from patchcl.core import parallel
from patchcl.core.errors import UserError
from patchcl.core.signals import StopRequest
from patchcl.evaluation import pairs
from patchcl.evaluation.evaluate import evaluate_folders
from patchcl.inference.many_scans import Many, StoppedError

CLASSES = ("background", "left", "right")
MANY = Many(2, None)


def test_many_processes_give_the_scores_of_one(folders, in_process, monkeypatch):
    monkeypatch.setattr(pairs, "CHUNK", 2)
    workers, told = in_process(pairs), []
    for options in ({"objects": True}, {"voxels": True}):
        assert evaluate_folders(
            *folders, CLASSES, many=MANY, on_progress=lambda *at: told.append(at), **options
        ) == evaluate_folders(*folders, CLASSES, **options)
    assert workers.units == 4
    assert len(told) == 4
    assert told[1] == told[3] == (told[0][1], told[0][1])
    assert told[0] < told[1]


def test_here_pairs_are_scored_side_by_side_and_kept_in_order(folders, monkeypatch):
    """Each of two pairs waits until the other is begun as well; one after the other they would wait for ever."""
    rule = pairs.Rule(CLASSES, None, False, False, {})
    both = [
        pairs.Pair(name, *(folder / f"{name}.nii.gz" for folder in folders))
        for name in ("bert_frame01", "anna_frame02")
    ]
    one_by_one = [pairs.score_pair(pair, rule) for pair in both]
    begun, score = Barrier(2), pairs.score_pair

    def waiting(pair, rule):
        begun.wait(timeout=60)
        return score(pair, rule)

    monkeypatch.setattr(parallel, "READERS", 2)
    monkeypatch.setattr(pairs, "score_pair", waiting)
    assert pairs.score_pairs(both, rule) == one_by_one


def test_what_cannot_be_read_is_named(folders, in_process):
    in_process(pairs)
    (folders[0] / "anna_frame02.nii.gz").write_bytes(b"poison")
    with pytest.raises(UserError, match=r"anna_frame02\.nii\.gz cannot be read"):
        evaluate_folders(*folders, CLASSES, many=MANY)


def test_a_stop_ends_it(folders, in_process, monkeypatch):
    @contextmanager
    def stopped():
        request = StopRequest()
        request.signal = 2
        yield request

    in_process(pairs)
    monkeypatch.setattr(pairs, "stop_on_signals", stopped)
    with pytest.raises(StoppedError, match="Call the same command again") as stop:
        evaluate_folders(*folders, CLASSES, many=MANY)
    assert stop.value.exit_code == 130
