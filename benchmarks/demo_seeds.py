"""Do the unlabeled scans help on generated data? `patchcl demo` for several seeds, and what the seeds say together.

    python benchmarks/demo_seeds.py        # seeds 0 to 8, about 3 minutes each on 2 cores

Every seed draws other patients, another split, other weights and another order. So patients are nested in seeds: the
spread of the seeds' means holds that of both, and Student's interval over seeds covers both draws. A seed that is in
the result file is not run again, and one that was stopped goes on where it was. After a change of method, remove both
file and runs.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from patchcl.core.errors import UserError
from patchcl.core.files import write_json
from patchcl.demo.demo import DEMO, METHODS, DemoResult, run_demo
from patchcl.evaluation.intervals import Interval, seed_interval
from patchcl.evaluation.metrics import EMPTY_POLICY
from patchcl.evaluation.paired import SMALLEST_EFFECT, format_interval, format_points
from patchcl.evaluation.sample_size import ASSUMPTION, format_seeds_needed, seeds_needed
from patchcl.evaluation.scores import MEAN, Metric, summarise
from patchcl.runs.folder import RunFolder

RESULTS = Path(__file__).parent / "results" / "demo_seeds.json"
METRICS: tuple[Metric, ...] = ("dice", "hd95_mm")
UNITS = {"dice": "Dice %", "hd95_mm": "95HD mm"}
Seeds = dict[str, dict[str, Any]]  # seed -> what was measured with it


def main() -> None:
    """Run what is missing, after every seed write what is known, and end with the table and the answer."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seeds", type=int, nargs="+", default=[*range(9)])
    arguments.add_argument("--runs", type=Path, default=Path("runs/demo_seeds"), help="where the runs go")
    arguments.add_argument("--results", type=Path, default=RESULTS, help="the result file")
    chosen, console = arguments.parse_args(), Console()
    seeds = finished(chosen.results)
    for seed in chosen.seeds:
        if str(seed) in seeds:
            console.print(f"Seed {seed} is in {chosen.results.name} already.")
            continue
        console.rule(f"Seed {seed}")
        out = chosen.runs / f"seed_{seed}"
        seeds[str(seed)] = measured(run_demo(out, seed, console), out)
        write_json(chosen.results, {"settings": list(DEMO), "summary": summary(seeds), "seeds": seeds})
    show(summary(seeds), seeds, console)


def finished(path: Path) -> Seeds:
    """What the result file knows.

    Raises:
        UserError: It was measured with other settings, and the two must not be mixed.
    """
    if not path.is_file():
        return {}
    known = json.loads(path.read_text(encoding="utf-8"))
    if known["settings"] != list(DEMO):
        raise UserError(f"{path} was measured with other settings than the demo has now. Remove it and the runs.")
    return dict(known["seeds"])


def measured(result: DemoResult, out: Path) -> dict[str, Any]:
    """Mean scores over patients, by method and structure, and where they come from."""
    first = result.evaluations[METHODS[0]]
    scores = {
        method: {
            structure: {metric: summarise(evaluation, metric, structure).mean for metric in METRICS}
            for structure in (*evaluation.structures, MEAN)
        }
        for method, evaluation in result.evaluations.items()
    }
    origin = {
        method: json.loads(RunFolder(out / method).provenance.read_text(encoding="utf-8"))
        for method in result.evaluations
    }
    return {"test_patients": len(first.patients), "scores": scores, "provenance": origin}


def summary(seeds: Seeds) -> dict[str, Any]:
    """Mean and deviation over seeds by method, structure and metric, and the paired difference of the two methods."""
    baseline, method = METHODS
    structures = next(iter(seeds.values()))["scores"][baseline]

    def over_seeds(name: str, structure: str, metric: str) -> list[float]:
        return [seed["scores"][name][structure][metric] for seed in seeds.values()]

    def metric_summary(structure: str, metric: str) -> dict[str, Any]:
        first, second = (over_seeds(name, structure, metric) for name in METHODS)
        difference = seed_interval(np.subtract(second, first).tolist())
        return {baseline: spread(first), method: spread(second), "difference": named(difference)}

    return {structure: {metric: metric_summary(structure, metric) for metric in METRICS} for structure in structures}


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """Mean and standard deviation; no deviation for a single value."""
    return {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1)) if len(values) > 1 else None}


def named(difference: Interval) -> dict[str, float | None]:
    """For JSON, which knows no NaN."""
    return {key: None if math.isnan(value) else value for key, value in difference._asdict().items()}


def show(results: dict[str, Any], seeds: Seeds, console: Console) -> None:
    """Print the table, and the answer in words."""
    title = f"Generated scans, {len(seeds)} seed(s): mean ± standard deviation over seeds"
    table = Table(title=title, caption=EMPTY_POLICY, box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column()
    columns = [(metric, name) for metric in METRICS for name in METHODS]
    for heading in (*(f"{name}\n{UNITS[metric]}" for metric, name in columns), "Dice points\n(95 % interval)"):
        table.add_column(heading, justify="right", no_wrap=True)
    for structure, metrics in results.items():
        figures = [format_figure(metrics[metric][name], metric) for metric, name in columns]
        table.add_row(structure, *figures, format_interval(interval(metrics)))
    console.print(table)
    gains = [
        seed["scores"][METHODS[1]][MEAN]["dice"] - seed["scores"][METHODS[0]][MEAN]["dice"] for seed in seeds.values()
    ]
    console.print(answer(interval(results[MEAN]), gains), highlight=False)
    commits = {run["commit"] for seed in seeds.values() for run in seed["provenance"].values()}
    if len(commits) > 1:
        console.print(f"Note: these runs come from several commits: {', '.join(sorted(map(str, commits)))}.")


def format_figure(figure: dict[str, float | None], metric: str) -> str:
    """Dice in percent, distances in mm."""
    scale = 100 if metric == "dice" else 1
    return " ± ".join("?" if part is None else f"{scale * part:.1f}" for part in figure.values())


def interval(metrics: dict[str, Any]) -> Interval:
    """The difference in Dice as it was before JSON."""
    return Interval(
        **{key: math.nan if value is None else value for key, value in metrics["dice"]["difference"].items()}
    )


def answer(difference: Interval, gains: Sequence[float]) -> str:
    """What the numbers say, also when it is no, and how many seeds would say more."""
    mean, low, high = difference
    seeds = len(gains)
    if math.isnan(low):
        return f"{format_points(mean)} Dice points with one seed, and one seed is no answer."
    bounds = f"{format_points(low)} to {format_points(high)}"
    facts = f"{format_points(mean)} Dice points ({bounds}, 95 % t-interval over {seeds} seeds)"
    if low > SMALLEST_EFFECT:
        return f"Yes, the unlabeled scans help on this generated data: {facts}."
    if high < -SMALLEST_EFFECT:
        return f"No, the unlabeled scans do harm on this generated data: {facts}."
    enough = format_seeds_needed(seeds_needed(gains, SMALLEST_EFFECT))
    return (
        f"No, these seeds do not show that the unlabeled scans help on this generated data: {facts}. "
        f"{enough[0].upper()}{enough[1:]} would settle it, {ASSUMPTION}."
    )


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
