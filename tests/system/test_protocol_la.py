"""The protocol of the left atrium says what its tables were made with, and it runs on volumes of its kind."""

import json
from pathlib import Path

from rich.console import Console

from patchcl.config import make_settings
from patchcl.data.preprocessing.plan import load_plan
from patchcl.data.splits import load_split
from patchcl.evaluation.evaluate import evaluate_run
from patchcl.inference.sliding_window import window_steps
from patchcl.runs.folder import RunFolder
from patchcl.training.experiment import start

PROTOCOL = Path(__file__).parents[2] / "experiments" / "la.yaml"


def test_every_constant_is_that_of_the_protocol():
    settings = make_settings(config=PROTOCOL, labeled=8)
    assert (settings.plan.dimensions, settings.plan.fit, settings.plan.size) == (3, "crop", (112, 112, 80))
    assert settings.plan.window_stride == (18, 18, 4)
    training = settings.training
    assert (training.steps, training.labeled_per_batch, training.unlabeled_per_batch) == (6000, 2, 2)
    assert (training.optimizer, training.learning_rate) == ("sgd", 0.01)
    assert (settings.split.labeled, settings.split.validation_fraction) == (8, 0)


def test_it_runs_on_volumes_without_validation_patients_and_is_scored_with_its_strides(cardiac, tmp_path):
    split = tmp_path / "split.json"
    order = ["patient003", "patient001", "patient002", "patient004"]
    split.write_text(json.dumps({"train": order, "test": ["patient010", "patient011", "patient012"]}))
    small = {
        "plan.size": [16, 16, 4], "plan.window_stride": [7, 9, 2], "plan.spacing_mm": [3, 3, 8],
        "network.features": [4, 8], "training.steps": 2, "training.device": "cpu",
        "method.contrast.patches_per_class": 2, "inference.symmetries": False,
    }  # fmt: skip
    settings = make_settings(config=PROTOCOL, split=split, labeled=2, settings=small)
    outcome = start(cardiac, tmp_path / "run", settings, Console(quiet=True))
    run = RunFolder.open(outcome.run.root)
    plan, chosen = load_plan(run.plan), load_split(run.split)
    assert window_steps(plan) == (7, 9, 2)
    assert (chosen.labeled, chosen.unlabeled) == (("patient003", "patient001"), ("patient002", "patient004"))
    assert (chosen.validation, len(chosen.test)) == ((), 3)
    assert len(evaluate_run(run, "test").patients) == 3
