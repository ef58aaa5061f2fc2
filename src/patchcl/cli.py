"""The verbs. Each reads its arguments, calls one function and prints one summary; torch is imported inside them."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from patchcl.core.errors import UserError
from patchcl.methods import method_names

if TYPE_CHECKING:
    from patchcl.comparison.runner import Ending
    from patchcl.config import Settings
    from patchcl.training.experiment import Outcome

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Medical image segmentation from many scans and few annotations.",
)
console = Console()
errors = Console(stderr=True)

Checkpoint = Literal["last", "best"]
Weights = Literal["teacher", "student"]
Device = Literal["auto", "cpu", "cuda", "mps"]
Output = Literal["same", "nifti", "dicom-seg"]
Layout = Literal["plain", "table", "dicom", "crag", "kits19", "decathlon", "ssl4mis", "pymic"]

DataArgument = Annotated[Path, typer.Argument(help="A folder in nnU-Net raw layout: dataset.json, imagesTr, labelsTr.")]
RunArgument = Annotated[Path, typer.Argument(help="A folder made by patchcl train.")]
ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", help="Settings in YAML.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="One setting, such as method.teacher_decay=0.99; may be repeated.")
]
LabeledOption = Annotated[
    str | None, typer.Option(help="Pretend that only these training patients have masks: a number, or names a,b,c.")
]
SplitOption = Annotated[Path | None, typer.Option(help="A JSON file that divides the patients.")]
PlanOption = Annotated[Path | None, typer.Option(help="A plan that check --plan-out wrote; --set plan.x=y overrides.")]
DeviceOption = Annotated[Device, typer.Option(help="Where to compute.")]
CheckpointOption = Annotated[Checkpoint, typer.Option(help="last: the end of training; best: the best on validation.")]
WeightsOption = Annotated[Weights, typer.Option(help="teacher: the moving average of the student.")]


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write everything.")] = Path("patchcl-demo"),
    seed: Annotated[int, typer.Option(min=0, help="Of the generated scans and of training.")] = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="Of each training.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Compare all methods in a table, instead of two.")] = False,
) -> None:
    """Generate scans, train with and without the unlabeled ones, and say whether they helped."""
    from patchcl.demo.demo import compare_all, run_demo

    if everything:
        _finish_comparison(compare_all(out, seed, console, steps))
        return
    result = run_demo(out, seed, console, steps)
    console.print(f"\nReport: [bold]{result.report}[/bold]  (open it in a browser)")


@app.command()
def check(
    data: DataArgument,
    config: ConfigOption = None,
    settings: SetOption = None,
    labeled: LabeledOption = None,
    split: SplitOption = None,
    plan: PlanOption = None,
    plan_out: Annotated[
        Path | None, typer.Option(help="Write the plan and a batch that fits this machine to this YAML file.")
    ] = None,
) -> None:
    """Say what the tool understood of a data folder, how it would train on it, and what is wrong with it."""
    from patchcl.config import planned
    from patchcl.data.check import check_data, render
    from patchcl.data.importers.registry import require_ours
    from patchcl.data.preprocessing.plan import save_plan
    from patchcl.training.memory_estimate import estimate_memory, memory_table, with_batch

    require_ours(data)
    chosen = _settings(config, settings, labeled=labeled, split=split, plan=plan)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("Reading scans", total=None)
        found = check_data(data, chosen.split, chosen.plan, lambda done, of: bar.update(task, completed=done, total=of))
    render(found, console)
    if found.problems:
        raise UserError(f"{data} has {len(found.problems)} problem(s), listed above. Mend them before training.")
    if found.plan is not None:
        chosen = planned(chosen, found.plan)
        estimate = estimate_memory(chosen, found.plan, found.grids)
        console.print(memory_table(chosen, estimate))
        if plan_out is not None:
            save_plan(plan_out, with_batch(found.plan, estimate))
            line = f"Plan: {plan_out}. Next: patchcl train {data} --plan {plan_out}"
            console.print(line, markup=False, soft_wrap=True)


@app.command()
def train(
    data: DataArgument,
    out: Annotated[Path, typer.Option("--out", "-o", help="A new folder for the run.")],
    method: Annotated[str | None, typer.Option(help=f"{', '.join(method_names())}; patchcl by default.")] = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    labeled: LabeledOption = None,
    split: SplitOption = None,
    plan: PlanOption = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, order and augmentation.")] = None,
    device: Annotated[Device | None, typer.Option(help="Where to compute.")] = None,
    precision: Annotated[Literal["32-true", "bf16-mixed"] | None, typer.Option(help="Of the arithmetic.")] = None,
) -> None:
    """Train on a data folder. Scans without a mask are learned from as well, unless --method supervised."""
    from patchcl.data.importers.registry import require_ours
    from patchcl.training.experiment import start

    require_ours(data)
    chosen = _settings(config, settings, method, labeled, split, steps, seed, device, precision, plan)
    _finish(start(data, out, chosen, console))


@app.command()
def resume(run: RunArgument) -> None:
    """Continue a run that was stopped, exactly as if it had not been."""
    from patchcl.training.experiment import resume as continue_run

    _finish(continue_run(run, console))


@app.command()
def predict(
    run: RunArgument,
    scans: Annotated[Path, typer.Argument(help="A scan, a DICOM series, or a folder of these named CASE_0000.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="A folder for the masks.")],
    checkpoint: CheckpointOption = "last",
    weights: WeightsOption = "teacher",
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also write a map for every structure.")
    ] = False,
    uncertainty: Annotated[bool, typer.Option("--uncertainty", help="Also write where the network is unsure.")] = False,
    output: Annotated[
        Output, typer.Option("--format", help="Of the masks; same: that of the scan, DICOM-SEG for a DICOM series.")
    ] = "same",
    series: Annotated[
        str | None,
        typer.Option(help="For DICOM: the series to take of each folder, by part of its description, or UID."),
    ] = None,
    device: DeviceOption = "auto",
) -> None:
    """Segment new scans, each on its own grid."""
    from patchcl.core.devices import best_device
    from patchcl.inference.predict import predict_files
    from patchcl.runs.folder import RunFolder

    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("Segmenting", total=None)
        summary = predict_files(
            RunFolder.open(run),
            scans,
            out,
            checkpoint=checkpoint,
            weights=weights,
            probabilities=probabilities,
            uncertainty=uncertainty,
            output=output,
            series=series,
            device=best_device(device),
            on_progress=lambda done, of: bar.update(task, completed=done, total=of),
        )
    console.print(f"Segmented {len(summary.done)} scan(s) into [bold]{escape(str(out))}[/bold]", highlight=False)
    for _, message in summary.failed:
        errors.print("[bold red]Left out[/bold red]", end=" ")
        errors.print(message, markup=False, highlight=False, soft_wrap=True)
    if summary.failed:
        raise typer.Exit(1)


@app.command()
def evaluate(
    run: Annotated[Path | None, typer.Argument(help="A folder made by patchcl train.")] = None,
    predictions: Annotated[Path | None, typer.Option(help="A folder of masks, instead of a run.")] = None,
    masks: Annotated[
        Path | None, typer.Option(help="The reference masks for --predictions, of the same names.")
    ] = None,
    on: Annotated[Literal["auto", "test", "validation"], typer.Option(help="auto: test if it has masks.")] = "auto",
    checkpoint: CheckpointOption = "last",
    weights: WeightsOption = "teacher",
    voxels: Annotated[bool, typer.Option("--voxels", help="Distances in voxels, where the spacing was lost.")] = False,
    objects: Annotated[
        bool, typer.Option("--objects", help="Also F1, Dice and Hausdorff of single objects, such as glands.")
    ] = False,
    device: DeviceOption = "auto",
) -> None:
    """Score predictions per patient and structure: Dice, Jaccard, 95HD, ASD, as table, CSV and JSON."""
    from patchcl.core.devices import best_device
    from patchcl.evaluation.evaluate import evaluate_folders, evaluate_run
    from patchcl.evaluation.scores import write_evaluation
    from patchcl.evaluation.tables import render
    from patchcl.runs.folder import RunFolder

    if (run is None) == (predictions is None) or (predictions is None) != (masks is None):
        raise UserError("Give either a RUN, or both --predictions DIR and --masks DIR.")
    if run is not None:
        opened = RunFolder.open(run)
        evaluation = evaluate_run(opened, on, checkpoint, weights, None, best_device(device), voxels, objects)
    elif predictions is not None and masks is not None:
        evaluation = evaluate_folders(predictions, masks, voxels=voxels, objects=objects)
        write_evaluation(evaluation, predictions / "evaluation")
    render(evaluation, console)


@app.command()
def compare(
    data: Annotated[Path | None, typer.Argument(help="A folder as patchcl train takes it.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A folder for all runs; the same to go on.")] = None,
    methods: Annotated[
        str | None,
        typer.Option(help=f"Several of {', '.join(method_names())}, each also as NAME+contrast; by default all."),
    ] = None,
    labeled: Annotated[str | None, typer.Option(help="Numbers of patients with masks, such as 3,7,all.")] = None,
    seeds: Annotated[str, typer.Option(help="Of training, and of the split unless --split is given.")] = "0,1,2",
    config: ConfigOption = None,
    settings: SetOption = None,
    split: SplitOption = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps of every run.")] = None,
    device: Annotated[Device | None, typer.Option(help="Where to compute.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time on this machine.")] = 1,
    on: Annotated[Literal["test", "validation"] | None, typer.Option(help="By default test if it has masks.")] = None,
    voxels: Annotated[bool, typer.Option("--voxels", help="Distances in voxels, where the spacing was lost.")] = False,
    table: Annotated[Path | None, typer.Option(help="Train nothing; show what this folder holds.")] = None,
) -> None:
    """Train many methods with several seeds and amounts of masks, and compare them in a table and on a page."""
    from patchcl.comparison.comparison import compare_methods, show_comparison
    from patchcl.comparison.spec import ask
    from patchcl.data.importers.registry import require_ours

    if table is not None and data is None:
        show_comparison(table, console, on)
        return
    if table is not None or data is None or out is None:
        raise UserError("Give either DATA and -o DIR, or --table DIR alone.")
    require_ours(data)
    named = method_names() if methods is None else _parts(methods)
    counts = [None if count == "all" else _number(count, "--labeled") for count in _parts(labeled)]
    numbers = [_number(seed, "--seeds") for seed in _parts(seeds) or [""]]
    overrides = _overrides(settings, split=split, steps=steps, device=device)
    _finish_comparison(
        compare_methods(ask(data, named, counts, numbers, config, overrides, on, voxels), out, jobs, console)
    )


@app.command(name="import")
def import_data(
    source: Annotated[Path, typer.Argument(help="The folder of a data set; for a table, its CSV file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="A new folder for the data set.")],
    layout: Annotated[
        Layout, typer.Option(help="How SOURCE is laid out; plain: a folder of images beside one of masks.")
    ],
    structures: Annotated[
        str | None, typer.Option(help="Names of the values 1, 2, ... in masks: RV,MYO,LV; of others: A=85,B=170.")
    ] = None,
    channels: Annotated[str | None, typer.Option(help="Names of the channels.")] = None,
    images: Annotated[str | None, typer.Option(help="For plain: the folder in SOURCE with images.")] = None,
    masks: Annotated[str | None, typer.Option(help="For plain: the folder in SOURCE with masks.")] = None,
    series: Annotated[
        str | None, typer.Option(help="For dicom: the series to take, by part of its description (a pattern) or UID.")
    ] = None,
) -> None:
    """Turn images and masks that are laid out otherwise into a data set that patchcl reads, with its split."""
    from patchcl.data.importers.registry import describe, import_dataset

    names, kinds = _parts(structures) or None, _parts(channels) or None
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("Importing scans", total=None)
        imported = import_dataset(
            source,
            out,
            layout,
            names,
            kinds,
            on_progress=lambda done, of: bar.update(task, completed=done, total=of),
            images=images,
            masks=masks,
            series=series,
        )
    console.print(describe(imported), markup=False, highlight=False, soft_wrap=True)
    split = f" --split {imported.split}" if imported.split else ""
    console.print(
        f"Imported into [bold]{escape(str(out))}[/bold]. Next: {escape(f'patchcl check {out}{split}')}", highlight=False
    )


@app.command()
def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Runs to show side by side; the first is what the others must beat.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The HTML file to write.")] = Path("report.html"),
) -> None:
    """Write a page with the scores, the differences, learning curves and pictures of one run or several."""
    from patchcl.reports.run_report import write_report
    from patchcl.runs.folder import RunFolder

    write_report([RunFolder.open(run) for run in runs], out)
    console.print(f"Report: [bold]{escape(str(out))}[/bold]", highlight=False)


def main() -> None:
    """The program `patchcl`: a user's mistake is one message and exit code 2, never a traceback."""
    try:
        app()
    except UserError as error:
        _tell(str(error))
    except OSError as error:  # no room, no right, or a folder in the way
        if isinstance(error, ConnectionError | ChildProcessError):
            raise
        named = error.filename2 or error.filename or "A file"
        _tell(f"{named} cannot be written or read: {error.strerror or error}. Make room, or choose another place.")


def _tell(message: str) -> NoReturn:
    """End with the one message that a user needs."""
    errors.print("[bold red]Error[/bold red]", end=" ")
    errors.print(message, markup=False, highlight=False, soft_wrap=True)
    sys.exit(2)


def _settings(
    config: Path | None,
    settings: list[str] | None,
    method: str | None = None,
    labeled: str | None = None,
    split: Path | None = None,
    steps: int | None = None,
    seed: int | None = None,
    device: str | None = None,
    precision: str | None = None,
    plan: Path | None = None,
) -> "Settings":
    """The settings tree, after `_overrides`."""
    from patchcl.config import load_settings

    return load_settings(config, _overrides(settings, method, labeled, split, steps, seed, device, precision, plan))


def _overrides(
    settings: list[str] | None,
    method: str | None = None,
    labeled: str | None = None,
    split: Path | None = None,
    steps: int | None = None,
    seed: int | None = None,
    device: str | None = None,
    precision: str | None = None,
    plan: Path | None = None,
) -> list[str]:
    """Single settings: an option of its own is short for one --set, and has the last word."""
    listed = None if labeled is None or labeled.isdigit() else f"[{labeled}]"
    short = {
        "method.name": method,
        "split.labeled": listed or labeled,
        "split.file": None if split is None else str(split.absolute()),
        "plan.file": None if plan is None else str(plan.absolute()),
        "training.steps": steps,
        "training.seed": seed,
        "training.device": device,
        "training.precision": precision,
    }
    return [*(settings or []), *(f"{key}={value}" for key, value in short.items() if value is not None)]


def _parts(listed: str | None) -> list[str]:
    """The parts of a,b,c."""
    return [part.strip() for part in (listed or "").split(",") if part.strip()]


def _number(text: str, option: str) -> int:
    if not text.isdecimal():
        raise UserError(f"{option} holds {text!r}; expected whole numbers with commas between them, such as 3,7,14.")
    return int(text)


def _finish_comparison(ending: "Ending") -> None:
    if ending.stop:
        console.print("Stopped; all of it is saved. Call the same command again to go on.")
        raise typer.Exit(ending.stop.exit_code)
    for place, reason in ending.failed.items():
        errors.print("[bold red]Failed[/bold red]", end=" ")
        errors.print(f"{place}: {reason}", markup=False, highlight=False, soft_wrap=True)
    if ending.failed:
        raise typer.Exit(1)


def _finish(outcome: "Outcome") -> None:
    root = escape(str(outcome.run.root))
    if outcome.stop:
        console.print(f"Stopped after step {outcome.steps_done}; all of it is saved. Go on with: patchcl resume {root}")
        raise typer.Exit(outcome.stop.exit_code)
    console.print(
        f"Trained {outcome.steps_done} steps into [bold]{root}[/bold]. Next: patchcl evaluate {root}, "
        f"patchcl predict {root} SCANS -o OUT, patchcl report {root}",
        highlight=False,
    )
