"""The scans and masks that scores rest on, by their hash, and whether the run still is what it was trained as."""

import hashlib
import json
from collections.abc import Sequence

from patchcl.config import read_settings
from patchcl.core.errors import UserError
from patchcl.data.dataset import Case
from patchcl.data.preprocessing.manifest import file_entry
from patchcl.data.preprocessing.plan import load_plan
from patchcl.data.splits import load_split
from patchcl.evaluation.scores import CHANGED, DATA_HASH
from patchcl.runs.contents import contents_of, differences, read_contents
from patchcl.runs.folder import RunFolder


def scored_on(runs: Sequence[RunFolder], cases: Sequence[Case]) -> dict[str, str | int | None]:
    """The hash of the scans and masks of `cases`; and what differs from what each run was trained as, if anything does.

    Of several runs, the folds of an ensemble, each change is told with the names of those that knew it otherwise.

    Raises:
        UserError: A scan or mask is missing.
    """
    files = [file for case in cases for file in (*case.images, case.mask) if file is not None]
    hashes = {f"{file.parent.name}/{file.name}": str(file_entry(file)["sha256"]) for file in files}
    joined = hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()
    changes: dict[str, list[str]] = {}
    for run in runs:
        for line in _changed(run, hashes):
            changes.setdefault(line, []).append(run.root.name)
    told = [line if len(runs) == 1 else f"{', '.join(names)}: {line}" for line, names in changes.items()]
    return {DATA_HASH: joined, **({CHANGED: "; ".join(told)} if told else {})}


def _changed(run: RunFolder, hashes: dict[str, str]) -> list[str]:
    """Settings, plan, split and those of the scored files that training knew; nothing of a run that kept no hashes."""
    try:
        before = read_contents(run.contents)
    except UserError:
        return [f"{run.contents.name} cannot be read"] if run.contents.exists() else []
    settings, plan, split = read_settings(run.settings), load_plan(run.plan), load_split(run.split)
    now = contents_of(((before.files | hashes).items()), settings, plan, split, before.classes, before.channels)
    known = now.model_copy(update={"files": {file: now.files[file] for file in before.files}})
    return differences(before, known)
