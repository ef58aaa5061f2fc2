"""The spec of a comparison: every method with every number of labeled patients and every seed is one run."""

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from patchcl.comparison.content import Files, files_of, hashes_of
from patchcl.comparison.division import divide, division_hash, require_side, suggest_folds
from patchcl.comparison.variants import named_settings
from patchcl.comparison.worker import Job
from patchcl.config import Settings
from patchcl.config.mistakes import checked
from patchcl.core.console import console
from patchcl.core.errors import UserError
from patchcl.core.renamed import brought_up_to_date
from patchcl.core.settings import FrozenSettings
from patchcl.core.version import __version__
from patchcl.data.dataset import Dataset, read_dataset
from patchcl.data.splits import cases_of, with_split_of
from patchcl.evaluation.paired import SMALLEST_EFFECT, require_effect
from patchcl.evaluation.scores import SplitSide, options_of
from patchcl.runs.folder import COMPARISON

BASELINE = "supervised"
"""What the others are compared with, unless told otherwise: masks alone."""


class CompareRun(NamedTuple):
    """One run of a comparison."""

    labeled: int | None  # patients with masks; None is all there are
    method: str  # or variant
    seed: int

    @property
    def run_id(self) -> str:
        """Its name for people, and its path below the folder of all runs."""
        return f"labeled_{format_labeled(self.labeled)}/{self.method}/seed_{self.seed}"


class CompareSpec(FrozenSettings):
    """Which runs a comparison consists of, and everything that they have in common."""

    patchcl: str
    data: Path
    data_hash: str  # of which scans and masks there are and how large
    content_hash: str | None = None  # of what these files hold; None in comparisons of version 0.1
    methods: dict[str, dict[str, Any]]  # by NAME, NAME+contrast or variant its method's settings
    own: dict[str, dict[str, Any]] = Field(default_factory=dict)  # by variant its other settings, where they differ
    labeled: tuple[int | None, ...]
    seeds: tuple[int, ...]
    settings: dict[str, Any]  # of all that have no own
    on: SplitSide
    voxels: bool
    fast: bool = False  # one pass, no average over symmetries
    postprocessing: bool = True
    min_effect: float = SMALLEST_EFFECT  # the least difference in Dice that counts
    folds: int | None = None  # each run is a cross-validation over so many; None is one run, judged by its validation
    baseline: str = BASELINE  # the method whose runs the others are paired with, seed by seed
    baseline_asked: bool = Field(default=False, exclude=True)  # whether this call names it
    splits: dict[str, str]  # hashes by "labeled_7/seed_0"

    @property
    def runs(self) -> tuple[CompareRun, ...]:
        """All runs, seed by seed, so that a first seed of everything is there early."""
        return tuple(
            CompareRun(labeled, method, seed)
            for seed in self.seeds
            for labeled in self.labeled
            for method in self.methods
        )

    @property
    def options(self) -> str:
        """How all runs are scored, see `options_of`."""
        return options_of(self.fast, self.postprocessing, self.voxels)

    def settings_of(self, method: str) -> Settings:
        """The settings of a method or variant, as they were when the spec was made.

        Raises:
            UserError: They belong to another version of patchcl, or are wrong.
        """
        tree = {**self.settings, **self.own.get(method, {}), "method": self.methods[method]}
        try:
            return checked(brought_up_to_date(tree), f"{COMPARISON}, the settings of {method}")
        except UserError as error:
            made = f"It was made by patchcl {self.patchcl}, and this is {__version__}. " * (self.patchcl != __version__)
            raise UserError(f"{error}\n{made}Restore that file, or choose a new folder with -o.") from error


def build_spec(
    data: Path,
    methods: Sequence[str],
    labeled: Sequence[int | None],
    seeds: Sequence[int],
    config: Path | None = None,
    overrides: Sequence[str] = (),
    variants: Path | None = None,
    baseline: str | None = None,
    on: SplitSide | None = None,
    voxels: bool = False,
    fast: bool = False,
    postprocessing: bool = True,
    min_effect: float = SMALLEST_EFFECT,
    folds: int | None = None,
) -> CompareSpec:
    """The spec of a comparison, after all checks that need no training.

    Args:
        data: The data set.
        methods: NAME, or NAME+contrast for the same with PatchCL's contrast.
        labeled: Counts of patients with masks; None is all there are. Empty: what the settings say.
        seeds: Of training, and of the split unless a file divides the patients.
        config: Settings in YAML, for all methods.
        overrides: Single settings such as `training.steps=2000`, for all methods.
        variants: A file of named variants, see `read_variants`.
        baseline: What the others are compared with; by default `supervised`, or the first variant if there is none.
        on: The side to score; by default the test side where it has masks, and not with folds.
        voxels: Measure distances in voxels.
        fast: Score one pass, instead of an average over the symmetries that training drew from.
        postprocessing: Score masks after what validation chose for each run.
        min_effect: The least difference in Dice that counts, from 0 to 1.
        folds: Make each run a cross-validation over so many, which scores every labeled patient.

    Raises:
        UserError: A method or a setting is unknown, or the data cannot be divided like that.
    """
    settings, common = named_settings(methods, variants, config, overrides)
    first = next(iter(settings.values()))
    if first.training.devices * first.training.nodes > 1:
        raise UserError("compare trains every run on one device. Leave training.devices and training.nodes out.")
    dataset = read_dataset(data, first.split.patient_pattern)
    division, line = with_split_of(data, first.split)
    first = first.model_copy(update={"split": division})
    _say(line)
    labeled = in_order(list(labeled) or [_labeled_count(first)])
    require_side(on, folds)
    divisions = {
        (count, seed): divide(dataset, _run_settings(first, count, seed).split, folds)
        for count in labeled
        for seed in seeds
    }
    if folds is None and len(settings) > 1:
        most = [splits[0] for (count, _), splits in divisions.items() if count == labeled[-1]]
        _say(suggest_folds(most, labeled[-1], division.file))
    has_test = folds is None and all(cases_of(dataset, splits[0].test, masked=True) for splits in divisions.values())
    if on == "test" and not has_test:
        raise UserError(f"No test patient has a mask in {dataset.root / 'labelsTs'}. Compare with: --on validation")
    return CompareSpec(
        patchcl=__version__,
        data=data.resolve(),
        data_hash=data_hash(dataset),
        methods={method: own.method.model_dump(mode="json") for method, own in settings.items()},
        labeled=labeled,
        seeds=tuple(sorted(set(seeds))),
        own=_own(settings, common),
        settings=common.model_copy(update={"split": division}).model_dump(mode="json", exclude={"method"}),
        baseline=_baseline(baseline, tuple(settings), variants),
        baseline_asked=baseline is not None,
        on=on or ("test" if has_test else "validation"),
        voxels=voxels,
        fast=fast,
        postprocessing=postprocessing,
        min_effect=require_effect(min_effect),
        folds=folds,
        splits={_split_key(*key): division_hash(splits) for key, splits in divisions.items()},
    )


def job_of(spec: CompareSpec, compare_run: CompareRun, out: Path, at_once: int) -> Job:
    """The job of a worker that makes the run in `out`."""
    settings = _run_settings(spec.settings_of(compare_run.method), compare_run.labeled, compare_run.seed)
    cache = settings.cache or out / "prepared"
    settings = settings.model_copy(update={"data": spec.data, "cache": cache.resolve()})
    return Job(
        root=run_root(out, compare_run),
        settings=settings,
        on=spec.on,
        voxels=spec.voxels,
        fast=spec.fast,
        postprocessing=spec.postprocessing,
        at_once=at_once,
        command=tuple(sys.argv),
    )


def run_root(out: Path, compare_run: CompareRun) -> Path:
    """The folder of one run of the comparison in `out`."""
    return out / ("cells" if (out / "cells").is_dir() else "runs") / compare_run.run_id  # cells: of version 0.1


def format_labeled(labeled: int | None) -> str:
    """The number of labeled patients as folders and tables name it."""
    return "all" if labeled is None else str(labeled)


def data_hash(dataset: Dataset) -> str:
    """The sha256 of which scans and masks there are and how large, in hex; wherever the data set lies."""
    files = [file for case in dataset.cases for file in (*case.images, case.mask) if file is not None]
    sizes = {file.relative_to(dataset.root).as_posix(): _bytes_of(file) for file in files}
    known = [dataset.channels, dataset.classes, sizes]
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def with_content(spec: CompareSpec, out: Path) -> tuple[CompareSpec, Files]:
    """`spec` with the hash of what scans and masks hold, and the files themselves, of which `out` may know some.

    Raises:
        UserError: A file cannot be read.
    """
    dataset = read_dataset(spec.data, spec.settings_of(next(iter(spec.methods))).split.patient_pattern)
    files = files_of(dataset, out)
    joined = hashlib.sha256(json.dumps(sorted(hashes_of(files).items())).encode()).hexdigest()
    return spec.model_copy(update={"content_hash": joined}), files


def _bytes_of(path: Path) -> int:
    """The size of a file, or of all files in the folder of a DICOM series."""
    return sum(file.stat().st_size for file in (path.rglob("*") if path.is_dir() else (path,)))


def _say(line: str) -> None:
    if line:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _own(settings: Mapping[str, Settings], common: Settings) -> dict[str, dict[str, Any]]:
    """By name the groups of settings, besides the method's, that differ from the common ones."""
    shared = common.model_dump(mode="json", exclude={"method"})
    trees = {name: own.model_dump(mode="json", exclude={"method"}) for name, own in settings.items()}
    differing = {
        name: {key: value for key, value in tree.items() if value != shared[key]} for name, tree in trees.items()
    }
    return {name: groups for name, groups in differing.items() if groups}


def _baseline(asked: str | None, names: Sequence[str], variants: Path | None) -> str:
    if asked is not None and asked not in names:
        raise UserError(f"--baseline is {asked!r}, which is not compared; choose one of {', '.join(names)}.")
    return asked or (BASELINE if BASELINE in names or variants is None else names[0])


def _labeled_count(settings: Settings) -> int | None:
    if isinstance(settings.split.labeled, tuple):
        raise UserError("split.labeled names patients, and a comparison takes counts. Give it --labeled 3,7 instead.")
    return settings.split.labeled


def _run_settings(settings: Settings, labeled: int | None, seed: int) -> Settings:
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
    return f"labeled_{format_labeled(labeled)}/seed_{seed}"
