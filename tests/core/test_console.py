"""The bar that shows how far something is."""

from patchcl.core import console as module
from patchcl.core.console import progress_bar


def test_a_bar_follows_what_it_is_told(monkeypatch):
    from rich.console import Console

    terminal = Console(force_terminal=True, width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    monkeypatch.setattr(module, "console", terminal)
    with progress_bar("Reading scans") as on_progress:
        on_progress(3, 4)
        shown = terminal.export_text(clear=False)
    assert "Reading scans" in terminal.export_text() or "Reading scans" in shown


def test_nothing_is_shown_where_there_is_no_terminal(capsys):
    with progress_bar("Reading scans") as on_progress:
        on_progress(1, 2)
    assert "Reading" not in capsys.readouterr().out
