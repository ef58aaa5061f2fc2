"""The file of a comparison, compare.json: its spec, to which methods, label budgets and seeds may be added."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from patchcl.comparison.content import Files, hashes_of, keep_files, kept_files
from patchcl.comparison.spec import CompareSpec, in_order
from patchcl.core.console import console
from patchcl.core.documents import parse_json
from patchcl.core.errors import UserError
from patchcl.core.files import write_json
from patchcl.core.settings import differing_keys, flatten
from patchcl.runs.contents import changed_files
from patchcl.runs.folder import COMPARISON, comparison_in

MAY_DIFFER = {
    *("preset", "data", "cache", "split.file", "split.labeled", "split.seed"),
    *("training.seed", "training.device", "training.memory_gib", "training.scratch"),
}
"""Settings that differ between runs or machines; of the split the hashes of its sides are compared instead."""
OLD_KEYS = {"data_fingerprint": "data_hash"}
"""Keys that version 0.1 wrote, and their names today."""
SHOWN = 3
"""Files that a message names of every kind of change."""
OLD_INFERENCE = {"fast": True, "postprocessing": False}
"""How version 0.1 scored, which did not say so."""


def add_spec(spec: CompareSpec, out: Path, files: Files | None = None) -> CompareSpec:
    """Write the spec to `out`, merged with the one that is there already, and its files; gives the merged one.

    Raises:
        UserError: `out` holds a comparison under other conditions, or something else.
    """
    require_comparison(out)
    path = spec_file(out)
    merged = spec.model_copy(update={"baseline_asked": False})
    if path.is_file():
        before = read_spec(out)
        merged = _merged(before, spec, out, files)
        _tell(before, merged)
    try:
        write_json(path, merged.model_dump(mode="json"))
        if files is not None:
            keep_files(files, spec.data, out)
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error.strerror}. Choose another folder with -o.") from error
    return merged


def require_comparison(out: Path) -> None:
    """Refuse a folder that holds something else.

    Raises:
        UserError: It does.
    """
    if not spec_file(out).is_file() and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} holds something else than a comparison. Choose a new folder with -o.")


def read_spec(out: Path) -> CompareSpec:
    """The spec of the comparison in the folder `out`.

    Raises:
        UserError: There is no comparison, or its file is damaged.
    """
    path = comparison_in(out)
    try:
        content = parse_json(path.read_bytes())
        return CompareSpec.model_validate_json(
            json.dumps(OLD_INFERENCE | {OLD_KEYS.get(key, key): value for key, value in content.items()})
        )
    except ValidationError as error:
        wrong = ", ".join(".".join(map(str, each["loc"])) for each in error.errors())
        raise UserError(f"{path} cannot be read for {wrong}. Restore it, or choose a new folder with -o.") from error
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path} cannot be read. Restore it, or choose a new folder with -o.") from error


def spec_file(out: Path) -> Path:
    """The file in which a comparison keeps its spec."""
    return out / COMPARISON


def _merged(old: CompareSpec, new: CompareSpec, out: Path, files: Files | None) -> CompareSpec:
    """The new spec with the runs of the old one beside its own."""
    new = _mirrored_as_before(old, new)
    different = list(_changes(old, new, None))
    different += [line for method in old.methods if method in new.methods for line in _changes(old, new, method)]
    replaced = None not in (old.content_hash, new.content_hash) and old.content_hash != new.content_hash
    if old.data_hash != new.data_hash or replaced:
        different.append(f"the scans or masks of {new.data}{_named(kept_files(old.data, out), files)}")
    if any(old.splits[key] != new.splits[key] for key in old.splits.keys() & new.splits.keys()):
        different.append("the patients on each side of the split")
    different += [f"--{key}" for key in ("folds", "voxels", "fast") if getattr(old, key) != getattr(new, key)]
    if old.postprocessing != new.postprocessing:
        different.append("--no-postprocessing")
    folders = {method.casefold(): method for method in old.methods}
    twins = [(name, folders.get(name.casefold(), name)) for name in new.methods]
    different += [f"{name}, called {known} there" for name, known in twins if name != known]
    if different:
        raise UserError(
            f"{out} compares under other conditions: {', '.join(dict.fromkeys(different))}. Runs of both cannot be "
            "mixed. Choose a new folder with -o; methods, --labeled and --seeds alone may be added to an old one."
        )
    return new.model_copy(
        update={
            "methods": old.methods | new.methods,
            "own": old.own | new.own,
            "baseline": new.baseline if new.baseline_asked else old.baseline,
            "baseline_asked": False,
            "labeled": in_order([*old.labeled, *new.labeled]),
            "seeds": tuple(sorted({*old.seeds, *new.seeds})),
            "splits": old.splits | new.splits,
        }
    )


def _named(before: Files, now: Files | None) -> str:
    """Which files differ, in brackets, where both are known."""
    changed = ", ".join(changed_files(hashes_of(before), hashes_of(now), SHOWN)) if before and now else ""
    return f" ({changed})" if changed else ""


def _tell(before: CompareSpec, now: CompareSpec) -> None:
    """Say what of the comparison is another from now on."""
    lines = [f"It goes on with the data in {now.data}, which were in {before.data}."] * (before.data != now.data)
    if before.baseline != now.baseline:
        lines.append(f"Its tables compare with {now.baseline} now, not with {before.baseline}.")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _mirrored_as_before(old: CompareSpec, new: CompareSpec) -> CompareSpec:
    """`new`, which leaves mirrors open, with those of a comparison from when they were true by default."""
    before, augment = old.settings.get("augment", {}), new.settings.get("augment", {})
    kept = {key: True for key, value in augment.items() if value is None and before.get(key) is True}
    return new.model_copy(update={"settings": new.settings | {"augment": augment | kept}}) if kept else new


def _changes(old: CompareSpec, new: CompareSpec, method: str | None) -> Iterator[str]:
    """The settings of a method or variant, or those of all, that differ between the specs, with both values."""
    before, after = (_settings(spec, method) for spec in (old, new))
    for key in differing_keys(before, after):
        if key not in MAY_DIFFER:
            yield f"{key} was {flatten(before).get(key)}, now {flatten(after).get(key)}"


def _settings(spec: CompareSpec, method: str | None) -> dict[str, Any]:
    if method is not None:
        return spec.settings_of(method).model_dump(mode="json")
    common = spec.model_copy(update={"own": {}}).settings_of(next(iter(spec.methods)))
    return common.model_dump(mode="json", exclude={"method"})
