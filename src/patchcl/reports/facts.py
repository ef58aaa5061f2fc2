"""Facts about runs: what their folders hold, what somebody needs to repeat them, and in what their settings differ."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from patchcl.config import Settings, read_settings
from patchcl.core.errors import UserError
from patchcl.core.settings import differing_keys
from patchcl.data.preprocessing.plan import Plan, load_plan
from patchcl.data.splits import Split, load_split
from patchcl.evaluation.scores import CHANGED, DATA_HASH, OPTIONS, UNFINISHED, Evaluation, read_evaluation, stem_of
from patchcl.inference.trained_run import read_folds
from patchcl.runs.contents import read_contents
from patchcl.runs.folder import RunFolder
from patchcl.runs.log import Row, read_rows, rescues_of
from patchcl.runs.provenance import ACCEPTED, MOVES, read_provenance

HEADLINES = ("test_last", "validation_last", "test_best", "validation_best")
"""Evaluations in the order in which a report prefers them; the last checkpoint is chosen by nobody.

Those that were made with options, such as --fast, come after those without; a report compares like with like.
"""
ASIDE = ("method", "cache", "training.device", "training.memory_gib", "training.scratch")
"""Settings that two runs may differ in and still be compared as methods."""


class RunFacts(NamedTuple):
    """The content of a run folder, as reports read it."""

    name: str
    folder: RunFolder
    settings: Settings
    plan: Plan
    split: Split
    rows: list[Row]
    provenance: dict[str, Any]
    evaluations: dict[str, Evaluation]  # by what `stem_of` calls them, such as test_last or test_last_fast


def read_facts(runs: Sequence[RunFolder]) -> list[RunFacts]:
    """The facts of every run, under a name that tells it from the others.

    Raises:
        UserError: A run is named twice, or its files are missing or damaged.
    """
    settings = [read_settings(run.settings) for run in runs]
    names = _names(runs, settings)
    return [
        RunFacts(
            name=name,
            folder=run,
            settings=own,
            plan=load_plan(run.plan),
            split=load_split(run.split),
            rows=read_rows(run),
            provenance=read_provenance(run.provenance),
            evaluations=_evaluations(run, name),
        )
        for name, run, own in zip(names, runs, settings, strict=True)
    ]


def masks_of(run: RunFacts, stem: str) -> Path:
    """The folder of the masks that have the scores `stem`; runs of before have those of all options in one."""
    own = run.folder.predictions / stem
    return own if own.is_dir() else own.with_name("_".join(stem.split("_")[:2]))


def facts_table(facts: Sequence[RunFacts]) -> list[tuple[str, list[str]]]:
    """A row for every fact that somebody needs to judge or repeat the runs; one value where all runs agree."""
    columns = [_column(run) for run in facts]
    rows = [(key, [column[key] for column in columns]) for key in columns[0]]
    return [(key, values[:1] if len(set(values)) == 1 else values) for key, values in rows]


def unmatched(facts: Sequence[RunFacts]) -> Iterator[str]:
    """The warnings about differences from the first run, besides the method, that could explain other scores."""
    first = facts[0]
    for other in facts[1:]:
        if other.split.hash != first.split.hash:
            yield f"{other.name} and {first.name} learned from different splits: their difference is not the method's."
        differing = differing_keys(first.settings.model_dump(mode="json"), other.settings.model_dump(mode="json"))
        keys = [key for key in differing if not key.startswith(ASIDE)]
        keys = [key for key in keys if key != "data" or not _same_files(first, other)]
        if any(_scored_otherwise(first, other, stem) for stem in first.evaluations):
            yield f"{other.name} and {first.name} were scored on other scans or masks: evaluate both anew."
        if keys:
            yield f"{other.name} and {first.name} differ in more than the method: {', '.join(keys)}."


def changes(facts: Sequence[RunFacts]) -> Iterator[str]:
    """The warnings about runs that went on, or were scored, although what they rest on had changed."""
    for run in facts:
        accepted = run.provenance.get(ACCEPTED, [])
        if accepted:
            yield f"{run.name} went on although this had changed: {'; '.join(accepted)}."
        scored = dict.fromkeys(scores.provenance.get(CHANGED) for scores in run.evaluations.values())
        yield from (f"Before {run.name} was scored, this had changed: {line}." for line in scored if line)


def unfinished(facts: Sequence[RunFacts]) -> Iterator[str]:
    """The warnings about scores that were made before training had come to its end."""
    for run in facts:
        scored = dict.fromkeys(scores.provenance.get(UNFINISHED) for scores in run.evaluations.values())
        yield from (f"{run.name} was scored before training had ended, at {line}." for line in scored if line)


def _same_files(first: RunFacts, other: RunFacts) -> bool:
    """Whether runs whose data lie in different folders learned from the same files, by their hashes."""
    try:
        before, after = (read_contents(run.folder.contents).files for run in (first, other))
    except UserError:
        return False
    both = before.keys() & after.keys()
    return bool(both) and all(before[file] == after[file] for file in both)


def _scored_otherwise(first: RunFacts, other: RunFacts, stem: str) -> bool:
    known = [run.evaluations[stem].provenance.get(DATA_HASH) for run in (first, other) if stem in run.evaluations]
    return len(known) == 2 and None not in known and known[0] != known[1]


def _names(runs: Sequence[RunFolder], settings: Sequence[Settings]) -> list[str]:
    """Names that tell the runs apart: their methods, else their folders, else the whole paths."""
    choices: list[list[str]] = [[own.method.name for own in settings]]
    choices += [[run.root.name for run in runs], [str(run.root.resolve()) for run in runs]]
    for names in choices:
        if len(set(names)) == len(names):
            return names
    raise UserError(f"A run is named twice: {', '.join(choices[-1])}. Name every run once.")


def _evaluations(run: RunFolder, name: str) -> dict[str, Evaluation]:
    found = {}
    for headline in HEADLINES:
        for path in sorted(run.evaluation.glob(f"{headline}*.json")):
            if not path.stem.startswith(f"{headline}_student"):
                scores = read_evaluation(path).model_copy(update={"name": name})
                found[_stem(path.stem, scores)] = scores
    return found


def _stem(name: str, scores: Evaluation) -> str:
    """What a file of scores is called; one of before has options in its provenance alone."""
    side, _, checkpoint = name.partition("_")
    return name if name not in HEADLINES else stem_of(side, checkpoint, str(scores.provenance.get(OPTIONS) or ""))


def _logs(run: RunFacts) -> list[list[Row]]:
    """The log of a run; of an ensemble, which has none itself, those of its folds."""
    if not run.folder.folds.is_file():
        return [run.rows]
    return [read_rows(RunFolder(run.folder.root / name)) for name in read_folds(run.folder)]


def _steps(done: Sequence[int], of: int) -> str:
    """How far training has come; of an ensemble that is not trained yet, in how many of its folds."""
    if len(done) > 1 and min(done) < of:
        return f"{sum(steps == of for steps in done)} of {len(done)} folds trained, of {of} steps each"
    return f"{min(done, default=0)} of {of}"


def _column(run: RunFacts) -> dict[str, str]:
    """The facts of one run by their name."""
    known = run.provenance
    sides = ", ".join(f"{len(patients)} {side}" for side, patients in run.split.model_dump().items())
    training = run.settings.training
    logs = _logs(run)
    steps = [max((int(row["step"]) for row in rows), default=0) for rows in logs]
    rescues = sum(map(rescues_of, logs))
    seconds = known.get("seconds")
    facts = {
        "method": run.settings.method.name,
        "data": str(run.settings.data),
        "patients": sides,
        "split hash": run.split.hash,
        "steps": _steps(steps, training.steps),
        "rescues": f"{rescues} (training diverged)" if rescues else "none",
        "seed": str(training.seed),
        "network": f"{run.plan.dimensions}-D U-Net, input {' × '.join(map(str, run.plan.size))}, {training.precision}",
        "hardware": known.get("hardware"),
        "time": None if seconds is None else f"{seconds / 60:.1f} min, {known.get('steps_per_second')} steps/s",
        "software": f"patchcl {known.get('patchcl')}, torch {known.get('torch')}, Python {known.get('python')}",
        "commit": known.get("commit"),
        "started": known.get("started"),
        "command": known.get("command"),
        "went on elsewhere": "; ".join(known.get(MOVES, [])) or "no",
        "changed and accepted": "; ".join(known.get(ACCEPTED, [])) or "nothing",
    }
    return {key: value or "not known" for key, value in facts.items()}
