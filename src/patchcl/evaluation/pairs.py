"""A predicted mask against its reference, side by side on threads here or in chunks on many processes."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from patchcl.core.console import console
from patchcl.core.executor import as_they_end, workers
from patchcl.core.memory import releasing_memory
from patchcl.core.parallel import ProgressCallback, in_parallel
from patchcl.core.signals import stop_on_signals
from patchcl.data.formats import tells_by_name, without_ending
from patchcl.data.geometry import Grid
from patchcl.data.regions import Regions, views
from patchcl.data.scan import IGNORED, read_grid, read_mask, require_annotated
from patchcl.evaluation.metrics import score_case
from patchcl.evaluation.object_metrics import ObjectTally, instances_beside, score_objects, tally_structures
from patchcl.evaluation.scores import Score
from patchcl.inference.many_scans import CHUNK, Many, StoppedError


class Pair(NamedTuple):
    """Two masks of one scan."""

    patient: str
    predicted: Path
    reference: Path


class Rule(NamedTuple):
    """What masks hold, and how they are scored."""

    classes: tuple[str, ...]
    ignore: int | None
    voxels: bool
    objects: bool
    regions: Regions


class PairScores(NamedTuple):
    """The scores of one pair."""

    scores: tuple[Score, ...]
    spacing: tuple[float, ...]
    ignored: int  # voxels that nobody annotated
    tallies: dict[str, ObjectTally]  # of single objects by structure, if they were asked for


class Chunk(NamedTuple):
    """Pairs that a worker scores."""

    number: int
    pairs: tuple[Pair, ...]
    rule: Rule


def score_pairs(
    pairs: Sequence[Pair], rule: Rule, many: Many | None = None, on_progress: ProgressCallback | None = None
) -> list[PairScores]:
    """The scores of each pair, in their order.

    Args:
        pairs: What to compare.
        rule: How.
        many: On several processes; on threads of this one if None.
        on_progress: Told how many of all are scored.

    Raises:
        StoppedError: Somebody asked to stop.
        UserError: A file cannot be read, or does not fit.
    """
    if many is None:
        return in_parallel(pairs, lambda pair: score_pair(pair, rule), on_progress)
    starts = range(0, len(pairs), CHUNK)
    chunks = [Chunk(start, tuple(pairs[start : start + CHUNK]), rule) for start in starts]
    found: dict[int, list[PairScores]] = {}
    with stop_on_signals() as stop, workers(many.jobs, many.cluster, pairs[0].reference.parent, console.print) as pool:
        for chunk, future in as_they_end(pool, score_chunk, chunks, stop, ahead=pool.slots()):
            if not stop:
                found[chunk.number] = future.result()
                if on_progress is not None:
                    on_progress(sum(map(len, found.values())), len(pairs))
    if stop:
        raise StoppedError("Stopped; nothing is kept of an evaluation. Call the same command again.", stop.exit_code)
    return [scores for start in starts for scores in found[start]]


def score_chunk(chunk: Chunk) -> list[PairScores]:
    """The scores of each pair of a chunk, in a worker, beside which others score: one after the other."""
    return [score_pair(pair, chunk.rule) for pair in releasing_memory(chunk.pairs)]


def score_pair(pair: Pair, rule: Rule) -> PairScores:
    """The scores of a pair, of the regions of `rule` if there are any, else of the classes."""
    grid = _whole_grid(pair.predicted, pair.reference)
    masks = read_mask(pair.predicted, rule.classes, grid), read_mask(pair.reference, rule.classes, grid, rule.ignore)
    require_annotated(masks[1], pair.reference)
    known = masks[1] != IGNORED
    spacing = (1.0,) * len(grid.shape) if rule.voxels else grid.spacing_mm
    scores, tallies, case = list[Score](), dict[str, ObjectTally](), without_ending(pair.reference.name)
    for found, right, names in views(*masks, rule.classes, rule.regions):
        if rule.objects:
            instances = instances_beside(pair.reference, right, grid)
            tallies |= tally_structures(found, right, names, spacing, instances)
        for score in score_case(found, right, names, spacing, None if known.all() else known):
            extra = object_scores(tallies.get(score.structure))
            scores.append(Score(patient=pair.patient, case=case, **score._asdict(), **extra))
    return PairScores(tuple(scores), spacing, int(known.size - np.count_nonzero(known)), tallies)


def object_scores(tally: ObjectTally | None) -> dict[str, float]:
    """The scores of a tally by their names here; none without a tally."""
    return {} if tally is None else {f"object_{key}": value for key, value in score_objects(tally)._asdict().items()}


def _whole_grid(predicted: Path, reference: Path) -> Grid:
    """The grid of a whole scan: that of the reference, unless it leaves slices without structures out."""
    return read_grid(predicted if tells_by_name(reference) else reference)
