"""Warnings: each at its boundary, none for a healthy run, and a collapse that is provoked for real."""

import io
import re

import pytest
from rich.console import Console

from patchcl.config import load_settings
from patchcl.methods import settings_classes
from patchcl.methods.settings import FixMatchSettings, PatchCLSettings
from patchcl.reports.run_report import write_report
from patchcl.runs.log import read_rows
from patchcl.training.diagnostics import (
    MARGIN,
    MAX_ERROR,
    MIN_AGREEMENT,
    MIN_FOUND,
    MIN_SEPARABILITY,
    ROWS,
    VALIDATIONS,
    class_names,
    new_warnings,
    warnings,
)
from patchcl.training.experiment import start

CLASSES = ("background", "left", "right")
HEALTHY = {
    "validation_dice": 0.8,
    **{f"accepted_{name}": 0.9 for name in CLASSES},
    **{f"agreement_{name}": 0.7 for name in CLASSES},
    **{f"found_{name}": 0.6 for name in CLASSES},
    "ece": 0.01,
    "ece_structures": 0.15,
    "effective_rank": 2.5,
    "separability": 1.5,
}
KINDS = pytest.mark.parametrize("kind", settings_classes(), ids=lambda kind: kind.model_fields["name"].default)


def trained(count=2 * ROWS, **terms):
    """Rows of training in which the contrast learns."""
    return [
        {"step": step, "loss": 1.0, "contrast": 7.0, "contrast_over_collapse": -step / 10, "consistency": 0.3} | terms
        for step in range(1, count + 1)
    ]


def validated(count=VALIDATIONS, **figures):
    rows = [{"step": step} | HEALTHY | figures for step in range(1, count + 1)]
    return [{key: value for key, value in row.items() if value is not None} for row in rows]


def test_a_healthy_run_raises_none_at_any_time():
    rows = [row for pair in zip(trained(), validated(2 * ROWS), strict=True) for row in pair]
    for length in range(len(rows) + 1):
        assert warnings(rows[:length], PatchCLSettings()) == []


def test_contrast_is_judged_by_its_best_in_the_later_half():
    early = trained(ROWS // 2, contrast_over_collapse=-3.0)
    late = trained(ROWS // 2, contrast_over_collapse=0.01 - MARGIN)
    (warning,) = warnings(early + late, PatchCLSettings(contrast={"weight": 0.25, "temperature": 0.5}))
    assert warning == (
        "The contrast has not moved from its collapse value in the last 10 log rows (it was never more than 0.040 "
        "below): raise method.contrast.weight (now 0.25), or lower method.contrast.temperature (now 0.5)."
    )
    assert warnings(early + late[:-1]) == [], "too few rows to say"
    assert warnings(early + late[:-1] + trained(1, contrast_over_collapse=-MARGIN)) == []
    assert len(warnings(trained(ROWS, contrast_over_collapse=0.3))) == 1, "above the collapse value is no better"
    wide = trained(ROWS, contrast_over_collapse=0.3)
    assert warnings(wide + validated(separability=MIN_SEPARABILITY)) == [], "unless the classes do come apart"
    assert len(warnings(wide + validated(separability=0.9 * MIN_SEPARABILITY))) == 1


def test_rows_without_anything_to_contrast_are_no_collapse_but_a_warning_of_their_own():
    nothing = {"contrast": 0.0, "contrast_over_collapse": 0.0}
    (warning,) = warnings(trained(ROWS, **nothing), PatchCLSettings())
    assert "nothing to contrast in the last 10 log rows" in warning
    assert "lower method.contrast.memory_min_size (now 32)" in warning
    assert warnings(trained(ROWS - 1, **nothing) + trained(1, contrast_over_collapse=-MARGIN)) == []


def test_embeddings_on_a_line_are_a_collapse_too():
    (warning,) = warnings(validated(effective_rank=1.4))
    assert "all 3 classes all but lie on one line (effective rank 1.4): raise method.contrast.weight" in warning
    assert warnings(validated(effective_rank=1.5)) == [], "half the classes"
    assert warnings(validated(effective_rank=0.0)) == [], "nothing was embedded yet"
    assert warnings(validated(2, effective_rank=1.4)) == [], "too early"
    four = {"accepted_fourth": 1.0}
    assert len(warnings(validated(effective_rank=1.99, **four))) == 1
    assert warnings(validated(effective_rank=2.0, **four)) == []
    two = {f"{figure}_right": None for figure in ("accepted", "agreement", "found")}
    assert warnings(validated(effective_rank=0.999, **two)) == [], "two classes apart lie on a line"
    both = trained(ROWS, contrast_over_collapse=0.0) + validated(effective_rank=1.1)
    assert len(warnings(both)) == 1, "one ill, one warning"


def test_a_class_without_pseudo_labels():
    nothing = {"accepted_left": 0.0, "agreement_left": None, "found_left": 0.0}
    (warning,) = warnings(trained() + validated(**nothing), FixMatchSettings())
    assert warning == (
        "Next to no pixel of some classes gets a right pseudo-label: 0.0 % of left. "
        "Lower method.confidence_threshold (now 0.95) or annotate more scans."
    )
    (warning,) = warnings(trained() + validated(**nothing), PatchCLSettings())
    assert "left. Raise method.warm_up_fraction (now 0.3) or annotate more scans." in warning, "0 cannot be lowered"
    assert warnings(trained() + validated(**nothing | {"found_left": None})) == [], "no mask holds the class"
    assert warnings(trained() + validated(found_left=MIN_FOUND)) == []
    assert len(warnings(trained() + validated(found_left=0.99 * MIN_FOUND))) == 1


def test_a_class_whose_pseudo_labels_are_mostly_wrong():
    poor = {"agreement_left": 0.99 * MIN_AGREEMENT, "agreement_right": 0.25}
    (warning,) = warnings(trained() + validated(**poor), PatchCLSettings(consistency_weight=2.0))
    assert warning == (
        "Pseudo-labels are wrong more often than right: of those accepted, the masks confirm 49.5 % of left, 25.0 % of "
        "right. Raise method.confidence_threshold (now 0), raise method.warm_up_fraction (now 0.3), lower "
        "method.consistency_weight (now 2) or annotate more scans."
    )
    assert warnings(trained() + validated(agreement_left=MIN_AGREEMENT)) == []
    assert len(warnings(trained() + validated(agreement_left=0.0, found_left=0.0))) == 1, "one ill, one warning"
    at_its_end = PatchCLSettings(confidence_threshold=1.0, warm_up_fraction=1.0, consistency_weight=0.0)
    (warning,) = warnings(trained() + validated(**poor), at_its_end)
    assert warning.endswith("right. Annotate more scans.")


def test_a_teacher_whose_confidence_means_nothing():
    off = MAX_ERROR + 0.01
    (warning,) = warnings(trained() + validated(ece_structures=off), PatchCLSettings())
    assert (
        "it is off by 0.31 on average. Raise method.warm_up_fraction (now 0.3), lower method.consistency_w" in warning
    )
    assert warnings(trained() + validated(ece_structures=MAX_ERROR)) == []
    assert warnings(trained() + validated(ece_structures=None, ece=0.9)) == []


ILL = {"agreement_left": 0.1, "found_right": 0.0, "ece_structures": 0.9}


def test_pseudo_labels_are_judged_once_they_are_learned_from_and_were_ill_three_times():
    assert len(warnings(trained() + validated(**ILL))) == 3
    assert warnings(trained() + validated(VALIDATIONS - 1, **ILL)) == []
    assert warnings(trained() + validated(1) + validated(VALIDATIONS - 1, **ILL)) == []
    assert warnings(trained() + validated(1, **ILL) + validated(1) + validated(1, **ILL)) == []
    warming_up = [{"step": 1, "loss": 1.0, "supervised": 1.0}]
    assert warnings(warming_up + validated(**ILL)) == []
    assert warnings(trained() + warming_up + validated(**ILL)) == []
    assert len(warnings([{"step": 1, "loss": 1.0, "accepted": 0.5}, *validated(**ILL)])) == 3


def test_a_warning_is_new_once():
    rows = trained() + validated(2, **ILL)
    seen = []
    for figures in (ILL, ILL, {**ILL, "agreement_left": 0.9}, {}, ILL):
        rows += validated(1, **figures)
        seen.append([warning.split()[0] for warning in new_warnings(rows)])
    assert seen == [["Pseudo-labels", "Next", "The"], [], [], [], []]
    rows += validated(2, **ILL)
    assert len(new_warnings(rows)) == 3, "it went and came back"
    assert new_warnings(validated(1)) == []


def test_old_logs_raise_no_warning():
    assert warnings([]) == warnings([{"step": 1, "loss": 1.0}, {"step": 1, "validation_dice": 0.0}]) == []
    assert class_names([{"step": 1, "accepted": 0.5}]) == []


@KINDS
def test_a_warning_names_only_settings_that_the_method_has(kind):
    settings = kind(contrast={})
    collapsed = trained(contrast_over_collapse=0.0)
    nothing = trained(contrast=0.0, contrast_over_collapse=0.0)
    sick = [*warnings(collapsed + validated(**ILL, separability=0.0), settings), *warnings(nothing, settings)]
    named = {name for warning in sick for name in re.findall(r"method\.([a-z_.]*[a-z])", warning)}
    assert {"contrast.weight", "contrast.temperature", "contrast.memory_min_size"} <= named
    for name in named:
        value = settings.model_dump()
        for key in name.split("."):
            value = value[key]
        assert f"method.{name} (now {value:g})" in " ".join(sick)


def test_a_collapse_shows_in_the_log_on_the_screen_and_in_the_report(cardiac, tmp_path, tiny, monkeypatch):
    """At this temperature all embeddings look alike."""
    # drawing is slow, and tested apart
    monkeypatch.setattr(
        "patchcl.reports.run_report.themed", lambda draw: {"light": "", "dark": ""}
    )  # slow, tested apart
    stuck = (
        "training.steps=20",
        "training.log_every=1",
        "training.validate_every=20",
        "method.contrast.temperature=1e6",
        "method.contrast.memory_min_size=2",
        "method.contrast.patches_per_class=4",
        "method.contrast.memory_length=64",
    )
    screen = Console(file=io.StringIO(), width=80)
    run = start(cardiac, tmp_path / "run", load_settings(None, [*tiny, *stuck]), screen).run
    rows = read_rows(run)
    said = "The contrast has not moved from its collapse value in the last 10 log rows"
    assert [row["warnings"] for row in rows if "warnings" in row] == [1]
    assert screen.file.getvalue().count(f"patchcl  step 20/20  warning: {said}") == 1
    assert {"separability", "effective_rank", "ece", "found_RV"} <= set(rows[-1])
    write_report([run], run.report)
    page = run.report.read_text(encoding="utf-8")
    assert f'<p class="warning"><b>patchcl:</b> {said}' in page
    assert "lower method.contrast.temperature (now 1e+06)" in page


@pytest.mark.parametrize(("rescues", "remedy"), [(1, "clipped gradients,"), (2, "half the learning rate,")])
def test_a_run_that_was_rescued_is_warned_of_once_for_each_rescue(rescues, remedy):
    rows = [{"step": step, "validation_dice": 0.5, "rescues": rescues} for step in (4, 8)]
    (warning,) = warnings(rows)
    assert f"{remedy} so this is not a run by its settings alone" in warning
    assert new_warnings(rows[:1]) == [warning]
    assert new_warnings(rows) == []
    assert warnings([{"step": 4, "validation_dice": 0.5}]) == []
