"""The page of a comparison as a reader sees it."""

import base64
import re
import shutil
from html.parser import HTMLParser

import pytest
from matplotlib.figure import Figure

from patchcl.comparison.page import PANELS, write_compare_page
from patchcl.comparison.results import read_budgets
from patchcl.comparison.spec import run_root
from patchcl.comparison.worker import scores_file
from patchcl.data.dataset import read_dataset
from patchcl.evaluation.metrics import EMPTY_POLICY
from patchcl.evaluation.scores import read_evaluation, write_evaluation
from patchcl.runs.folder import RunFolder

BASE = [0.25, 0.5, 0.5, 0.25, 0.5, 0.5]


class Page(HTMLParser):
    """Its text, headings, pictures and rows; and whether every tag was closed."""

    def __init__(self, path) -> None:
        super().__init__()
        self.words, self.headings, self.sources, self.best, self.open = [], [], [], [], []
        self.html = path.read_text(encoding="utf-8")
        self.feed(self.html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.sources += [attributes[key] for key in ("src", "srcset", "href") if key in attributes]
        if tag not in ("meta", "img", "source"):
            self.open.append((tag, attributes.get("class")))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        tag, kind = self.open[-1] if self.open else (None, None)
        if tag and tag != "style":
            self.words.append(data)
        if tag in ("h1", "h2"):
            self.headings.append(data)
        if kind == "best":
            self.best.append(data)


@pytest.fixture
def blank_charts(monkeypatch):
    """Drawing takes seconds, and most tests do not look at it."""
    monkeypatch.setattr("patchcl.comparison.page.themed", lambda draw: {"light": "blank", "dark": "blank"})


@pytest.fixture
def page(make_spec, folder):
    """Made of how much Dice every method adds to that of supervised; None for a missing run."""

    def make(labeled=(2,), seeds=(0, 1), put=lambda spec, out: None, **gains):
        spec = make_spec(tuple(gains), labeled, seeds)

        def dice(compare_run):
            gain = gains[compare_run.method]
            return None if gain is None else [each + gain for each in BASE]

        out = folder(spec, dice)
        put(spec, out)
        write_compare_page(spec, read_budgets(spec, out), out)
        return Page(out / "compare.html")

    return make


def put_scans(spec, out):
    """Give the scores to test patients, and predict for them just what the reference says."""
    cases = [case for case in read_dataset(spec.data).cases if case.folder == "imagesTs"]
    for compare_run in spec.runs:
        path = scores_file(run_root(out, compare_run), "test", "last")
        evaluation = read_evaluation(path)
        names = {f"p{index}": case for index, case in enumerate(cases)}
        scores = [
            score.model_copy(update={"patient": names[score.patient].patient, "case": names[score.patient].name})
            for score in evaluation.scores
            if score.patient in names
        ]
        write_evaluation(evaluation.model_copy(update={"scores": tuple(scores)}), path.with_suffix(""))
        predictions = RunFolder(run_root(out, compare_run)).predictions / "test_last"
        predictions.mkdir(parents=True)
        for case in cases:
            shutil.copy(case.mask, predictions / f"{case.name}.nii.gz")


def test_the_whole_page(page):
    made = page(labeled=(1, 2), put=put_scans, supervised=0, patchcl=0.125)
    assert made.open == []
    assert made.headings == [
        "patchcl scores highest",
        "How far the masks go",
        "1 labeled patient",
        "2 labeled patients",
        "What the masks look like",
        "Facts",
    ]
    assert made.text.count(EMPTY_POLICY) == 2
    assert "+12.5 +12.5 to +12.5" in made.text
    assert "the median patient by the Dice of supervised" in made.text
    assert "an abacus" in made.text
    assert len(made.sources) == 3 * 2 + 1
    needs_nothing_but_itself(made)


def needs_nothing_but_itself(made):
    for source in made.sources:
        kind, _, content = source.partition(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(content, validate=True).startswith(b"\x89PNG")
    assert not re.search(r"<script|<link|@import|url\(|https?://", made.html)
    assert "prefers-color-scheme: dark" in made.html


@pytest.mark.usefixtures("blank_charts")
def test_the_best_of_every_column_is_marked(page):
    made = page(supervised=0, patchcl=0.125)
    assert made.best == ["54.2 ± 0.0", "66.7 ± 0.0", "54.2 ± 0.0", "54.2 ± 0.0"]  # last, best, and both structures


@pytest.mark.usefixtures("blank_charts")
def test_names_of_structures_are_text(page, rename_structures):
    names = ("[/red]", "<script>alert(1)</script>")
    made = page(put=lambda _, out: rename_structures(out, names), supervised=0, patchcl=0.125)
    assert all(name in made.text for name in names)
    assert "<script" not in made.html


@pytest.mark.usefixtures("blank_charts")
def test_missing_runs_are_listed_with_their_reason(page):
    made = page(supervised=0, patchcl=None)
    assert "2 of the runs have no result" in made.text
    assert "labeled_2/patchcl/seed_1 not run yet" in made.text
    assert "Missing runs" in made.headings


@pytest.mark.usefixtures("blank_charts")
def test_nothing_done_is_still_a_page(page):
    made = page(supervised=None)
    assert made.headings == ["Nothing to compare yet", "Facts", "Missing runs"]
    assert made.sources == []


@pytest.mark.usefixtures("blank_charts")
def test_pictures_are_left_out_when_the_scans_are_gone(page):
    made = page(supervised=0, patchcl=0.125)
    assert "What the masks look like" not in made.headings
    assert "How far the masks go" not in made.headings


@pytest.mark.usefixtures("blank_charts")
def test_many_methods_wrap_to_more_rows_of_pictures(page, monkeypatch):
    drawn = []

    def keep(rows, columns, classes, **_):
        drawn.append((rows, columns))
        return Figure()

    monkeypatch.setattr("patchcl.comparison.page.overlay_grid", keep)
    page(put=put_scans, supervised=0, patchcl=0.125, mean_teacher=0, fixmatch=0)
    ((rows, columns),) = drawn
    assert [len(row) for row in rows] == [PANELS, 6 - PANELS]
    assert len(columns) == PANELS
    captions = [panel.caption for row in rows for panel in row]
    assert captions[:4] == ["image", "reference", "patchcl: Dice 62.5 %", "supervised: Dice 50.0 %"]
