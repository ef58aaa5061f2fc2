"""Training runs: started from a data folder and settings, or resumed where they stopped."""

import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments import LightningEnvironment
from rich.console import Console
from rich.markup import escape
from torch import nn

from patchcl.config import Settings, planned, read_settings, settings_yaml
from patchcl.core.choices import Device
from patchcl.core.console import console, progress_bar
from patchcl.core.devices import best_device, best_precision
from patchcl.core.errors import UserError
from patchcl.core.files import write_json, write_text
from patchcl.core.seeds import seed_for
from patchcl.core.signals import StopRequest, stop_on_signals
from patchcl.core.version import __version__
from patchcl.data.colour_maps import require_one_colour_map
from patchcl.data.dataset import Case, Dataset, read_dataset
from patchcl.data.doubts import NOTHING_TO_LEARN, absent_classes, sides_matter
from patchcl.data.duplicates import SignatureFiles
from patchcl.data.patients import patient_warnings
from patchcl.data.preprocessing.fingerprint import Fingerprint, save_fingerprint
from patchcl.data.preprocessing.plan import Plan, load_plan, save_plan
from patchcl.data.preprocessing.planner import fingerprint_for, make_plan
from patchcl.data.splits import (
    Split,
    cases_of,
    load_split,
    make_split,
    save_split,
    visible_to_training,
    with_split_of,
)
from patchcl.methods.base import Method
from patchcl.networks.unet import UNet
from patchcl.runs.contents import contents_of
from patchcl.runs.folder import RunFolder
from patchcl.runs.log import read_rows, rescues_of
from patchcl.runs.provenance import note, note_time, provenance
from patchcl.training.changes import settle_changes, settle_processes
from patchcl.training.familiarity import keep_familiarity
from patchcl.training.final_validation import choose_on_validation
from patchcl.training.inputs import Prepared, make_batches, prepare_inputs
from patchcl.training.loop import train
from patchcl.training.lost_files import lost_files_as_message
from patchcl.training.machine import compile_for_training, deterministic, settled
from patchcl.training.place import require_shares
from patchcl.training.progress import TrainingProgress
from patchcl.training.ranks import ALONE, Ranks
from patchcl.training.relocation import keep_place, relocated
from patchcl.training.rescue import DivergedError
from patchcl.training.room import full_memory_as_message, require_room
from patchcl.training.validation import Validation, picture_steps

NOTHING_YET: tuple[Path, str] | None = None
"""What a process has of the run and of the version of the first one before it is told."""


class Outcome(NamedTuple):
    """How a run ended."""

    run: RunFolder
    steps_done: int
    stop: StopRequest  # true if somebody asked it to stop before its end


def start(data: Path, root: Path, settings: Settings, console: Console, ranks: Ranks = ALONE) -> Outcome:
    """Train on the scans in `data` as `settings` say, into the new folder `root`; for the first of `ranks`.

    Raises:
        UserError: Something about the data, the settings or the folder must be corrected first.
    """
    dataset = read_dataset(data, settings.split.patient_pattern)
    division, line = with_split_of(data, settings.split)
    if line:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    split = make_split(dataset, division)
    visible = visible_to_training(dataset, split)
    require_one_colour_map([case.mask for case in visible.cases if case.mask is not None])
    fingerprint = fingerprint_for(visible, settings.plan, split.labeled)
    require_structures(fingerprint, settings, dataset.unused, console)
    plan = make_plan(visible, settings.plan, fingerprint)
    device = _fabric(settings, ranks).device
    cache = settings.cache or Path(os.path.realpath(root)).parent / "prepared"  # resolve() refuses rings
    settings = planned(settings, plan)
    training = settled(settings.training, device)
    if training.precision != settings.training.precision != "32-true" != training.precision:
        console.print(f"Precision: {training.precision} (training.precision).", highlight=False)
    settings = settings.model_copy(
        update={
            "data": data.resolve(),
            "cache": Path(os.path.realpath(cache)),
            "split": division,
            "training": training,
        }
    )

    require_shares(settings, ranks.count)
    require_room(settings, plan)

    run = RunFolder.create(root)
    write_text(run.settings, settings_yaml(settings))
    save_plan(run.plan, plan)
    save_fingerprint(run.fingerprint, fingerprint)
    save_split(run.split, split)
    write_json(run.provenance, provenance(device))
    try:
        return _train(run, settings, visible, split, plan, console, ranks)
    except UserError:
        run.remove_if_never_begun()
        raise


def require_structures(fingerprint: Fingerprint, settings: Settings, unused: Sequence[str], console: Console) -> None:
    """Refuse to train where no labeled mask holds a structure; warn of those that none holds, and of `unused` files."""
    if fingerprint.classes and not any(known.scans for known in fingerprint.classes[1:]):
        raise UserError(NOTHING_TO_LEARN)
    counts = {known.name: known.scans for known in fingerprint.classes}
    sides = sides_matter(tuple(counts), settings.augment.flip is not None)
    for line in (*unused, *absent_classes(counts), *sides):
        console.print(f"[yellow]Warning:[/yellow] {escape(line)}", highlight=False, soft_wrap=True)


def _note_what_is_seen(
    run: RunFolder, settings: Settings, dataset: Dataset, prepared: Prepared, device: torch.device, console: Console
) -> None:
    """Keep where a run goes on and what its scans look like; warn of doubtful patients when it begins."""
    keep_place(run, settings, device, console)
    keep_familiarity(run, dataset, (*prepared.labeled, *prepared.unlabeled))
    if not run.last.is_file():
        _warn_of_patients(dataset, prepared, settings, console)


def _warn_of_patients(dataset: Dataset, prepared: Prepared, settings: Settings, console: Console) -> None:
    signatures = SignatureFiles({case.name: case.signature for group in prepared for case in group})
    cases = [case for case in dataset.cases if case.name in signatures]
    for line in patient_warnings(cases, settings.split.patient_pattern, signatures):
        console.print(f"[yellow]Warning:[/yellow] {escape(line)}", highlight=False, soft_wrap=True)


def resume(
    root: Path,
    console: Console,
    accept_changes: bool = False,
    data: Path | None = None,
    device: Device | None = None,
    ranks: Ranks = ALONE,
    place: Mapping[str, Any] | None = None,
) -> Outcome:
    """Continue the run in `root` where it stopped, exactly as if it had not; with its `data` there, on that `device`.

    `place` has further settings of training that say where. It is for the first of `ranks`.

    Raises:
        UserError: There is no run, its data are gone, or something changed and `accept_changes` is not set.
    """
    run = RunFolder.open(root)
    run.remove_unfinished()
    return _train(run, *_kept(run, data, {"device": device, **(place or {})}), console, ranks, accept_changes)


def join(ranks: Ranks) -> Outcome:
    """Train along in the run that the first of `ranks` starts or resumes; nothing is written, and nothing said.

    Raises:
        UserError: That run or its data cannot be seen from here.
    """
    root, version = ranks.from_first(NOTHING_YET)
    if version != __version__:
        raise UserError(f"Process {ranks.rank} runs patchcl {__version__}, the first one {version}: install the same.")
    if not RunFolder(root).settings.is_file():
        raise UserError(
            f"{platform.node()} cannot see {root}, where the first process keeps the run: share that folder."
        )
    console.quiet, run = True, RunFolder(root)
    return _train(run, *_kept(run), console, ranks)


def _kept(
    run: RunFolder, data: Path | None = None, place: Mapping[str, Any] | None = None
) -> tuple[Settings, Dataset, Split, Plan]:
    """What a run that was begun goes on with."""
    settings, split, plan = read_settings(run.settings), load_split(run.split), load_plan(run.plan)
    settings = relocated(run, settings, data, place or {})
    dataset = read_dataset(Path(str(settings.data)), settings.split.patient_pattern)
    return settings, visible_to_training(dataset, split), split, plan


def _train(
    run: RunFolder,
    settings: Settings,
    dataset: Dataset,
    split: Split,
    plan: Plan,
    console: Console,
    ranks: Ranks,
    accept_changes: bool = False,
) -> Outcome:
    fabric = _fabric(settings, ranks)
    method = _build(settings, plan, ranks)
    prepared = prepare_inputs(settings, dataset, split, plan, method.needs_unlabeled, console)
    if ranks.first:
        sources = {source for group in prepared for case in group for source in case.sources}
        contents = contents_of(sources, settings, plan, split, dataset.classes, dataset.channels)
        settle_changes(run, contents, method, settings.training, accept_changes, console)
        settle_processes(run, ranks.count, console)
        _note_what_is_seen(run, settings, dataset, prepared, fabric.device, console)
        ranks.from_first((Path(os.path.realpath(run.root)), __version__))  # now the others can follow
    batches, shown = make_batches(settings, prepared, plan, fabric.device, method.strong_views, ranks)
    pictures = picture_steps(settings.training.steps, settings.training.validate_every)
    validation = Validation(prepared.validation, shown, plan, run, fabric.device, pictures, ranks)
    started = time.perf_counter()
    with (
        full_memory_as_message(settings, plan, fabric.device),
        deterministic(settings.training, fabric.device),
        lost_files_as_message(run.root),
        stop_on_signals() as stop,
        TrainingProgress(console, settings.method.name, settings.training.steps) as progress,
    ):
        try:
            done = train(
                method,
                batches.load,
                validation,
                settings.training,
                run,
                fabric,
                progress,
                stop,
                batches.augmented,
                batches.generators,
                ranks,
            )
        except DivergedError as error:
            note(run.provenance, {"diverged": str(error)}, fabric.device)
            raise
    batches.close()
    if not ranks.first:
        return Outcome(run, done, stop)
    note_time(run.provenance, time.perf_counter() - started, done, rescues_of(read_rows(run)), fabric.device)
    if done == settings.training.steps and not stop and not run.postprocessing.is_file():
        _choose(run, settings, plan, cases_of(dataset, split.validation, masked=True), fabric.device)
    return Outcome(run, done, stop)


def _choose(run: RunFolder, settings: Settings, plan: Plan, cases: Sequence[Case], device: torch.device) -> None:
    """Let the validation patients of a run that is trained to its end choose the post-processing."""
    with full_memory_as_message(settings, plan, device), progress_bar("Choosing post-processing") as on_progress:
        choose_on_validation(run, cases, device, on_progress)


def _fabric(settings: Settings, ranks: Ranks) -> Fabric:
    """One device: what several processes have to agree upon is said in `Ranks`."""
    device = best_device(settings.training.device)
    precision = best_precision(settings.training.precision, device)
    devices = [ranks.local] if device.type == "cuda" and ranks.count > 1 else 1
    alone = LightningEnvironment()  # said, since else Lightning guesses a cluster from what it finds
    alone.set_global_rank(0)  # else a rank that a cluster left in the environment would keep this process from logging
    return Fabric(accelerator=device.type, devices=devices, precision=precision, plugins=[alone])


def _build(settings: Settings, plan: Plan, ranks: Ranks) -> Method[Any]:
    torch.manual_seed(seed_for(settings.training.seed, "weights"))
    method = settings.build_method(plan)
    if settings.training.sync_batch_norm and ranks.count > 1:
        method = nn.SyncBatchNorm.convert_sync_batchnorm(method)  # type: ignore[no-untyped-call]
    if settings.training.compile is True:
        for network in (child for child in method.children() if isinstance(child, UNet)):
            compile_for_training(network)
    return method
