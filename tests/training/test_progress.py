"""What is on the screen: a bar where there is a terminal, plain whole lines everywhere."""

import io
import re

import pytest
from rich.console import Console

from patchcl.training.progress import TrainingProgress

ROW = {"step": 40, "validation_dice": 0.81249}


def console_of(terminal: bool) -> Console:
    """80 columns wide, and with colours where it is a terminal, whatever the tests run in."""
    colours = "standard" if terminal else None
    return Console(file=io.StringIO(), force_terminal=terminal, width=80, color_system=colours, _environ={})


def written(console: Console) -> str:
    return console.file.getvalue()


def bar(console: Console) -> str:
    """What is written, without colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", written(console))


def test_without_a_terminal_there_is_a_line_for_every_validation_and_nothing_else():
    console = console_of(terminal=False)
    with TrainingProgress(console, "patchcl", steps=100) as progress:
        for step in range(41):
            progress.advance(step)
        progress.report(ROW, seconds_per_step=30)
        progress.advance(41)
    assert written(console) == "patchcl  step 40/100  validation Dice 0.812  (30.00 s/step, 30 min left)\n"


@pytest.mark.parametrize("terminal", [True, False])
def test_a_line_is_neither_broken_nor_coloured(terminal):
    """Programs that read the output of a run find every validation on one line."""
    console = console_of(terminal)
    with TrainingProgress(console, "mean_teacher", steps=30_000) as progress:
        progress.report({"step": 20_000, "validation_dice": 0.75}, seconds_per_step=12.3)
    line = "mean_teacher  step 20000/30000  validation Dice 0.750  (12.30 s/step, 2050 min left)"
    assert line in written(console)


def test_what_begins_to_go_wrong_stands_below_the_validation_each_on_its_line():
    console = console_of(terminal=False)
    with TrainingProgress(console, "patchcl", steps=100) as progress:
        progress.report(ROW, 30, ["The contrast [bold] " + 20 * "has not moved ", "MYO gets nothing."])
    first, *warnings = written(console).splitlines()
    assert first.endswith("30 min left)")
    assert warnings == [
        "patchcl  step 40/100  warning: The contrast [bold] " + 20 * "has not moved ",
        "patchcl  step 40/100  warning: MYO gets nothing.",
    ]


def test_what_happened_to_the_run_is_a_line_of_its_own():
    console = console_of(terminal=False)
    with TrainingProgress(console, "patchcl", steps=100) as progress:
        progress.notice("training diverged at step 7 [bold]. " + 20 * "Going on. ")
    assert written(console) == "patchcl  training diverged at step 7 [bold]. " + 20 * "Going on. " + "\n"


def test_on_a_terminal_the_bar_shows_the_steps_that_are_done_and_leaves():
    console = console_of(terminal=True)
    with TrainingProgress(console, "patchcl", steps=100, first_step=20) as progress:
        progress.bar.refresh()
        assert " 20/100 steps" in bar(console)
        progress.advance(40)
        progress.bar.refresh()
        assert " 40/100 steps" in bar(console)
        progress.report(ROW, seconds_per_step=30)
    assert "validation Dice 0.812  (30.00 s/step, 30 min left)" in written(console)
    assert written(console).endswith("\x1b[1A\x1b[2K"), "up, and the bar's line erased"


def test_an_error_passes_through_and_gives_the_cursor_back():
    console = console_of(terminal=True)
    with pytest.raises(KeyError, match="step"), TrainingProgress(console, "patchcl", steps=100) as progress:
        progress.report({}, seconds_per_step=1)
    assert written(console).endswith("\x1b[?25h\r\x1b[1A\x1b[2K")
