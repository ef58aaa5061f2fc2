"""What the verbs of the command line take, each said once."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from patchcl.core import choices
from patchcl.core.errors import UserError
from patchcl.data.importers.registry import LAYOUTS, require_layout
from patchcl.methods import METHODS
from patchcl.runs.folder import COMPARISON, RunFolder


def names(listed: str) -> list[str]:
    """The parts of a,b,c."""
    return [part.strip() for part in listed.split(",") if part.strip()]


def patients(listed: str) -> int | list[str]:
    """A number of patients, or their names."""
    return int(listed) if listed.isdecimal() else names(listed)


def seeds(listed: str) -> list[int]:
    """The numbers in 0,1,2."""
    return [_number(part, "--seeds") for part in names(listed) or [""]]


def budgets(listed: str) -> list[int | None]:
    """Numbers of patients with masks; None stands for all."""
    return [None if part == "all" else _number(part, "--labeled") for part in names(listed)]


def jobs(listed: str) -> int | Literal["auto"]:
    """A number of runs, or auto."""
    if listed == "auto":
        return "auto"
    if not str(listed).isdecimal() or int(listed) == 0:
        raise UserError(f"--jobs is {listed!r}; expected a whole number from 1 on, or auto.")
    return int(listed)


def millimetres(listed: str) -> list[float]:
    """The numbers in 0.5,0.5,2."""
    try:
        return [float(part) for part in names(listed)]
    except ValueError as error:
        raise UserError(f"--spacing holds {listed!r}; expected mm along x, y and z, such as 0.5,0.5,2.") from error


def existing(path: Path | None) -> Path | None:
    """`path`, refused at once if nothing is there: what would say so otherwise loads torch first."""
    if path is not None and not os.path.lexists(path):
        raise UserError(f"{path} does not exist. Give the folder or file that is meant.")
    return path


def existing_source(path: Path) -> Path:
    """`path`, refused at once if nothing is there to import."""
    if not os.path.lexists(path):
        raise UserError(
            f"{path} is no folder and no file. Give the folder of the data set, or for a table its CSV file."
        )
    return path


def known_layout(name: str | None) -> str | None:
    """`name`, refused at once if no layout is called so."""
    if name is not None:
        require_layout(name)
    return name


def existing_run(path: Path | None) -> Path | None:
    """`path`, refused at once if no run is there, nor a comparison, which has a chosen one."""
    if existing(path) is not None and not (Path(path or "") / COMPARISON).is_file():
        RunFolder.open(Path(path or ""))
    return path


def existing_runs(paths: list[Path]) -> list[Path]:
    """`paths`, refused at once if one of them holds no run."""
    for path in paths:
        existing_run(path)
    return paths


def _number(text: str, option: str) -> int:
    if not text.isdecimal():
        raise UserError(f"{option} holds {text!r}; expected whole numbers with commas between them, such as 3,7,14.")
    return int(text)


CheckpointName = Literal["last", "best"]
WeightsName = Literal["teacher", "student"]
PrecisionName = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]
Output = Literal["same", "nifti", "dicom-seg"]

Data = Annotated[
    Path, typer.Argument(callback=existing, help="A folder in nnU-Net raw layout: dataset.json, imagesTr, labelsTr.")
]
DataToCompare = Annotated[Path | None, typer.Argument(callback=existing, help="A folder as patchcl train takes it.")]
Run = Annotated[Path, typer.Argument(callback=existing_run, help="A folder made by patchcl train.")]
RunToUse = Annotated[
    Path,
    typer.Argument(callback=existing_run, help="A folder made by patchcl train, or by compare: the run that it chose."),
]
RunToScore = Annotated[
    Path | None, typer.Argument(callback=existing_run, help="A folder made by patchcl train or compare.")
]
Preset = Annotated[
    choices.Preset | None,
    typer.Option(help="published: weak augmentation and one pass, as SSL4MIS; matched: one strong recipe for all."),
]
Config = Annotated[Path | None, typer.Option("--config", "-c", callback=existing, help="Settings in YAML.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="One setting, such as method.teacher_decay=0.99; may be repeated.")
]
Labeled = Annotated[
    Any,
    typer.Option(
        parser=patients, metavar="N|NAMES", help="Pretend that only so many training patients, or a,b,c, have masks."
    ),
]
Split = Annotated[Path | None, typer.Option(callback=existing, help="A JSON file that divides the patients.")]
Plan = Annotated[
    Path | None, typer.Option(callback=existing, help="A plan that check --plan-out wrote; --set plan.x=y overrides.")
]
Steps = Annotated[int | None, typer.Option(help="Optimizer steps of a run.")]
SettingsDevice = Annotated[choices.Device | None, typer.Option("--device", help="Where to compute.")]
Device = Annotated[choices.Device, typer.Option(help="Where to compute.")]
Checkpoint = Annotated[CheckpointName, typer.Option(help="last: the end of training; best: the best on validation.")]
Weights = Annotated[WeightsName, typer.Option(help="teacher: the moving average of the student.")]
Voxels = Annotated[bool, typer.Option("--voxels", help="Distances in voxels, where the spacing was lost.")]
Fast = Annotated[bool, typer.Option("--fast", help="One pass, instead of an average over the symmetries of training.")]
Postprocessing = Annotated[
    bool, typer.Option(" /--no-postprocessing", help="Leave masks without what validation chose to do to them.")
]

Method = Annotated[str | None, typer.Option("--method", help=f"{', '.join(METHODS)}; patchcl by default.")]
Folds = Annotated[
    int | None,
    typer.Option(min=2, help="Train so many runs, each judged by the patients that it has not seen, for an ensemble."),
]
Fold = Annotated[int | None, typer.Option(min=0, help="Of --folds: train this one alone, from 0; for a cluster.")]
ResumeIfThere = Annotated[
    bool,
    typer.Option("--resume-if-there", help="Continue the run in --out if the same command began one."),
]
Devices = Annotated[int | None, typer.Option(min=1, help="Devices to train on, of each node; they share every batch.")]
Nodes = Annotated[int | None, typer.Option(min=1, help="Machines to train on, where srun or torchrun starts this.")]
Seed = Annotated[int | None, typer.Option(help="Of weights, order and augmentation.")]
Precision = Annotated[PrecisionName | None, typer.Option(help="Of the arithmetic.")]
Probabilities = Annotated[bool, typer.Option("--probabilities", help="Also write a map for every structure.")]
Uncertainty = Annotated[bool, typer.Option("--uncertainty", help="Also write where the network is unsure.")]
Format = Annotated[
    Output, typer.Option("--format", help="Of the masks; same: that of the scan, DICOM-SEG for a DICOM series.")
]
Objects = Annotated[
    bool, typer.Option("--objects", help="Also F1, Dice and Hausdorff of single objects, such as glands.")
]

PlanOut = Annotated[
    Path | None, typer.Option(help="Write the plan and a batch that fits this machine to this YAML file.")
]
Series = Annotated[
    str | None,
    typer.Option(help="For DICOM: the series to take of each folder, by part of its description, or UID."),
]
Scans = Annotated[
    Path, typer.Argument(callback=existing, help="A scan, a DICOM series, or a folder of these named CASE_0000.")
]
Folder = Annotated[Path, typer.Option("--out", "-o", help="A folder for the masks.")]
Predictions = Annotated[Path | None, typer.Option(callback=existing, help="A folder of masks, instead of a run.")]
Masks = Annotated[
    Path | None, typer.Option(callback=existing, help="The reference masks for --predictions, of the same names.")
]
EvaluateOn = Annotated[Literal["auto", "test", "validation"], typer.Option(help="auto: test if it has masks.")]
CompareOn = Annotated[Literal["test", "validation"] | None, typer.Option(help="By default test if it has masks.")]
MinEffect = Annotated[float | None, typer.Option(help="The least difference that counts, in Dice points; 0.1.")]
Methods = Annotated[
    Any,
    typer.Option(
        parser=names,
        metavar="NAMES",
        help=f"Several of {', '.join(METHODS)}, each also as NAME+contrast; by default all.",
    ),
]
Variants = Annotated[
    Path | None,
    typer.Option(
        callback=existing,
        help="A YAML file of named variants, NAME: {method: patchcl, training.steps: 3000}; alone or beside.",
    ),
]
Baseline = Annotated[
    str | None, typer.Option(help="What the others must beat: supervised by default, or the first variant.")
]
Budgets = Annotated[
    Any, typer.Option(parser=budgets, metavar="NUMBERS", help="Numbers of patients with masks, such as 3,7,all.")
]
Seeds = Annotated[
    Any, typer.Option(parser=seeds, metavar="NUMBERS", help="Of training, and of the split unless --split is given.")
]
Jobs = Annotated[
    Any,
    typer.Option(parser=jobs, metavar="N|auto", help="Runs at a time on this machine; auto: as many as it can hold."),
]
Cluster = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS|FILE", help="Work on the workers of this Dask scheduler, such as tcp://node1:8786, instead."
    ),
]
Processes = Annotated[int, typer.Option("--jobs", min=1, help="Processes of this machine that share the scans.")]
Scratch = Annotated[
    str | None, typer.Option(help="Folder on a node's own disk for a copy of prepared images, such as '$TMPDIR'.")
]
Layout = Annotated[
    str | None,
    typer.Option(
        callback=known_layout,
        is_eager=True,
        help=f"How SOURCE is laid out: {', '.join(LAYOUTS)}; by default it is looked at.",
    ),
]
Structures = Annotated[
    Any,
    typer.Option(
        parser=names, metavar="NAMES", help="Names of the values 1, 2, ... in masks: RV,MYO,LV; of others: A=85,B=170."
    ),
]

Channels = Annotated[Any, typer.Option(parser=names, metavar="NAMES", help="Names of the channels.")]
Images = Annotated[str | None, typer.Option(help="For plain and stacks: the folder in SOURCE with images.")]
ImageMasks = Annotated[str | None, typer.Option(help="For plain and stacks: the folder in SOURCE with masks.")]
ImportSeries = Annotated[
    str | None, typer.Option(help="For dicom: the series to take, by part of its description (a pattern) or UID.")
]
Spacing = Annotated[
    Any, typer.Option(parser=millimetres, metavar="X,Y,Z", help="For arrays and stacks: the size of a voxel in mm.")
]
Threshold = Annotated[
    float | None,
    typer.Option(help="For masks with grey edges: the structure is what has this grey, or a brighter one."),
]
NumberedObjects = Annotated[
    bool, typer.Option("--objects", help="Masks number objects, such as cells: keep the numbers beside one structure.")
]
Source = Annotated[
    Path, typer.Argument(callback=existing_source, help="The folder of a data set; for a table, its CSV file.")
]
Runs = Annotated[
    list[Path],
    typer.Argument(callback=existing_runs, help="Runs to show side by side; the first is what the others must beat."),
]
MovedData = Annotated[
    Path | None,
    typer.Option("--data", callback=existing, help="Where the data set is now, if it was moved; hashes tell it."),
]
AcceptChanges = Annotated[
    bool, typer.Option("--accept-changes", help="Go on although data, settings, plan or split changed; that is kept.")
]
