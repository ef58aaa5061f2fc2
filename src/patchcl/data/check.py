"""Check of a data set: looks into every file before training does, and tells everything that is wrong at once."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from patchcl.core.errors import UserError
from patchcl.core.parallel import ProgressCallback, in_parallel
from patchcl.data.colour_maps import require_one_colour_map
from patchcl.data.dataset import Case, Dataset, survey_dataset
from patchcl.data.doubts import NOTHING_TO_LEARN, general_warnings, sparse_channels, taken_as_stored
from patchcl.data.duplicates import SignatureFiles, find_duplicates, signature
from patchcl.data.folders import beside_images, unused_in_series
from patchcl.data.formats import tells_by_name
from patchcl.data.geometry import Grid, require_same_grid
from patchcl.data.modality import modality_warnings
from patchcl.data.patients import patient_warnings
from patchcl.data.preprocessing.plan import Plan, PlanSettings
from patchcl.data.preprocessing.planner import fingerprint_for, make_plan
from patchcl.data.scan import IGNORED, Scan, read_grid, read_image, read_mask, require_annotated, require_varied
from patchcl.data.split_settings import SplitSettings
from patchcl.data.splits import Split, cases_of, make_split, visible_to_training, with_split_of


class CheckReport(NamedTuple):
    """What was found; training can start when there are no problems."""

    problems: tuple[str, ...]  # one line each, naming a file or a setting
    warnings: tuple[str, ...]  # worth a look, but nothing stands in the way
    dataset: Dataset
    split: Split | None  # None if none could be made
    split_found: str  # that the split is by a file in the data set which nobody named; else nothing
    plan: Plan | None  # None if none could be made
    sides: dict[str, tuple[int, int]]  # patients and scans on each side of the split
    grids: tuple[Grid, ...]  # of every scan that can be read
    class_fractions: dict[str, float]  # share of the annotated voxels of the labeled masks, in [0, 1]
    ignored_fraction: float  # share of all voxels of the labeled masks that nobody annotated, in [0, 1]


class _Finding(NamedTuple):
    """Problems, warnings, grid and class counts of one scan and its mask."""

    problems: list[str]
    warnings: list[str]
    grid: Grid | None
    voxels: np.ndarray  # (K + 1,) voxels of each class in its mask, and of none because nobody annotated them
    signature: Path | None  # of all channels, if they are sound
    lit: tuple[float, ...] = ()  # the share of each channel's voxels above its lowest value, likewise


def check_data(
    root: Path,
    split: SplitSettings,
    plan: PlanSettings,
    on_progress: ProgressCallback | None = None,
    mirrors_decided: bool = False,
) -> CheckReport:
    """Open every image and mask below `root`, hidden and test masks included: nothing is trained here.

    `on_progress` is told how many scans of all are done; `mirrors_decided` says that the user has set whether images
    are mirrored.

    Raises:
        UserError: The folder is not laid out as a data set, so there is nothing to look into.
    """
    dataset, problems = survey_dataset(root, split.patient_pattern)
    complete = not problems  # a plan for scans that lack channels would say nothing
    made_split, made_plan = None, None
    split, split_found = with_split_of(root, split)
    with _noting(problems):
        made_split = make_split(dataset, split)
    with _noting(problems):
        visible = dataset if made_split is None else visible_to_training(dataset, made_split)
        labeled = None if made_split is None else made_split.labeled
        made_plan = make_plan(visible, plan, fingerprint_for(visible, plan, labeled)) if complete else None
    sides = _sides(dataset, made_split)
    cases = [case for cases in sides.values() for case in cases]
    with TemporaryDirectory(prefix="patchcl-") as folder:
        looked = in_parallel(cases, lambda case: _look_at(case, dataset, Path(folder)), on_progress)
        findings = {case.name: found for case, found in zip(cases, looked, strict=True)}
        signatures = {name: found.signature for name, found in findings.items() if found.signature is not None}
        duplicates = find_duplicates(sides, SignatureFiles(signatures))
        doubtful = patient_warnings(cases, split.patient_pattern, SignatureFiles(signatures))
    grids = tuple(found.grid for found in findings.values() if found.grid is not None)
    fractions, ignored_fraction = _fractions(dataset, [findings[case.name].voxels for case in sides.get("labeled", ())])
    warnings = [] if made_split is None else general_warnings(dataset, made_split, fractions, mirrors_decided)
    with _noting(problems):
        require_one_colour_map([case.mask for case in dataset.cases if case.mask is not None])
    warnings += taken_as_stored(grids, made_plan)
    warnings += sparse_channels({name: found.lit for name, found in findings.items()}, made_plan)
    if made_split is not None and any(fractions.values()) and not any(list(fractions.values())[1:]):
        problems.append(NOTHING_TO_LEARN)
    problems += [line for found in findings.values() for line in found.problems]
    warnings += [
        *modality_warnings(dataset.cases, dataset.channels),
        *dataset.unused,
        *(line for found in findings.values() for line in found.warnings),
    ]
    return CheckReport(
        problems=tuple(dict.fromkeys([*problems, *duplicates.problems])),
        warnings=(*warnings, *duplicates.warnings, *doubtful),
        dataset=dataset,
        split=made_split,
        split_found=split_found,
        plan=made_plan,
        sides={side: (len({case.patient for case in cases}), len(cases)) for side, cases in sides.items()},
        grids=grids,
        class_fractions=fractions,
        ignored_fraction=ignored_fraction,
    )


def render(report: CheckReport, console: Console) -> None:
    """Print `report`: what was understood first, then what is wrong."""
    console.print(_data_table(report))
    if report.split_found:
        console.print(report.split_found, markup=False, highlight=False, soft_wrap=True)
    console.print(_class_table(report))
    if report.plan is not None:
        console.print(_plan_table(report.plan))
    for line in report.warnings:
        console.print(f"[yellow]Warning:[/yellow] {escape(line)}", highlight=False, soft_wrap=True)
    for line in report.problems:
        console.print(f"[red]Problem:[/red] {escape(line)}", highlight=False, soft_wrap=True)
    if not report.problems:
        console.print("[green]No problems found.[/green]")


@contextmanager
def _noting(problems: list[str]) -> Iterator[None]:
    """Add a user's mistake to `problems` and go on."""
    try:
        yield
    except UserError as error:
        problems.append(str(error))


def _sides(dataset: Dataset, split: Split | None) -> dict[str, tuple[Case, ...]]:
    """The scans on each side of the split, or in each folder if there is no split."""
    if split is not None:
        return {side: cases_of(dataset, patients, None) for side, patients in split.model_dump().items()}
    folders = dict.fromkeys(case.folder for case in dataset.cases)
    return {folder: tuple(case for case in dataset.cases if case.folder == folder) for folder in folders}


def _look_at(case: Case, dataset: Dataset, signatures: Path) -> _Finding:
    """Every file of one scan by itself, so that one broken file hides no other."""
    found = _Finding([], [], _first_grid(case), np.zeros(len(dataset.classes) + 1, dtype=np.int64), None)
    sound: list[np.ndarray] = []
    lit: list[float] = []
    found.warnings.extend(line for path in case.images for line in [*unused_in_series(path), *beside_images(path)])
    for path in case.images:
        with _noting(found.problems):
            channel = read_image([path])
            _require_sound(channel, path, found.grid, case.images[0].name)
            sound.append(signature(channel.voxels))
            lit.extend(float((values > values.min()).mean()) for values in channel.voxels)
    if len(sound) == len(case.images):
        found = found._replace(signature=signatures / f"{case.folder}-{case.name}.npy", lit=tuple(lit))
        np.save(signatures / f"{case.folder}-{case.name}.npy", np.concatenate(sound))
    if case.mask is None:
        return found
    by_name = tells_by_name(case.mask)
    with _noting(found.problems):
        if found.grid is not None and not by_name:
            require_same_grid(read_grid(case.mask), found.grid, case.mask, case.images[0].name)
    with _noting(found.problems):
        mask = read_mask(case.mask, dataset.classes, found.grid if by_name else None, dataset.ignore)
        require_annotated(mask, case.mask)
        found.voxels[:-1] = np.bincount(mask[mask != IGNORED], minlength=len(dataset.classes))
        found.voxels[-1] = np.count_nonzero(mask == IGNORED)
        if not found.voxels[1:-1].any():
            found.warnings.append(f"{case.mask} holds background only. If that is not meant, annotate it or remove it.")
    return found


def _first_grid(case: Case) -> Grid | None:
    """The grid of the first channel; what is wrong with that file is told when it is read."""
    try:
        return read_grid(case.images[0])
    except UserError:
        return None


def _require_sound(scan: Scan, path: Path, grid: Grid | None, first: str) -> None:
    if grid is not None:
        require_same_grid(scan.grid, grid, path, first)
    require_varied(scan.voxels, path)


def _fractions(dataset: Dataset, voxels: Sequence[np.ndarray]) -> tuple[dict[str, float], float]:
    """Of each class among annotated voxels, and of the others among all."""
    *counts, ignored = np.sum([np.zeros(len(dataset.classes) + 1), *voxels], axis=0).tolist()
    known = sum(counts)
    fractions = {name: count / max(known, 1) for name, count in zip(dataset.classes, counts, strict=True)}
    return fractions, ignored / max(known + ignored, 1)


def _data_table(report: CheckReport) -> Table:
    table = Table(title=escape(report.dataset.name), show_header=False, title_justify="left")
    table.add_row("folder", escape(str(report.dataset.root)))
    for side, (patients, scans) in report.sides.items():
        table.add_row(side, f"{patients} patients, {scans} scans")
    table.add_row("channels", escape(", ".join(report.dataset.channels)))
    table.add_row("size", _range([grid.shape for grid in report.grids], "voxels"))
    table.add_row("spacing", _range([grid.spacing_mm for grid in report.grids], "mm"))
    if report.split is not None:
        table.add_row("split", report.split.hash[:16])
    return table


def _range(rows: Sequence[Sequence[float]], unit: str) -> str:
    """From the smallest to the largest along every axis, for slices and volumes apart."""
    lengths = sorted({len(row) for row in rows})
    ranges = [np.array([row for row in rows if len(row) == length]) for length in lengths]
    return "; ".join(" × ".join(map(_span, r.min(axis=0), r.max(axis=0))) + f" {unit}" for r in ranges) or "unknown"


def _span(low: float, high: float) -> str:
    return f"{low:.4g}" if f"{low:.4g}" == f"{high:.4g}" else f"{low:.4g}-{high:.4g}"


def _class_table(report: CheckReport) -> Table:
    table = Table("value", "class", "share of the labeled masks", title="Classes", title_justify="left")
    for value, (name, fraction) in enumerate(report.class_fractions.items()):
        table.add_row(str(value), escape(name), f"{fraction:.2%}")
    if report.dataset.ignore is not None:
        ignored = f"{report.ignored_fraction:.2%} of all voxels, left out above"
        table.add_row(str(report.dataset.ignore), "ignore", ignored)
    return table


def _plan_table(plan: Plan) -> Table:
    table = Table("setting", "value", "why", title="Plan", title_justify="left")
    for key, reason in plan.reasons.items():
        table.add_row(key, shown_value(key, getattr(plan, key)), escape(reason))
    return table


def shown_value(key: str, value: object) -> str:
    """A line of a plan as people read it."""
    between = {"normalise": ", ", "window": " to "}.get(key, " × ")
    return between.join(map(str, value)) if isinstance(value, tuple) else str(value)
