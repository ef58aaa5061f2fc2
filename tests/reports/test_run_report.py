import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from patchcl.api import report
from patchcl.config import load_settings, settings_yaml
from patchcl.core.errors import UserError
from patchcl.core.files import write_json
from patchcl.data.dataset import read_dataset
from patchcl.data.preprocessing.plan import PlanSettings, save_plan
from patchcl.data.preprocessing.planner import make_plan
from patchcl.data.splits import make_split
from patchcl.evaluation.evaluate import evaluate_run
from patchcl.evaluation.metrics import EMPTY_POLICY
from patchcl.evaluation.object_metrics import OBJECT_POLICY
from patchcl.evaluation.scores import (
    Evaluation,
    PooledObjects,
    Score,
    read_evaluation,
    with_columns,
    write_evaluation,
)
from patchcl.figures.charts import diagnostic_curves
from patchcl.figures.overlays import png, pseudo_mask_strip
from patchcl.methods.settings import PatchCLSettings, SupervisedSettings
from patchcl.networks import build_network
from patchcl.reports.run_report import diagnostics, write_report
from patchcl.runs.folder import RunFolder

SETTINGS = {"supervised": SupervisedSettings(), "patchcl": PatchCLSettings()}


class Page(HTMLParser):
    """What a reader sees: the text, the headings, the sources of pictures; and whether every tag was closed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.words, self.headings, self.sources, self.open = [], [], [], []
        self.html = path.read_text(encoding="utf-8")
        self.feed(self.html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.sources += [attributes[key] for key in ("src", "srcset", "href") if key in attributes]
        if tag not in ("meta", "img", "source"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(data)


def make_run(root: Path, data: Path, method: str, *changes: str, seed: int = 0) -> RunFolder:
    """A run as training leaves it behind, but for the training and its log."""
    settings = load_settings(None, [f"method.name={method}", f"data={data}", "network.features=[4, 8]", *changes])
    dataset = read_dataset(data)
    plan = make_plan(dataset, PlanSettings(size=(32, 32), fit="resize"))
    split = make_split(dataset, settings.split)
    run = RunFolder.create(root)
    run.settings.write_text(settings_yaml(settings))
    save_plan(run.plan, plan)
    write_json(run.split, {**split.model_dump(mode="json"), "hash": split.hash})
    write_json(run.provenance, {"patchcl": "0.1.0", "hardware": "an abacus <fast>", "seconds": 90.0, "commit": None})
    torch.manual_seed(seed)
    network = build_network(settings.network, 1, len(plan.classes), plan.size)
    nn.init.zeros_(network.classify.bias)
    torch.save({"method": nn.ModuleDict({"teacher": network}).state_dict(), "step": 5}, run.last)
    return run


def put_log(run: RunFolder) -> None:
    rows = [{"step": 5, "loss": 1.0, "supervised": 0.5}, {"step": 5, "validation_dice": 0.25}]
    run.log_jsonl.write_text("".join(json.dumps(row) + "\n" for row in rows))


def draw_strips(run: RunFolder, steps: tuple[int, ...]) -> None:
    flat = np.zeros((1, 8, 8))
    for step in steps:
        path = run.pictures / f"pseudo_masks_step_{step:06d}.png"
        pseudo_mask_strip(path, flat, flat.astype(int), flat, ("background", "left"))


def put_scores(run: RunFolder, dice: list[float], stem: str = "test_last", structures=("left",)) -> None:
    scores = [
        Score(patient=f"p{index}", case=f"p{index}", structure=each, dice=value, jaccard=value, hd95_mm=9, asd_mm=1)
        for index, value in enumerate(dice)
        for each in structures
    ]
    evaluation = Evaluation(name="run", structures=structures, unit="mm", scores=tuple(scores), provenance={})
    write_evaluation(evaluation, run.evaluation / stem)


def test_the_whole_page(cardiac, tmp_path):
    supervised = make_run(tmp_path / "supervised", cardiac, "supervised", seed=1)
    patchcl = make_run(tmp_path / "patchcl", cardiac, "patchcl", seed=2)
    evaluations = [evaluate_run(run) for run in (supervised, patchcl)]
    put_log(patchcl)
    draw_strips(patchcl, (100, 200, 300, 400))
    write_report([supervised, patchcl], tmp_path / "report.html")
    page = Page(tmp_path / "report.html")

    assert page.open == []
    assert page.headings == [
        "No clear difference from the unlabeled scans",
        "Scores",
        "Difference, patient by patient",
        "What the masks look like",
        "Learning",
        "What the teacher of patchcl believed of unlabeled scans",
        "Facts",
    ]
    for evaluation in evaluations:
        for structure in evaluation.structures:
            mean = 100 * np.mean([score.dice for score in evaluation.scores if score.structure == structure])
            assert f"{mean:.1f} ±" in page.text
    assert EMPTY_POLICY in page.text
    assert json.loads(supervised.split.read_text())["hash"] in page.text
    assert "after 100 steps after 300 steps after 400 steps" in page.text
    assert "best, the median and the worst patient by the Dice of supervised" in page.text
    assert "an abacus <fast>" in page.text
    assert "1.5 min" in page.text


def test_the_page_needs_nothing_but_itself(cardiac, tmp_path):
    run = make_run(tmp_path / "run", cardiac, "patchcl")
    put_log(run)
    evaluate_run(run)
    write_report([run], tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert page.sources
    for source in page.sources:
        kind, _, content = source.partition(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(content, validate=True).startswith(b"\x89PNG")
    assert not re.search(r"<script|<link|@import|url\(|https?://", page.html)
    assert "prefers-color-scheme: dark" in page.html


@pytest.mark.parametrize(
    ("gain", "headline"),
    [
        (0.1, "Yes, the unlabeled scans helped"),
        (-0.1, "No, the unlabeled scans hurt"),
        (0.0, "The unlabeled scans made no difference that counts"),
    ],
)
def test_the_answer_stands_at_the_top(cardiac, tmp_path, gain, headline):
    runs = [make_run(tmp_path / method, cardiac, method) for method in ("supervised", "patchcl")]
    before = [0.3, 0.5, 0.4, 0.6, 0.5, 0.4, 0.2, 0.6]
    put_scores(runs[0], before)
    put_scores(runs[1], [value + gain for value in before])
    write_report(runs, tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert page.headings[0] == headline
    assert ("+10.0 Dice points" in page.text) == (gain > 0)


def test_a_difference_that_is_too_small_to_count_is_none(cardiac, tmp_path):
    runs = [make_run(tmp_path / method, cardiac, method) for method in ("supervised", "patchcl")]
    for run, dice in zip(runs, (0.5, 0.51), strict=True):
        put_scores(run, [dice] * 6)
    found = {}
    for points in (0.1, 2):
        report([run.root for run in runs], tmp_path / "report.html", min_effect=points)
        page = Page(tmp_path / "report.html")
        found[points] = page.headings[0], "less than 2 Dice points counts as none" in page.text
    assert found == {
        0.1: ("Yes, the unlabeled scans helped", False),
        2: ("The unlabeled scans made no difference that counts", True),
    }
    with pytest.raises(UserError, match=r"is 100 Dice points.*--min-effect"):
        report(runs[0].root, tmp_path / "report.html", min_effect=100)


def test_what_symmetries_and_postprocessing_add_has_a_table(cardiac, tmp_path):
    runs = [make_run(tmp_path / method, cardiac, method) for method in ("supervised", "patchcl")]
    put_scores(runs[0], [0.5, 0.6])
    put_scores(runs[1], [0.7, 0.8])
    scored = read_evaluation(runs[1].evaluation / "test_last.json")
    one_pass = scored.model_copy(
        update={"scores": tuple(score.model_copy(update={"dice": 0.625}) for score in scored.scores)}
    )
    both = with_columns({"one pass": one_pass, "symmetries averaged": scored})
    write_evaluation(both, runs[1].evaluation / "test_last")
    write_report(runs, tmp_path / "report.html")
    text = Page(tmp_path / "report.html").text
    assert "run one pass symmetries averaged supervised – – patchcl 62.5 75.0" in text


def test_a_run_without_scores_shows_its_curves(cardiac, tmp_path):
    run = make_run(tmp_path / "run", cardiac, "patchcl")
    put_log(run)
    write_report([run], tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert page.headings == ["Nothing to compare yet", "Learning", "Facts"]
    assert f"patchcl evaluate {run.root}" in page.text


def test_diagnostics_show_warnings_tables_and_curves(cardiac, tmp_path):
    runs = [make_run(tmp_path / method, cardiac, method) for method in ("supervised", "patchcl")]
    put_log(runs[0])
    figures = {"accepted_left": 0.5, "agreement_left": 0.125, "found_left": 0.375, "ece_structures": 0.0625}
    rows = [{"step": 5, "loss": 1.0, "consistency": 0.5}, *[{"step": 5, "validation_dice": 0.25, **figures}] * 3]
    runs[1].log_jsonl.write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_report(runs, tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert page.open == []
    assert page.headings == ["Nothing to compare yet", "Learning", "Diagnostics", "Facts"]
    assert "patchcl: Pseudo-labels are wrong more often than right" in page.text
    assert "left patchcl 50.0 12.5 37.5" in page.text
    assert "patchcl 5 – 0.0625" in page.text
    assert "No warning." not in page.text
    assert page.html.count('alt="Agreement, calibration error') == 1


def test_a_healthy_run_says_so(cardiac, tmp_path):
    run = make_run(tmp_path / "run", cardiac, "patchcl")
    run.log_jsonl.write_text('{"step": 5, "validation_dice": 0.25, "ece": 0.03125}\n')
    write_report([run], tmp_path / "report.html")
    assert "No warning." in Page(tmp_path / "report.html").text


def test_a_run_that_has_only_begun_has_a_page(cardiac, tmp_path):
    run = make_run(tmp_path / "run", cardiac, "patchcl")
    run.provenance.unlink()
    write_report([run], tmp_path / "report.html")
    assert Page(tmp_path / "report.html").headings == ["Nothing to compare yet", "Facts"]


def test_pictures_are_left_out_when_the_scans_are_gone(cardiac, tmp_path):
    run = make_run(tmp_path / "run", cardiac, "patchcl")
    put_scores(run, [0.5, 0.25])
    write_report([run], tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert "What the masks look like" not in page.headings
    assert "patchcl: mean Dice 37.5 ± 17.7 % over 2 patients." in page.text


def test_the_last_checkpoint_is_the_headline_and_the_best_comes_second(cardiac, tmp_path):
    run = make_run(tmp_path / "run", cardiac, "patchcl")
    put_scores(run, [0.75], "test_best")
    put_scores(run, [0.5], "test_last")
    write_report([run], tmp_path / "report.html")
    text = Page(tmp_path / "report.html").text
    assert "mean Dice 50.0 % over 1 patient." in text
    assert text.index("the end of training") < text.index("the checkpoint that scored best on validation")


def test_what_else_differs_is_said(cardiac, tmp_path):
    first = make_run(tmp_path / "a", cardiac, "supervised")
    second = make_run(
        tmp_path / "b", cardiac, "patchcl", "training.steps=99", "split.labeled=1", "method.teacher_decay=0.5"
    )
    write_report([first, second], tmp_path / "report.html")
    text = Page(tmp_path / "report.html").text
    assert "patchcl and supervised differ in more than the method: split.labeled, training.steps." in text
    assert "patchcl and supervised learned from different splits" in text


def test_runs_with_other_patients_are_not_compared(cardiac, tmp_path):
    runs = [make_run(tmp_path / method, cardiac, method) for method in ("supervised", "patchcl")]
    put_scores(runs[0], [0.5, 0.5])
    put_scores(runs[1], [0.5])
    write_report(runs, tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert page.headings[0] == "Scores without a comparison"
    assert "p1 only in supervised" in page.text


def test_runs_of_one_method_go_by_their_folders(cardiac, tmp_path):
    runs = [make_run(tmp_path / name, cardiac, "patchcl") for name in ("seed0", "seed1")]
    write_report(runs, tmp_path / "report.html")
    assert "All settings of seed0 " in Page(tmp_path / "report.html").text
    with pytest.raises(UserError, match="named twice"):
        write_report([runs[0], runs[0]], tmp_path / "again.html")


def test_a_page_that_cannot_be_written_is_explained(cardiac, tmp_path):
    run = make_run(tmp_path / "run", cardiac, "patchcl")
    with pytest.raises(UserError, match="Cannot write"):
        write_report([run], run.settings / "report.html")


def test_single_objects_are_shown_where_all_runs_know_them(cardiac, tmp_path):
    runs = [make_run(tmp_path / name, cardiac, name) for name in ("supervised", "patchcl")]
    found = {"object_f1": 0.625, "object_dice": 0.5, "object_hausdorff_mm": 7.0}
    for run, dice in zip(runs, (0.5, 0.6), strict=True):
        put_scores(run, [dice] * 3)
        path = run.evaluation / "test_last.json"
        plain = Evaluation.model_validate(json.loads(path.read_text()) | {"summary": None}, extra="ignore")
        scores = tuple(score.model_copy(update=found) for score in plain.scores)
        pool = {"left": PooledObjects(**found)}
        write_evaluation(plain.model_copy(update={"scores": scores, "pooled": pool}), path.with_suffix(""))
    write_report(runs, tmp_path / "report.html")
    text = Page(tmp_path / "report.html").text
    assert "object F1 % object Dice % Hausdorff mm" in text
    assert "62.5 ± 0.0" in text
    assert OBJECT_POLICY in text

    put_scores(runs[1], [0.6] * 3)
    write_report(runs, tmp_path / "report.html")
    assert "object F1" not in Page(tmp_path / "report.html").text.replace(OBJECT_POLICY, "")


def test_the_tables_hold_the_last_validation(diagnostic_logs):
    content = diagnostics(diagnostic_logs, SETTINGS)
    assert content["warnings"] == []
    assert content["classes"] == [
        ("background", [("supervised", ["100.0", "87.5", "75.0"]), ("patchcl", ["100.0", "87.5", "75.0"])]),
        ("left", [("supervised", ["0.0", "–", "0.0"]), ("patchcl", ["50.0", "62.5", "0.0"])]),
    ]
    assert content["whole"] == {
        "columns": ["all pixels", "structures", "effective rank"],
        "rows": [("supervised", "20", ["0.0312", "0.25", "–"]), ("patchcl", "40", ["0.0625", "0.25", "3.14"])],
    }


def test_every_warning_stands_beside_its_run(diagnostic_logs):
    first, last, _ = diagnostic_logs["patchcl"]
    ill = [{"step": step, "loss": 1.0, "consistency": 1.0} for step in range(3)]
    ill += [last | {"step": step, "agreement_left": 0.25} for step in range(3)]
    content = diagnostics({"supervised": [first], "patchcl": ill}, SETTINGS)
    ((run, warning),) = content["warnings"]
    assert run == "patchcl"
    assert "25.0 % of left. Raise method.confidence_threshold (now 0)" in warning


@pytest.mark.parametrize("rows", [[], [{"step": 5, "loss": 1.0, "accepted": 0.5}, {"step": 5, "validation_dice": 0.2}]])
def test_runs_that_logged_none_of_it_show_nothing(rows):
    assert diagnostics({"patchcl": rows}, SETTINGS) is None
    assert png(diagnostic_curves({"patchcl": rows})).startswith(b"\x89PNG")


def test_a_run_that_logged_contrast_alone_still_has_its_warning():
    rows = [{"step": step, "loss": 8.0, "contrast": 8.0, "contrast_over_collapse": 0.0} for step in range(40)]
    content = diagnostics({"patchcl": rows}, SETTINGS)
    assert [run for run, _ in content["warnings"]] == ["patchcl"]
    assert content["classes"] == content["whole"]["rows"] == []
