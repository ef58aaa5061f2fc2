"""What a comparison of many methods asks: every method with so many labeled patients and every seed is one cell."""

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from patchcl.comparison.worker import Job
from patchcl.config import Settings, load_settings
from patchcl.core.errors import UserError
from patchcl.core.files import write_json
from patchcl.core.settings import FrozenSettings
from patchcl.core.version import __version__
from patchcl.data.dataset import Dataset, read_dataset
from patchcl.data.splits import cases_of, make_split
from patchcl.evaluation.scores import Side
from patchcl.methods import method_names

CONTRAST = "method.contrast.weight=0.1"
"""What NAME+contrast sets on top of method NAME."""


ASIDE = {
    *("data", "cache", "split.file", "split.labeled", "split.seed"),
    *("training.seed", "training.device", "training.memory_gib"),
}
"""Settings that differ between cells or machines; of the split the fingerprints of its sides are compared instead."""


class Cell(NamedTuple):
    """One run of a comparison."""

    labeled: int | None  # patients with masks; None is all there are
    method: str
    seed: int

    @property
    def place(self) -> str:
        """Where it lies below the folder of cells, and how people are told of it."""
        return f"labeled_{counted_labeled(self.labeled)}/{self.method}/seed_{self.seed}"


class Question(FrozenSettings):
    """What was asked: the cells, and everything that they have in common."""

    patchcl: str
    data: Path
    data_fingerprint: str
    methods: dict[str, dict[str, Any]]  # by NAME or NAME+contrast its own settings
    labeled: tuple[int | None, ...]
    seeds: tuple[int, ...]
    settings: dict[str, Any]  # of all methods
    on: Side
    voxels: bool
    splits: dict[str, str]  # fingerprints by "labeled_7/seed_0"

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All cells, seed by seed, so that a first seed of everything is there early."""
        return tuple(
            Cell(labeled, method, seed) for seed in self.seeds for labeled in self.labeled for method in self.methods
        )

    def settings_of(self, method: str) -> Settings:
        """The settings of `method`, with today's defaults for what did not exist when the question was asked.

        Raises:
            UserError: They belong to another version of patchcl.
        """
        try:
            return Settings.model_validate({**self.settings, "method": self.methods[method]})
        except ValidationError as error:
            raise UserError(
                f"The comparison was made by patchcl {self.patchcl}, whose settings of {method} are not those of "
                f"{__version__}. Choose a new folder with -o."
            ) from error


def ask(
    data: Path,
    methods: Sequence[str],
    labeled: Sequence[int | None],
    seeds: Sequence[int],
    config: Path | None = None,
    overrides: Sequence[str] = (),
    on: Side | None = None,
    voxels: bool = False,
) -> Question:
    """The question, once everything about it that can be checked without training is found sound.

    Args:
        data: The data set.
        methods: NAME, or NAME+contrast for the same with PatchCL's contrast.
        labeled: Counts of patients with masks; None is all there are. Empty: what the settings say.
        seeds: Of training, and of the split unless a file divides the patients.
        config: Settings in YAML, for all methods.
        overrides: Single settings such as `training.steps=2000`, for all methods.
        on: The side to score; by default the test side where it has masks.
        voxels: Measure distances in voxels.

    Raises:
        UserError: A method or a setting is unknown, or the data cannot be divided like that.
    """
    _require_known(methods)
    settings = {method: _load(method, config, overrides) for method in dict.fromkeys(methods)}
    first = next(iter(settings.values()))
    dataset = read_dataset(data, first.split.patient_pattern)
    labeled = list(labeled) or [_labeled_count(first)]
    splits = {
        (count, seed): make_split(dataset, _cell_settings(first, count, seed).split)
        for count in labeled
        for seed in seeds
    }
    has_test = all(cases_of(dataset, split.test, masked=True) for split in splits.values())
    if on == "test" and not has_test:
        raise UserError(f"No test patient has a mask in {dataset.root / 'labelsTs'}. Compare with: --on validation")
    return Question(
        patchcl=__version__,
        data=data.resolve(),
        data_fingerprint=data_fingerprint(dataset),
        methods={method: of.method.model_dump(mode="json") for method, of in settings.items()},
        labeled=in_order(labeled),
        seeds=tuple(sorted(set(seeds))),
        settings=first.model_dump(mode="json", exclude={"method"}),
        on=on or ("test" if has_test else "validation"),
        voxels=voxels,
        splits={_split_key(*key): split.fingerprint for key, split in splits.items()},
    )


def job_of(question: Question, cell: Cell, out: Path, at_once: int) -> Job:
    """What a worker must know to make the cell in `out`."""
    settings = _cell_settings(question.settings_of(cell.method), cell.labeled, cell.seed)
    cache = settings.cache or out / "prepared"
    settings = settings.model_copy(update={"data": question.data, "cache": cache.resolve()})
    return Job(
        root=cell_root(out, cell),
        settings=settings,
        on=question.on,
        voxels=question.voxels,
        at_once=at_once,
        command=tuple(sys.argv),
    )


def cell_root(out: Path, cell: Cell) -> Path:
    """The folder of the cell's run."""
    return out / "cells" / cell.place


def counted_labeled(labeled: int | None) -> str:
    """So many labeled patients, as folders and tables name them."""
    return "all" if labeled is None else str(labeled)


def data_fingerprint(dataset: Dataset) -> str:
    """The sha256 of which scans and masks there are and how large, in hex; wherever the data set lies."""
    files = [file for case in dataset.cases for file in (*case.images, case.mask) if file is not None]
    sizes = {file.relative_to(dataset.root).as_posix(): _bytes_of(file) for file in files}
    known = [dataset.channels, dataset.classes, sizes]
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def _bytes_of(path: Path) -> int:
    """Of a file, or of all files in the folder of a DICOM series."""
    return sum(file.stat().st_size for file in (path.rglob("*") if path.is_dir() else (path,)))


def _require_known(methods: Sequence[str]) -> None:
    known = method_names()
    unknown = [method for method in methods if method.removesuffix("+contrast") not in known]
    if unknown or not methods:
        raise UserError(
            f"--methods names {', '.join(map(repr, unknown)) or 'none'}; choose from {', '.join(sorted(known))}, "
            "each also as NAME+contrast."
        )


def _load(method: str, config: Path | None, overrides: Sequence[str]) -> Settings:
    name = method.removesuffix("+contrast")
    own = [f"method.name={name}", *([CONTRAST] if name != method else [])]
    try:
        return load_settings(config, [*overrides, *own])
    except UserError as error:
        raise UserError(f"{method}: {error}") from error


def _labeled_count(settings: Settings) -> int | None:
    if isinstance(settings.split.labeled, tuple):
        raise UserError("split.labeled names patients, and a comparison takes counts. Give it --labeled 3,7 instead.")
    return settings.split.labeled


def _cell_settings(settings: Settings, labeled: int | None, seed: int) -> Settings:
    drawn = {} if settings.split.file else {"seed": seed}
    return settings.model_copy(
        update={
            "split": settings.split.model_copy(update={"labeled": labeled, **drawn}),
            "training": settings.training.model_copy(update={"seed": seed}),
        }
    )


def in_order(labeled: Sequence[int | None]) -> tuple[int | None, ...]:
    """Each count once, from few to all."""
    return tuple(sorted(set(labeled), key=lambda count: (count is None, count or 0)))


def _split_key(labeled: int | None, seed: int) -> str:
    return f"labeled_{counted_labeled(labeled)}/seed_{seed}"


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
