"""Signs of life: who is gone is named, and the others end; who is only slow is waited for."""

import threading

import pytest
import torch.distributed as dist

from patchcl.training import watch as module
from patchcl.training.place import Place
from patchcl.training.watch import Watch


class Child:
    """A process that ended with `code`; None: it runs."""

    def __init__(self, code: int | None) -> None:
        self.code, self.killed = code, False

    def poll(self):
        return self.code

    def kill(self):
        self.killed = True

    def wait(self):
        return self.code


@pytest.fixture
def watch_of(monkeypatch):
    """The watch of process 0 of two, that looks a hundred times a second, and how it left."""
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.01)
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.1)
    monkeypatch.setattr(module, "SILENT_SECONDS", 0.3)
    store = dist.TCPStore("127.0.0.1", 0, 2, is_master=True, wait_for_workers=False)
    left = []

    def make(*children):
        watch = Watch(store, Place(0, 2), children, left.append)
        watch.left, watch.store = left, store
        watch.start()
        return watch

    return make


@pytest.mark.parametrize(("code", "told"), [(-9, "process 1 was killed by signal 9"), (2, "ended with exit code 2")])
def test_a_process_that_ended_ends_this_one_with_a_message(code, told, watch_of, capsys):
    child = Child(code)
    watch = watch_of(child)
    watch.join(timeout=20)
    assert watch.left == [1]
    assert child.killed
    assert told in capsys.readouterr().err
    assert told in watch.explained()
    assert "patchcl resume" in watch.explained()


def test_a_silent_process_ends_this_one_and_one_that_has_not_come_yet_does_not(watch_of, capsys):
    watch = watch_of(Child(None))
    watch.join(timeout=1)
    assert watch.is_alive()
    watch.store.add("alive/1", 1)
    watch.join(timeout=20)
    assert watch.left == [1]
    assert "process 1 shows no sign of life" in capsys.readouterr().err


def test_one_that_gives_signs_is_waited_for_and_who_ends_in_time_is_not_ended(watch_of):
    watch, ended = watch_of(Child(None)), threading.Event()

    def live():
        while not ended.wait(0.02):
            watch.store.add("alive/1", 1)

    thread = threading.Thread(target=live)
    thread.start()
    watch.join(timeout=1)
    assert watch.is_alive()
    ended.set()
    thread.join()
    while not watch.gone:
        pass
    assert watch.end() == "process 1 shows no sign of life"
    watch.join(timeout=20)
    assert watch.left == []
