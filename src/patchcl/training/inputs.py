"""What training learns from and is judged by: scans prepared for the network, and the batches of every step."""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from patchcl.config import Settings
from patchcl.core.errors import UserError
from patchcl.data.dataset import Case, Dataset
from patchcl.data.duplicates import require_no_leak
from patchcl.data.loading.image_store import ImageStore
from patchcl.data.loading.loader import BatchLoader, BatchStream
from patchcl.data.preprocessing.cache import PreparedCase, prepare
from patchcl.data.preprocessing.own_disk import on_own_disk
from patchcl.data.preprocessing.plan import Plan
from patchcl.data.splits import Split, cases_of
from patchcl.training.lost_files import tell_damaged
from patchcl.training.ranks import ALONE, Ranks
from patchcl.training.shares import LoaderOfShares


class Prepared(NamedTuple):
    """Scans that the network can be given, by what they are for."""

    labeled: tuple[PreparedCase, ...]
    unlabeled: tuple[PreparedCase, ...]
    validation: tuple[PreparedCase, ...]


class _Groups(NamedTuple):
    labeled: tuple[Case, ...]
    unlabeled: tuple[Case, ...]
    validation: tuple[Case, ...]


def prepare_inputs(
    settings: Settings, dataset: Dataset, split: Split, plan: Plan, needs_unlabeled: bool, console: Console
) -> Prepared:
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
    if settings.training.scratch and ready:
        ready = on_own_disk(ready, settings.training.scratch, partial(console.print, markup=False, soft_wrap=True))
    done = iter(ready)
    prepared = Prepared(*(tuple(next(done) for _ in group) for group in groups))
    require_no_leak(groups._asdict(), {case.name: case.signature for group in prepared for case in group})
    return prepared._replace(unlabeled=prepared.unlabeled + prepared.labeled) if partly else prepared


def make_batches(
    settings: Settings, prepared: Prepared, plan: Plan, device: torch.device, strong_views: int, ranks: Ranks = ALONE
) -> tuple[BatchLoader | LoaderOfShares, Tensor | None]:
    """This process's share of every batch, or its shares, and a few unlabeled images to draw pseudo-masks of."""
    shares, budget = settings.training.batch_shares, int(settings.training.memory_gib * 2**30)
    labeled = ImageStore(prepared.labeled, plan, device, budget)
    unlabeled = ImageStore(prepared.unlabeled, plan, device, budget, unlabeled=True) if prepared.unlabeled else None
    loaders = [
        _loader(settings, labeled, unlabeled, plan, strong_views, Ranks(place, ranks.count * shares))
        for place in range(ranks.rank * shares, (ranks.rank + 1) * shares)
    ]
    shown = None if unlabeled is None else _shown(unlabeled)
    return (loaders[0] if shares == 1 else LoaderOfShares(loaders)), shown


def _loader(
    settings: Settings,
    labeled: ImageStore,
    unlabeled: ImageStore | None,
    plan: Plan,
    strong_views: int,
    share: Ranks,
) -> BatchLoader:
    """The batches of one share of as many as there are ranks."""
    training = settings.training

    def stream(store: ImageStore, images: int, name: str, foreground_fraction: float = 0.0) -> BatchStream:
        place = (training.seed, share.rank, share.count)
        return BatchStream(store, share.share(images), name, *place, foreground_fraction=foreground_fraction)

    first = stream(labeled, training.labeled_per_batch, "labeled", training.foreground_fraction)
    if unlabeled is None:
        return BatchLoader(first, None, settings.augment, spacing_mm=plan.spacing_mm)
    second = stream(unlabeled, training.unlabeled_per_batch, "unlabeled")
    return BatchLoader(first, second, settings.augment, strong_views, plan.spacing_mm)


def _shown(store: ImageStore) -> Tensor:
    """The middle item of up to four cases, spread over all."""
    cases: dict[str, list[int]] = {}
    for item in range(len(store)):
        cases.setdefault(store.item_case(item), []).append(item)
    middles = [items[len(items) // 2] for items in cases.values()]
    spread = [middles[place * len(middles) // 4] for place in range(4)] if len(middles) > 4 else middles
    image, _ = store.load(spread, torch.Generator().manual_seed(0))
    return image
