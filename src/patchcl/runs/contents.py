"""What a run rests on, by hashes: its scans and masks, settings, plan and split; and what differs from them later."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from patchcl.config import Settings
from patchcl.core.documents import parse_json
from patchcl.core.errors import UserError
from patchcl.core.files import write_json
from patchcl.core.settings import FrozenSettings, differing_keys, flatten
from patchcl.data.preprocessing.plan import Plan
from patchcl.data.splits import Split

PLACES = ("data", "cache", "split.file", "plan.file", "training.device", "training.memory_gib", "training.scratch")
ASIDE = (*PLACES, "training.devices", "training.nodes")  # how many processes a run had is in its provenance
"""Settings that say where things lie or are done, and may change within a run."""
SHOWN = 10
"""Files that a message names of every kind of change."""


class Contents(FrozenSettings):
    """Everything that decides what a run learns."""

    files: dict[str, str]  # folder and name of every scan and mask that training opens -> its sha256
    settings: dict[str, Any]  # by dotted key
    plan: dict[str, Any]  # by dotted key
    split: str  # the hash of who is where
    classes: tuple[str, ...]
    channels: tuple[str, ...]


def contents_of(
    files: Iterable[tuple[str, str]],
    settings: Settings,
    plan: Plan,
    split: Split,
    classes: tuple[str, ...],
    channels: tuple[str, ...],
) -> Contents:
    """The contents of a run; `files` are what was prepared, with their hashes, the rest as dataset.json has it."""
    return Contents(
        files=dict(sorted(files)),
        **_described(settings, plan),
        split=split.hash,
        classes=classes,
        channels=channels,
    )


def edits(path: Path, settings: Settings, plan: Plan) -> list[str]:
    """What of settings and plan is not as the run was trained whose contents are in `path`; nothing if it kept none."""
    try:
        before = read_contents(path)
    except UserError:
        return [f"{path.name} cannot be read"] if path.exists() else []
    return differences(before, before.model_copy(update=_described(settings, plan)))


def _described(settings: Settings, plan: Plan) -> dict[str, dict[str, Any]]:
    tree = flatten(settings.model_dump(mode="json"))
    return {
        "settings": {key: value for key, value in tree.items() if key not in ASIDE},
        "plan": flatten(plan.model_dump(mode="json", exclude={"reasons"})),
    }


def write_contents(path: Path, contents: Contents) -> None:
    """Keep `contents` in the JSON file `path`."""
    write_json(path, contents.model_dump(mode="json"))


def read_contents(path: Path) -> Contents:
    """The contents that `write_contents` kept.

    Raises:
        UserError: The file is missing or damaged.
    """
    try:
        return Contents.model_validate(parse_json(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read, so nothing tells what the run was trained on. Restore it, or go on all the same "
            f"with: patchcl resume {path.parent} --accept-changes"
        ) from error


def differences(before: Contents, now: Contents) -> list[str]:
    """What is not as it was, one line each, whatever it is named by first."""
    return [
        *changed_files(before.files, now.files),
        *_changed_values("", before.settings, now.settings),
        *_changed_values("plan: ", before.plan, now.plan),
        *(["the split: who is on which side"] if before.split != now.split else []),
        *_changed_names("classes", before.classes, now.classes),
        *_changed_names("channels", before.channels, now.channels),
    ]


def changed_files(before: Mapping[str, str], now: Mapping[str, str], shown: int = SHOWN) -> Iterator[str]:
    """The files that were replaced, are gone, or are new, one line for each of the first `shown` of a kind."""
    kinds = {
        "was replaced": [file for file in before if file in now and now[file] != before[file]],
        "is gone": [file for file in before if file not in now],
        "is new": [file for file in now if file not in before],
    }
    for what, files in kinds.items():
        yield from (f"{file} {what}" for file in files[:shown])
        if len(files) > shown:
            yield f"and {len(files) - shown} more: {what}"


def _changed_values(prefix: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Keys with other values; one that only this version of patchcl knows had its default."""
    for key in differing_keys(before, now):
        if key in before and key in now:
            yield f"{prefix}{key} was {_shown(before[key])}, now {_shown(now[key])}"


def _changed_names(what: str, before: tuple[str, ...], now: tuple[str, ...]) -> Iterator[str]:
    if before != now:
        yield f"dataset.json: {what} were {', '.join(before)}, now {', '.join(now)}"


def _shown(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
