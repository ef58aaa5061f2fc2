"""docs/results.md and docs/reliability.md from the JSON files in results/, with the words of their .md.j2 around them.

    python benchmarks/document.py

No figure in a table of these documents is written by hand, so none can differ from what was measured.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import jinja2
import numpy as np
from scipy.stats import binomtest

from patchcl.core.files import write_text
from patchcl.evaluation.intervals import (
    FEWEST_PATIENTS,
    Interval,
    over_patients,
    over_seeds,
    patient_means,
    seed_interval,
)
from patchcl.evaluation.paired import SMALLEST_EFFECT, format_interval, format_points
from patchcl.evaluation.sample_size import format_needed, format_seeds_needed, needed, seeds_needed
from patchcl.evaluation.scores import FRACTION_METRICS

BEFORE, AFTER = "percentile bootstrap", "further of t and studentised bootstrap"
SETS = {
    "ACDC": "acdc",
    "ACDC, another scanner": "other_scanner",
    "DSB2018": "dsb2018",
    "GlaS": "glas",
    "Hippocampus": "hippocampus",
    "Hippocampus, slices": "hippocampus_slices",
}
"""Data sets on which the default is compared with masks alone, and how their files are called."""
DEFAULT, PLAIN = ({name: f"{of}_{file}.json" for name, file in SETS.items()} for of in ("default", "recipe"))
"""Today's default, as far as it is measured, and that of before, whose networks had no deep supervision."""
FIGURES = ("contrast_over_collapse", "separability", "effective_rank")
"""What the logs of an ablation told of the contrast at the end."""
STUDENT, FAILS = "Student's t", "one in ten fails"
HERE = Path(__file__).parent
RESULTS, DOCUMENTS = HERE / "results", HERE.parent / "docs"
NAMES = ("results.md", "reliability.md")


def main() -> None:
    """Write the documents anew."""
    for name in NAMES:
        write_text(DOCUMENTS / name, document(name))


def document(name: str) -> str:
    """The words of a document with all tables in their places."""
    words = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
    tables = (
        table,
        ablation_table,
        demo_table,
        runs_table,
        objects_table,
        speed_table,
        speed_origin,
        around_table,
        answers_table,
        threads_table,
        fuzz_table,
        volumes_table,
        attack_table,
        compare_table,
        deep_supervision_table,
        default_table,
        inference_table,
    )
    faults = (faults_table, survivors_table)
    intervals = (intervals_table, ways_table, seeds_table)
    of_demo, of_sets = (demo_gain, demo_seed_by_seed), (compare_answer, gain, labeled_of, measured)
    figures = (*of_demo, *of_sets, inference_choices, attack_origin, kills)
    words.globals |= {each.__name__: each for each in (*tables, *intervals, *faults, *figures, read)} | {
        "DEFAULT": DEFAULT,
        "PLAIN": PLAIN,
    }
    return words.from_string((HERE / f"{name}.j2").read_text(encoding="utf-8")).render()


def table(file: str) -> str:
    """A table that a benchmark has written beside its JSON."""
    return (RESULTS / file).read_text(encoding="utf-8").strip()


def demo_table() -> str:
    """All seeds of the demo: both methods, and the paired difference over seeds."""
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
    difference = seed_interval(gains.tolist())
    mean, low, high = map(format_points, difference)
    count = f"95 % t-interval over {len(gains)} seeds"
    if difference.low <= SMALLEST_EFFECT:
        count += f"; {format_seeds_needed(seeds_needed(gains.tolist(), SMALLEST_EFFECT))} would settle it"
    return f"{mean} Dice points ({low} to {high}, {count})"


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


def speed_table() -> str:
    """A step of every method beside its floor, and what contrast takes of it."""
    found, head = read("speed_cpu.json"), ("", "step, ms", "floor, ms", "step / floor", "of it contrast")
    launches = ("launches a step",) if any("launches" in step for step in found["steps"]) else ()
    rows = [
        (
            step["method"],
            f"{step['step_ms']:.0f}",
            f"{step['floor_ms']:.0f}",
            f"{step['step_over_floor']:.2f}",
            f"{100 * step['contrast_share']:.1f} %" if "contrast_share" in step else "",
            *(str(step.get("launches", "")) for _ in launches),
        )
        for step in found["steps"]
    ]
    many = [
        (f"patchcl, {row['classes']} classes", f"{row['step_ms']:.0f}", "", "", f"{100 * row['contrast_share']:.1f} %")
        for row in found["contrast"]
    ]
    return markdown((*head, *launches), [*rows, *((*row, *("" for _ in launches)) for row in many)])


def speed_origin() -> str:
    """Where and when steps were measured, and in how many rounds."""
    found = read("speed_cpu.json")
    origin, counts = found["provenance"], [len(step["rounds"]["step"]["ms"]) for step in found["steps"]]
    where = f"{origin['hardware']}, {origin['threads']} CPU threads, commit {origin['commit'][:7]}"
    return f"{where}; figures are medians of {min(counts)} to {max(counts)} rounds"


def around_table() -> str:
    """What streaming, validation and prediction cost, each beside what it can at best be as fast as."""
    found = read("speed_cpu.json")
    streaming, validation, prediction = (found[part] for part in ("streaming", "validation", "prediction"))
    at_best = "images on the device"
    rows = [
        (
            f"step of {streaming['method']}, {way}" + from_disk(streaming[way]),
            *beside(streaming[way]["ms"], at_best, streaming[at_best]["ms"]),
        )
        for way in streaming
        if way not in ("method", at_best)
    ]
    rows.append((f"validation, a scan of {validation['slices']} slices", f"{median(validation['ms']):.0f}", "", "", ""))
    files = f"prediction of {prediction['slices']} slices from files to files, with symmetries"
    bare = beside(prediction["ms"], "as many passes of the bare network", prediction["bare_network_ms"])
    return markdown(("", "ms", "beside", "ms", "speed, of that beside it"), [*rows, (files, *bare)])


def beside(took: Sequence[float], other: str, took_other: Sequence[float]) -> tuple[str, ...]:
    """Cells with both medians, and the median of how fast the first is in the same round, from slowest to fastest."""
    speeds = sorted(theirs / ours for ours, theirs in zip(took, took_other, strict=True))
    spread_of = f"{median(speeds):.2f}" + (f" ({speeds[0]:.2f} to {speeds[-1]:.2f})" if len(speeds) > 1 else "")
    return f"{median(took):.0f}", other, f"{median(took_other):.0f}", spread_of


def from_disk(took: Mapping[str, Any]) -> str:
    """How much of the disk was read for a step, where that was watched."""
    return f" ({took['mb_from_disk']:.1f} MB a step)" if "mb_from_disk" in took else ""


def answers_table() -> str:
    """How long help and the answers to mistakes take."""
    calls = read("answers.json")["calls"]
    rows = [
        (
            f"`patchcl {each['call'].split()[0] if each['mistake'] else each['call']}`",
            each["mistake"],
            f"{median(each['cpu_seconds']):.2f}",
        )
        for each in calls
    ]
    return markdown(("", "mistake", "seconds of the processor"), rows)


def threads_table() -> str:
    """How long a step takes by the way in which threads wait, alone and beside another program."""
    found, rows = read("threads.json"), []
    for where in ("alone", "beside another program"):
        for way, took in found[where].items():
            ms = took["ms"]
            steps = f"{median(ms):.0f} ({min(ms):.0f} to {max(ms):.0f})"
            rows.append((where, way, steps, f"{took['asleep']} of {len(ms)}"))
    return markdown(("", "threads wait", "ms a step", "asleep"), rows)


def fuzz_table(real: bool = False) -> str:
    """What became of damaged files, made-up ones by format, or real ones by data set."""
    found = read("fuzz.json")["real"] if real else read("fuzz.json")
    outcomes = list(dict.fromkeys(key for counts in found["outcomes"].values() for key in counts))
    rows = [(name, *(str(counts.get(key, 0)) for key in outcomes)) for name, counts in found["outcomes"].items()]
    return markdown(("", *outcomes), rows)


def volumes_table() -> str:
    """What training on pieces of large volumes and prediction by sliding window took."""
    found, head = read("large_volumes.json"), ("", "seconds", "of the processor", "peak memory until then, GiB")
    verbs = {"train": f"train, {found['steps']} steps and a validation", "predict": "predict, one volume"}
    rows = [
        (name, *(f"{found[verb][key]:g}" for key in ("seconds", "cpu_seconds", "peak_gib")))
        for verb, name in verbs.items()
    ]
    return markdown(head, rows)


def attack_table() -> str:
    """The attempts of every part of the campaign, and how many were held."""
    counts = read("attack.json")["counts"]
    rows = [(part, str(count["attempts"]), str(count["held"])) for part, count in counts.items()]
    everything = [str(sum(count[figure] for count in counts.values())) for figure in ("attempts", "held")]
    return markdown(("", "attempts", "held"), [*rows, ("all", *everything)])


def attack_origin() -> str:
    """What the campaign ran on, and for how long."""
    found = read("attack.json")
    return f"commit {found['commit']}, torch {found['torch']}, {found['hardware']}, {found['seconds'] / 60:.0f} minutes"


def kills() -> int:
    """How many processes the campaign killed that trained."""
    return sum(count["attempts"] for part, count in read("attack.json")["counts"].items() if part.startswith("kills"))


def faults_table() -> str:
    """The faults planted in every room of the package, and how many the tests have seen."""
    rows = []
    for room, found in read("mutation.json")["rooms"].items():
        missed = found.get("survived", 0)
        seen = found["tested"] - missed
        counts = (found["planted"], found["tested"], seen, missed)
        rows.append((f"`{room}`", *map(str, counts), share_seen(seen, found), found["commit"]))
    return markdown(("", "faults", "tested", "seen", "missed", "seen %", "commit"), rows)


def share_seen(seen: int, found: dict[str, Any]) -> str:
    """Per cent of the faults tested; for a random sample also what was seen before tests were written for the rest."""
    share, first = f"{100 * seen / found['tested']:.1f}", found.get("seen_at_first")
    if first is None:
        return share
    low, high = binomtest(first, found["tested"]).proportion_ci(method="wilson")
    return f"{share}; at first {100 * first / found['tested']:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def survivors_table() -> str:
    """Why tests miss the faults that they miss: the reason, how many, and where."""
    where: dict[str, Counter[str]] = {}
    for each in read("mutation.json")["survivors"]:
        where.setdefault(each["reason"] or "Not looked into", Counter())[each["function"]] += 1
    rows = [
        (reason, str(functions.total()), ", ".join(f"`{name}`" + f" {n}" * (n > 1) for name, n in functions.items()))
        for reason, functions in sorted(where.items(), key=lambda item: -item[1].total())
    ]
    return markdown(("reason", "faults", "in"), rows)


def ablation_table(file: str, baseline: str) -> str:
    """Rows of an ablation, several seeds each on the same patients, and what they lose or gain beside one of them."""
    found = {name: seeds for name, seeds in read(file)["rows"].items() if seeds}
    rows = []
    for name, seeds in found.items():
        dice = [float(np.mean(list(run["dice"]["mean"].values()))) for run in seeds.values()]
        std = float(np.std(dice, ddof=1)) if len(dice) > 1 else None
        pairs = [paired(run, found[baseline][seed]) for seed, run in seeds.items()]
        less = "" if name == baseline else format_interval(over_seeds(pairs).interval())
        figures = [
            f"{np.mean([run['figures'][key] for run in seeds.values()]):.2f}"
            if all(key in run["figures"] for run in seeds.values())
            else ""
            for key in FIGURES
        ]
        rows.append((name, str(len(seeds)), spread({"mean": float(np.mean(dice)), "std": std}, 100), less, *figures))
    heads = ("seeds", "Dice %", f"less `{baseline}` (95 % interval)", *(key.replace("_", " ") for key in FIGURES))
    return markdown(("", *heads), rows)


def paired(run: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, float]:
    """The difference in mean Dice of each patient."""
    ours, theirs = run["dice"]["mean"], other["dice"]["mean"]
    return {patient: ours[patient] - theirs[patient] for patient in ours}


def compare_table(file: str, labeled: int | None = None, baseline: str = "supervised") -> str:
    """What `patchcl compare` found, best Dice of the last checkpoint first; of one count of labeled patients."""
    found = read(file)
    lines = [line for line in found["rows"] if labeled in (None, line["labeled_patients"]) and line["seeds"]]
    structures = list(dict.fromkeys(line["structure"] for line in lines))
    by_key = {(line["method"], line["checkpoint"], line["structure"]): line for line in lines}
    means = [line for line in lines if line["checkpoint"] == "last" and line["structure"] == "mean"]
    rows = []
    for line in sorted(means, key=lambda line: -line["dice_mean"]):
        last = [spread(by_key[line["method"], "last", structure], 100, "dice_") for structure in structures]
        best = spread(by_key[line["method"], "best", "mean"], 100, "dice_")
        minutes = f"{line['minutes']:.1f}" if line["minutes"] else ""
        rows.append((line["method"], str(line["seeds"]), *last, difference(line, "spec" in found), best, minutes))
    heads = (f"{structure} Dice %" for structure in structures)
    less = f"less {baseline}" + " (95 % interval)" * ("spec" in found)
    return markdown(("", "seeds", *heads, less, "best on validation", "minutes"), rows)


def default_table(sets: Mapping[str, str]) -> str:
    """Of each data set, a file of `patchcl compare`: masks alone, the default, and their difference, a row for each."""
    rows = []
    for name, found in ((name, read(file)) for name, file in sets.items() if measured(file)):
        means = [line for line in found["rows"] if line["checkpoint"] == "last" and line["structure"] == "mean"]
        alone = {line["labeled_patients"]: line for line in means if line["method"] == "supervised"}
        for line in (line for line in means if line["method"] == "patchcl"):
            labeled, seeds = line["labeled_patients"], str(line["seeds"])
            dice = [spread(each, 100, "dice_") for each in (alone[labeled], line)]
            rows.append((name, str(labeled), seeds, *dice, difference(line), line["settled_by"] or ""))
    heads = ("labeled", "seeds", "supervised Dice %", "patchcl Dice %", "difference (95 % interval)", "settled by")
    return markdown(("", *heads), rows)


def deep_supervision_table() -> str:
    """What deep supervision is worth to either method on each data set, a row for each, in all and seed by seed."""
    rows = []
    for name, file in DEFAULT.items():
        if not measured(file):
            continue
        with_it, without = (dice_of_runs(read(each)) for each in (file, PLAIN[name]))
        for labeled, method in dict.fromkeys(key[:2] for key in with_it):
            pairs = [(without[key], dice) for key, dice in with_it.items() if key[:2] == (labeled, method)]
            before, after = (float(dice) for dice in np.mean(pairs, axis=0))
            gains = ", ".join(format_points(dice - less) for less, dice in pairs)
            both = [f"{100 * dice:.1f}" for dice in (before, after)]
            rows.append((name, str(labeled), method, *both, format_points(after - before), gains))
    heads = ("labeled", "method", "without, Dice %", "with", "difference", "seed by seed")
    return markdown(("", *heads), rows)


def dice_of_runs(found: Mapping[str, Any]) -> dict[tuple[int, str, int], float]:
    """Dice of the last checkpoint by number of labeled patients, method and seed."""
    patients = {line["labeled"]: line["labeled_patients"] for line in found["rows"]}
    return {
        (patients[str(run["labeled"] or "all")], run["method"], run["seed"]): run["scores"]["last"]["dice"]
        for run in found["runs"]
    }


def labeled_of(file: str) -> list[int]:
    """The numbers of labeled patients of a comparison, in its order."""
    return list(dict.fromkeys(line["labeled_patients"] for line in read(file)["rows"] if line["seeds"]))


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
        gains = [over_patients(gain_of(run["patients"], way)).interval() for way in ways[-2:]]
        rows.append((name, *cells, *map(format_interval, gains)))
    return markdown(("", *ways, *(f"gain: {way}" for way in ways[-2:])), rows)


def inference_choices(file: str) -> str:
    """What validation chose for the averaged masks of each network."""
    runs = read(file)["runs"]
    chosen = {name: run["chosen"]["symmetries, post-processed"]["in_words"] for name, run in runs.items()}
    return "\n".join(f"- `{name}`: {words}." for name, words in chosen.items())


def gain_of(patients: Mapping[str, Mapping[str, float]], way: str) -> list[float]:
    """What a way to predict adds to one pass, of each patient."""
    return [dice - patients["one pass"][patient] for patient, dice in patients[way].items()]


def compare_answer(file: str) -> str:
    """What `patchcl compare` says in words; of results before 0.1's intervals were replaced, what their seeds say."""
    content = read(file)
    lines = content["answer"] if "spec" in content else list(old_answer(content))
    return "\n".join(f"> {line}" for line in lines)


def old_answer(content: Mapping[str, Any]) -> Iterator[str]:
    """Of results that kept no scores per patient: what Student's t says of several seeds, and of one nothing."""
    yield content["answer"][0]
    dice = {
        (run["labeled"], run["method"], run["seed"]): run["scores"]["last"]["dice"]
        for run in content["cells"]
        if run["scores"]
    }
    for labeled, method in dict.fromkeys(key[:2] for key in dice if key[1] != "supervised"):
        gains = [
            dice[labeled, method, seed] - dice[labeled, "supervised", seed]
            for (count, name, seed) in dice
            if (count, name) == (labeled, method) and (labeled, "supervised", seed) in dice
        ]
        if len(gains) > 1:
            enough = format_seeds_needed(seeds_needed(gains, SMALLEST_EFFECT))
            found = seed_interval(gains)
            settled = found.low > SMALLEST_EFFECT or found.high < -SMALLEST_EFFECT
            outlook = "" if settled else f"; no clear difference, {enough} would settle it"
            where = f"{method} less supervised, {labeled} labeled patients, over {len(gains)} seeds"
            yield f"{where}: {format_interval(found)}{outlook}."


def gain(second: str, first: str, metric: str = "dice") -> str:
    """What a run adds to another, patient by patient, both as FILE/METHOD, and what would settle it."""
    before, after = (by_patient(place, metric) for place in (first, second))
    scale = 1 if metric in FRACTION_METRICS else 1000  # distances are far below, so that bounds of scores do not bind
    found = over_patients((after[patient] - before[patient]) / scale for patient in before)
    mean, low, high = found.interval()
    points = f"{round(scale * mean):+d} pixels ({round(scale * low):+d} to {round(scale * high):+d}"
    text = f"{format_points(mean)} ({format_points(low)} to {format_points(high)}" if scale == 1 else points
    settled = low > SMALLEST_EFFECT or high < -SMALLEST_EFFECT or scale != 1
    enough = "" if settled else f"; {format_needed(needed(found, SMALLEST_EFFECT), 1)} would settle it"
    return f"{text.replace('-', '−')}{enough})"


def by_patient(place: str, metric: str) -> dict[str, float]:
    """A metric of a single run, averaged over the scans and structures of each patient."""
    file, _, method = place.partition("/")
    scores = read(f"{file}.json")[method]["evaluation"]["scores"]
    return patient_means([score[metric] for score in scores], [score["patient"] for score in scores])


def intervals_table(figure: str) -> str:
    """Simulated intervals before and after, by shape and number of patients: how often they hold, or lie above."""
    found = read("intervals.json")["patients"]
    sizes = [size for size in next(iter(found.values())) if figure == "holds" or int(size) >= FEWEST_PATIENTS]
    rows = [
        (name, *(" → ".join(f"{by_size[size][way][figure]:.1f}" for way in (BEFORE, AFTER)) for size in sizes))
        for name, by_size in found.items()
    ]
    return markdown(("", *(f"{size} patients" for size in sizes)), rows)


def ways_table() -> str:
    """Every way's worst case over sizes and all shapes but the last, and its width on ten normal differences."""
    found = read("intervals.json")["patients"]
    cells = [
        cell for name, by_size in found.items() if name != FAILS for size, cell in by_size.items() if int(size) > 5
    ]
    ten = found["normal"]["10"]
    rows = []
    for way in ten:
        lowest, highest = min(cell[way]["holds"] for cell in cells), max(cell[way]["above"] for cell in cells)
        width = "" if way == "sign flip" else f"{ten[way]['width'] / ten[STUDENT]['width']:.2f}"
        rows.append((way, f"{lowest:.1f}", f"{highest:.1f}", width))
    return markdown(("", "holds the truth, at least", "false “helped”, at most", "width at 10 normal, t = 1"), rows)


def seeds_table() -> str:
    """Simulated intervals over seeds and patients, before and after."""
    rows = [
        (
            *(str(line["seeds"]), str(line["patients"]), f"{100 * line['spread']:.0f}"),
            *(f"{line[f'before_{figure}']:.1f} → {line[f'after_{figure}']:.1f}" for figure in ("holds", "above")),
        )
        for line in read("intervals.json")["seeds"]
    ]
    return markdown(("seeds", "patients", "deviation over seeds, points", "holds the truth", "false “helped”"), rows)


def difference(line: Mapping[str, Any], holds: bool = True) -> str:
    """The paired difference from the baseline, without an interval that does not hold its level; nothing for itself."""
    values = [line[f"dice_difference{part}"] for part in ("", "_low", "_high")]
    if None in values:
        return ""
    return format_interval(Interval(*values)) if holds else format_points(values[0])


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
