"""A comparison of many methods for the terminal: tables, and the answer in words."""

import math
from collections.abc import Iterable, Iterator, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from patchcl.comparison.results import BASELINE, DICE, Figure, Level, Row, labeled_words, remarks
from patchcl.evaluation.intervals import FEWEST_PATIENTS
from patchcl.evaluation.metrics import EMPTY_POLICY
from patchcl.evaluation.paired import Comparison, compare_seeds, points
from patchcl.evaluation.scores import Metric, Spread
from patchcl.evaluation.tables import counted, shown

NOTHING = "Nothing to compare yet"
INTERVALS = (
    "Differences are paired seed by seed and patient by patient; a patient's is averaged over seeds. Their 95 % "
    "intervals (bootstrap over patients) cover which patients were scored, not which seeds were drawn: for these "
    "see the deviations, which are over seeds. Better, worse and clear mean that the interval excludes 0, that there "
    f"are at least {FEWEST_PATIENTS} patients, and that every seed agrees."
)
BEST_DICE = Figure("dice", checkpoint="best")
DETAILS: tuple[Metric, ...] = ("jaccard", "hd95_mm", "asd_mm")
MANY = 3
"""From so many comparisons on, the reader is warned that chance gets as many tries."""


def render_levels(levels: Sequence[Level], console: Console) -> None:
    """Print all tables, what is missing, and the answer."""
    for level in levels:
        console.rule(f"[bold]{labeled_words(level)}[/bold]", align="left")
        console.print(f"{counted(level.patients)} scored; mean ± standard deviation over seeds", highlight=False)
        for table in (quality_table(level), surface_table(level), structure_table(level)):
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
    """The headline of every method, what it adds to the baseline, and the second checkpoint."""
    table = _table(("Dice %\nlast", f"against {BASELINE}\nin Dice points", "Dice %\nbest"))
    for row in level.rows:
        cells = (_marked(level, row, DICE), difference_cell(row.against), _marked(level, row, BEST_DICE))
        table.add_row(row.method, *cells)
    return table


def surface_table(level: Level) -> Table:
    """Of the last checkpoint the other figures."""
    table = _table(("Jaccard %", f"95HD {level.unit}", f"ASD {level.unit}"))
    for row in level.rows:
        table.add_row(row.method, *(_marked(level, row, Figure(metric)) for metric in DETAILS))
    return table


def structure_table(level: Level) -> Table:
    """Of the last checkpoint the Dice of every structure; seeds, and what training took."""
    table = _table((*(f"{name}\nDice %" for name in level.structures), "seeds", "minutes", "GiB"))
    for row in level.rows:
        dice = (plain(row.spread(Figure("dice", name)), scale=100) for name in level.structures)
        table.add_row(row.method, *dice, str(len(row.results)), plain(row.minutes), plain(row.peak_gib, digits=2))
    return table


def details(level: Level) -> list[Figure]:
    """What the page shows in its second table."""
    return [*map(Figure, DETAILS), *(Figure("dice", structure) for structure in level.structures)]


def figure_cell(row: Row, figure: Figure) -> str:
    """A figure as tables print it; nothing where nothing was measured."""
    return shown(row.spread(figure), figure.metric) if row.results else ""


def difference_cell(against: Comparison | None) -> str:
    """The mean difference with its interval; nothing where there is none."""
    if against is None:
        return ""
    mean, low, high = against.overall.interval
    return f"{points(mean)} ({points(low)} to {points(high)})"


def plain(spread: Spread, digits: int = 1, scale: int = 1) -> str:
    """The mean alone; nothing where it is not known."""
    return "" if math.isnan(spread.mean) else f"{scale * spread.mean:.{digits}f}"


def missing(levels: Sequence[Level]) -> list[tuple[str, str]]:
    """Every cell without a result, and why."""
    return [(result.cell.place, result.why) for level in levels for result in level.empty]


def headline(levels: Sequence[Level]) -> str:
    """Which method scores highest, in one line."""
    best: dict[str, list[Level]] = {}
    for level in levels:
        if level.complete:
            best.setdefault(level.complete[0].method, []).append(level)
    if not best:
        return NOTHING
    if len(best) == 1:
        return f"{next(iter(best))} scores highest"
    counts = [f"{method} with {_listed(level.labeled_patients for level in of)}" for method, of in best.items()]
    return f"Highest Dice: {', '.join(counts)} labeled patients"


def sentences(levels: Sequence[Level]) -> list[str]:
    """Level by level: the best, its lead over the next, and how all stand to the baseline."""
    return [" ".join(_about(level)) for level in levels if level.complete]


def caution(levels: Sequence[Level]) -> Iterator[str]:
    """That chance gets a try with every comparison."""
    tries = sum(row.against is not None for level in levels for row in level.rows)
    if tries >= MANY:
        yield (
            f"There are {tries} comparisons with {BASELINE}, and each stands for itself: among so many, a method that "
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
    best, ahead = level.complete[0], lead(level)
    seeds = f"{level.seeds} seed" + "s" * (level.seeds != 1)
    gain = f", {difference_cell(best.against)} points against {BASELINE}" if best.against else ""
    dice = f"{figure_cell(best, DICE)} %{gain}"
    yield f"With {labeled_words(level)} ({seeds}) {best.method} has the highest Dice, {dice}."
    if ahead is not None:
        how = "is clear" if ahead.overall.verdict == "helped" else "may be chance"
        yield f"Its lead over the next, {ahead.first}, {how}: {difference_cell(ahead)}."
    words = {"helped": "Better than", "no clear difference": "Not clearly different from", "hurt": "Worse than"}
    for verdict, word in words.items():
        names = [row.method for row in level.rows if row.against and row.against.overall.verdict == verdict]
        if names:
            yield f"{word} {BASELINE}: {', '.join(names)}."


def _listed(counts: Iterable[int | None]) -> str:
    return " and ".join(map(str, counts))


def is_best(level: Level, row: Row, figure: Figure) -> bool:
    """Whether no method with as many seeds has a better figure, and not all have the same."""
    return row.spread(figure).mean == level.best(figure)


def _marked(level: Level, row: Row, figure: Figure) -> str:
    """The figure, bold where it is the best of its column."""
    text = figure_cell(row, figure)
    return f"[bold]{text}[/bold]" if is_best(level, row, figure) else text


def _table(headings: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("method", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right")
    return table
