"""Charts: learning curves, scores of patients, label efficiency, methods, diagnostics."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from patchcl.evaluation.intervals import Interval
from patchcl.figures.overlays import legend_label


class Theme(NamedTuple):
    """Colours of a chart, so that it suits the page it stands on."""

    ink: str
    grid: str
    runs: tuple[str, ...]  # one per line; of the same set as PALETTE, dark enough or light enough to stand out


class MethodMarks(NamedTuple):
    """The marks of a method in the chart of methods; NaN is left out."""

    patients: Sequence[float]  # Dice of each, 0 .. 1
    dice: float  # 0 .. 1
    difference: Interval  # in Dice
    verdict: str  # helped or hurt stand out
    minutes: float
    peak_gib: float


MOST_CLASSES = 8
"""Classes that have curves of their own."""
BY_CLASS = ("accepted_", "agreement_")
"""Diagnostics of pseudo-labels that every class has."""
LIGHT = Theme("#24292F", "#D8DEE4", ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"))
DARK = Theme("#D5D8DE", "#363B44", ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#F0E442", "#D55E00"))


def learning_curves(logs: Mapping[str, Sequence[Mapping[str, float]]], theme: Theme = LIGHT) -> Figure:
    """Validation Dice over the steps, then every term of the loss, one line per run.

    Args:
        logs: By the name of each run its log rows, as they stand in log.jsonl.
        theme: Suits the figure to a light or a dark page; its background is transparent.
    """
    terms = loss_terms(logs)
    rows = 1 + -(-len(terms) // 3)
    figure = _transparent_figure(9.2, 2.7 + 1.9 * (rows - 1))
    cells = figure.add_gridspec(rows, 3, height_ratios=[1.5] + [1] * (rows - 1))
    dice_axis = figure.add_subplot(cells[0, :])
    _curves(dice_axis, logs, "validation_dice", "Validation Dice, %", theme)
    for index, term in enumerate(terms):
        axis = figure.add_subplot(cells[1 + index // 3, index % 3])
        _curves(axis, logs, term, term.replace("_", " "), theme)
    _run_legend(dice_axis, theme)
    return figure


def patient_chart(scores: Mapping[str, Mapping[str, float]], theme: Theme = LIGHT) -> Figure:
    """The Dice of every patient, one dot per run, patients in the order of the first run's Dice.

    Args:
        scores: By the name of each run the Dice of every patient; the runs share their patients.
        theme: Suits the figure to a light or a dark page; its background is transparent.
    """
    first = next(iter(scores.values()))
    patients = sorted(first, key=lambda patient: first[patient])
    figure = _transparent_figure(9.2, 2.8)
    axis = figure.add_subplot()
    lowest, highest = (
        [100 * pick(dice[patient] for dice in scores.values()) for patient in patients] for pick in (min, max)
    )
    axis.vlines(range(len(patients)), lowest, highest, color=theme.grid, linewidth=4, zorder=1)
    for run, (name, dice) in enumerate(scores.items()):
        percent = [100 * dice[patient] for patient in patients]
        axis.scatter(
            range(len(patients)),
            percent,
            color=theme.runs[run % len(theme.runs)],
            s=28,
            label=legend_label(name),
            zorder=2,
        )
    _plain_axis(axis, "Dice of every patient, %", theme)
    axis.set_xticks(range(len(patients)), patients, rotation=90, fontsize=7)
    _run_legend(axis, theme)
    return figure


def efficiency_chart(
    curves: Mapping[str, Sequence[tuple[int, float, float]]], baseline: str, theme: Theme = LIGHT
) -> Figure:
    """Dice over the number of labeled patients, one line per method with its deviation; the legend ranks their ends.

    Args:
        curves: By method its points: labeled patients, mean Dice and standard deviation (NaN for none), 0 .. 1. Names
            that share what stands before a + share a colour, and those with a + have dotted lines.
        baseline: The method whose line is dashed and in the colour of text.
        theme: Suits the figure to a light or a dark page; its background is transparent.
    """
    figure = _transparent_figure(9.2, 4.2)
    axis = figure.add_subplot()
    families = list(dict.fromkeys(name.partition("+")[0] for name in curves if name != baseline))
    for name in sorted((name for name in curves if curves[name]), key=lambda name: -curves[name][-1][1]):
        labeled, dice, deviation = (np.array(values, float) for values in zip(*curves[name], strict=True))
        family, plus, _ = name.partition("+")
        marker, colour_index = divmod(families.index(family), len(theme.runs)) if name != baseline else (0, 0)
        colour = theme.ink if name == baseline else theme.runs[colour_index]
        style = "--" if name == baseline else ":" if plus else "-"
        error = 100 * np.nan_to_num(deviation)
        axis.errorbar(
            labeled,
            100 * dice,
            error,
            label=legend_label(name),
            color=colour,
            linestyle=style,
            marker="o^D"[marker % 3],
            linewidth=1.6,
            markersize=4.5,
            capsize=2,
        )
    _plain_axis(axis, "Dice, %; bars are one standard deviation over seeds", theme)
    counts = sorted({labeled for points in curves.values() for labeled, _, _ in points})
    axis.set_xscale("log")
    axis.set_xticks(counts, [str(count) for count in counts])
    axis.set_xticks([], minor=True)
    axis.set_xlabel("labeled patients", fontsize=9, color=theme.ink)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9, labelcolor=theme.ink)
    return figure


def methods_chart(methods: Mapping[str, MethodMarks], theme: Theme = LIGHT) -> Figure:
    """A line per method: the Dice of every patient, the difference from the baseline, time and memory.

    Args:
        methods: By name, from top to bottom.
        theme: Suits the figure to a light or a dark page; its background is transparent.
    """
    figure = _transparent_figure(9.2, 0.75 + 0.3 * len(methods))
    patients, difference, minutes, memory = figure.subplots(1, 4, sharey=True, width_ratios=(4, 3, 1.3, 1.3))
    colours = {"helped": theme.runs[0], "hurt": theme.runs[1]}
    difference.axvline(0, color=theme.ink, linewidth=0.8)
    for line, marks in enumerate(methods.values()):
        jitter = 0.22 * (2 * (np.arange(len(marks.patients)) * 0.618 % 1) - 1)
        patients.scatter(
            100 * np.array(marks.patients), line + jitter, color=theme.runs[0], alpha=0.45, s=12, linewidths=0
        )
        patients.plot([100 * marks.dice] * 2, [line - 0.36, line + 0.36], color=theme.ink, linewidth=2)
        mean, low, high = (100 * value for value in marks.difference)
        colour = colours.get(marks.verdict, theme.ink)
        difference.plot([low, high], [line, line], color=colour, linewidth=2)
        difference.plot([mean], [line], color=colour, marker="o", markersize=5)
    for axis, name in ((minutes, "minutes"), (memory, "peak_gib")):
        axis.barh(
            range(len(methods)), [getattr(marks, name) for marks in methods.values()], color=theme.grid, height=0.6
        )
    titles = ("Dice of every patient and mean, %", "Dice points gained, 95 % interval", "Minutes", "GiB")
    for axis, title in zip((patients, difference, minutes, memory), titles, strict=True):
        _plain_axis(axis, title, theme)
    patients.set_yticks(range(len(methods)), list(methods), fontsize=9)
    patients.set_ylim(len(methods) - 0.5, -0.5)
    return figure


def loss_terms(logs: Mapping[str, Sequence[Mapping[str, float]]]) -> list[str]:
    """The terms of the loss that any of the runs logged, `loss` first; bookkeeping such as patch counts is left out."""
    aside = {"step", "learning_rate", "seconds_per_step", "loss"}
    named = {key: None for rows in logs.values() for row in rows if "loss" in row for key in row}
    terms = [key for key in named if key not in aside and not key.startswith(("validation", "patches_"))]
    return ["loss", *terms] if "loss" in named else terms


def smooth(values: Sequence[float], window: int) -> np.ndarray:
    """The mean of the `window` values around each, fewer at the ends: the trend without the jitter."""
    kernel = np.ones(min(window, len(values)))
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def _transparent_figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), facecolor="none", layout="constrained")


def _curves(axis: Axes, logs: Mapping[str, Sequence[Mapping[str, float]]], key: str, title: str, theme: Theme) -> None:
    validation = key.startswith("validation")
    for run, (name, rows) in enumerate(logs.items()):
        steps = [row["step"] for row in rows if key in row]
        values = [row[key] * (100 if validation else 1) for row in rows if key in row]
        if steps:
            _curve(axis, steps, values, name, theme.runs[run % len(theme.runs)], smoothed=not validation)
    _plain_axis(axis, title, theme)


def _run_legend(axis: Axes, theme: Theme) -> None:
    """The names of the runs in one line above the right end of the axis."""
    handles, names = axis.get_legend_handles_labels()
    if handles:
        legend = axis.legend(
            handles, names, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.1, ncols=len(names), fontsize=9
        )
        legend.set(frame_on=False)
        for text in legend.get_texts():
            text.set_color(theme.ink)


def _plain_axis(axis: Axes, title: str, theme: Theme) -> None:
    axis.set_title(title, fontsize=9, color=theme.ink, loc="left")
    axis.set_facecolor("none")
    axis.tick_params(labelsize=8, colors=theme.ink, length=0)
    axis.grid(color=theme.grid, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[:].set_visible(False)


def _curve(axis: Axes, steps: Sequence[float], values: Sequence[float], name: str, colour: str, smoothed: bool) -> None:
    if not smoothed:
        axis.plot(steps, values, color=colour, linewidth=1.6, marker="o", markersize=3, label=legend_label(name))
        return
    axis.plot(steps, values, color=colour, linewidth=0.6, alpha=0.35)
    axis.plot(steps, smooth(values, max(1, len(values) // 15)), color=colour, linewidth=1.4, label=legend_label(name))


def diagnostic_curves(logs: Mapping[str, Sequence[Mapping[str, float]]], theme: Theme = LIGHT) -> Figure:
    """Curves of the diagnostics of every validation, on pseudo-labels and on the methods themselves; a line per run.

    Args:
        logs: By the name of each run its log rows, as they stand in log.jsonl. Of more than `MOST_CLASSES` classes
            the mean is drawn, with the lowest and the highest.
        theme: Suits the figure to a light or a dark page; its background is transparent.
    """
    logs = _with_extremes(logs)
    terms = diagnostic_terms(logs)
    rows = -(-len(terms) // 3)
    figure = _transparent_figure(9.2, 0.4 + 1.7 * rows)
    for number, term in enumerate(terms, start=1):
        axis = figure.add_subplot(rows, 3, number)
        for run, (name, log) in enumerate(logs.items()):
            steps, values = ([row[key] for row in log if term in row] for key in ("step", term))
            if steps:
                _curve(axis, steps, values, name, theme.runs[run % len(theme.runs)], smoothed=False)
        _plain_axis(axis, term.replace("_", " "), theme)
    keys = {name: line for axis in figure.axes for line, name in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(
        keys.values(), keys, loc="outside upper right", ncols=len(logs), fontsize=9, frameon=False, labelcolor=theme.ink
    )
    return figure


def diagnostic_terms(logs: Mapping[str, Sequence[Mapping[str, float]]]) -> list[str]:
    """The diagnostics that any validation logged and are worth a curve; acceptance is, unless it was all or nothing."""
    logged: dict[str, set[float]] = {}
    for row in (row for rows in logs.values() for row in rows if "validation_dice" in row):
        for key, value in row.items():
            logged.setdefault(key, set()).add(value)
    aside = ("step", "alarms", "warnings", "rescues", "validation", "found_")
    terms = {key: values for key, values in logged.items() if not key.startswith(aside)}
    return [key for key, values in terms.items() if not key.startswith("accepted_") or values - {0, 1}]


def _with_extremes(logs: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, list[dict[str, float]]]:
    """The logs, where classes are many with mean, lowest and highest of their diagnostics in place of each."""
    terms = diagnostic_terms(logs)
    by_class = {prefix: [term for term in terms if term.startswith(prefix)] for prefix in BY_CLASS}
    many = {prefix: names for prefix, names in by_class.items() if len(names) > MOST_CLASSES}
    return {name: [_row_with_extremes(row, many) for row in log] for name, log in logs.items()}


def _row_with_extremes(row: Mapping[str, float], many: Mapping[str, Sequence[str]]) -> dict[str, float]:
    shown = {key: value for key, value in row.items() if not key.startswith(tuple(many))}
    for prefix, names in many.items():
        values = [row[name] for name in names if name in row]
        if values:
            shown |= {f"{prefix}mean": float(np.mean(values)), f"{prefix}lowest": min(values)}
            shown[f"{prefix}highest"] = max(values)
    return shown
