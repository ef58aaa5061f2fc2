"""The verb `compare` from its spec to its page: run what is missing, then show the results of all runs."""

from pathlib import Path

from rich.console import Console
from rich.markup import escape

from patchcl.comparison.absent import warn_of_absent
from patchcl.comparison.choice import choose, write_choice
from patchcl.comparison.division import require_side
from patchcl.comparison.export import write_csv, write_results
from patchcl.comparison.folds import cross_validate_all, keep_data
from patchcl.comparison.page import write_compare_page
from patchcl.comparison.results import read_budgets
from patchcl.comparison.runner import Ending, run_jobs
from patchcl.comparison.spec import CompareSpec, job_of, with_content
from patchcl.comparison.spec_file import add_spec, read_spec, require_comparison
from patchcl.comparison.summary import render_budgets
from patchcl.comparison.worker import complete
from patchcl.evaluation.paired import require_effect
from patchcl.evaluation.scores import SplitSide
from patchcl.runs.folder import RunFolder
from patchcl.runs.writer import one_writer


def compare_methods(spec: CompareSpec, out: Path, at_once: int, console: Console, cluster: str | None = None) -> Ending:
    """Make the runs of `spec` that `out` lacks, up to `at_once` side by side; show all results unless stopped.

    Raises:
        UserError: `out` holds a comparison under other conditions, or another process works on it, or the cluster
            cannot be worked with.
    """
    with one_writer(out, "comparison", "patchcl compare --show"):
        require_comparison(out)
        spec, files = with_content(spec, out)
        add_spec(spec, out, files)
        jobs = {compare_run.run_id: job_of(spec, compare_run, out, at_once) for compare_run in spec.runs}
        left = {run_id: job for run_id, job in jobs.items() if not complete(job)}
        for run_id in jobs.keys() - left.keys():
            keep_data(RunFolder(jobs[run_id].root), spec.data)
        each = f" of {spec.folds} folds each" if spec.folds else ""
        console.print(f"{len(jobs)} runs{each}, {len(jobs) - len(left)} of them finished already.", highlight=False)
        if spec.folds:
            ending = cross_validate_all(left, spec.folds, out, at_once, console, cluster)
        else:
            warn_of_absent(spec.data, left.values(), console)
            ending = run_jobs(left, out, at_once, console, cluster)
        if not ending.stop:
            show_comparison(out, console)
    return ending


def show_comparison(out: Path, console: Console, on: SplitSide | None = None, min_effect: float | None = None) -> None:
    """Print the results of the runs in `out`, and write what they come to beside them.

    That is compare.csv, results.json, compare.html, and in chosen.json the run to be used.

    Args:
        out: The folder of a comparison.
        console: For the tables.
        on: The side whose scores to show; by default the one asked for last.
        min_effect: The least difference in Dice that counts; by default the one asked for last.

    Raises:
        UserError: `out` holds no comparison, or cannot be written to.
    """
    spec = read_spec(out)
    if on is not None:
        require_side(on, spec.folds)
        spec = spec.model_copy(update={"on": on})
    if min_effect is not None:
        spec = spec.model_copy(update={"min_effect": require_effect(min_effect)})
    budgets = read_budgets(spec, out)
    choice = choose(budgets)
    write_choice(choice, out)
    render_budgets(budgets, console, choice)
    write_csv(budgets, out / "compare.csv")
    write_results(spec, budgets, out / "results.json", choice)
    write_compare_page(spec, budgets, out, choice)
    console.print(
        f"Page: [bold]{escape(str(out / 'compare.html'))}[/bold]  (open it in a browser)",
        highlight=False,
        soft_wrap=True,
    )
