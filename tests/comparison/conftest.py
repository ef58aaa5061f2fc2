"""A folder of runs as training leaves them, without the training."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from patchcl.comparison.results import LabelBudget, read_budgets
from patchcl.comparison.spec import CompareRun, CompareSpec, build_spec, job_of, run_root
from patchcl.comparison.spec_file import add_spec
from patchcl.comparison.worker import Session, scores_file
from patchcl.config import settings_yaml
from patchcl.core.files import write_json, write_text
from patchcl.data.dataset import read_dataset
from patchcl.data.preprocessing.plan import save_plan
from patchcl.data.preprocessing.planner import make_plan
from patchcl.data.splits import make_split, save_split
from patchcl.evaluation.scores import Evaluation, Score, read_evaluation, write_evaluation
from patchcl.runs.folder import RunFolder

QUIET = Console(quiet=True)
STRUCTURES = ("left", "right")
BASE = (0.25, 0.5, 0.5) * 4
"""Dice of `supervised` in the fixture `budgets`, patient by patient."""


@pytest.fixture
def make_spec(cardiac: Path, tiny: tuple[str, ...]) -> Callable[..., CompareSpec]:
    """Makes the spec of a comparison on the generated data set: methods, label budgets, seeds, and the rest."""

    def make(
        methods: Sequence[str] = ("supervised", "patchcl"),
        labeled: Sequence[int | None] = (2,),
        seeds: Sequence[int] = (0,),
        *more: str,
        **options: object,
    ) -> CompareSpec:
        return build_spec(cardiac, methods, labeled, seeds, None, [*tiny, *more], **options)

    return make


def put_run(spec: CompareSpec, compare_run: CompareRun, out: Path, dice: Sequence[float]) -> RunFolder:
    """A finished run in which patient p0 has the first Dice in both structures, p1 the next, and so on."""
    job = job_of(spec, compare_run, out, 1)
    run = RunFolder.create(job.root)
    dataset = read_dataset(spec.data)
    write_text(run.settings, settings_yaml(job.settings))
    split = make_split(dataset, job.settings.split)
    save_split(run.split, split)
    save_plan(run.plan, make_plan(dataset, job.settings.plan))
    write_json(run.provenance, {"commit": "abc", "hardware": "an abacus", "seconds": 60.0})
    spent = Session(hardware="an abacus", threads=1, at_once=1, steps=6, seconds=60.0, peak_mib=512.0)
    write_json(run.root / "sessions.json", [spent.model_dump()])
    other = {"jaccard": 0.5, "hd95_mm": 9, "asd_mm": 3, "surface_dice": 0.75}
    for checkpoint, gain in (("best", 0.125), ("last", 0.0)):
        scores = [
            Score(patient=f"p{index}", case=f"p{index}", structure=name, dice=each + gain, **other)
            for index, each in enumerate(dice)
            for name in STRUCTURES
        ]
        known = {"on": spec.on, "step": job.settings.training.steps, "split_hash": split.hash}
        evaluation = Evaluation(name="run", structures=STRUCTURES, unit="mm", scores=tuple(scores), provenance=known)
        path = scores_file(run.root, spec.on, checkpoint)
        write_evaluation(evaluation, path.with_suffix(""))
    return run


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder that holds the spec and, of its runs, those whose Dice are given."""

    def make(spec: CompareSpec, dice: Callable[[CompareRun], Sequence[float] | None]) -> Path:
        out = tmp_path / "comparison"
        add_spec(spec, out)
        for compare_run in spec.runs:
            values = dice(compare_run)
            if values is not None and not run_root(out, compare_run).exists():
                put_run(spec, compare_run, out, values)
        return out

    return make


@pytest.fixture
def rename_structures() -> Callable[..., None]:
    """Gives the structures of all scores in a folder other names."""

    def rename(out: Path, names: Sequence[str]) -> None:
        other = dict(zip(STRUCTURES, names, strict=True))
        for path in (out / "runs").rglob("evaluation/*.json"):
            evaluation = read_evaluation(path)
            scores = [each.model_copy(update={"structure": other[each.structure]}) for each in evaluation.scores]
            changes = {"structures": tuple(names), "scores": tuple(scores)}
            write_evaluation(evaluation.model_copy(update=changes), path.with_suffix(""))

    return rename


@pytest.fixture
def budgets(make_spec: Callable[..., CompareSpec], folder: Callable[..., Path]) -> Callable[..., list[LabelBudget]]:
    """Made of how much Dice every method adds to that of supervised; None for a missing run."""

    def make(seeds=(0, 1), labeled=(2,), patients=12, min_effect=0.001, **gains):
        spec = make_spec(tuple(gains), labeled, seeds, min_effect=min_effect)

        def dice(compare_run):
            gain = (
                gains[compare_run.method](compare_run)
                if callable(gains[compare_run.method])
                else gains[compare_run.method]
            )
            return None if gain is None else [each + gain for each in BASE[:patients]]

        return read_budgets(spec, folder(spec, dice))

    return make


def change_scores(spec: CompareSpec, compare_run: CompareRun, out: Path, **changes: object) -> None:
    """Put `changes` into the scores of the last checkpoint of a run; those of provenance are added."""
    path = scores_file(run_root(out, compare_run), spec.on, "last")
    evaluation = read_evaluation(path)
    known = evaluation.provenance | changes.pop("provenance", {})
    write_evaluation(evaluation.model_copy(update={**changes, "provenance": known}), path.with_suffix(""))


@pytest.fixture
def change() -> Callable[..., None]:
    """See `change_scores`."""
    return change_scores
