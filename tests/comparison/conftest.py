"""A folder of cells as training leaves them, without the training."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from patchcl.comparison.spec import Cell, Question, ask, cell_root, job_of, join
from patchcl.comparison.worker import Session, scores_file
from patchcl.config import settings_yaml
from patchcl.core.files import write_json, write_text
from patchcl.data.dataset import read_dataset
from patchcl.data.preprocessing.plan import save_plan
from patchcl.data.preprocessing.planner import make_plan
from patchcl.data.splits import make_split, save_split
from patchcl.evaluation.scores import Evaluation, Score, write_evaluation
from patchcl.runs.folder import RunFolder

QUIET = Console(quiet=True)
STRUCTURES = ("left", "right")


@pytest.fixture
def question(cardiac: Path, tiny: tuple[str, ...]) -> Callable[..., Question]:
    """Asks about the generated data set: methods, counts of labeled patients, seeds, and what else `ask` takes."""

    def make(
        methods: Sequence[str] = ("supervised", "patchcl"),
        labeled: Sequence[int | None] = (2,),
        seeds: Sequence[int] = (0,),
        *more: str,
        **options: object,
    ) -> Question:
        return ask(cardiac, methods, labeled, seeds, None, [*tiny, *more], **options)

    return make


def put_cell(question: Question, cell: Cell, out: Path, dice: Sequence[float], **facts: object) -> RunFolder:
    """A finished cell in which patient p0 has the first Dice in both structures, p1 the next, and so on."""
    job = job_of(question, cell, out, 1)
    run = RunFolder.create(job.root)
    dataset = read_dataset(question.data)
    write_text(run.settings, settings_yaml(job.settings))
    split = make_split(dataset, job.settings.split)
    save_split(run.split, split)
    save_plan(run.plan, make_plan(dataset, job.settings.plan))
    write_json(run.provenance, {"commit": "abc", "hardware": "an abacus", "seconds": 60.0} | facts)
    spent = Session(hardware="an abacus", threads=1, at_once=1, steps=6, seconds=60.0, peak_mib=512.0)
    write_json(run.root / "sessions.json", [spent.model_dump()])
    other = {"jaccard": 0.5, "hd95_mm": 9, "asd_mm": 3}
    for checkpoint, gain in (("best", 0.125), ("last", 0.0)):
        scores = [
            Score(patient=f"p{place}", case=f"p{place}", structure=name, dice=each + gain, **other)
            for place, each in enumerate(dice)
            for name in STRUCTURES
        ]
        known = {"on": question.on, "step": job.settings.training.steps, "split_fingerprint": split.fingerprint}
        evaluation = Evaluation(name="run", structures=STRUCTURES, unit="mm", scores=tuple(scores), provenance=known)
        path = scores_file(run.root, question.on, checkpoint)
        write_evaluation(evaluation, path.with_suffix(""))
    return run


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder that holds the question and, of its cells, those whose Dice are given."""

    def make(question: Question, dice: Callable[[Cell], Sequence[float] | None]) -> Path:
        out = tmp_path / "comparison"
        join(question, out)
        for cell in question.cells:
            values = dice(cell)
            if values is not None and not cell_root(out, cell).exists():
                put_cell(question, cell, out, values)
        return out

    return make
