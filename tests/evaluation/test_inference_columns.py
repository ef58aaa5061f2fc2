"""Every column is what prediction gives with that much done, and the last is what the run does."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from patchcl.config import Settings
from patchcl.core.files import write_json
from patchcl.data.dataset import read_dataset
from patchcl.data.splits import cases_of, load_split
from patchcl.evaluation.evaluate import evaluate_run
from patchcl.evaluation.inference_columns import predict_columns
from patchcl.evaluation.scores import read_evaluation, summarise, summary_rows
from patchcl.evaluation.tables import columns_table, render
from patchcl.inference.postprocessing import NO_POSTPROCESSING
from patchcl.inference.predict import PLAIN, predict_files
from patchcl.inference.trained_run import TrainedRun, open_run
from patchcl.runs.folder import RunFolder


@pytest.fixture
def run(trained, tmp_path, monkeypatch) -> RunFolder:
    """A run whose network finds everything everywhere in pieces, and whose post-processing changes much."""
    run = RunFolder(shutil.copytree(trained, tmp_path / "run"))
    torch.manual_seed(0)
    network = nn.Conv2d(1, 4, 5, padding=2, bias=False)
    monkeypatch.setattr(Settings, "build_network", lambda *_: nn.Conv2d(1, 4, 5, padding=2, bias=False))
    content = {"method": {f"teacher.{name}": weight for name, weight in network.state_dict().items()}, "step": 6}
    torch.save(content, run.last)
    steps = {"largest_together": True, "largest_of": ["RV", "MYO", "LV"], "filled": ["LV"]}
    write_json(run.postprocessing, {"postprocessing": steps, "validation": {}})
    return run


def masks_in(folder) -> dict[str, np.ndarray]:
    return {path.name: np.asarray(nib.load(path).dataobj) for path in sorted(folder.glob("*.nii.gz"))}


def columns(opened: TrainedRun, cardiac, tmp_path) -> dict[str, dict[str, np.ndarray]]:
    cases = cases_of(read_dataset(cardiac), load_split(opened.folder.split).test, masked=True)
    folders = predict_columns(opened, cases, tmp_path / "out", tmp_path / "scratch")
    assert list(folders.values())[-1] == tmp_path / "out"
    return {column: masks_in(folder) for column, folder in folders.items()}


def test_all_three_differ_and_are_what_predict_gives(run, cardiac, tmp_path):
    found = columns(open_run(run), cardiac, tmp_path)
    assert list(found) == ["one pass", "symmetries averaged", "and post-processed"]
    for number, (column, options) in enumerate(
        {
            "one pass": {"fast": True, "postprocessing": False},
            "symmetries averaged": {"postprocessing": False},
            "and post-processed": {},
        }.items()
    ):
        opened, out = open_run(run, **options), tmp_path / f"again_{number}"
        scans = (opened.network, opened.plan, cardiac / "imagesTs", out)
        assert predict_files(*scans, inference=opened.inference).failed == ()
        again = masks_in(out)
        assert found[column].keys() == again.keys()
        for name, mask in again.items():
            np.testing.assert_array_equal(mask, found[column][name])
    first, second, third = ([mask.tobytes() for mask in masks.values()] for masks in found.values())
    assert first != second != third


def test_what_is_not_done_has_no_column(run, cardiac, tmp_path):
    assert list(columns(open_run(run, fast=True), cardiac, tmp_path / "a")) == ["one pass", "and post-processed"]
    plain = columns(open_run(run, postprocessing=False), cardiac, tmp_path / "b")
    assert list(plain) == ["one pass", "symmetries averaged"]
    neither = open_run(run, fast=True, postprocessing=False)
    assert neither.inference == PLAIN
    assert list(columns(neither, cardiac, tmp_path / "c")) == ["one pass"]


def test_a_run_of_before_scores_as_before_with_both_off(run, cardiac):
    run.postprocessing.unlink()
    assert open_run(run).inference.postprocessing == NO_POSTPROCESSING
    evaluation = evaluate_run(run, fast=True, postprocessing=False)
    assert evaluation.columns == {}
    assert evaluation.provenance["symmetries"] == 1
    assert evaluation.provenance["postprocessing"] == "none"
    assert (
        "columns" not in json.loads((run.evaluation / "test_last_fast_no-postprocessing.json").read_text())["summary"]
    )


def test_the_columns_are_kept_where_old_readers_look_past_them(run, cardiac):
    evaluation = evaluate_run(run)
    content = json.loads((run.evaluation / "test_last.json").read_text())
    known = {"summary", "name", "structures", "unit", "scores", "provenance"}
    assert content.keys() == known  # version 0.1 refuses others, and leaves the summary aside
    assert content["summary"]["structures"] == summary_rows(evaluation)
    assert read_evaluation(run.evaluation / "test_last.json") == evaluation
    assert list(evaluation.columns) == ["one pass", "symmetries averaged", "and post-processed"]
    assert evaluation.columns["and post-processed"] == summary_rows(evaluation)
    plain = evaluate_run(run, fast=True, postprocessing=False)
    assert evaluation.columns["one pass"] == summary_rows(plain)
    assert summarise(plain, "dice") != summarise(evaluation, "dice")


def test_the_table_shows_every_column_and_names_the_steps(run, cardiac):
    evaluation = evaluate_run(run)
    console = Console(record=True, width=200)
    render(evaluation, console)
    text = " ".join(console.export_text().split())
    assert "what symmetries and post-processing add" in text
    assert "largest component of RV, MYO, LV; holes filled in LV" in text
    table = columns_table(evaluation)
    assert [column.header for column in table.columns][1:4] == [
        "Dice %\none pass", "Dice %\nsymmetries averaged", "Dice %\nand post-\nprocessed",
    ]  # fmt: skip
    last = list(table.columns[3].cells)[-1]
    assert last == f"{100 * summarise(evaluation, 'dice').mean:.1f}"
    small = Console(record=True, width=80)
    small.print(table)
    assert "…" not in (shown := small.export_text())
    assert all(word in shown for word in ("structure", "symmetries", "averaged", "post-", "processed"))
