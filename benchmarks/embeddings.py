"""Do the embeddings tell the classes apart? The same validation patches, before training, without and with contrast.

    python benchmarks/embeddings.py RUN_WITHOUT RUN_WITH        # two runs of one split, as patchcl compare leaves them

Patches are chosen in the validation scans of the runs by their true masks, so nothing here was learned from. Features
are the teacher's, of whole images under the class; embeddings are what its head makes of them. For each class:
silhouette with the cosine distance (1: far from the other classes, 0: on the border, below 0: among others) and
Fisher's ratio of the variance between classes to that within. Writes a table, a map of all patches along their first
two principal components, and how near to the class of a patch its negatives are: the mean cosine between embeddings
and the other classes' negatives, mined in every way.
"""

import argparse
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from patchcl.config import Settings, read_settings
from patchcl.contrast import HardNegatives
from patchcl.contrast.patch_contrast import embedded
from patchcl.contrast.patches import ChosenPatches, class_attended_features, patch_grid
from patchcl.contrast.samplers import PatchSampler
from patchcl.core.files import write_json, write_text
from patchcl.core.seeds import seed_for
from patchcl.data.dataset import read_dataset
from patchcl.data.preprocessing.cache import PreparedCase, prepare
from patchcl.data.preprocessing.plan import Plan, load_plan
from patchcl.data.splits import cases_of, load_split
from patchcl.figures.overlays import class_colour, save_png
from patchcl.losses.supervised import one_hot
from patchcl.methods import build_method
from patchcl.methods.base import Method, Task
from patchcl.networks import build_network
from patchcl.runs.checkpoint import read_checkpoint
from patchcl.runs.folder import RunFolder

RESULTS = Path(__file__).parent / "results"
PICTURE = Path(__file__).parents[1] / "docs" / "embeddings.png"
PER_CASE = 16
"""Patches of every class and validation scan."""


class Cloud(NamedTuple):
    """Unit vectors (N, E) of the same patches in one space."""

    name: str
    vectors: np.ndarray


class Shown(NamedTuple):
    """A scan and the patches chosen in it."""

    image: Tensor
    probs: Tensor
    chosen: ChosenPatches
    side: tuple[int, ...]


def main() -> None:
    """Embed, score, draw."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("without", type=Path, help="a run of patchcl whose contrast weighs nothing")
    arguments.add_argument("with_contrast", type=Path, help="the same with contrast")
    arguments.add_argument("--results", type=Path, default=RESULTS)
    arguments.add_argument("--picture", type=Path, default=PICTURE)
    chosen = arguments.parse_args()
    without, contrasted = RunFolder.open(chosen.without), RunFolder.open(chosen.with_contrast)
    plan = load_plan(contrasted.plan)
    untrained, trained = build(contrasted, plan), restored(contrasted, plan)
    shown = validation_patches(contrasted, plan, trained)
    label = np.concatenate([each.chosen.label[each.chosen.label >= 0].numpy() for each in shown])
    clouds = [
        Cloud("features, untrained", features(untrained, shown)),
        Cloud("features, trained without contrast", features(restored(without, plan), shown)),
        Cloud("features, trained with contrast", features(trained, shown)),
        Cloud("embeddings, untrained", embeddings(untrained, shown)),
        Cloud("embeddings, trained with contrast", embeddings(trained, shown)),
    ]
    scores = {cloud.name: score(cloud.vectors, label, plan.classes) for cloud in clouds}
    cosines = negatives(trained, clouds[-1].vectors, label)
    table = markdown(scores, plan.classes) + "\n" + hardness(cosines)
    write_json(chosen.results / "embeddings.json", {"patches": len(label), "scores": scores, "negatives": cosines})
    write_text(chosen.results / "embeddings.md", table)
    save_png(drawn(clouds, label, plan.classes), chosen.picture)
    print(table)


def build(run: RunFolder, plan: Plan) -> Method:
    """The method of a run as it was before its first step."""
    settings = read_settings(run.settings)
    torch.manual_seed(seed_for(settings.training.seed, "weights"))
    return build_method(settings.method, task(settings, plan)).eval()


def task(settings: Settings, plan: Plan) -> Task:
    """What the method of a run was made for."""
    channels, classes = len(plan.channels), len(plan.classes)
    return Task(
        lambda: build_network(settings.network, channels, classes, plan.size, plan.spacing_mm),
        classes,
        plan.size,
        settings.training.steps,
    )


def restored(run: RunFolder, plan: Plan) -> Method:
    """The method of a run after its last step."""
    method = build(run, plan)
    method.load_state_dict(read_checkpoint(run, "last")["method"])
    return method


def validation_patches(run: RunFolder, plan: Plan, method: Method) -> list[Shown]:
    """Patches of all validation scans by their true masks, all classes alike."""
    settings = read_settings(run.settings)
    if settings.data is None or settings.cache is None or method.contrast is None:
        raise SystemExit(f"{run.root} does not say where its data are, or has no contrast.")
    dataset = read_dataset(settings.data, settings.split.patient_pattern)
    cases = cases_of(dataset, load_split(run.split).validation, masked=True)
    torch.manual_seed(0)
    return [patches_of(case, len(plan.classes), method.contrast.side) for case in prepare(cases, plan, settings.cache)]


def patches_of(case: PreparedCase, classes: int, side: tuple[int, ...]) -> Shown:
    """Patches of one scan."""
    image, mask = (torch.from_numpy(np.load(str(path))) for path in (case.image, case.mask))
    probs = one_hot(mask.long(), classes)
    sampler = PatchSampler("uniform", classes, PER_CASE, min_ratio=0.5)
    return Shown(image.float(), probs, sampler(patch_grid(image.float(), probs, side, "confidence"), side), side)


def pooled(method: Method, shown: list[Shown]) -> Tensor:
    """The teacher's features of every patch that shows a class."""
    teacher = method.teacher
    found = [
        class_attended_features(teacher.encode(image), probs, chosen, side, teacher.reduction)[chosen.label >= 0]
        for image, probs, chosen, side in shown
    ]
    return torch.cat(found)


@torch.no_grad()
def features(method: Method, shown: list[Shown]) -> np.ndarray:
    """What the head is given, centred and of unit length."""
    found = pooled(method, shown)
    return F.normalize(found - found.mean(dim=0), dim=1).numpy()


@torch.no_grad()
def embeddings(method: Method, shown: list[Shown]) -> np.ndarray:
    """What the contrast compares."""
    if method.contrast is None:
        raise SystemExit("This run has no contrast.")
    found = method.contrast.teacher_head(pooled(method, shown))
    return embedded(found, torch.zeros(len(found))).numpy()


def negatives(method: Method, vectors: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """Mean cosine between the embeddings and the negatives that each way of mining makes of the run's memory."""
    contrast = method.contrast
    if contrast is None:
        raise SystemExit("This run has no contrast.")
    embedding, known = torch.from_numpy(vectors), torch.from_numpy(label)
    similarity = torch.einsum("pe,kme->pkm", embedding, contrast.memory.embedding)
    other = ~F.one_hot(known, contrast.classes).bool()
    cosines = {}
    for kind in get_args(HardNegatives):
        contrast.settings = contrast.settings.model_copy(update={"hard_negatives": kind})
        torch.manual_seed(0)
        cosines[kind] = float(contrast.seen(embedding, similarity, known).mean[other].mean())
    return cosines


def hardness(cosines: dict[str, float]) -> str:
    """That as a table."""
    cells = " | ".join(f"{value:.3f}" for value in cosines.values())
    return f"| negatives | {' | '.join(cosines)} |\n|{'---|' * (len(cosines) + 1)}\n| mean cosine | {cells} |\n"


def score(vectors: np.ndarray, label: np.ndarray, classes: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Silhouette and Fisher's ratio of every class, and their means."""
    outline, fisher = silhouette(vectors, label), fisher_ratio(vectors, label)
    rows = {
        name: {"silhouette": float(outline[label == k].mean()), "fisher": float(fisher[k])}
        for k, name in enumerate(classes)
    }
    mean = {key: float(np.mean([row[key] for row in rows.values()])) for key in ("silhouette", "fisher")}
    return rows | {"mean": mean}


def silhouette(vectors: np.ndarray, label: np.ndarray) -> np.ndarray:
    """(b - a) / max(a, b) of each vector: a its mean distance within its class, b to the nearest other class.

    Source: Rousseeuw, 1987. The distance is one minus the cosine.
    """
    distance = 1 - vectors @ vectors.T
    member = np.eye(label.max() + 1)[label]
    count = member.sum(axis=0)
    own = member.astype(bool)
    to_class = distance @ member / np.maximum(count, 1)
    within = to_class[own] * count[label] / np.maximum(count[label] - 1, 1)
    nearest = np.where(own, np.inf, to_class).min(axis=1)
    return (nearest - within) / np.maximum(np.maximum(nearest, within), 1e-12)


def fisher_ratio(vectors: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Of each class: squared distance of its mean from the mean of all classes, over its variance."""
    means = np.stack([vectors[label == k].mean(axis=0) for k in range(label.max() + 1)])
    within = np.array([vectors[label == k].var(axis=0).sum() for k in range(label.max() + 1)])
    return np.square(means - means.mean(axis=0)).sum(axis=1) / np.maximum(within, 1e-12)


def markdown(scores: dict[str, Any], classes: tuple[str, ...]) -> str:
    """The table."""
    names = (*classes, "mean")
    lines = ["| silhouette / Fisher's ratio | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for cloud, rows in scores.items():
        cells = [f"{rows[name]['silhouette']:.2f} / {rows[name]['fisher']:.2f}" for name in names]
        lines.append(f"| {cloud} | " + " | ".join(cells) + " |")
    return "\n".join(lines).replace("-0", "−0") + "\n"


def drawn(clouds: list[Cloud], label: np.ndarray, classes: tuple[str, ...]) -> Figure:
    """One panel a space, one dot a patch, its colour the class."""
    figure = Figure(figsize=(3.1 * len(clouds), 3.6), layout="constrained")
    for axis, cloud in zip(figure.subplots(1, len(clouds)), clouds, strict=True):
        centred = cloud.vectors - cloud.vectors.mean(axis=0)
        _, _, axes = np.linalg.svd(centred, full_matrices=False)
        plane = centred @ axes[:2].T
        for k, name in enumerate(classes):
            colour = class_colour(k) if k else "#9a9a9a"
            axis.scatter(*plane[label == k].T, s=7, color=colour, alpha=0.6, linewidths=0, label=name)
        axis.set_title(cloud.name.replace(", ", "\n"), fontsize=10)
        axis.set_xticks([])
        axis.set_yticks([])
    handles, names = axis.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(classes), markerscale=2.5, frameon=False)
    return figure


if __name__ == "__main__":
    main()
