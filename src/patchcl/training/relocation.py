"""Where a run goes on: with its data in another folder, or on another device. What differs is said, and kept."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from patchcl.config import Settings, read_settings, settings_yaml
from patchcl.core.devices import CPU
from patchcl.core.errors import UserError
from patchcl.core.files import write_text
from patchcl.runs.contents import read_contents
from patchcl.runs.folder import RunFolder
from patchcl.runs.provenance import MOVES, hardware, note, read_provenance

DEPTH = 5
"""How many folders up a run has its prepared images at most: it may be a fold of a seed of a method in a comparison."""


def relocated(run: RunFolder, settings: Settings, data: Path | None, place: Mapping[str, Any]) -> Settings:
    """The `settings` of a run with the folder that it is to go on with, and those of training that say where.

    None leaves what they say.

    Prepared images are kept beside the run where their folder did not come along with the data, or went with the run.

    Raises:
        UserError: There is no data set where it should be, or a quite different one.
    """
    training = settings.training.model_copy(update={key: new for key, new in place.items() if new is not None})
    settings = settings.model_copy(update={"training": training})
    if data is not None:
        settings = settings.model_copy(update={"data": data.resolve()})
    cache = settings.cache
    if cache is None or not (cache if data is not None else cache.parent).is_dir():
        settings = settings.model_copy(update={"cache": _beside(run.root.resolve())})
    if settings.data is None:
        raise UserError(f"{run.settings} does not say where the data are. Say it with --data FOLDER.")
    if not (settings.data / "dataset.json").is_file():
        raise UserError(
            f"{settings.data} holds no data set any more: {settings.data / 'dataset.json'} does not exist. If it was "
            f"moved, say where it is: patchcl resume {run.root} --data FOLDER"
        )
    if data is not None:
        _require_some_files(run, data)
    return settings


def keep_place(run: RunFolder, settings: Settings, device: torch.device, console: Console) -> None:
    """Keep where a run goes on in its settings and its provenance, and say so, if that is not where it was."""
    before, notes = read_settings(run.settings), read_provenance(run.provenance)
    moves = [*_moves(before, settings), *_changes_of_device(notes, device)]
    for line in moves:
        console.print(f"The run goes on {line}.", markup=False, highlight=False, soft_wrap=True)
    if settings != before:
        write_text(run.settings, settings_yaml(settings))
    if moves:
        _keep_moves(run, moves, {"device": str(device), "hardware": hardware(device)}, device)


def move_finished(run: RunFolder, data: Path) -> bool:
    """Keep in a run that is trained where its data lie now, from where it is scored; true if they lay elsewhere.

    Whoever calls it knows that they are the same.
    """
    before = read_settings(run.settings)
    settings = before.model_copy(update={"data": data.resolve()})
    moves = list(_moves(before, settings))
    if moves:
        write_text(run.settings, settings_yaml(settings))
        _keep_moves(run, moves, {}, CPU)
    return bool(moves)


def _beside(root: Path) -> Path:
    """Where a run, perhaps one of folds or of a comparison, has its prepared images, or would have them."""
    beside = [folder / "prepared" for folder in list(root.parents)[:DEPTH]]
    return next((folder for folder in beside if folder.is_dir()), beside[0])


def _require_some_files(run: RunFolder, data: Path) -> None:
    """Refuse a folder with none of the files that a run learned from; which of them changed is told by their hashes."""
    known: dict[str, str] = {}
    with suppress(UserError):  # for whoever compares the hashes to tell
        known = read_contents(run.contents).files if run.contents.is_file() else {}
    if known and not any((data / file).exists() for file in known):
        raise UserError(
            f"{data} is another data set: it holds none of the {len(known)} files that {run.root} learned from, such "
            f"as {next(iter(known))}. Name the folder that these were moved to."
        )


def _keep_moves(run: RunFolder, moves: Sequence[str], facts: Mapping[str, Any], device: torch.device) -> None:
    when = datetime.now(UTC).isoformat(timespec="seconds")
    kept = [*read_provenance(run.provenance).get(MOVES, []), *(f"{when}: {line}" for line in moves)]
    note(run.provenance, {**facts, MOVES: kept}, device)


def _moves(before: Settings, now: Settings) -> Iterator[str]:
    if before.data != now.data:
        yield f"with the data in {now.data}, which were in {before.data}"


def _changes_of_device(notes: dict[str, Any], device: torch.device) -> Iterator[str]:
    """What to say of another processor or card; nothing where it is not known which one it was."""
    was, now = notes.get("hardware"), hardware(device)
    if was is not None and was != now:
        yield (
            f"on {device.type} ({now}), and was on {notes.get('device')} ({was}): from here on its result is not bit "
            "for bit the one that it would have had there"
        )
