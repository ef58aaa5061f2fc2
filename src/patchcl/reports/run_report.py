"""One page that answers whether the unlabeled scans helped, and shows what the answer rests on.

The page is a single file without scripts or outside resources, so it can be mailed and kept.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from patchcl.config import Settings, read_settings
from patchcl.core.errors import UserError
from patchcl.core.settings import FrozenSettings
from patchcl.data.dataset import read_dataset
from patchcl.data.preprocessing.plan import Plan, load_plan
from patchcl.data.splits import Split, load_split
from patchcl.evaluation.metrics import EMPTY_POLICY
from patchcl.evaluation.object_metrics import OBJECT_POLICY
from patchcl.evaluation.paired import Comparison, compare, in_words, points
from patchcl.evaluation.scores import HEADINGS, MEAN, SHARES, Evaluation, Metric, read_evaluation, summarise
from patchcl.evaluation.tables import counted, shown
from patchcl.figures.charts import diagnostic_curves, diagnostic_terms, learning_curves, patient_chart
from patchcl.figures.overlays import Panel, overlay_grid, png
from patchcl.figures.representative_slice import telling_slice
from patchcl.reports.page import picture_uri, themed, write_page
from patchcl.runs.folder import RunFolder
from patchcl.runs.log import Row, read_rows
from patchcl.training.diagnostics import class_names, warnings

HEADLINES = ("test_last", "validation_last", "test_best", "validation_best")
"""Evaluations in the order in which a report prefers them; the last checkpoint is chosen by nobody."""
ASIDE = ("method", "cache", "training.device", "training.memory_gib")
"""Settings that two runs may differ in and still be compared as methods."""


FIGURES = ("accepted", "agreement", "found")
CALIBRATION = {"ece": "all pixels", "ece_structures": "structures"}


class RunFacts(NamedTuple):
    """Everything the page says of one run."""

    name: str
    run: RunFolder
    settings: Settings
    plan: Plan
    split: Split
    rows: list[Row]
    provenance: dict[str, Any]
    evaluations: dict[str, Evaluation]  # by side and checkpoint, such as test_last


class Verdict(NamedTuple):
    """The answer at the top of the page."""

    headline: str
    sentences: list[str]
    warnings: list[str]


def write_report(runs: Sequence[RunFolder], out: Path, title: str = "Did the unlabeled scans help?") -> None:
    """Write the page about `runs` to `out`; the first run is the one that the others are compared with.

    What is not there yet is left out: a run that was never evaluated shows its curves and its facts.

    Raises:
        UserError: A run's files are missing or damaged, or `out` cannot be written.
    """
    write_page("run_report.html.j2", {"title": title, **_content(_gather(runs))}, out)


def _content(facts: Sequence[RunFacts]) -> dict[str, Any]:
    """What the template shows; None or nothing where a run has not come so far."""
    stem = _headline(facts)
    evaluations = {of.name: of.evaluations[stem] for of in facts if stem in of.evaluations}
    comparisons, problems = _compare(list(evaluations.values()))
    dice = {name: evaluation.by_patient("dice") for name, evaluation in evaluations.items()}
    logs = {of.name: of.rows for of in facts}
    diagnosed = diagnostics(logs, {of.name: of.settings.method for of in facts})
    return {
        "verdict": _verdict(facts, evaluations, comparisons, problems),
        "tables": [_table(facts, each) for each in HEADLINES if any(each in of.evaluations for of in facts)],
        "comparisons": comparisons,
        "mean": MEAN,
        "points": points,
        "policies": [EMPTY_POLICY, *[OBJECT_POLICY] * any(each.pooled for each in evaluations.values())],
        "patients": themed(lambda theme: patient_chart(dice, theme)) if dice and not problems else None,
        "curves": themed(lambda theme: learning_curves(logs, theme)) if any(logs.values()) else None,
        "diagnostics": diagnosed,
        "diagnostic_curves": themed(lambda theme: diagnostic_curves(logs, theme))
        if diagnosed and diagnosed["classes"]
        else None,
        "overlays": _overlays(facts, stem, evaluations) if evaluations else None,
        "strips": [(of.name, _strips(of.run)) for of in facts if _strips(of.run)],
        "names": list(logs),
        "facts": _side_by_side([_facts(of) for of in facts]),
        "settings": [(of.name, of.run.settings.read_text(encoding="utf-8")) for of in facts],
        "splits": [(of.name, of.split.model_dump()) for of in facts],
    }


def _gather(runs: Sequence[RunFolder]) -> list[RunFacts]:
    settings = [read_settings(run.settings) for run in runs]
    names = _names(runs, settings)
    return [
        RunFacts(
            name=name,
            run=run,
            settings=each,
            plan=load_plan(run.plan),
            split=load_split(run.split),
            rows=read_rows(run),
            provenance=_read_json(run.provenance),
            evaluations=_evaluations(run, name),
        )
        for name, run, each in zip(names, runs, settings, strict=True)
    ]


def _names(runs: Sequence[RunFolder], settings: Sequence[Settings]) -> list[str]:
    """What tells the runs apart: their methods, else their folders, else the whole paths."""
    choices: list[list[str]] = [[each.method.name for each in settings]]
    choices += [[run.root.name for run in runs], [str(run.root.resolve()) for run in runs]]
    for names in choices:
        if len(set(names)) == len(names):
            return names
    raise UserError(f"A run is named twice: {', '.join(choices[-1])}. Name every run once.")


def _evaluations(run: RunFolder, name: str) -> dict[str, Evaluation]:
    paths = {stem: run.evaluation / f"{stem}.json" for stem in HEADLINES}
    found = {stem: read_evaluation(path) for stem, path in paths.items() if path.is_file()}
    return {stem: evaluation.model_copy(update={"name": name}) for stem, evaluation in found.items()}


def _headline(facts: Sequence[RunFacts]) -> str:
    """The evaluation that most runs have; of those the one that `HEADLINES` prefers."""
    return max(HEADLINES, key=lambda stem: sum(stem in of.evaluations for of in facts))


def _compare(evaluations: Sequence[Evaluation]) -> tuple[list[Comparison], list[str]]:
    """Every evaluation after the first against the first, and why some cannot be compared."""
    comparisons, problems = [], []
    for other in evaluations[1:]:
        try:
            comparisons.append(compare(evaluations[0], other))
        except UserError as error:
            problems.append(str(error))
    return comparisons, problems


def _verdict(
    facts: Sequence[RunFacts],
    evaluations: Mapping[str, Evaluation],
    comparisons: Sequence[Comparison],
    problems: Sequence[str],
) -> Verdict:
    missing = [of.run.root for of in facts if of.name not in evaluations]
    warnings = [
        *problems,
        *_unmatched(facts),
        *(f"No scores yet. Make them with: patchcl evaluate {root}" for root in missing),
    ]
    if comparisons:
        return Verdict(_answer(facts, comparisons[0]), [in_words(each) for each in comparisons], warnings)
    figures = [
        f"{name}: mean Dice {shown(summarise(scores, 'dice'), 'dice')} % over {counted(len(scores.patients))}."
        for name, scores in evaluations.items()
    ]
    return Verdict("Nothing to compare yet" if not figures else "Scores without a comparison", figures, warnings)


def _answer(facts: Sequence[RunFacts], comparison: Comparison) -> str:
    first = next(of for of in facts if of.name == comparison.first)
    if first.settings.method.name != "supervised":
        return f"{comparison.second} against {comparison.first}: {comparison.overall.verdict}"
    return {
        "helped": "Yes, the unlabeled scans helped",
        "hurt": "No, the unlabeled scans hurt",
        "no clear difference": "No clear difference from the unlabeled scans",
    }[comparison.overall.verdict]


def _unmatched(facts: Sequence[RunFacts]) -> Iterator[str]:
    """What besides the method could explain a difference from the first run."""
    first = facts[0]
    for other in facts[1:]:
        if other.split.fingerprint != first.split.fingerprint:
            yield f"{other.name} and {first.name} learned from different splits: their difference is not the method's."
        ours, theirs = dict(_flat(first.settings)), dict(_flat(other.settings))
        keys = [key for key in ours if not key.startswith(ASIDE) and ours[key] != theirs.get(key)]
        if keys:
            yield f"{other.name} and {first.name} differ in more than the method: {', '.join(keys)}."


def _flat(settings: Settings) -> Iterator[tuple[str, Any]]:
    """Every setting under its dotted name, down to the second level."""
    for key, value in settings.model_dump(mode="json").items():
        if isinstance(value, dict):
            yield from ((f"{key}.{inner}", setting) for inner, setting in value.items())
        else:
            yield key, value


def _table(facts: Sequence[RunFacts], stem: str) -> dict[str, Any]:
    """The scores of every structure and run, the best of each structure marked."""
    scored = {of.name: of.evaluations[stem] for of in facts if stem in of.evaluations}
    first = next(iter(scored.values()))
    metrics = min((evaluation.metrics for evaluation in scored.values()), key=len)
    side, checkpoint = stem.split("_")
    chosen = "the end of training" if checkpoint == "last" else "the checkpoint that scored best on validation"
    return {
        "caption": f"{side}, {counted(len(first.patients))}, {chosen}; mean ± standard deviation over patients",
        "headings": [HEADINGS[metric].format(unit=first.unit) for metric in metrics],
        "groups": [(name, _group(scored, name, metrics)) for name in (*first.structures, MEAN)],
    }


def _group(
    scored: Mapping[str, Evaluation], structure: str, metrics: Sequence[Metric]
) -> list[tuple[str, list[tuple[str, bool]]]]:
    """Of each run its figures, and whether each is the best."""
    spreads = {name: {each: summarise(of, each, structure) for each in metrics} for name, of in scored.items()}
    best = {each: _best(each, [spread[each].mean for spread in spreads.values()]) for each in metrics}
    return [
        (name, [(shown(spread[each], each), spread[each].mean == best[each]) for each in metrics])
        for name, spread in spreads.items()
    ]


def _best(metric: Metric, figures: Sequence[float]) -> float | None:
    """The best of several figures; None where all are alike."""
    if min(figures) == max(figures):
        return None
    return max(figures) if metric in SHARES else min(figures)


def _overlays(facts: Sequence[RunFacts], stem: str, evaluations: Mapping[str, Evaluation]) -> dict[str, str] | None:
    """The best, the median and the worst patient by the first run's Dice; None if the scans are no longer there."""
    scored = [of for of in facts if of.name in evaluations]
    dice = evaluations[scored[0].name].by_patient("dice")
    ranked = sorted(dice, key=lambda patient: dice[patient], reverse=True)
    chosen = dict(zip((ranked[0], ranked[len(ranked) // 2], ranked[-1]), ("best", "median", "worst"), strict=True))
    try:
        rows = [_overlay_row(scored, stem, patient, rank) for patient, rank in chosen.items()]
    except UserError:
        return None
    columns = ("image", "reference", *(of.name for of in scored))
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
    view = telling_slice(case, [of.run.predictions / stem / f"{case.name}.nii.gz" for of in scored], first.plan)
    dice = [of.evaluations[stem].by_patient("dice")[patient] for of in scored]
    captions = [f"{rank}: {case.name}, slice {view.place}", "", *(f"Dice {100 * value:.1f} %" for value in dice)]
    panels = [Panel(view.image, mask, caption) for mask, caption in zip([None, *view.masks], captions, strict=True)]
    return panels, view.aspect


def _strips(run: RunFolder) -> list[tuple[str, str]]:
    """The step and the picture of the first, the middle and the last pseudo-masks."""
    paths = sorted(run.pictures.glob("pseudo_masks_step_*.png"))
    chosen = [paths[place] for place in sorted({0, len(paths) // 2, len(paths) - 1})] if paths else []
    return [(path.stem.rpartition("_")[2].lstrip("0") or "0", picture_uri(path.read_bytes())) for path in chosen]


def _side_by_side(facts: Sequence[dict[str, str]]) -> list[tuple[str, list[str]]]:
    """The facts of all runs by their name; a single one where all runs agree."""
    rows = [(key, [of[key] for of in facts]) for key in facts[0]]
    return [(key, values[:1] if len(set(values)) == 1 else values) for key, values in rows]


def _facts(of: RunFacts) -> dict[str, str]:
    """What somebody must know to judge or repeat the run."""
    known = of.provenance
    sides = ", ".join(f"{len(patients)} {side}" for side, patients in of.split.model_dump().items())
    training = of.settings.training
    steps = max((int(row["step"]) for row in of.rows), default=0)
    seconds = known.get("seconds")
    facts = {
        "method": of.settings.method.name,
        "data": str(of.settings.data),
        "patients": sides,
        "split fingerprint": of.split.fingerprint,
        "steps": f"{steps} of {training.steps}",
        "seed": str(training.seed),
        "network": f"{of.plan.dimensions}-D U-Net, input {' × '.join(map(str, of.plan.size))}, {training.precision}",
        "hardware": known.get("hardware"),
        "time": None if seconds is None else f"{seconds / 60:.1f} min, {known.get('steps_per_second')} steps/s",
        "software": f"patchcl {known.get('patchcl')}, torch {known.get('torch')}, Python {known.get('python')}",
        "commit": known.get("commit"),
        "started": known.get("started"),
        "command": known.get("command"),
    }
    return {key: value or "not known" for key, value in facts.items()}


def _read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content


def diagnostics(logs: Mapping[str, Sequence[Row]], settings: Mapping[str, FrozenSettings]) -> dict[str, Any] | None:
    """What stands under Diagnostics: warnings, and tables of the last validation; None if no run has logged any of it.

    Args:
        logs: By the name of each run its log.
        settings: By the name of each run those of its method.
    """
    raised = [(name, warning) for name, rows in logs.items() for warning in warnings(rows, settings[name])]
    last = {name: _last(rows) for name, rows in logs.items() if diagnostic_terms({name: rows})}
    if not raised and not last:
        return None
    return {"warnings": raised, "classes": _classes(last), "whole": _whole(last)}


def _last(rows: Sequence[Row]) -> Row:
    return next(row for row in reversed(rows) if "validation_dice" in row)


def _classes(last: Mapping[str, Row]) -> list[tuple[str, list[tuple[str, list[str]]]]]:
    """Of every class and run the shares, in per cent."""
    return [
        (
            name,
            [(run, [_shown(row, f"{figure}_{name}", 100, ".1f") for figure in FIGURES]) for run, row in last.items()],
        )
        for name in class_names(list(last.values()))
    ]


def _whole(last: Mapping[str, Row]) -> dict[str, Any]:
    """Of every run the calibration error, and what its method knows about itself."""
    own = [
        name for name in diagnostic_terms({"": list(last.values())}) if not name.startswith(("accepted_", "agreement_"))
    ]
    names = [*CALIBRATION, *(name for name in own if name not in CALIBRATION)]
    rows = [(run, f"{row['step']:.0f}", [_shown(row, name, 1, ".3g") for name in names]) for run, row in last.items()]
    return {"columns": [CALIBRATION.get(name, name.replace("_", " ")) for name in names], "rows": rows}


def _shown(row: Row, key: str, factor: int, form: str) -> str:
    return format(factor * row[key], form) if key in row else "–"
