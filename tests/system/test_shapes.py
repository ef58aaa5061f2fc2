"""Shapes as types: a wrong one is refused in every room whose functions take arrays, because tests run the annotations.

pytest's --jaxtyping-packages, in pyproject.toml, names the packages whose annotations are checked. A package that is
dropped from it fails here, and so does a module with array functions of which no wrong call is listed.
"""

import ast
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from patchcl.contrast.patches import PatchGrid

SOURCE = Path(__file__).parents[2] / "src"
ROOMS = ("contrast", "losses", "evaluation")
LOGITS, MASK = torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.int64)
SHORT = torch.zeros(2, 4, 5, dtype=torch.int64)  # a mask of another size than LOGITS
MEMORY, WRITTEN = torch.zeros(3, 5, 8), torch.zeros(3, 6, dtype=torch.bool)  # which disagree on how much is remembered
GRID = PatchGrid(torch.zeros(6), torch.zeros(6, 2), *torch.zeros(4, 3, 6))
FLAT, LONG = np.zeros((4, 4), dtype=bool), np.zeros((4, 5), dtype=bool)

WRONG_CALLS: dict[str, tuple[object, ...]] = {
    "contrast.class_maps.drawn_classes": (torch.ones(3, 4, dtype=torch.bool), 2),
    "contrast.exchange.gathered": (torch.zeros(()),),
    "contrast.hard_negatives.reweighted": (torch.zeros(7, 3, 5), WRITTEN),
    "contrast.hard_negatives.slab_samples": (MEMORY, WRITTEN),
    "contrast.prototypes.image_index": (torch.zeros(7, 2, dtype=torch.int64), 4),
    "contrast.loss.even_weights": (WRITTEN[0],),
    "contrast.loss.info_nce": (torch.zeros(7, 3, 5), WRITTEN, torch.zeros(7, dtype=torch.int64), WRITTEN[:, 0], 0.2),
    "contrast.patch_contrast.embedded": (torch.zeros(7, 8), torch.zeros(6, dtype=torch.int64)),
    "contrast.patches.grid_mean": (LOGITS[0, 0, 0], (2, 2)),
    "contrast.patches.patch_grid": (torch.zeros(2, 1, 4, 5), LOGITS, (2, 2), "confidence"),
    "contrast.samplers.best_apart": (torch.zeros(3, 2, 3), GRID, (2, 2), 2, 0.5),
    "evaluation.metrics.dice": (FLAT, LONG),
    "evaluation.metrics.surface_distances": (FLAT, LONG, (1.0, 1.0)),
    "evaluation.object_metrics.components": (FLAT.astype(np.uint8),),
    "evaluation.object_metrics.tally_objects": (FLAT.astype(int), LONG.astype(int), (1.0, 1.0)),
    "losses.agreement.overlap_and_size": (MASK, SHORT, MASK == 0, 3),
    "losses.consistency.squared_difference": (LOGITS, LOGITS[:, :2]),
    "losses.pseudo_labels.pseudo_labels": (LOGITS[0, 0, 0],),
    "losses.supervised.cross_entropy": (LOGITS, SHORT),
    "losses.supervised.one_hot": (MASK.float(), 3),
}
"""Function, below patchcl -> arguments of which one has a wrong shape, or numbers of the wrong kind."""


def module_of(name: str) -> str:
    return name.rpartition(".")[0]


def takes_arrays(path: Path) -> bool:
    """Whether an argument of a public function of a module is annotated as a tensor or an array."""
    functions = [node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)]
    taken = [
        argument.annotation for function in functions if function.name[0] != "_" for argument in function.args.args
    ]
    return any("Tensor" in ast.unparse(kind) or "ndarray" in ast.unparse(kind) for kind in taken if kind)


def function(name: str) -> Callable[..., object]:
    found: Callable[..., object] = getattr(import_module(f"patchcl.{module_of(name)}"), name.rpartition(".")[2])
    return found


@pytest.mark.parametrize("name", WRONG_CALLS)
def test_a_wrong_shape_is_refused(name):
    with pytest.raises(TypeCheckError):
        function(name)(*WRONG_CALLS[name])


@pytest.mark.parametrize("name", ["losses.supervised.one_hot", "evaluation.object_metrics.components"])
def test_numbers_of_the_right_kind_are_not(name):
    """Else anything would be refused, and the test above could not fail."""
    right = {"losses.supervised.one_hot": (MASK, 3), "evaluation.object_metrics.components": (FLAT,)}
    function(name)(*right[name])


def test_every_module_that_takes_arrays_is_shown_a_wrong_one():
    files = [file for room in ROOMS for file in (SOURCE / "patchcl" / room).glob("*.py")]
    assert {f"{file.parent.name}.{file.stem}" for file in files if takes_arrays(file)} == set(
        map(module_of, WRONG_CALLS)
    )


def test_only_functions_of_the_packages_on_the_list_are_checked(pytestconfig):
    listed = pytestconfig.getoption("--jaxtyping-packages").split(",")
    assert {f"patchcl.{room}" for room in ROOMS} <= set(listed)
