"""Training runs: started from a data folder and settings, or resumed where they stopped."""

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments import LightningEnvironment
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from torch import Tensor, nn

from patchcl.config import Settings, planned, read_settings, settings_yaml
from patchcl.core.console import console, progress_bar
from patchcl.core.devices import best_device
from patchcl.core.errors import UserError
from patchcl.core.files import write_json, write_text
from patchcl.core.seeds import seed_for
from patchcl.core.version import __version__
from patchcl.data.check import NOTHING_TO_LEARN, absent_classes, sides_matter
from patchcl.data.dataset import Case, Dataset, read_dataset
from patchcl.data.duplicates import require_no_leak
from patchcl.data.loading.image_store import ImageStore
from patchcl.data.loading.loader import BatchLoader, BatchStream
from patchcl.data.preprocessing.cache import PreparedCase, prepare
from patchcl.data.preprocessing.fingerprint import Fingerprint, save_fingerprint
from patchcl.data.preprocessing.plan import Plan, load_plan, save_plan
from patchcl.data.preprocessing.planner import fingerprint_for, make_plan
from patchcl.data.splits import Split, cases_of, load_split, make_split, save_split, visible_to_training
from patchcl.methods.base import Method
from patchcl.networks.unet import UNet
from patchcl.runs.contents import contents_of
from patchcl.runs.folder import RunFolder
from patchcl.runs.log import read_rows, rescues_of
from patchcl.runs.provenance import note, note_time, provenance
from patchcl.training.changes import settle_changes, settle_processes
from patchcl.training.final_validation import choose_on_validation
from patchcl.training.loop import train
from patchcl.training.lost_files import lost_files_as_message, tell_damaged
from patchcl.training.progress import TrainingProgress
from patchcl.training.ranks import ALONE, Ranks
from patchcl.training.rescue import DivergedError
from patchcl.training.signals import StopRequest, stop_on_signals
from patchcl.training.validation import Validation, picture_steps

NOTHING_YET: tuple[Path, str] | None = None
"""What a process has of the run and of the version of the first one before it is told."""


class Outcome(NamedTuple):
    """How a run ended."""

    run: RunFolder
    steps_done: int
    stop: StopRequest  # true if somebody asked it to stop before its end


class _Prepared(NamedTuple):
    labeled: tuple[PreparedCase, ...]
    unlabeled: tuple[PreparedCase, ...]
    validation: tuple[PreparedCase, ...]


def start(data: Path, root: Path, settings: Settings, console: Console, ranks: Ranks = ALONE) -> Outcome:
    """Train on the scans in `data` as `settings` say, into the new folder `root`; for the first of `ranks`.

    Raises:
        UserError: Something about the data, the settings or the folder must be corrected first.
    """
    dataset = read_dataset(data, settings.split.patient_pattern)
    split = make_split(dataset, settings.split)
    visible = visible_to_training(dataset, split)
    fingerprint = fingerprint_for(visible, settings.plan, split.labeled)
    _require_structures(fingerprint, console)
    plan = make_plan(visible, settings.plan, fingerprint)
    device = _fabric(settings, ranks).device
    cache = settings.cache or Path(os.path.realpath(root)).parent / "prepared"  # resolve() refuses rings
    settings = planned(settings, plan).model_copy(
        update={"data": data.resolve(), "cache": Path(os.path.realpath(cache))}
    )

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


def _require_structures(fingerprint: Fingerprint, console: Console) -> None:
    """Refuse to train where no labeled mask holds a structure; warn of those that none holds."""
    if fingerprint.classes and not any(known.scans for known in fingerprint.classes[1:]):
        raise UserError(NOTHING_TO_LEARN)
    counts = {known.name: known.scans for known in fingerprint.classes}
    for line in (*absent_classes(counts), *sides_matter(tuple(counts))):
        console.print(f"[yellow]Warning:[/yellow] {escape(line)}", highlight=False, soft_wrap=True)


def resume(root: Path, console: Console, accept_changes: bool = False, ranks: Ranks = ALONE) -> Outcome:
    """Continue the run in `root` where it stopped, exactly as if it had not; for the first of `ranks`.

    Raises:
        UserError: There is no run, its data are gone, or something changed and `accept_changes` is not set.
    """
    run = RunFolder.open(root)
    run.remove_unfinished()
    return _train(run, *_kept(run), console, ranks, accept_changes)


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


def _kept(run: RunFolder) -> tuple[Settings, Dataset, Split, Plan]:
    """What a run that was begun goes on with."""
    settings, split, plan = read_settings(run.settings), load_split(run.split), load_plan(run.plan)
    if settings.data is None:
        raise UserError(f"{run.settings} does not say where the data are: add `data: FOLDER`.")
    dataset = read_dataset(settings.data, settings.split.patient_pattern)
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
    prepared = _prepare(settings, dataset, split, plan, method.needs_unlabeled, console)
    if ranks.first:
        sources = {source for group in prepared for case in group for source in case.sources}
        contents = contents_of(sources, settings, plan, split, dataset.classes, dataset.channels)
        settle_changes(run, contents, method, settings.training, accept_changes, console)
        settle_processes(run, ranks.count, console)
        ranks.from_first((Path(os.path.realpath(run.root)), __version__))  # now the others can follow
    batches, shown = _batches(settings, prepared, plan, fabric.device, method.strong_views, ranks)
    pictures = picture_steps(settings.training.steps, settings.training.validate_every)
    validation = Validation(prepared.validation, shown, plan, run, fabric.device, pictures, ranks)
    started = time.perf_counter()
    with (
        _memory_errors_on(fabric.device),
        lost_files_as_message(run.root),
        stop_on_signals() as stop,
        TrainingProgress(console, settings.method.name, settings.training.steps) as progress,
    ):
        try:
            done = train(method, batches.at, validation, settings.training, run, fabric, progress, stop, ranks)
        except DivergedError as error:
            note(run.provenance, {"diverged": str(error)}, fabric.device)
            raise
    batches.close()
    if not ranks.first:
        return Outcome(run, done, stop)
    note_time(run.provenance, time.perf_counter() - started, done, rescues_of(read_rows(run)), fabric.device)
    if done == settings.training.steps and not stop and not run.postprocessing.is_file():
        with _memory_errors_on(fabric.device), progress_bar("Choosing post-processing") as on_progress:
            cases = cases_of(dataset, split.validation, masked=True)
            choose_on_validation(run, cases, fabric.device, on_progress)
    return Outcome(run, done, stop)


@contextmanager
def _memory_errors_on(device: torch.device) -> Iterator[None]:
    """Turn a lack of memory into a message that says what to do."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise UserError(
            f"The memory of {device} is full. Make training.labeled_per_batch, training.unlabeled_per_batch or "
            "plan.size smaller; patchcl check DATA says what fits."
        ) from error


def _fabric(settings: Settings, ranks: Ranks) -> Fabric:
    """One device: what several processes have to agree upon is said in `Ranks`."""
    accelerator = best_device(settings.training.device).type
    devices = [ranks.local] if accelerator == "cuda" and ranks.count > 1 else 1
    alone = LightningEnvironment()  # said, since else Lightning guesses a cluster from what it finds
    alone.set_global_rank(0)  # else a rank that a cluster left in the environment would keep this process from logging
    return Fabric(accelerator=accelerator, devices=devices, precision=settings.training.precision, plugins=[alone])


def _build(settings: Settings, plan: Plan, ranks: Ranks) -> Method[Any]:
    torch.manual_seed(seed_for(settings.training.seed, "weights"))
    method = settings.build_method(plan)
    if settings.training.sync_batch_norm and ranks.count > 1:
        method = nn.SyncBatchNorm.convert_sync_batchnorm(method)  # type: ignore[no-untyped-call]
    if settings.training.compile:
        for network in (child for child in method.children() if isinstance(child, UNet)):
            network.segment = torch.compile(network.segment)  # type: ignore[method-assign]
    return method


def _prepare(
    settings: Settings, dataset: Dataset, split: Split, plan: Plan, needs_unlabeled: bool, console: Console
) -> _Prepared:
    """The labeled, unlabeled and validation scans, ready for the network; nothing of the test scans.

    Labeled scans are unlabeled ones as well where nobody annotated them.
    """
    groups = _Groups(
        labeled=cases_of(dataset, split.labeled, masked=True),
        unlabeled=cases_of(dataset, (*split.unlabeled, *split.labeled), masked=False) if needs_unlabeled else (),
        validation=cases_of(dataset, split.validation, masked=True),
    )
    partly = needs_unlabeled and plan.ignore is not None
    if needs_unlabeled and not (groups.unlabeled or partly):
        raise UserError(
            f"{dataset.root} has no unlabeled scan, and {settings.method.name} learns from such. "
            "Add scans to imagesUn, hide masks with --labeled N, or use --method supervised."
        )
    if settings.cache is None:
        raise UserError("The settings of this run do not say where prepared images are: add `cache: FOLDER`.")
    cases = [case for group in groups for case in group]
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("Preparing scans", total=len(cases))
        damaged: list[Path] = []
        ready = prepare(cases, plan, settings.cache, lambda count, _: bar.update(task, completed=count), damaged.append)
    tell_damaged(damaged, console)
    done = iter(ready)
    prepared = _Prepared(*(tuple(next(done) for _ in group) for group in groups))
    require_no_leak(groups._asdict(), {case.name: case.signature for group in prepared for case in group})
    return prepared._replace(unlabeled=prepared.unlabeled + prepared.labeled) if partly else prepared


class _Groups(NamedTuple):
    labeled: tuple[Case, ...]
    unlabeled: tuple[Case, ...]
    validation: tuple[Case, ...]


def _batches(
    settings: Settings, prepared: _Prepared, plan: Plan, device: torch.device, strong_views: int, ranks: Ranks
) -> tuple[BatchLoader, Tensor | None]:
    """This process's share of every batch, and a few unlabeled images to draw pseudo-masks of."""
    training, places = settings.training, (settings.training.seed, ranks.rank, ranks.count)
    budget = int(training.memory_gib * 2**30)
    store = ImageStore(prepared.labeled, plan, device, budget)
    labeled = BatchStream(store, ranks.share(training.labeled_per_batch), "labeled", *places)
    if not prepared.unlabeled:
        return BatchLoader(labeled, None, settings.augment, spacing_mm=plan.spacing_mm), None
    store = ImageStore(prepared.unlabeled, plan, device, budget, unlabeled=True)
    unlabeled = BatchStream(store, ranks.share(training.unlabeled_per_batch), "unlabeled", *places)
    return BatchLoader(labeled, unlabeled, settings.augment, strong_views, plan.spacing_mm), _shown(store)


def _shown(store: ImageStore) -> Tensor:
    """The middle item of up to four cases, spread over all."""
    cases: dict[str, list[int]] = {}
    for item in range(len(store)):
        cases.setdefault(store.item_case(item), []).append(item)
    middles = [items[len(items) // 2] for items in cases.values()]
    spread = [middles[place * len(middles) // 4] for place in range(4)] if len(middles) > 4 else middles
    image, _ = store.load(spread, torch.Generator().manual_seed(0))
    return image
