"""A process for units: it answers, is started anew when it was killed, and ends with whoever started it."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from threading import Timer

import pytest

from patchcl.core.errors import UserError
from patchcl.core.unit_process import COMMAND, LostWorkerError, UnitProcess, asking, how_it_ended, stop_asked

WAIT = "import time\nfrom patchcl.core.unit_process import stop_asked\nwhile not stop_asked(): time.sleep(0.01)"


@pytest.fixture
def process():
    made = UnitProcess(dict(os.environ))
    yield made
    made.end()


def test_calls_come_back_from_one_process_whatever_they_print(process, capfd):
    assert process.call(partial(pow, 2, 5)) == 32
    own = process.call(os.getpid)
    assert own != os.getpid()
    process.call(partial(print, "words"))
    assert process.call(os.getpid) == own
    assert "words" in capfd.readouterr().err


def test_what_a_call_raises_is_raised_with_the_lines_that_led_there(process):
    with pytest.raises(ZeroDivisionError) as raised:
        process.call(partial(divmod, 1, 0))
    assert any("_reply" in note for note in raised.value.__notes__)
    with pytest.raises(UserError) as raised:
        process.call(partial(exec, "from patchcl.core.errors import UserError\nraise UserError('no scan')"))
    assert str(raised.value) == "no scan"


def test_a_killed_process_is_told_of_and_the_next_call_has_a_new_one(process):
    first = process.call(os.getpid)
    Timer(0.2, os.kill, (first, signal.SIGKILL)).start()
    with pytest.raises(LostWorkerError, match="signal SIGKILL, perhaps for want of memory"):
        process.call(partial(time.sleep, 60))
    assert process.call(os.getpid) != first


def test_a_request_to_stop_lets_the_call_end_and_no_other_begin(process):
    process.call(os.getpid)
    Timer(0.1, process.ask_to_stop).start()
    assert process.call(partial(exec, WAIT)) is None
    with pytest.raises(LostWorkerError, match="asked to stop"):
        process.call(os.getpid)


def test_it_does_not_outlive_who_started_it():
    left = subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    left.communicate(timeout=20)
    assert left.returncode == 0


def test_a_unit_elsewhere_is_asked_in_another_way():
    assert not stop_asked()
    with asking(lambda: True):
        assert stop_asked()
    assert not stop_asked()


def test_exit_codes_are_put_into_words():
    assert how_it_ended(3) == "exit code 3"
    assert how_it_ended(-15) == "signal SIGTERM"
    assert how_it_ended(-9).startswith("signal SIGKILL, perhaps")


def test_a_script_without_a_main_guard_can_use_it(tmp_path):
    script = "import os\nfrom patchcl.core.unit_process import UnitProcess\np = UnitProcess(dict(os.environ))\n"
    script += "print(p.call(os.getpid) != os.getpid())\np.end()\n"
    for call in (["-"], [str(tmp_path / "script.py")]):
        (tmp_path / "script.py").write_text(script)
        said = subprocess.run([sys.executable, *call], input=script, text=True, capture_output=True, timeout=30)
        assert (said.stdout, said.stderr) == ("True\n", "")
