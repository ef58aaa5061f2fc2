"""Looks into every file before training does, and tells everything that is wrong at once."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from patchcl.data.dataset import Case, Dataset, some
from patchcl.data.plan import Plan
from patchcl.data.scan import Grid, Scan, demand_same_grid, read_grid, read_image, read_mask
from patchcl.data.splits import Split, cases_of
from patchcl.errors import UserError

THREADS = 2


class CheckReport(NamedTuple):
    """What was found; training can start when there are no problems."""

    problems: tuple[str, ...]  # one line each, naming a file
    warnings: tuple[str, ...]  # worth a look, but nothing stands in the way
    facts: dict[str, str]
    patients_and_scans: dict[str, tuple[int, int]]  # by side of the split
    class_shares: dict[str, float]  # share of the voxels of all labeled masks, in [0, 1]
    plan: Plan | None


class _Finding(NamedTuple):
    """What one scan and its mask hold."""

    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    grid: Grid | None
    voxels: np.ndarray  # (K,) voxels of each class in its mask


def check(
    dataset: Dataset, split: Split, plan: Plan | None, report: Callable[[int, int], None] | None = None
) -> CheckReport:
    """Open every image and mask of `split`, hidden and test masks included: nothing is trained here.

    `plan` is None when none could be made. `report` is told how many scans of all are done.
    """
    sides = {side: cases_of(dataset, patients, None) for side, patients in split.model_dump().items()}
    cases = [case for side in sides.values() for case in side]
    findings: dict[str, _Finding] = {}
    with ThreadPoolExecutor(THREADS) as pool:
        for case, finding in zip(cases, pool.map(lambda case: _look(case, dataset), cases), strict=True):
            findings[case.name] = finding
            if report is not None:
                report(len(findings), len(cases))
    shares = _shares(dataset, [findings[case.name].voxels for case in sides["labeled"]])
    return CheckReport(
        problems=tuple(problem for finding in findings.values() for problem in finding.problems),
        warnings=(*_general_warnings(dataset, split, shares), *(w for f in findings.values() for w in f.warnings)),
        facts=_facts(dataset, split, [finding.grid for finding in findings.values() if finding.grid is not None]),
        patients_and_scans={side: (len({case.patient for case in of}), len(of)) for side, of in sides.items()},
        class_shares=shares,
        plan=plan,
    )


def show(report: CheckReport, console: Console) -> None:
    """Print `report`: facts first, then what is wrong."""
    console.print(_facts_table(report))
    console.print(_classes_table(report))
    if report.plan is not None:
        console.print(_plan_table(report.plan))
    for warning in report.warnings:
        console.print(f"[yellow]Warning[/]  {escape(warning)}", highlight=False, soft_wrap=True)
    for problem in report.problems:
        console.print(f"[red]Problem[/]  {escape(problem)}", highlight=False, soft_wrap=True)
    count = len(report.problems)
    verdict = f"[red]{count} problem{'s' * (count > 1)} to solve[/]" if count else "[green]No problems found.[/]"
    console.print(verdict, highlight=False)


def _look(case: Case, dataset: Dataset) -> _Finding:
    problems: list[str] = []
    first: Grid | None = None
    for path in case.images:
        for scan in _attempt(lambda path=path: read_image([path]), problems):  # type: ignore[misc]
            first = first or scan.grid
            problems += _image_problems(path, scan, first, case.images[0].name)
    warnings: list[str] = []
    voxels = np.zeros(len(dataset.classes), dtype=np.int64)
    if case.mask is not None:
        voxels += _look_at_mask(case.mask, first, len(dataset.classes), problems, warnings)
    return _Finding(tuple(problems), tuple(warnings), first, voxels)
