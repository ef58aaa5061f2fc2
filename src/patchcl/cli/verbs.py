"""The command line: each verb reads its arguments, calls the function of that name in `patchcl.api`, prints a summary.

What loads torch is imported inside the verbs, so that help and mistakes are answered at once.
"""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from patchcl.cli import options
from patchcl.cli.endings import finish, finish_comparison, finish_folds, list_failures, tell
from patchcl.cli.face import face
from patchcl.core.console import console, replace_what_cannot_be_shown
from patchcl.core.errors import UserError
from patchcl.core.loading import end_without_a_look
from patchcl.core.version import __version__
from patchcl.evaluation.source import require_one_source
from patchcl.runs.folder import comparison_in

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Medical image segmentation from many scans and few annotations.",
)


@app.callback(invoke_without_command=True)
def version(
    context: typer.Context,
    asked: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    """Medical image segmentation from many scans and few annotations."""
    if asked:
        typer.echo(f"patchcl {__version__}")
        context.exit()


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write everything.")] = Path("patchcl-demo"),
    seed: Annotated[int, typer.Option(min=0, help="Of the generated scans and of training.")] = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="Of each training.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Compare all methods in a table, instead of two.")] = False,
) -> None:
    """Generate scans, train with and without the unlabeled ones, and say whether they helped."""
    face()  # which says how threads wait before torch is loaded
    from patchcl.demo.demo import compare_all, run_demo

    if everything:
        finish_comparison(compare_all(out, seed, console, steps))
        return
    result = run_demo(out, seed, console, steps)
    console.print(f"\nReport: [bold]{escape(str(result.report))}[/bold]  (open it in a browser)", soft_wrap=True)


@app.command()
def check(
    data: options.Data,
    preset: options.Preset = None,
    config: options.Config = None,
    settings: options.Set = None,
    labeled: options.Labeled = None,
    split: options.Split = None,
    plan: options.Plan = None,
    plan_out: options.PlanOut = None,
) -> None:
    """Say what the tool understood of a data folder, how it would train on it, and what is wrong with it."""
    given = {"preset": preset, "config": config, "settings": settings, "labeled": labeled, "split": split, "plan": plan}
    found = face(given | {"data": data}).check(data, **given)

    from patchcl.config import make_settings, planned
    from patchcl.data.check import render
    from patchcl.data.preprocessing.plan import save_plan
    from patchcl.training.memory_estimate import estimate_memory, memory_table, with_batch

    render(found, console)
    if found.problems:
        raise UserError(f"{data} has {len(found.problems)} problem(s), listed above. Correct them before training.")
    if found.plan is not None:
        chosen = planned(make_settings(**given), found.plan)
        estimate = estimate_memory(chosen, found.plan, found.grids)
        console.print(memory_table(chosen, estimate))
        if plan_out is not None:
            save_plan(plan_out, with_batch(found.plan, estimate))
            line = f"Plan: {plan_out}. Next: patchcl train {data} --plan {plan_out}"
            console.print(line, markup=False, soft_wrap=True)


@app.command()
def train(
    data: options.Data,
    out: Annotated[Path, typer.Option("--out", "-o", help="A new folder for the run.")],
    method: options.Method = None,
    preset: options.Preset = None,
    config: options.Config = None,
    settings: options.Set = None,
    labeled: options.Labeled = None,
    split: options.Split = None,
    plan: options.Plan = None,
    steps: options.Steps = None,
    seed: options.Seed = None,
    device: options.SettingsDevice = None,
    precision: options.Precision = None,
    devices: options.Devices = None,
    nodes: options.Nodes = None,
    resume_if_there: options.ResumeIfThere = False,
    folds: options.Folds = None,
    fold: options.Fold = None,
    jobs: options.Jobs = "1",
    cluster: options.Cluster = None,
    scratch: options.Scratch = None,
) -> None:
    """Train on a data folder. Scans without a mask are learned from as well, unless --method supervised."""
    apart = ("resume_if_there", "folds", "fold", "jobs", "cluster")
    given = {key: value for key, value in locals().items() if key not in ("apart", *apart)}
    if folds is not None:
        finish_folds(out, face(given).train_folds(folds=folds, fold=fold, jobs=jobs, cluster=cluster, **given))
    elif fold is not None:
        raise UserError(f"--fold {fold} says which of several to train. Say of how many with --folds, such as 5.")
    elif cluster is not None:
        raise UserError("--cluster is for many runs: compare, or train --folds. One run takes --devices and --nodes.")
    else:
        finish(face(given).train(resume_if_there=resume_if_there, **given))


@app.command()
def resume(
    run: options.Run,
    data: options.MovedData = None,
    device: options.SettingsDevice = None,
    accept_changes: options.AcceptChanges = False,
    devices: options.Devices = None,
    nodes: options.Nodes = None,
) -> None:
    """Continue a run that was stopped; on a CPU exactly as if it had not been."""
    finish(face().resume(**locals()))


@app.command()
def predict(
    run: options.RunToUse,
    scans: options.Scans,
    out: options.Folder,
    checkpoint: options.Checkpoint = "last",
    weights: options.Weights = "teacher",
    probabilities: options.Probabilities = False,
    uncertainty: options.Uncertainty = False,
    output: options.Format = "same",
    series: options.Series = None,
    fast: options.Fast = False,
    postprocessing: options.Postprocessing = True,
    device: options.Device = "auto",
    jobs: options.Processes = 1,
    cluster: options.Cluster = None,
) -> None:
    """Segment new scans, each on its own grid."""
    summary = face().predict(**locals())

    from patchcl.inference.case_summary import render

    console.print(
        f"Segmented {len(summary.done)} scan(s) into [bold]{escape(str(out))}[/bold]", highlight=False, soft_wrap=True
    )
    render(summary.cases, out, console)
    for note in summary.notes:
        console.print(f"Note: {note}", markup=False, highlight=False, soft_wrap=True)
    list_failures("Left out", [message for _, message in summary.failed])


@app.command()
def evaluate(
    run: options.RunToScore = None,
    predictions: options.Predictions = None,
    masks: options.Masks = None,
    on: options.EvaluateOn = "auto",
    checkpoint: options.Checkpoint = "last",
    weights: options.Weights = "teacher",
    voxels: options.Voxels = False,
    objects: options.Objects = False,
    fast: options.Fast = False,
    postprocessing: options.Postprocessing = True,
    device: options.Device = "auto",
    jobs: options.Processes = 1,
    cluster: options.Cluster = None,
) -> None:
    """Score predictions per patient and structure: Dice, Jaccard, 95HD, ASD, as table, CSV and JSON."""
    require_one_source(run, predictions, masks, jobs > 1 or cluster is not None)
    evaluation = face().evaluate(**locals())

    from patchcl.evaluation.tables import render

    render(evaluation, console)


@app.command()
def compare(
    data: options.DataToCompare = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A folder for all runs; the same to go on.")] = None,
    methods: options.Methods = None,
    variants: options.Variants = None,
    baseline: options.Baseline = None,
    labeled: options.Budgets = None,
    seeds: options.Seeds = "0,1,2",
    folds: options.Folds = None,
    preset: options.Preset = None,
    config: options.Config = None,
    settings: options.Set = None,
    split: options.Split = None,
    steps: options.Steps = None,
    device: options.SettingsDevice = None,
    jobs: options.Jobs = "1",
    cluster: options.Cluster = None,
    scratch: options.Scratch = None,
    on: options.CompareOn = None,
    voxels: options.Voxels = False,
    fast: options.Fast = False,
    postprocessing: options.Postprocessing = True,
    min_effect: options.MinEffect = None,
    show: Annotated[Path | None, typer.Option(help="Train nothing; show what this folder holds.")] = None,
    table: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Train many methods with several seeds and amounts of masks, and compare them in a table and on a page."""
    given = {name: value for name, value in locals().items() if name not in ("show", "table") and value is not None}
    if table is not None:
        raise UserError(f"--table is now called --show. Call: patchcl compare --show {table}")
    if show is not None and data is None:
        comparison_in(show)
        from patchcl.comparison.comparison import show_comparison

        show_comparison(show, console, on, None if min_effect is None else min_effect / 100)
        return
    if show is not None or data is None or out is None:
        raise UserError("Give either DATA and -o DIR, or --show DIR alone.")
    finish_comparison(face(given | {"labeled": None}).compare(**given))


@app.command(name="import")
def import_data(
    source: options.Source,
    out: Annotated[Path, typer.Option("--out", "-o", help="A new folder for the data set.")],
    layout: options.Layout = None,
    structures: options.Structures = None,
    channels: options.Channels = None,
    images: options.Images = None,
    masks: options.ImageMasks = None,
    series: options.ImportSeries = None,
    spacing: options.Spacing = None,
    threshold: options.Threshold = None,
    objects: options.NumberedObjects = False,
) -> None:
    """Turn images and masks that are laid out otherwise into a data set that patchcl reads, with its split."""
    imported = face().import_data(**locals())

    from patchcl.data.importers.registry import describe

    console.print(describe(imported), markup=False, highlight=False, soft_wrap=True)
    check = escape(f"patchcl check {out}" + (f" --split {imported.split}" if imported.split else ""))
    console.print(f"Imported into [bold]{escape(str(out))}[/bold]. Next: {check}", highlight=False, soft_wrap=True)


@app.command()
def report(
    runs: options.Runs,
    out: Annotated[Path, typer.Option("--out", "-o", help="The HTML file to write.")] = Path("report.html"),
    min_effect: options.MinEffect = None,
) -> None:
    """Write a page with the scores, the differences, learning curves and pictures of one run or several."""
    face().report(runs, out, min_effect=0.1 if min_effect is None else min_effect)
    console.print(f"Report: [bold]{escape(str(out))}[/bold]", highlight=False, soft_wrap=True)


def main() -> None:
    """The program `patchcl`: what a user can put right is one message and exit code 2 (1: diverged), no traceback."""
    replace_what_cannot_be_shown()
    end_without_a_look()
    try:
        app()
    except UserError as error:
        tell(str(error), error.exit_code)
    except OSError as error:  # no room, no right, or a folder in the way
        if isinstance(error, ConnectionError | ChildProcessError):
            raise
        named = error.filename2 or error.filename or "A file"
        tell(f"{named} cannot be written or read: {error.strerror or error}. Make room, or choose another place.")
