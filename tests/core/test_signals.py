"""Real signals, sent by the process to itself."""

import os
import signal
import threading

import pytest

from patchcl.core.signals import StopRequest, stop_on_signals

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def arrived():
    """What reaches the handlers that were there before, so that no defect ends the test run."""
    received: list[int] = []

    def note(number, _):
        received.append(number)

    before = {number: signal.signal(number, note) for number in SIGNALS}
    yield received
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def test_nobody_asked():
    with stop_on_signals() as stop:
        assert not stop
    assert not stop


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_is_a_request(arrived, number, exit_code):
    with stop_on_signals() as stop:
        send(number)
        assert stop
        assert stop.exit_code == exit_code
    assert stop, "who stops asks after the loop as well"
    assert arrived == []


@pytest.mark.parametrize("first", SIGNALS)
def test_a_ctrl_c_after_a_request_interrupts_at_once(arrived, first):
    with stop_on_signals() as stop:
        send(first)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
        assert stop
    assert arrived == []


@pytest.mark.parametrize(("first", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_sigterm_after_a_request_asks_for_nothing_new(first, exit_code):
    """`timeout` sends it to the process and to its group."""
    with stop_on_signals() as stop:
        send(first)
        send(signal.SIGTERM)
        assert stop.exit_code == exit_code


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("fails", [True, False])
def test_the_handlers_that_were_there_come_back(arrived, number, fails):
    before = signal.getsignal(number)
    try:
        with stop_on_signals() as stop:
            assert signal.getsignal(number) is not before
            if fails:
                raise RuntimeError
    except RuntimeError:
        assert fails
    assert signal.getsignal(number) is before
    send(number)
    assert arrived == [number]
    assert not stop


def test_a_thread_that_may_not_listen_runs_all_the_same(arrived):
    handlers = [signal.getsignal(number) for number in SIGNALS]
    found: list[object] = []

    def work() -> None:
        with stop_on_signals() as stop:
            found.append(stop)
            found.append([signal.getsignal(number) for number in SIGNALS])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert isinstance(found[0], StopRequest)
    assert not found[0]
    assert found[1] == handlers
