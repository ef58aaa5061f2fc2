"""Structures that some runs cannot learn, since none of their labeled masks holds them: said before they are made."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from patchcl.comparison.worker import Job
from patchcl.config import Settings
from patchcl.core.errors import UserError
from patchcl.data.dataset import read_dataset
from patchcl.data.doubts import absent_classes
from patchcl.data.preprocessing.fingerprint import read_headers, with_structures
from patchcl.data.splits import cases_of, make_split


def warn_of_absent(data: Path, jobs: Iterable[Job], console: Console) -> None:
    """Warn as training itself does, which the process of a run says where nobody looks.

    Each division of the patients is looked into once. Of one seed those with few labeled patients come first; more of
    them have the same masks and others, so that none is looked into once nothing lacks.
    """
    seen, whole = set(), set()
    for settings in (job.settings for job in jobs):
        division = settings.split
        if division in seen or division.seed in whole:
            continue
        seen.add(division)
        with suppress(UserError):  # a mask that cannot be read, which the run itself will tell
            lines = _absent(data, settings)
            for line in lines:
                name = "all" if division.labeled is None else division.labeled
                told = f"With labeled patients {name}, seed {division.seed}: {line}"
                console.print(f"[yellow]Warning:[/yellow] {escape(told)}", highlight=False, soft_wrap=True)
            if not lines:
                whole.add(division.seed)


def _absent(data: Path, settings: Settings) -> list[str]:
    dataset = read_dataset(data, settings.split.patient_pattern)
    labeled = cases_of(dataset, make_split(dataset, settings.split).labeled, masked=True)
    taught = dataset._replace(cases=labeled)
    found = with_structures(read_headers(taught), taught).classes
    return absent_classes({known.name: known.scans for known in found})
