"""Atomic writes: files that are written whole or not at all."""

import csv
import io
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from threading import get_ident
from typing import Any

from patchcl.core.names import no_formula

UNFINISHED = ".unfinished-"
"""How the names of temporary neighbours begin; a process that was killed leaves them behind."""
LEFT_SECONDS = 60.0
"""A file that nobody has written to for so long is nobody's."""


def atomic_write(path: Path, write: Callable[[Path], object]) -> None:
    """Atomic write: let `write` fill a temporary neighbour of `path`, then put it in place in one step.

    A reader sees the old file or the new one, never half of one; a failed write leaves the old one alone.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{UNFINISHED}{os.getpid()}-{get_ident()}-{path.name}")
    try:
        write(unfinished)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def remove_left(folder: Path, seconds: float = LEFT_SECONDS) -> None:
    """Remove what killed processes had half written into `folder`, if nobody has touched it for `seconds`."""
    for path in folder.glob(f"{UNFINISHED}*"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > seconds:
                path.unlink()


def write_text(path: Path, text: str) -> None:
    r"""Write `text` to `path`, whole or not at all; what in a file name is no text becomes `\udcff` and the like."""
    atomic_write(path, lambda unfinished: unfinished.write_text(text, encoding="utf-8", errors="backslashreplace"))


def write_rows(path: Path, columns: Mapping[str, str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table as CSV to `path`, whole or not at all.

    Args:
        path: The file.
        columns: By the keys of `rows` what stands at the head of the column.
        rows: A cell is empty where a row has no such key; no text becomes a formula, see `no_formula`.
    """
    text = io.StringIO()
    table = csv.DictWriter(text, list(columns), lineterminator="\n")
    for row in (columns, *rows):
        table.writerow({key: no_formula(cell) if isinstance(cell, str) else cell for key, cell in row.items()})
    write_text(path, text.getvalue())


def write_json(path: Path, content: Any) -> None:  # noqa: ANN401 - whatever JSON can hold
    """Write `content` to `path` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
