import numpy as np
import pytest
import torch
from beartype import beartype
from jaxtyping import TypeCheckError, jaxtyped
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice
from monai.metrics.utils import get_surface_distance
from scipy.ndimage import gaussian_filter
from sklearn.metrics import f1_score, jaccard_score

from patchcl.evaluation.metrics import (
    EMPTY_POLICY,
    average_surface_distance,
    dice,
    hausdorff95,
    image_diagonal,
    score_case,
    surface_distances,
)
from patchcl.evaluation.metrics import jaccard as jaccard_index

SPACING = (0.7, 1.5, 3.0)
# MONAI calls its own function with an argument that it has deprecated.
monai_warns = pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")


def cube(start: tuple[int, ...], side: int, shape=(12, 12, 12)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(corner, corner + side) for corner in start)] = True
    return mask


def blob(seed: int, shape=(20, 18, 14)) -> np.ndarray:
    """A random smooth shape that keeps clear of the image border, where MONAI's surface differs from medpy's."""
    noise = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 2)
    mask = np.pad(noise[2:-2, 2:-2, 2:-2] > np.percentile(noise, 60), 2)
    return mask


def as_batch(mask: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(mask)[None, None].float()


@pytest.mark.parametrize("seed", range(5))
def test_overlap_agrees_with_scikit_learn(seed):
    predicted, reference = blob(seed), blob(seed + 100)
    assert dice(predicted, reference) == pytest.approx(f1_score(reference.ravel(), predicted.ravel()))
    assert jaccard_index(predicted, reference) == pytest.approx(jaccard_score(reference.ravel(), predicted.ravel()))


@monai_warns
@pytest.mark.parametrize("seed", range(5))
def test_average_surface_distance_agrees_with_monai(seed):
    predicted, reference = blob(seed), blob(seed + 100)
    theirs = compute_average_surface_distance(
        as_batch(predicted), as_batch(reference), include_background=True, symmetric=False, spacing=SPACING
    )
    assert average_surface_distance(predicted, reference, SPACING) == pytest.approx(theirs.item(), rel=1e-5)


@monai_warns
@pytest.mark.parametrize("seed", range(5))
def test_hausdorff95_agrees_with_monai_where_the_conventions_meet(seed):
    """MONAI takes the larger of two directed percentiles, medpy the percentile of both pooled."""
    predicted, reference = blob(seed), blob(seed + 100)
    to_reference, to_predicted = surface_distances(predicted, reference, SPACING)
    theirs = compute_hausdorff_distance(
        as_batch(predicted), as_batch(reference), include_background=True, percentile=95, spacing=SPACING
    )
    larger = max(np.percentile(to_reference, 95), np.percentile(to_predicted, 95))
    assert larger == pytest.approx(theirs.item(), rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_hausdorff95_pools_both_directions(seed):
    predicted, reference = blob(seed), blob(seed + 100)
    edges = [mask & (eroded(mask) == 0) for mask in (predicted, reference)]
    pooled = np.concatenate(
        [get_surface_distance(*pair, spacing=SPACING) for pair in (edges, edges[::-1])],
    )
    assert hausdorff95(predicted, reference, SPACING) == pytest.approx(np.percentile(pooled, 95), rel=1e-5)


def eroded(mask: np.ndarray) -> np.ndarray:
    """Voxels whose six face neighbours all belong to the mask, written out."""
    padded = np.pad(mask, 1)
    inside = mask.copy()
    for axis in range(mask.ndim):
        for step in (-1, 1):
            inside &= np.roll(padded, step, axis)[(slice(1, -1),) * mask.ndim]
    return inside


def test_two_voxels_by_hand():
    predicted, reference = cube((1, 1, 1), 1), cube((1, 1, 5), 1)
    assert hausdorff95(predicted, reference, (1, 1, 2.5)) == 10.0
    assert average_surface_distance(predicted, reference, (1, 1, 2.5)) == 10.0


def test_shifted_square_by_hand():
    """A 3x3 square shifted by one: 8 surface pixels each; of the prediction's, three lie off the other surface."""
    predicted, reference = cube((2, 2), 3, (10, 10)), cube((3, 2), 3, (10, 10))
    assert dice(predicted, reference) == pytest.approx(12 / 18)
    assert jaccard_index(predicted, reference) == pytest.approx(6 / 12)
    # Row 2: 1, 1, 1 away; row 3: both on the surface; row 4: its middle lies inside the reference, 1 away.
    assert average_surface_distance(predicted, reference, (1, 1)) == pytest.approx(4 / 8)
    assert hausdorff95(predicted, reference, (1, 1)) == 1.0


def test_average_surface_distance_runs_from_the_prediction_only():
    small, large = cube((4, 4), 1, (12, 12)), cube((2, 2), 5, (12, 12))
    assert average_surface_distance(small, large, (1, 1)) == 2.0
    assert average_surface_distance(large, small, (1, 1)) > 2.0


def test_the_image_border_is_a_surface():
    whole = np.ones((5, 5), bool)
    to_reference, _ = surface_distances(whole, whole, (1, 1))
    assert len(to_reference) == 16
    assert not to_reference.any()


@pytest.mark.parametrize("swapped", [False, True])
def test_a_missed_and_an_invented_structure_score_the_diagonal(swapped):
    pair = (cube((1, 1, 1), 3), np.zeros((12, 12, 12), bool))
    predicted, reference = pair[::-1] if swapped else pair
    diagonal = 12 * np.sqrt(0.7**2 + 1.5**2 + 3.0**2)
    assert dice(predicted, reference) == jaccard_index(predicted, reference) == 0
    assert hausdorff95(predicted, reference, SPACING) == pytest.approx(diagonal)
    assert average_surface_distance(predicted, reference, SPACING) == pytest.approx(diagonal)


def test_no_distance_exceeds_the_diagonal():
    predicted, reference = cube((0, 0, 0), 1), cube((11, 11, 11), 1)
    assert hausdorff95(predicted, reference, SPACING) < image_diagonal(predicted.shape, SPACING)


def test_both_empty_is_perfect():
    empty = np.zeros((4, 4, 4), bool)
    assert dice(empty, empty) == jaccard_index(empty, empty) == 1
    assert hausdorff95(empty, empty, SPACING) == average_surface_distance(empty, empty, SPACING) == 0


def test_score_case_scores_every_structure_but_the_background():
    reference = np.zeros((8, 8, 8), np.uint8)
    reference[1:4, 1:4, 1:4] = 1
    predicted = reference.copy()
    predicted[6, 6, 6] = 2
    first, second, third = score_case(predicted, reference, ("background", "left", "right", "none"), (2, 2, 2))
    assert first == ("left", 1.0, 1.0, 0.0, 0.0, 1.0)
    assert second == ("right", 0.0, 0.0, pytest.approx(np.sqrt(3) * 16), pytest.approx(np.sqrt(3) * 16), 0.0)
    assert third == ("none", 1.0, 1.0, 0.0, 0.0, 1.0)


def test_score_case_agrees_with_the_single_metrics():
    predicted, reference = blob(1), blob(2)
    (score,) = score_case(predicted.astype(int), reference.astype(int), ("background", "organ"), SPACING)
    assert score.dice == dice(predicted, reference)
    assert score.jaccard == jaccard_index(predicted, reference)
    assert score.hd95_mm == hausdorff95(predicted, reference, SPACING)
    assert score.asd_mm == average_surface_distance(predicted, reference, SPACING)


@pytest.mark.parametrize("value", [0, 1, 2])
def test_what_is_said_of_ignored_voxels_is_not_scored(value):
    predicted, reference = (blob(seed).astype(int) + blob(seed + 10) for seed in (1, 2))
    known = np.random.default_rng(0).random(reference.shape) < 0.7
    known[..., 5:9] = False
    scores = score_case(predicted, reference, ("background", "a", "b"), SPACING, known)
    changed = np.where(known, predicted, value), np.where(known, reference, 2 - value)
    assert score_case(*changed, ("background", "a", "b"), SPACING, known) == scores
    first = scores[0]
    assert first.dice == dice((predicted == 1) & known, (reference == 1) & known)
    assert first.jaccard == jaccard_index((predicted == 1) & known, (reference == 1) & known)
    assert scores != score_case(predicted, reference, ("background", "a", "b"), SPACING)


def test_slices_that_alone_are_annotated_have_the_distances_of_slices():
    """Else all of a slice would be surface, because its neighbours are not known, and distances would vanish."""
    predicted, reference = cube((2, 2, 0), 8, (16, 16, 9)), cube((4, 2, 0), 8, (16, 16, 9))
    known = np.zeros(reference.shape, bool)
    known[:, :, 4] = True
    found = surface_distances(predicted, reference, (1, 1, 5), known)
    alone = surface_distances(predicted[:, :, 4], reference[:, :, 4], (1, 1))
    assert [sorted(way) for way in found] == [sorted(way) for way in alone]
    assert len(found[0]) == 28


def test_known_voxels_without_a_known_surface_stand_for_it():
    """Scribbles: the structure is marked in its middle and nowhere at its edge."""
    known = np.zeros((12, 12), bool)
    known[5, 3:9] = known[9, :] = True
    reference, predicted = np.zeros((12, 12), bool), np.zeros((12, 12), bool)
    reference[2:8, 2:10] = True
    predicted[2:8, 5:12] = True
    to_reference, to_predicted = surface_distances(predicted, reference, (1, 1), known)
    # Of the row that is known inside the reference, columns 3 to 8, the prediction's edge lies at column 5 alone.
    assert to_reference.tolist() == [0]
    assert to_predicted.tolist() == [2, 1, 0, 1, 2, 3]


def test_all_known_is_as_if_nobody_had_asked():
    known = np.ones((20, 18, 14), bool)
    for one, two in zip(*(surface_distances(blob(1), blob(2), SPACING, of) for of in (None, known)), strict=True):
        np.testing.assert_array_equal(one, two)


def test_the_policy_names_what_it_rules():
    assert all(word in EMPTY_POLICY for word in ("Dice 0", "Dice 1", "diagonal"))


def test_the_shapes_written_down_hold():
    typed = [jaxtyped(typechecker=beartype)(function) for function in (dice, jaccard_index)]
    measured = jaxtyped(typechecker=beartype)(surface_distances)
    assert [function(blob(1), blob(2)) for function in typed] == [
        dice(blob(1), blob(2)),
        jaccard_index(blob(1), blob(2)),
    ]
    assert len(measured(blob(1), blob(2), SPACING)) == 2
    with pytest.raises(TypeCheckError):
        typed[0](blob(1), blob(2).astype(int))


@monai_warns
def test_surface_dice_is_monais() -> None:
    predicted, reference = np.zeros((2, 12, 14, 6), dtype=np.uint8)
    predicted[2:8, 3:9, 1:5], reference[4:9, 3:12, 1:4] = 1, 1
    spacing = (1.5, 1.0, 4.0)
    (score,) = score_case(predicted, reference, ("background", "box"), spacing)
    pair = [torch.from_numpy(np.stack((mask == 0, mask == 1))[None]).float() for mask in (predicted, reference)]
    theirs = compute_surface_dice(*pair, class_thresholds=[1.5], spacing=spacing)
    assert 0 < score.surface_dice < 1
    assert score.surface_dice == pytest.approx(float(theirs), abs=1e-6)


def test_surface_dice_of_empty_masks_is_that_of_dice() -> None:
    empty, box = np.zeros((4, 4), dtype=np.uint8), np.eye(4, dtype=np.uint8)
    for pair, expected in (((empty, empty), 1), ((empty, box), 0), ((box, empty), 0), ((box, box), 1)):
        assert score_case(*pair, ("background", "box"), (1.0, 1.0))[0].surface_dice == expected
