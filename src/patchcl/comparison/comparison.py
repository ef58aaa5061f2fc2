"""A comparison from its question to its page: run what is missing, then say what all cells say."""

from pathlib import Path

from rich.console import Console

from patchcl.comparison.export import write_csv, write_results
from patchcl.comparison.page import write_grid_page
from patchcl.comparison.results import read_levels
from patchcl.comparison.runner import Ending, run_cells
from patchcl.comparison.spec import Question, job_of, join, read_question
from patchcl.comparison.summary import render_levels
from patchcl.comparison.worker import finished
from patchcl.evaluation.scores import Side


def compare_methods(question: Question, out: Path, at_once: int, console: Console) -> Ending:
    """Run the cells of `question` that `out` lacks, up to `at_once` side by side; show the outcome unless stopped.

    Raises:
        UserError: `out` holds another question.
    """
    join(question, out)
    jobs = {cell.place: job_of(question, cell, out, at_once) for cell in question.cells}
    left = {place: job for place, job in jobs.items() if not finished(job.root, job.on, job.settings.training.steps)}
    console.print(f"{len(jobs)} cells, {len(jobs) - len(left)} of them finished already.", highlight=False)
    ending = run_cells(left, at_once, console)
    join(question, out)  # another machine may have written meanwhile without knowing of this question
    if not ending.stop:
        show_comparison(out, console)
    return ending


def show_comparison(out: Path, console: Console, on: Side | None = None) -> None:
    """Print what the cells in `out` say, and write compare.csv, results.json and compare.html beside them.

    Args:
        out: The folder of a comparison.
        console: For the tables.
        on: The side whose scores to show; by default the one asked for last.

    Raises:
        UserError: `out` holds no comparison, or cannot be written to.
    """
    question = read_question(out)
    if on is not None:
        question = question.model_copy(update={"on": on})
    levels = read_levels(question, out)
    render_levels(levels, console)
    write_csv(levels, out / "compare.csv")
    write_results(question, levels, out / "results.json")
    write_grid_page(question, levels, out)
    console.print(f"Page: [bold]{out / 'compare.html'}[/bold]  (open it in a browser)", highlight=False)
