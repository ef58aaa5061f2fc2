"""A comparison of many methods for the terminal: tables, and the answer in words."""

import math
from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from patchcl.comparison import Comparison, compare_seeds, in_words, points
from patchcl.evaluate import MEAN, Metric, Spread, counted, shown
from patchcl.grid.table import BASELINE, Level, Row, labeled_words, remarks
from patchcl.metrics import EMPTY_POLICY

NOTHING = "Nothing to compare yet"
INTERVALS = (
    "Differences are paired seed by seed and patient by patient; a patient's is averaged over seeds. Their 95 % "
    "intervals (bootstrap over patients) cover which patients were scored, not which seeds were drawn: for these "
    "see the deviations, which are over seeds."
)
MANY = 3
"""From so many comparisons on, the reader is warned that chance gets as many tries."""


def render_levels(levels: Sequence[Level], console: Console) -> None:
    """Print all tables, what is missing, and the answer."""
    for level in levels:
        console.rule(f"[bold]{labeled_words(level)}[/bold]", align="left")
        console.print(f"{counted(level.patients)} scored; mean ± standard deviation over seeds", highlight=False)
        for table in (quality_table(level), detail_table(level)):
            console.print(table)
            console.print(EMPTY_POLICY, style="dim", highlight=False)
    for place, why in missing(levels):
        console.print(f"Empty: {place}: {why}", highlight=False, markup=False)
    for remark in (*remarks(levels), *caution(levels)):
        console.print(f"Note: {remark}", highlight=False, markup=False)
    console.print(INTERVALS, style="dim", highlight=False)
    console.print(headline(levels), style="bold", highlight=False)
    for sentence in sentences(levels):
        console.print(sentence, highlight=False)


def quality_table(level: Level) -> Table:
    """The headline of every method, what it adds to the baseline, and what it costs."""
    table = _table()
    for heading in ("seeds", "Dice %\nlast", f"against {BASELINE}\nin Dice points", "Dice %\nbest", "min", "GiB"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in level.rows:
        table.add_row(row.method, f"{len(row.results)}", *quality_cells(level, row))
    return table


def detail_table(level: Level) -> Table:
    """Of the last checkpoint overlap, distances, and the Dice of every structure."""
    table = _table()
    for heading in (
        "Jaccard %",
        f"95HD {level.unit}",
        f"ASD {level.unit}",
        *(f"{name}\nDice %" for name in level.structures),
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in level.rows:
        table.add_row(row.method, *detail_cells(level, row))
    return table


def quality_cells(level: Level, row: Row) -> list[str]:
    """Dice of the last checkpoint, the difference, Dice of the best checkpoint, minutes and memory."""
    return [
        _marked(level, row, "dice"),
        difference_cell(row.against),
        _marked(level, row, "dice", checkpoint="best"),
        plain(row.minutes),
        plain(row.peak_gib, digits=2),
    ]


def detail_cells(level: Level, row: Row) -> list[str]:
    """Jaccard, 95HD and ASD of all structures, and the Dice of each."""
    overall = [_marked(level, row, metric) for metric in ("jaccard", "hd95_mm", "asd_mm")]
    return overall + [_marked(level, row, "dice", structure) for structure in level.structures]


def figure_cell(row: Row, metric: Metric, structure: str = MEAN, checkpoint: str = "last") -> str:
    """A figure as tables print it; nothing where nothing was measured."""
    return shown(row.figure(metric, structure, checkpoint), metric) if row.results else ""


def difference_cell(against: Comparison | None) -> str:
    """The mean difference with its interval; nothing where there is none."""
    if against is None:
        return ""
    mean, low, high = against.overall.interval
    return f"{points(mean)} ({points(low)} to {points(high)})"


def plain(spread: Spread, digits: int = 1) -> str:
    """The mean alone; nothing where it is not known."""
    return "" if math.isnan(spread.mean) else f"{spread.mean:.{digits}f}"


def missing(levels: Sequence[Level]) -> list[tuple[str, str]]:
    """Every cell without a result, and why."""
    return [(result.cell.place, result.why) for level in levels for result in level.empty]


def headline(levels: Sequence[Level]) -> str:
    """Which method scores highest, in one line."""
    best = {labeled_words(level): level.complete[0].method for level in levels if level.complete}
    if not best:
        return NOTHING
    if len(set(best.values())) == 1:
        return f"{next(iter(best.values()))} scores highest"
    return ", ".join(f"{method} scores highest with {labeled}" for labeled, method in best.items())


def sentences(levels: Sequence[Level]) -> list[str]:
    """Level by level: the best, its lead over the next, and how all stand to the baseline."""
    return [" ".join(_about(level)) for level in levels if level.complete]


def caution(levels: Sequence[Level]) -> Iterator[str]:
    """That chance gets a try with every comparison."""
    tries = sum(row.against is not None for level in levels for row in level.rows)
    if tries >= MANY:
        yield (
            f"{tries} methods or levels are compared with {BASELINE}, each for itself: among so many, a method that "
            "is no better can look better by chance."
        )


def lead(level: Level) -> Comparison | None:
    """What the best method adds to the next; None if there is no next, or no seed that both have."""
    if len(level.complete) < 2:
        return None
    best, second = ({each.cell.seed: each.scores["last"] for each in row.results} for row in level.complete[:2])
    seeds = [seed for seed in best if seed in second]
    return compare_seeds([second[seed] for seed in seeds], [best[seed] for seed in seeds]) if seeds else None


def _about(level: Level) -> Iterator[str]:
    best = level.complete[0]
    seeds = f"{level.seeds} seed" + "s" * (level.seeds != 1)
    yield f"With {labeled_words(level)} ({seeds}): {best.method} has the highest Dice, {figure_cell(best, 'dice')} %."
    ahead = lead(level)
    if ahead is not None:
        clear = {
            "helped": "which is a clear lead",
            "hurt": "which cannot be",
            "no clear difference": "which may be chance",
        }
        yield f"It leads {ahead.first} by {difference_cell(ahead)} Dice points, {clear[ahead.overall.verdict]}."
    if best.against is not None and (ahead is None or ahead.first != BASELINE):
        yield in_words(best.against)
    groups = {
        verdict: [row.method for row in level.rows if row.against and row.against.overall.verdict == verdict]
        for verdict in ("helped", "no clear difference", "hurt")
    }
    words = {"helped": "Better than", "no clear difference": "Not clearly different from", "hurt": "Worse than"}
    yield from (f"{words[verdict]} {BASELINE}: {', '.join(names)}." for verdict, names in groups.items() if names)


def _marked(level: Level, row: Row, metric: Metric, structure: str = MEAN, checkpoint: str = "last") -> str:
    """The figure, bold where it is the best of its column."""
    text = figure_cell(row, metric, structure, checkpoint)
    return f"[bold]{text}[/bold]" if is_best(level, row, metric, structure, checkpoint) else text


def is_best(level: Level, row: Row, metric: Metric, structure: str = MEAN, checkpoint: str = "last") -> bool:
    """Whether no method with as many seeds has a better figure, and not all have the same."""
    return row.figure(metric, structure, checkpoint).mean == level.best(metric, structure, checkpoint)


def _table() -> Table:
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("method", no_wrap=True)
    return table
