"""The bar that shows how far something is."""

import io

from rich.console import Console

from patchcl.core import console as module
from patchcl.core.console import progress_bar


def test_a_bar_follows_what_it_is_told(monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(module, "console", Console(force_terminal=True, width=80, file=shown))
    with progress_bar("Reading scans") as on_progress:
        on_progress(3, 4)
    assert "Reading scans" in shown.getvalue()
    assert "75%" in shown.getvalue()


def test_nothing_is_shown_where_there_is_no_terminal(capsys):
    with progress_bar("Reading scans") as on_progress:
        on_progress(1, 2)
    assert "Reading" not in capsys.readouterr().out
