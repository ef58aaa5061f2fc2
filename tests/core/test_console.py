"""The bar that shows how far something is; texts that attack the terminal, and encodings that lack characters."""

import io

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from patchcl.core import console as module
from patchcl.core.console import SafeConsole, part_of, progress_bar, progress_bars, replace_what_cannot_be_shown


def test_a_bar_follows_what_it_is_told(monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(module, "console", Console(force_terminal=True, width=80, file=shown))
    with progress_bar("Reading scans") as on_progress:
        on_progress(3, 4)
    assert "Reading scans" in shown.getvalue()
    assert "75%" in shown.getvalue()


def test_a_phase_is_shown_from_when_it_begins(monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(module, "console", Console(force_terminal=True, width=80, file=shown))
    with progress_bars("Reading", "Scoring") as (on_read, on_scored):
        on_read(1, 1)
        first = part_of(on_scored, before=0, total=8)
        second = part_of(on_scored, before=2, total=8, weight=2)
        assert (first, second) != (None, None)
        before = shown.getvalue()
        first(2, 2)
        second(1, 3)
    assert "Reading" in before
    assert "Scoring" not in before
    assert "Scoring" in shown.getvalue()
    assert "50%" in shown.getvalue()
    assert part_of(None, 0, 1) is None


def test_nothing_is_shown_where_there_is_no_terminal(capsys):
    with progress_bar("Reading scans") as on_progress:
        on_progress(1, 2)
    assert "Reading" not in capsys.readouterr().out


def written(encoding: str, *shown: object) -> str:
    """What a stream of that encoding, which refuses what it cannot hold, gets to see."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    for renderable in shown:
        SafeConsole(file=stream, width=60).print(renderable, markup=False)
    stream.seek(0)
    return stream.read()


def test_no_text_steers_the_terminal_wherever_it_stands():
    table = Table("head \x1b[2J", title="title \x1b]0;x\x07")
    table.add_row("cell \x9b31m \x7f")
    shown = written("utf-8", table, "line \x1b[31m \r over")
    assert not set(shown) & set("\x1b\x07\x9b\x7f\r")
    assert "line \ufffd[31m" in shown


def test_what_an_encoding_lacks_is_replaced():
    assert written("ascii", "0.5 ± 0.1 µm, \udcff") == "0.5 ? 0.1 ?m, ?\n"


def test_bars_still_move_the_cursor_and_colour():
    stream = io.StringIO()
    terminal = SafeConsole(file=stream, force_terminal=True, color_system="standard", legacy_windows=False, _environ={})
    with Progress(console=terminal, transient=True) as bar:
        bar.update(bar.add_task("x \x1b[2J", total=2), completed=1)
    terminal.print("[red]red[/red]")
    assert "\x1b[31mred" in stream.getvalue()
    assert "\x1b[?25l" in stream.getvalue()
    assert "\x1b[2J" not in stream.getvalue()


def test_streams_of_a_narrow_encoding_stop_failing(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    monkeypatch.setattr("sys.stdout", stream)
    monkeypatch.setattr("sys.stderr", io.StringIO())
    replace_what_cannot_be_shown()
    stream.write("±")
    stream.flush()
    assert stream.buffer.getvalue() == b"?"
