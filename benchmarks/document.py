"""docs/results.md from the JSON files in benchmarks/results, with the words of results.md.j2 around them.

    python benchmarks/document.py

No figure in a table of that document is written by hand, so none can differ from what was measured.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from scipy import stats

from patchcl.core.files import write_text
from patchcl.evaluation.intervals import Interval
from patchcl.evaluation.paired import format_interval, format_points

HERE = Path(__file__).parent
RESULTS, WORDS, DOCUMENT = HERE / "results", HERE / "results.md.j2", HERE.parent / "docs" / "results.md"


def main() -> None:
    """Write the document anew."""
    write_text(DOCUMENT, document())


def document() -> str:
    """The words with all tables in their places."""
    words = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
    tables = (table, demo_table, runs_table, objects_table, fuzz_table, compare_table, inference_table)
    figures = (demo_gain, demo_seed_by_seed, compare_answer, measured, inference_choices)
    words.globals |= {each.__name__: each for each in (*tables, *figures)}
    return words.from_string(WORDS.read_text(encoding="utf-8")).render()


def table(file: str) -> str:
    """A table that a benchmark has written beside its JSON."""
    return (RESULTS / file).read_text(encoding="utf-8").strip()


def demo_table() -> str:
    """Five seeds of the demo: both methods, and the paired difference over seeds."""
    methods, rows = ("supervised", "patchcl"), []
    for name, metrics in read("demo_seeds.json")["summary"].items():
        dice, distance = metrics["dice"], metrics["hd95_mm"]
        gain = format_interval(Interval(*(dice["difference"][key] for key in ("mean", "low", "high"))))
        of_dice = [spread(dice[method], 100) for method in methods]
        of_distance = [spread(distance[method], 1) for method in methods]
        rows.append((name, *of_dice, f"**{gain}**" if name == "mean" else gain, *of_distance))
    of_both = [[f"{method} {figure}" for method in methods] for figure in ("Dice %", "95HD mm")]
    return markdown(("", *of_both[0], "Dice points (95 % interval)", *of_both[1]), rows)


def demo_gain(seeds: Sequence[int]) -> str:
    """What the unlabeled scans add on some seeds of the demo, with a t-interval where there are several."""
    gains = demo_gains(seeds)
    if len(gains) == 1:
        return format_points(gains[0])
    low, high = stats.t.interval(0.95, len(gains) - 1, loc=gains.mean(), scale=stats.sem(gains))
    count = f"95 % t-interval over {len(gains)} seeds"
    return f"{format_points(gains.mean())} Dice points ({format_points(low)} to {format_points(high)}, {count})"


def demo_seed_by_seed(seeds: Sequence[int]) -> str:
    """The gain of each seed."""
    return ", ".join(map(format_points, demo_gains(seeds)))


def demo_gains(seeds: Sequence[int]) -> np.ndarray:
    """PatchCL's Dice less that of supervised learning, in [-1, 1], for each of the seeds."""
    scores = [read("demo_seeds.json")["seeds"][str(seed)]["scores"] for seed in seeds]
    return np.array([each["patchcl"]["mean"]["dice"] - each["supervised"]["mean"]["dice"] for each in scores])


def runs_table(runs: Mapping[str, str]) -> str:
    """Single runs on the same scans: what a row is called, and where its scores are as FILE/METHOD."""
    found = {name: read(f"{place.partition('/')[0]}.json")[place.partition("/")[2]] for name, place in runs.items()}
    scores = {name: run["evaluation"]["summary"]["structures"] for name, run in found.items()}
    structures = list(next(iter(scores.values())))
    rows = [
        (
            *(name, run["provenance"]["commit"]),
            *(spread(scores[name][structure]["dice"], 100) for structure in structures),
            f"{scores[name]['mean']['hd95_mm']['mean']:.2f}",
        )
        for name, run in found.items()
    ]
    return markdown(("", "commit", *(f"{structure} Dice %" for structure in structures), "95HD"), rows)


def objects_table(runs: Mapping[str, str]) -> str:
    """As `runs_table`, of one structure, with the scores of single objects."""
    columns = {"dice": "Dice %", "object_f1": "object F1 %", "object_dice": "object Dice %"}
    rows = []
    for name, place in runs.items():
        file, _, method = place.partition("/")
        run = read(f"{file}.json")[method]
        mean = run["evaluation"]["summary"]["structures"]["mean"]
        figures = [spread(mean[column], 100) for column in columns]
        rows.append((name, run["provenance"]["commit"], *figures, f"{mean['object_hausdorff_mm']['mean']:.0f}"))
    return markdown(("", "commit", *columns.values(), "object Hausdorff"), rows)


def fuzz_table(real: bool = False) -> str:
    """What became of damaged files, made-up ones by format, or real ones by data set."""
    found = read("fuzz.json")["real"] if real else read("fuzz.json")
    outcomes = list(dict.fromkeys(key for counts in found["outcomes"].values() for key in counts))
    rows = [(name, *(str(counts.get(key, 0)) for key in outcomes)) for name, counts in found["outcomes"].items()]
    return markdown(("", *outcomes), rows)


def compare_table(file: str, labeled: int | None = None) -> str:
    """What `patchcl compare` found, best Dice of the last checkpoint first; of one count of labeled patients."""
    lines = [line for line in read(file)["rows"] if labeled in (None, line["labeled_patients"]) and line["seeds"]]
    structures = list(dict.fromkeys(line["structure"] for line in lines))
    by_key = {(line["method"], line["checkpoint"], line["structure"]): line for line in lines}
    means = [line for line in lines if line["checkpoint"] == "last" and line["structure"] == "mean"]
    rows = []
    for line in sorted(means, key=lambda line: -line["dice_mean"]):
        last = [spread(by_key[line["method"], "last", structure], 100, "dice_") for structure in structures]
        best = spread(by_key[line["method"], "best", "mean"], 100, "dice_")
        minutes = f"{line['minutes']:.1f}" if line["minutes"] else ""
        rows.append((line["method"], str(line["seeds"]), *last, difference(line), best, minutes))
    heads = (f"{structure} Dice %" for structure in structures)
    return markdown(("", "seeds", *heads, "less supervised (95 % interval)", "best on validation", "minutes"), rows)


def measured(file: str) -> bool:
    """Whether a result is there."""
    return (RESULTS / file).is_file()


def inference_table(file: str) -> str:
    """What averages and post-processing add to networks: Dice and 95HD of every way, and the gain of the last ones."""
    runs = read(file)["runs"]
    ways = list(next(iter(runs.values()))["summary"])
    rows = []
    for name, run in runs.items():
        means = {way: run["summary"][way]["mean"] for way in ways}
        cells = [f"{100 * means[way]['dice']['mean']:.2f} / {means[way]['hd95_mm']['mean']:.2f}" for way in ways]
        gains = [Interval(**run["gain"][way]) for way in ways[-2:]]
        rows.append((name, *cells, *map(format_interval, gains)))
    return markdown(("", *ways, *(f"gain: {way}" for way in ways[-2:])), rows)


def inference_choices(file: str) -> str:
    """What validation chose for the averaged masks of each network."""
    runs = read(file)["runs"]
    chosen = {name: run["chosen"]["symmetries, post-processed"]["in_words"] for name, run in runs.items()}
    return "\n".join(f"- `{name}`: {words}." for name, words in chosen.items())


def compare_answer(file: str) -> str:
    """What `patchcl compare` says in words."""
    return "\n".join(f"> {line}" for line in read(file)["answer"])


def difference(line: Mapping[str, Any]) -> str:
    """The paired difference from supervised learning; nothing for that itself."""
    values = [line[f"dice_difference{part}"] for part in ("", "_low", "_high")]
    return "" if None in values else format_interval(Interval(*values))


def read(file: str) -> dict[str, Any]:
    """A committed result."""
    content: dict[str, Any] = json.loads((RESULTS / file).read_text(encoding="utf-8"))
    return content


def spread(of: Mapping[str, float | None], scale: float, prefix: str = "") -> str:
    """Mean ± standard deviation."""
    mean, std = of[f"{prefix}mean"], of[f"{prefix}std"]
    return "" if mean is None else f"{scale * mean:.1f}" + ("" if std is None else f" ± {scale * std:.1f}")


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows))


if __name__ == "__main__":
    main()
