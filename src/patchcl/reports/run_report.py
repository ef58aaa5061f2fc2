"""HTML report of runs: whether the unlabeled scans helped, and the scores, masks and curves behind the answer.

The page is a single file without scripts or outside resources, so it can be mailed and kept.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from patchcl.core.errors import UserError
from patchcl.core.settings import FrozenSettings
from patchcl.data.dataset import read_dataset
from patchcl.evaluation.metrics import EMPTY_POLICY, SURFACE_POLICY
from patchcl.evaluation.object_metrics import OBJECT_POLICY
from patchcl.evaluation.paired import SMALLEST_EFFECT, Comparison, compare, format_points, in_words, judged_together
from patchcl.evaluation.sample_size import ASSUMPTION
from patchcl.evaluation.scores import FRACTION_METRICS, HEADINGS, MEAN, Evaluation, Metric, Rows, summarise
from patchcl.evaluation.tables import format_score, pluralize
from patchcl.figures.charts import diagnostic_curves, diagnostic_terms, learning_curves, patient_chart
from patchcl.figures.overlays import Panel, overlay_grid, png
from patchcl.figures.representative_slice import representative_slice
from patchcl.reports.facts import HEADLINES, RunFacts, changes, facts_table, masks_of, read_facts, unfinished, unmatched
from patchcl.reports.page import picture_uri, themed, write_page
from patchcl.runs.folder import RunFolder
from patchcl.runs.log import Row
from patchcl.training.diagnostics import class_names, warnings

PSEUDO_LABEL_FIGURES = ("accepted", "agreement", "found")
CALIBRATION = {"ece": "all pixels", "ece_structures": "structures"}


class Verdict(NamedTuple):
    """The answer at the top of the page."""

    headline: str
    sentences: list[str]
    warnings: list[str]


def write_report(
    runs: Sequence[RunFolder],
    out: Path,
    title: str = "Did the unlabeled scans help?",
    smallest: float = SMALLEST_EFFECT,
) -> None:
    """Write the page about `runs` to `out`; the first run is the one that the others are compared with.

    A difference in Dice of less than `smallest` counts as none.

    What is not there yet is left out: a run that was never evaluated shows its curves and its facts.

    Raises:
        UserError: A run's files are missing or damaged, or `out` cannot be written.
    """
    write_page("run_report.html.j2", {"title": title, **_content(read_facts(runs), smallest)}, out)


def _content(facts: Sequence[RunFacts], smallest: float) -> dict[str, Any]:
    """The content of the template; None or nothing where a run has not come so far."""
    stem = _headline(facts)
    evaluations = {run.name: run.evaluations[stem] for run in facts if stem in run.evaluations}
    comparisons, problems = _compare(list(evaluations.values()), smallest)
    dice = {name: evaluation.by_patient("dice") for name, evaluation in evaluations.items()}
    logs = {run.name: run.rows for run in facts}
    diagnosed = diagnostics(logs, {run.name: run.settings.method for run in facts})
    return {
        "verdict": _verdict(facts, evaluations, comparisons, problems),
        "tables": [_table(facts, known) for known in _stems(facts)],
        "inference": _inference(evaluations),
        "comparisons": comparisons,
        "mean": MEAN,
        "format_points": format_points,
        "assumption": ASSUMPTION,
        "policies": [
            EMPTY_POLICY,
            SURFACE_POLICY,
            *[OBJECT_POLICY] * any(scores.pooled for scores in evaluations.values()),
        ],
        "patients": themed(lambda theme: patient_chart(dice, theme)) if dice and not problems else None,
        "curves": themed(lambda theme: learning_curves(logs, theme)) if any(logs.values()) else None,
        "diagnostics": diagnosed,
        "diagnostic_curves": _themed_diagnostics(logs) if diagnosed and diagnosed["classes"] else None,
        "overlays": _overlays(facts, stem, evaluations) if evaluations else None,
        "strips": [(run.name, _strips(run.folder)) for run in facts if _strips(run.folder)],
        "names": list(logs),
        "facts": facts_table(facts),
        "settings": [(run.name, run.folder.settings.read_text(encoding="utf-8")) for run in facts],
        "splits": [(run.name, run.split.model_dump()) for run in facts],
    }


def _headline(facts: Sequence[RunFacts]) -> str:
    """The evaluation that most runs have; of those the one that `HEADLINES` prefers."""
    return max(_stems(facts), key=lambda stem: sum(stem in run.evaluations for run in facts), default=HEADLINES[0])


def _stems(facts: Sequence[RunFacts]) -> list[str]:
    """What evaluations there are, in the order of `HEADLINES`."""
    known = sorted({stem for run in facts for stem in run.evaluations}, key=len)
    return [stem for headline in HEADLINES for stem in known if stem.startswith(headline)]


def _compare(evaluations: Sequence[Evaluation], smallest: float) -> tuple[list[Comparison], list[str]]:
    """Every evaluation after the first against the first, and why some cannot be compared."""
    comparisons, problems = [], []
    for other in evaluations[1:]:
        try:
            comparisons.append(compare(evaluations[0], other, smallest))
        except UserError as error:
            problems.append(str(error))
    return judged_together(comparisons), problems


def _verdict(
    facts: Sequence[RunFacts],
    evaluations: Mapping[str, Evaluation],
    comparisons: Sequence[Comparison],
    problems: Sequence[str],
) -> Verdict:
    missing = [run.folder.root for run in facts if run.name not in evaluations]
    warnings = [
        *problems,
        *unmatched(facts),
        *changes(facts),
        *unfinished(facts),
        *(f"No scores yet. Make them with: patchcl evaluate {root}" for root in missing),
    ]
    if comparisons:
        return Verdict(_answer(facts, comparisons[0]), [in_words(comparison) for comparison in comparisons], warnings)
    figures = [
        f"{name}: mean Dice {format_score(summarise(scores, 'dice'), 'dice')} % "
        f"over {pluralize(len(scores.patients), 'patient')}."
        for name, scores in evaluations.items()
    ]
    return Verdict("Nothing to compare yet" if not figures else "Scores without a comparison", figures, warnings)


def _answer(facts: Sequence[RunFacts], comparison: Comparison) -> str:
    if not comparison.learned:
        return "Nothing was learned"
    first = next(run for run in facts if run.name == comparison.first)
    if first.settings.method.name != "supervised":
        return f"{comparison.second} against {comparison.first}: {comparison.overall.verdict}"
    return {
        "helped": "Yes, the unlabeled scans helped",
        "hurt": "No, the unlabeled scans hurt",
        "equal": "The unlabeled scans made no difference that counts",
        "no clear difference": "No clear difference from the unlabeled scans",
        "no verdict": "One patient is no verdict",
    }[comparison.overall.verdict]


def _table(facts: Sequence[RunFacts], stem: str) -> dict[str, Any]:
    """The scores of every structure and run, the best of each structure marked."""
    scored = {run.name: run.evaluations[stem] for run in facts if stem in run.evaluations}
    first = next(iter(scored.values()))
    measured = [evaluation.metrics for evaluation in scored.values()]
    metrics = [metric for metric in measured[0] if all(metric in known for known in measured)]
    side, checkpoint, *options = stem.split("_")
    chosen = "the end of training" if checkpoint == "last" else "the checkpoint that scored best on validation"
    how = ", with " + " ".join(f"--{option}" for option in options) if options else ""
    patients = pluralize(len(first.patients), "patient")
    return {
        "caption": f"{side}, {patients}, {chosen}{how}; mean ± standard deviation over patients",
        "headings": [HEADINGS[metric].format(unit=first.unit) for metric in metrics],
        "groups": [(name, _group(scored, name, metrics)) for name in (*first.structures, MEAN)],
    }


def _inference(evaluations: Mapping[str, Evaluation]) -> dict[str, Any] | None:
    """The mean Dice of every run by what was done beyond one pass of the network; None where nothing was."""
    done = list(dict.fromkeys(column for evaluation in evaluations.values() for column in evaluation.columns))
    rows = [
        (name, [_mean_dice(evaluation.columns.get(column)) for column in done])
        for name, evaluation in evaluations.items()
    ]
    return {"columns": done, "rows": rows} if done else None


def _mean_dice(rows: Rows | None) -> str:
    dice = rows[MEAN]["dice"]["mean"] if rows else None
    return "–" if dice is None else f"{100 * dice:.1f}"


def _group(
    scored: Mapping[str, Evaluation], structure: str, metrics: Sequence[Metric]
) -> list[tuple[str, list[tuple[str, bool]]]]:
    """The scores of every run on one structure, and whether each is the best of its metric."""
    figures = {
        name: {metric: summarise(evaluation, metric, structure) for metric in metrics}
        for name, evaluation in scored.items()
    }
    best = {metric: _best(metric, [own[metric].mean for own in figures.values()]) for metric in metrics}
    return [
        (name, [(format_score(own[metric], metric), own[metric].mean == best[metric]) for metric in metrics])
        for name, own in figures.items()
    ]


def _best(metric: Metric, figures: Sequence[float]) -> float | None:
    """The best of several figures; None where all are alike."""
    if min(figures) == max(figures):
        return None
    return max(figures) if metric in FRACTION_METRICS else min(figures)


def _overlays(facts: Sequence[RunFacts], stem: str, evaluations: Mapping[str, Evaluation]) -> dict[str, str] | None:
    """The best, the median and the worst patient by the first run's Dice; None if the scans are no longer there."""
    scored = [run for run in facts if run.name in evaluations]
    dice = evaluations[scored[0].name].by_patient("dice")
    ranked = sorted(dice, key=lambda patient: dice[patient], reverse=True)
    chosen = dict(zip((ranked[0], ranked[len(ranked) // 2], ranked[-1]), ("best", "median", "worst"), strict=True))
    try:
        rows = [_overlay_row(scored, stem, patient, rank) for patient, rank in chosen.items()]
    except UserError:
        return None
    columns = ("image", "reference", *(run.name for run in scored))
    aspect = rows[0][1]
    figure = overlay_grid([row for row, _ in rows], columns, scored[0].plan.classes, aspect=aspect)
    return {"picture": picture_uri(png(figure)), "by": scored[0].name}


def _overlay_row(scored: Sequence[RunFacts], stem: str, patient: str, rank: str) -> tuple[list[Panel], float]:
    """The slice of a patient's first scan that shows most of the structures, and the shape of its voxels."""
    first = scored[0]
    score = next(score for score in first.evaluations[stem].scores if score.patient == patient)
    if first.settings.data is None:
        raise UserError("The scans are not there.")
    case = read_dataset(first.settings.data, first.settings.split.patient_pattern).case(score.case)
    view = representative_slice(case, [masks_of(run, stem) / f"{case.name}.nii.gz" for run in scored], first.plan)
    dice = [run.evaluations[stem].by_patient("dice")[patient] for run in scored]
    captions = [f"{rank}: {case.name}, slice {view.slice_index}", "", *(f"Dice {100 * value:.1f} %" for value in dice)]
    panels = [Panel(view.image, mask, caption) for mask, caption in zip([None, *view.masks], captions, strict=True)]
    return panels, view.aspect


def _strips(run: RunFolder) -> list[tuple[str, str]]:
    """The step and the picture of the first, the middle and the last pseudo-masks."""
    paths = sorted(run.pictures.glob("pseudo_masks_step_*.png"))
    chosen = [paths[index] for index in sorted({0, len(paths) // 2, len(paths) - 1})] if paths else []
    return [(path.stem.rpartition("_")[2].lstrip("0") or "0", picture_uri(path.read_bytes())) for path in chosen]


def diagnostics(logs: Mapping[str, Sequence[Row]], settings: Mapping[str, FrozenSettings]) -> dict[str, Any] | None:
    """The diagnostics of runs: warnings, and tables of the last validation; None if no run has logged any of it.

    Args:
        logs: By the name of each run its log.
        settings: By the name of each run those of its method.
    """
    raised = [(name, warning) for name, rows in logs.items() for warning in warnings(rows, settings[name])]
    last = {name: _last(rows) for name, rows in logs.items() if diagnostic_terms({name: rows})}
    if not raised and not last:
        return None
    return {"warnings": raised, "classes": _classes(last), "whole": _whole(last)}


def _themed_diagnostics(logs: Mapping[str, Sequence[Row]]) -> dict[str, str]:
    return themed(lambda theme: diagnostic_curves(logs, theme))


def _last(rows: Sequence[Row]) -> Row:
    return next(row for row in reversed(rows) if "validation_dice" in row)


def _classes(last: Mapping[str, Row]) -> list[tuple[str, list[tuple[str, list[str]]]]]:
    """The pseudo-label figures of every class and run, in per cent."""
    return [
        (
            name,
            [
                (run, [_format(row, f"{figure}_{name}", 100, ".1f") for figure in PSEUDO_LABEL_FIGURES])
                for run, row in last.items()
            ],
        )
        for name in class_names(list(last.values()))
    ]


def _whole(last: Mapping[str, Row]) -> dict[str, Any]:
    """The table of every run's calibration error and of the diagnostics of its method."""
    own = [
        name for name in diagnostic_terms({"": list(last.values())}) if not name.startswith(("accepted_", "agreement_"))
    ]
    names = [*CALIBRATION, *(name for name in own if name not in CALIBRATION)]
    rows = [(run, f"{row['step']:.0f}", [_format(row, name, 1, ".3g") for name in names]) for run, row in last.items()]
    return {"columns": [CALIBRATION.get(name, name.replace("_", " ")) for name in names], "rows": rows}


def _format(row: Row, key: str, factor: int, form: str) -> str:
    return format(factor * row[key], form) if key in row else "–"
