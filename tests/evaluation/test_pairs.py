"""Pairs of masks over many processes: the scores of one."""

from contextlib import contextmanager

import pytest

from patchcl.core.errors import UserError
from patchcl.core.signals import StopRequest
from patchcl.evaluation import pairs
from patchcl.evaluation.evaluate import evaluate_folders
from patchcl.inference.many_scans import Many, StoppedError

CLASSES = ("background", "left", "right")
MANY = Many(2, None)


def test_many_processes_give_the_scores_of_one(folders, in_process, monkeypatch):
    monkeypatch.setattr(pairs, "CHUNK", 2)
    workers = in_process(pairs)
    for options in ({"objects": True}, {"voxels": True}):
        assert evaluate_folders(*folders, CLASSES, many=MANY, **options) == evaluate_folders(
            *folders, CLASSES, **options
        )
    assert workers.units == 4


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
