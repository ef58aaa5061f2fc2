"""A folder of runs as training leaves them, without the training."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from patchcl.comparison.spec import CompareRun, CompareSpec, build_spec, job_of, run_root
from patchcl.comparison.spec_file import add_spec
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


def put_run(spec: CompareSpec, compare_run: CompareRun, out: Path, dice: Sequence[float], **facts: object) -> RunFolder:
    """A finished run in which patient p0 has the first Dice in both structures, p1 the next, and so on."""
    job = job_of(spec, compare_run, out, 1)
    run = RunFolder.create(job.root)
    dataset = read_dataset(spec.data)
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
