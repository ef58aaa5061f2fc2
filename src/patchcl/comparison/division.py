"""Who learns and who judges in a comparison: validation patients, or with folds every labeled patient in its turn."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from patchcl.core.errors import UserError
from patchcl.data.dataset import Dataset
from patchcl.data.folds import fold_splits
from patchcl.data.split_settings import SplitSettings
from patchcl.data.splits import Split, count_folds, make_split
from patchcl.evaluation.intervals import FEWEST_PATIENTS
from patchcl.evaluation.scores import SplitSide
from patchcl.evaluation.tables import pluralize

USUAL_FOLDS = 5
"""How many are suggested; fewer leave a run too little to learn from, more only cost time."""
Division = tuple[Split, ...]
"""The split of a run, or those of all its folds."""


def divide(dataset: Dataset, settings: SplitSettings, folds: int | None) -> Division:
    """The split of a run by `settings`, or those of its folds.

    Raises:
        UserError: The patients cannot be divided like that.
    """
    if folds is None:
        return (make_split(dataset, settings),)
    if settings.labeled is not None and settings.file is not None and count_folds(settings.file) is not None:
        raise UserError(
            f"{settings.file} says who is in which fold, and --labeled {settings.labeled} would take patients out of "
            "each. Leave one out: --labeled, or the file with --set split.file=null."
        )
    return fold_splits(dataset, settings, folds)


def require_side(on: SplitSide | None, folds: int | None) -> None:
    """Refuse to score test patients with folds.

    Raises:
        UserError: `on` asks for it.
    """
    if folds is not None and on == "test":
        raise UserError(
            "--folds scores labeled patients, each by the run that has not seen it, and --on asks for test patients. "
            "Leave --on out; patchcl evaluate, given the folder of the comparison, scores the chosen run on these."
        )


def division_hash(division: Division) -> str:
    """The sha256 of who is where, in hex."""
    if len(division) == 1:
        return division[0].hash
    return hashlib.sha256(json.dumps([split.hash for split in division]).encode()).hexdigest()


def suggest_folds(splits: Sequence[Split], labeled: int | None, file: Path | None) -> str:
    """A line where validation patients are too few for a verdict, and folds would have enough; else "".

    Args:
        splits: Of all seeds.
        labeled: The count that they were made for; None is all there are.
        file: That divides the patients, if one does.
    """
    judges = {patient for split in splits for patient in split.validation}
    able = {*splits[0].labeled, *(splits[0].validation if labeled is None else ())}
    given = None if file is None else count_folds(file)
    if len(judges) >= FEWEST_PATIENTS or len(able) < FEWEST_PATIENTS or (given is not None and labeled is not None):
        return ""
    return (
        f"{pluralize(len(judges), 'validation patient')} cannot show which run is to be used: that takes "
        f"{FEWEST_PATIENTS}. With --folds {given or USUAL_FOLDS} all {len(able)} labeled patients judge, each the run "
        "that has not seen it."
    )
