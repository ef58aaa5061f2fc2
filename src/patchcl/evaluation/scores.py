"""Scores of an evaluation: by patient and structure, their means, and the files that hold them."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import Field

from patchcl.core.documents import parse_json
from patchcl.core.errors import UserError
from patchcl.core.files import write_json, write_rows
from patchcl.core.settings import FrozenSettings
from patchcl.evaluation.intervals import patient_means
from patchcl.evaluation.metrics import EMPTY_POLICY, SURFACE_POLICY

Metric = Literal[
    "dice", "jaccard", "hd95_mm", "asd_mm", "surface_dice", "object_f1", "object_dice", "object_hausdorff_mm"
]
METRICS: tuple[Metric, ...] = ("dice", "jaccard", "hd95_mm", "asd_mm")
SURFACE_METRICS: tuple[Metric, ...] = ("surface_dice",)
"""What scores of version 0.1 lack."""
OBJECT_METRICS: tuple[Metric, ...] = ("object_f1", "object_dice", "object_hausdorff_mm")
"""The metrics of single objects, in evaluations that were asked for them."""
FRACTION_METRICS: tuple[Metric, ...] = ("dice", "jaccard", "surface_dice", "object_f1", "object_dice")
"""Metrics from 0 to 1, of which more is better; all others are distances."""
HEADINGS: dict[Metric, str] = {
    "dice": "Dice %",
    "jaccard": "Jaccard %",
    "hd95_mm": "95HD {unit}",
    "asd_mm": "ASD {unit}",
    "surface_dice": "surface Dice %",
    "object_f1": "object F1 %",
    "object_dice": "object Dice %",
    "object_hausdorff_mm": "Hausdorff {unit}",
}
Rows = dict[str, dict[str, dict[str, float | None]]]
"""By structure and metric the mean and the standard deviation over patients, as JSON holds them."""
SplitSide = Literal["test", "validation"]
IGNORED_VOXELS = "ignored_voxels"
"""How many voxels of all masks nobody annotated, in the provenance of scores that leave some out."""
MEAN = "mean"
"""The name of the row that averages all structures."""
DATA_HASH, CHANGED = "data_hash", "changed_since_training"
"""Keys of the provenance: the hash of all scored scans and masks; what differs from what the run was trained as."""
RESCUES = "trained_rescues"
"""How often training diverged and was rescued, in the provenance of the scores of such a run."""
UNFINISHED = "unfinished"
"""How far training had come, in words, in the provenance of the scores of a run that was stopped before its steps."""
OPTIONS = "options"
"""What `evaluate` and `compare` were told of how to score, in the provenance; see `options_of`."""
OLD_KEYS = {"settings_fingerprint": "settings_hash", "split_fingerprint": "split_hash"}
"""Keys of the provenance that version 0.1 wrote, and their names today."""


class Score(FrozenSettings):
    """The metrics of one structure in one scan. Distances are in voxels where the evaluation says so."""

    patient: str
    case: str
    structure: str
    dice: float
    jaccard: float
    hd95_mm: float
    asd_mm: float
    surface_dice: float | None = None
    object_f1: float | None = None
    object_dice: float | None = None
    object_hausdorff_mm: float | None = None


class PooledObjects(FrozenSettings):
    """The metrics of the objects of one structure in all scans together, as the GlaS challenge counts."""

    object_f1: float
    object_dice: float
    object_hausdorff_mm: float


def options_of(fast: bool, postprocessing: bool, voxels: bool) -> str:
    """The options that ask for scores which cannot stand beside those of a call without them."""
    given = {"--fast": fast, "--no-postprocessing": not postprocessing, "--voxels": voxels}
    return " ".join(option for option, asked in given.items() if asked)


def stem_of(side: str, checkpoint: str, options: str = "") -> str:
    """What the files of scores and masks are called: those made with some `options_of` scores lie beside all others."""
    return "_".join([side, checkpoint, *(option.removeprefix("--") for option in options.split())])


class Evaluation(FrozenSettings):
    """Every score of a set of predictions, and where the predictions came from."""

    name: str
    structures: tuple[str, ...]
    unit: Literal["mm", "voxels"]  # of distances; voxels where every spacing is exactly 1, which means it was lost
    scores: tuple[Score, ...]
    provenance: dict[str, str | int | None]
    pooled: dict[str, PooledObjects] = Field(default_factory=dict)  # by structure; nothing unless it was asked for
    columns: dict[str, Rows] = Field(default_factory=dict)
    """Means by what was done beyond one pass of the network, all of it last; nothing where nothing was."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics that were measured."""
        surfaces = all(score.surface_dice is not None for score in self.scores)
        return METRICS + SURFACE_METRICS * surfaces + OBJECT_METRICS * bool(self.pooled)

    @property
    def patients(self) -> tuple[str, ...]:
        """Every patient once."""
        return tuple(dict.fromkeys(score.patient for score in self.scores))

    def by_patient(self, metric: Metric, structure: str = MEAN) -> dict[str, float]:
        """One figure per patient: the mean of the scans, and of all structures unless one is named."""
        rows = [score for score in self.scores if structure in (MEAN, score.structure)]
        return patient_means([getattr(row, metric) for row in rows], [row.patient for row in rows])


class MeanStd(NamedTuple):
    """Mean and standard deviation over patients; the latter is NaN for a single one."""

    mean: float
    std: float


def summarise(evaluation: Evaluation, metric: Metric, structure: str = MEAN) -> MeanStd:
    """Mean and standard deviation of a metric over patients."""
    values = list(evaluation.by_patient(metric, structure).values())
    return MeanStd(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else math.nan)


def require_scores(evaluation: Evaluation) -> None:
    """Raise unless every overlap that was measured is from 0 to 1, and every distance a finite number.

    Raises:
        UserError: One is not; it names patient and structure.
    """
    for score in evaluation.scores:
        for metric, heading in HEADINGS.items():
            value, most = getattr(score, metric), 1 if metric in FRACTION_METRICS else math.inf
            if value is not None and (not 0 <= value <= most or value == math.inf):
                expected = "a number from 0 to 1" if most == 1 else "a finite number from 0 on"
                raise UserError(
                    f"{evaluation.name}: {heading.rpartition(' ')[0]} of {score.structure} in patient {score.patient} "
                    f"is {value}, expected {expected}. Make the scores anew with: patchcl evaluate"
                )


def write_evaluation(evaluation: Evaluation, stem: Path) -> None:
    """Keep the scores as STEM.csv, one line per scan and structure, and with their summary as STEM.json."""
    unmeasured = {*SURFACE_METRICS, *OBJECT_METRICS} - {*evaluation.metrics}
    fields = [field for field in Score.model_fields if field not in unmeasured]
    scores = [score.model_dump(mode="json", include=set(fields)) for score in evaluation.scores]
    columns = {field: field.replace("_mm", f"_{evaluation.unit}") for field in fields}
    write_rows(stem.with_name(f"{stem.name}.csv"), columns, scores)
    unused = set() if evaluation.pooled else {"pooled"}
    content = evaluation.model_dump(mode="json", exclude={"scores", "columns"} | unused)
    write_json(stem.with_name(f"{stem.name}.json"), {"summary": _summary(evaluation), **content, "scores": scores})


def read_evaluation(path: Path) -> Evaluation:
    """The scores that `write_evaluation` kept in the .json file `path`.

    Raises:
        UserError: The file is missing or holds something else.
    """
    try:
        return Evaluation.model_validate(_content(path))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} cannot be read as scores. Make it anew with: patchcl evaluate") from error


def summary_rows(evaluation: Evaluation) -> Rows:
    """The summary of every metric, by structure and of their mean."""
    return {
        structure: {metric: _without_nan(summarise(evaluation, metric, structure)) for metric in evaluation.metrics}
        for structure in (*evaluation.structures, MEAN)
    }


def with_columns(evaluations: Mapping[str, Evaluation]) -> Evaluation:
    """The last of evaluations, which is the one that counts, with the means of all by what was done, if several."""
    last = list(evaluations.values())[-1]
    rows = {column: summary_rows(evaluation) for column, evaluation in evaluations.items()}
    return last.model_copy(update={"columns": rows if len(rows) > 1 else {}})


def _summary(evaluation: Evaluation) -> dict[str, Any]:
    """What readers of version 0.1 pass over, so it is where new things go."""
    columns = {"columns": evaluation.columns} if evaluation.columns else {}
    counts = {"patients": len(evaluation.patients), "structures": summary_rows(evaluation)}
    surfaces = {"surface_policy": SURFACE_POLICY} if "surface_dice" in evaluation.metrics else {}
    return {**counts, "empty_policy": EMPTY_POLICY, **surfaces, **columns}


def _without_nan(figure: MeanStd) -> dict[str, float | None]:
    """The figure with None for NaN, which JSON does not know."""
    return {"mean": figure.mean, "std": None if math.isnan(figure.std) else figure.std}


def _content(path: Path) -> dict[str, Any]:
    """The scores in a file, of their summary the columns alone, keys of the provenance by their names of today."""
    content: dict[str, Any] = parse_json(path.read_bytes())
    provenance = {OLD_KEYS.get(key, key): value for key, value in content["provenance"].items()}
    columns = content.pop("summary", {}).get("columns", {})
    return content | {"provenance": provenance, "columns": columns}
