"""The folder of a comparison holds one question.

More methods, more counts of labeled patients and more seeds may be added to it; other settings or other data would make
cells that cannot be compared, and are refused.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from patchcl.comparison.spec import Question, in_order
from patchcl.core.errors import UserError
from patchcl.runs.folder import write_json

ASIDE = {
    *("data", "cache", "split.file", "split.labeled", "split.seed"),
    *("training.seed", "training.device", "training.memory_gib"),
}
"""Settings that differ between cells or machines; of the split the fingerprints of its sides are compared instead."""


def join(question: Question, out: Path) -> Question:
    """Keep the question in `out`, together with what was asked there before; gives both as one.

    Raises:
        UserError: `out` holds another question, or something else.
    """
    path = question_file(out)
    if not path.is_file() and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} holds something else than a comparison. Choose a new folder with -o.")
    both = _merged(read_question(out), question, out) if path.is_file() else question
    try:
        write_json(path, both.model_dump(mode="json"))
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error.strerror}. Choose another folder with -o.") from error
    return both


def read_question(out: Path) -> Question:
    """What was asked in the folder `out`.

    Raises:
        UserError: There is no comparison, or its file is damaged.
    """
    path = question_file(out)
    try:
        return Question.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{out} holds no comparison: {path.name} is missing. Name a folder made by it.") from error
    except ValueError as error:
        raise UserError(f"{path} cannot be read. Restore it, or choose a new folder with -o.") from error


def question_file(out: Path) -> Path:
    """Where a comparison keeps what was asked."""
    return out / "compare.json"


def _merged(old: Question, new: Question, out: Path) -> Question:
    """The new question with the cells of the old one beside its own."""
    different = [key for method in old.methods if method in new.methods for key in _differences(old, new, method)]
    different += _differences(old, new, None)
    if old.data_fingerprint != new.data_fingerprint:
        different.append(f"the scans or masks of {new.data}")
    if any(old.splits[key] != new.splits[key] for key in old.splits.keys() & new.splits.keys()):
        different.append("the patients on each side of the split")
    if old.voxels != new.voxels:
        different.append("--voxels")
    if different:
        raise UserError(
            f"{out} compares under other conditions: {', '.join(dict.fromkeys(different))}. Cells of both cannot be "
            "mixed. Choose a new folder with -o; methods, --labeled and --seeds alone may be added to an old one."
        )
    return new.model_copy(
        update={
            "methods": old.methods | new.methods,
            "labeled": in_order([*old.labeled, *new.labeled]),
            "seeds": tuple(sorted({*old.seeds, *new.seeds})),
            "splits": old.splits | new.splits,
        }
    )


def _differences(old: Question, new: Question, method: str | None) -> Iterator[str]:
    """The settings that `method`, or all of them together, would have otherwise in one of the questions."""
    ours, theirs = (_deciding(of, method) for of in (new, old))
    for key in dict.fromkeys([*theirs, *ours]):
        if ours.get(key) != theirs.get(key):
            yield f"{key} was {theirs.get(key)}, now {ours.get(key)}"


def _deciding(question: Question, method: str | None) -> dict[str, Any]:
    tree = question.settings_of(method or next(iter(question.methods))).model_dump(mode="json")
    part = {"method": tree["method"]} if method else {key: value for key, value in tree.items() if key != "method"}
    return {key: value for key, value in _flat(part) if key not in ASIDE}


def _flat(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting under its dotted name."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield above + key, value
