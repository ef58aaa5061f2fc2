"""The verb `demo`: train on generated scans with few masks and many scans, and say whether these helped."""

import os
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from patchcl.comparison.comparison import compare_methods
from patchcl.comparison.runner import Ending
from patchcl.comparison.spec import CompareSpec, build_spec
from patchcl.config import Settings, load_settings
from patchcl.core.documents import DocumentError, parse_json
from patchcl.core.errors import UserError
from patchcl.core.files import write_json
from patchcl.data.check import check_data, render
from patchcl.demo.phantom import write_cardiac
from patchcl.evaluation.evaluate import evaluate_run
from patchcl.evaluation.paired import Comparison, compare, render_comparison
from patchcl.evaluation.scores import Evaluation
from patchcl.methods import method_names
from patchcl.reports.run_report import write_report
from patchcl.runs.folder import RunFolder
from patchcl.runs.writer import one_writer
from patchcl.training.begun import require_same
from patchcl.training.experiment import resume, start

METHODS = ("supervised", "patchcl")
DEMO = (
    "plan.size=[64, 64]",
    "plan.fit=resize",
    "network.features=[16, 32, 64, 128]",
    "training.labeled_per_batch=4",
    "training.unlabeled_per_batch=4",
    "training.validate_every=200",
    "training.steps=800",
    "split.labeled=3",
)
"""Settings that make the job small enough for two processor cores and a few minutes; all else is as for any user."""
SEED = "demo.json"
"""The file of a demo that tells from which seed its scans were drawn."""
TABLE_STEPS = 200
"""Steps of each run of the comparison of all methods."""


class DemoResult(NamedTuple):
    """Scores of the demo, their difference, and its report."""

    evaluations: dict[str, Evaluation]  # by method
    comparison: Comparison  # patchcl less supervised
    report: Path


def demo_settings(method: str, seed: int, steps: int | None = None) -> Settings:
    """The settings of one of the demo's runs."""
    own = [f"method.name={method}", f"training.seed={seed}", f"split.seed={seed}"]
    return load_settings(None, [*DEMO, *own, *([f"training.steps={steps}"] if steps else [])])


def run_demo(out: Path, seed: int, console: Console, steps: int | None = None) -> DemoResult:
    """Generates scans in `out`, trains with masks alone and with all scans, compares both on held-out scans.

    What is there already is not done again, so that a demo that was stopped goes on when it is called again.

    Raises:
        UserError: `out` cannot be written to.
        SystemExit: Somebody asked to stop.
    """
    data = generated_scans(out, seed, console)
    settings = demo_settings(METHODS[0], seed, steps)
    render(check_data(data, settings.split, settings.plan), console)

    evaluations = {}
    for method in METHODS:
        console.rule(f"patchcl train {data} --method {method} -o {out / method}")
        train_or_continue(data, out / method, demo_settings(method, seed, steps), console)
        evaluations[method] = evaluate_run(RunFolder.open(out / method), on="test")

    console.rule("Did the unlabeled scans help?")
    supervised, patchcl = (evaluations[method] for method in METHODS)
    render_comparison(supervised, patchcl, console)
    write_report([RunFolder.open(out / method) for method in METHODS], out / "report.html")
    return DemoResult(evaluations, compare(supervised, patchcl), out / "report.html")


def compare_all(out: Path, seed: int, console: Console, steps: int | None = None) -> Ending:
    """The scans of the demo, and every method on them: the whole table, to see what `patchcl compare` makes.

    What is there already is not done again. As many runs go side by side as there are processor cores, up to four.

    Raises:
        UserError: `out` cannot be written to, or holds something else.
    """
    spec = compare_spec(generated_scans(out, seed, console), seed, steps or TABLE_STEPS)
    return compare_methods(spec, out / "compare", min(os.cpu_count() or 1, 4), console)


def compare_spec(data: Path, seed: int, steps: int) -> CompareSpec:
    """The comparison of every method, and of two that have strong views with patch contrast on top."""
    methods = [*method_names(), "unimatch+contrast", "bcp+contrast"]
    return build_spec(data, methods, [3], [seed], overrides=[*DEMO, f"training.steps={steps}"], on="test")


def generated_scans(out: Path, seed: int, console: Console) -> Path:
    """The folder of the demo's data set, made unless it is there.

    Raises:
        UserError: Those that are there are of another seed, or the folder cannot be written to.
    """
    data, kept = out / "data", out / SEED
    before = _seed_of(kept)
    if before not in (seed, None):
        raise UserError(f"{out} holds the demo of seed {before}. Choose a new folder with -o, or add: --seed {before}")
    if not (data / "dataset.json").is_file():
        try:
            write_json(kept, {"seed": seed})
        except OSError as error:
            raise UserError(f"Cannot write {kept}: {error.strerror}. Choose another folder with -o.") from error
        console.rule("Generating scans")
        write_cardiac(data, labeled=5, unlabeled=24, test=12, seed=seed)
    return data


def _seed_of(kept: Path) -> object:
    """What the scans of a demo were drawn from; None if none are there, or nothing tells."""
    try:
        return parse_json(kept.read_bytes())["seed"]
    except (OSError, DocumentError, KeyError, TypeError):
        return None


def train_or_continue(data: Path, root: Path, settings: Settings, console: Console) -> None:
    """Starts a run, or continues it where it was stopped.

    Raises:
        UserError: The run was begun with other settings.
        SystemExit: Somebody asked to stop.
    """
    begun = RunFolder(root).begun()
    if begun:
        require_same(RunFolder(root), data, settings)
    with one_writer(root):
        outcome = resume(root, console) if begun else start(data, root, settings, console)
    if outcome.stop:
        console.print(
            f"Stopped; all of it is saved. Call the same command again to go on with {root}.",
            markup=False,
            soft_wrap=True,
        )
        raise SystemExit(outcome.stop.exit_code)
