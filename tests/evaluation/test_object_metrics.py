from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from beartype import beartype
from jaxtyping import jaxtyped
from scipy.ndimage import gaussian_filter, label
from scipy.spatial.distance import cdist

from patchcl.core.errors import UserError
from patchcl.data.scan import IGNORED, read_grid
from patchcl.evaluation.object_metrics import (
    OBJECT_POLICY,
    ObjectScore,
    components,
    instances_beside,
    pooled,
    score_objects,
    tally_objects,
    tally_structures,
)

SQUARE = (slice(2, 6), slice(2, 6))
APART = (slice(2, 6), slice(12, 16))


def objects(*boxes: tuple[slice, ...], shape: tuple[int, ...] = (20, 20)) -> np.ndarray:
    """An instance map with one id per box."""
    ids = np.zeros(shape, np.int32)
    for number, box in enumerate(boxes, start=1):
        ids[box] = number
    return ids


def score(predicted: np.ndarray, reference: np.ndarray, spacing=(1.0, 1.0)) -> ObjectScore:
    return score_objects(tally_objects(predicted, reference, spacing))


def blobs(seed: int, shape=(24, 30), fraction: float = 70, smooth: float = 1.5) -> np.ndarray:
    noise = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), smooth)
    return label(noise > np.percentile(noise, fraction))[0]


def points(ids: np.ndarray, spacing) -> dict[int, np.ndarray]:
    return {int(each): np.argwhere(ids == each) * spacing for each in np.unique(ids) if each}


def slow_hausdorff(one: np.ndarray, two: np.ndarray) -> float:
    distances = cdist(one, two)
    return max(distances.min(axis=0).max(), distances.min(axis=1).max())


def slow_direction(own: np.ndarray, other: np.ndarray, spacing) -> tuple[float, float]:
    """Dice and distance of the definition, object by object, over sets of voxels; both sides have objects."""
    mine, theirs = points(own, spacing), points(other, spacing)
    area = sum(map(len, mine.values()))
    dice = distance = 0.0
    for each, voxels in mine.items():
        met = other[own == each]
        met = met[met > 0]
        weight = len(voxels) / area
        if len(met):
            partner = int(np.bincount(met).argmax())
            dice += weight * 2 * (met == partner).sum() / (len(voxels) + len(theirs[partner]))
            distance += weight * slow_hausdorff(voxels, theirs[partner])
        else:
            distance += weight * min(slow_hausdorff(voxels, those) for those in theirs.values())
    return dice, distance


def slow_score(predicted: np.ndarray, reference: np.ndarray, spacing) -> tuple[float, float, float]:
    there, back = slow_direction(predicted, reference, spacing), slow_direction(reference, predicted, spacing)
    right = 0
    for each in np.unique(predicted[predicted > 0]):
        met = reference[(predicted == each) & (reference > 0)]
        partner = int(np.bincount(met).argmax()) if len(met) else 0
        right += partner > 0 and (met == partner).sum() / (reference == partner).sum() > 0.5
    precision = right / len(np.unique(predicted[predicted > 0]))
    recall = right / len(np.unique(reference[reference > 0]))
    f1 = 2 * precision * recall / (precision + recall) if right else 0.0
    return f1, (there[0] + back[0]) / 2, (there[1] + back[1]) / 2


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.5, 2.0)])
@pytest.mark.parametrize("seed", range(8))
def test_scores_agree_with_the_definition_written_out(seed, spacing):
    predicted, reference = blobs(seed, smooth=1 + seed / 8), blobs(seed + 100, fraction=60 + 3 * seed)
    if seed % 2:  # as a network that has learned something
        predicted = label(gaussian_filter((reference > 0) + blobs(seed, fraction=85), 1.0) > 0.4)[0]
    assert score(predicted, reference, spacing) == pytest.approx(slow_score(predicted, reference, spacing))


def test_scores_of_volumes_agree_with_the_definition_written_out():
    predicted, reference = (blobs(seed, shape=(10, 12, 9), smooth=1.2) for seed in (1, 2))
    spacing = (0.7, 1.0, 3.0)
    assert score(predicted, reference, spacing) == pytest.approx(slow_score(predicted, reference, spacing))


def test_a_perfect_prediction_whatever_its_ids():
    reference = objects(SQUARE, APART)
    predicted = np.where(reference == 1, 77, reference)
    assert score(predicted, reference) == (1, 1, 0)


def test_a_shifted_object_by_hand():
    """4 x 4 voxels moved down by one: 12 are shared, and the row that sticks out lies one away."""
    assert score(objects((slice(3, 7), slice(2, 6))), objects(SQUARE)) == (1, 24 / 32, 1)


def test_an_object_split_in_half_is_not_found():
    """No half covers more than half; each has Dice 2/3 with the whole and is at most two columns away from it."""
    halves = objects((slice(2, 6), slice(2, 4)), (slice(2, 6), slice(4, 6)))
    assert score(halves, objects(SQUARE)) == (0, pytest.approx(16 / 24), 2)


def test_an_object_split_unevenly_is_found_once():
    """12 of 16 voxels cover the object, 4 are false positives: 2 * 1 / (2 + 1)."""
    parts = objects((slice(2, 6), slice(2, 5)), (slice(2, 6), slice(5, 6)))
    large, small = 24 / 28, 8 / 20
    assert score(parts, objects(SQUARE)) == (
        pytest.approx(2 / 3),
        pytest.approx(((12 * large + 4 * small) / 16 + large) / 2),
        pytest.approx(((12 * 1 + 4 * 3) / 16 + 1) / 2),
    )


def test_two_objects_merged_into_one_are_found_once():
    """Squares of 16 voxels that touch, called one object of 32: one is found, the other missed."""
    touching = objects(SQUARE, (slice(2, 6), slice(6, 10)))
    merged = objects((slice(2, 6), slice(2, 10)))
    assert score(merged, touching) == (pytest.approx(2 / 3), pytest.approx(32 / 48), 4)


def test_touching_objects_stay_apart():
    touching = objects(SQUARE, (slice(2, 6), slice(6, 10)))
    assert score(touching, touching) == (1, 1, 0)


def test_a_missed_object_has_no_dice_and_the_distance_of_the_nearest():
    """The square at columns 12 to 15 is ten columns from the only prediction; both have the same area."""
    found, missed = score(objects(SQUARE), objects(SQUARE, APART)), score(objects(SQUARE, APART), objects(SQUARE))
    assert found == missed == (pytest.approx(2 / 3), (1 + 1 / 2) / 2, (0 + 10 / 2) / 2)


def test_an_object_without_partner_is_compared_with_the_nearest_by_hausdorff_distance():
    """The small one is nearer by its edge, the long one farther by its other end: 9 columns against 14."""
    lonely = objects((slice(10, 11), slice(6, 7)))
    others = objects((slice(10, 11), slice(15, 16)), (slice(12, 13), slice(7, 20)))
    assert tally_objects(lonely, others, (1, 1)).predicted.hausdorff_mm == 9


def test_insides_count_not_surfaces_alone():
    """A hole is as far from the ring as its middle is: 2 voxels; the surfaces of both discs are the same."""
    whole = objects((slice(2, 9), slice(2, 9)))
    ring = whole.copy()
    ring[4:7, 4:7] = 0
    assert score(ring, whole).hausdorff_mm == 2


@pytest.mark.parametrize("swapped", [False, True])
def test_no_object_on_one_side(swapped):
    pair = (objects(SQUARE), objects())
    predicted, reference = pair[::-1] if swapped else pair
    assert score(predicted, reference, (1, 2)) == (0, 0, pytest.approx(20 * np.sqrt(5)))


def test_no_object_on_either_side_is_perfect():
    assert score(objects(), objects()) == (1, 1, 0)


def test_maps_without_background():
    """Halves of an image against the whole of it."""
    halves = np.repeat([[5, 5, 6, 6]], 4, axis=0)
    assert score(halves, np.full((4, 4), 9)) == (0, pytest.approx(2 / 3), 2)


def test_components_join_at_corners_and_keep_holes_and_crumbs():
    mask = np.zeros((9, 9), bool)
    mask[1:4, 1:4] = True
    mask[2, 2] = False
    mask[4, 4] = mask[7, 1] = True
    ids = components(mask)
    assert ids.max() == 2
    assert ids[1, 1] == ids[4, 4] != ids[7, 1]
    assert ids[2, 2] == 0


def test_images_are_pooled_object_by_object():
    """The second image weighs as much as its objects are large, not as one image of two."""
    small, large = objects(SQUARE), objects((slice(0, 8), slice(0, 8)))
    perfect, missed = tally_objects(small, small, (1, 1)), tally_objects(objects(), large, (1, 1))
    diagonal = 20 * np.sqrt(2)
    together = score_objects(pooled([perfect, missed]))
    assert together == (pytest.approx(2 / 3), pytest.approx((1 + 16 / 80) / 2), pytest.approx(diagonal * 64 / 80 / 2))
    assert score_objects(pooled([perfect])) == score_objects(perfect)


def test_pooling_far_apart_images_is_scoring_them_as_one():
    pairs = [(blobs(seed), blobs(seed + 50)) for seed in (3, 4)]
    space = np.zeros((24, 200), int)
    wide = [np.hstack([first, space, np.where(second, second + 1000, 0)]) for first, second in zip(*pairs, strict=True)]
    apart = pooled([tally_objects(*pair, (1, 1)) for pair in pairs])
    assert score_objects(apart) == pytest.approx(score(*wide))


def test_every_structure_has_its_own_objects():
    reference = np.zeros((20, 20), np.uint8)
    reference[SQUARE], reference[APART] = 1, 2
    predicted = np.where(reference == 2, 1, 0)
    tallies = tally_structures(predicted, reference, ("background", "left", "right"), (1, 1))
    assert list(tallies) == ["left", "right"]
    assert score_objects(tallies["left"]) == (0, 0, 10)
    assert score_objects(tallies["right"]) == (0, 0, pytest.approx(20 * np.sqrt(2)))


def test_ids_divide_what_the_mask_does_not():
    touching = objects(SQUARE, (slice(2, 6), slice(6, 10)))
    mask = (touching > 0).astype(np.uint8)
    classes = ("background", "gland")
    by_mask, by_ids = (tally_structures(mask, mask, classes, (1, 1), ids)["gland"] for ids in (None, touching))
    assert score_objects(by_mask) == (1, 1, 0)
    assert score_objects(by_ids).f1 == pytest.approx(2 / 3)


def test_what_has_no_reference_is_not_counted():
    reference = objects(SQUARE).astype(np.uint8)
    reference[10:] = 255
    predicted = reference.copy()
    predicted[10:] = 0
    predicted[12:15, 3:6] = 1
    tallies = tally_structures(predicted, reference, ("background", "gland"), (1, 1), objects(SQUARE))
    assert score_objects(tallies["gland"]) == (1, 1, 0)


def test_the_first_value_beyond_the_classes_is_no_class():
    reference = objects(SQUARE).astype(np.uint8)
    reference[APART] = 2
    tallies = tally_structures((reference > 0).astype(np.uint8), reference, ("background", "gland"), (1, 1))
    assert score_objects(tallies["gland"]) == (1, 1, 0)


@pytest.mark.parametrize("turns", [0, 1, 2])
def test_scores_do_not_depend_on_names_or_place(turns):
    predicted, reference = blobs(7), blobs(8)
    shuffled = np.random.default_rng(0).permutation(np.arange(1, predicted.max() + 1))
    renamed = np.concatenate([[0], shuffled])[predicted]
    turned = [np.pad(np.rot90(ids, turns), 3) for ids in (renamed, reference)]
    assert score(*turned) == pytest.approx(score(predicted, reference))


def test_the_policy_names_what_it_rules():
    assert all(word in OBJECT_POLICY for word in ("GlaS", "half", "nearest", "diagonal", "corners", "hole", "small"))


def test_the_shapes_written_down_hold():
    tally = jaxtyped(typechecker=beartype)(tally_structures)
    mask = (blobs(1) > 0).astype(np.uint8)
    assert score_objects(tally(mask, mask, ("background", "blob"), (1.0, 1.0), components(mask > 0))["blob"]).dice == 1
    assert jaxtyped(typechecker=beartype)(components)(mask > 0).shape == mask.shape


MASK = np.zeros((6, 5, 2), np.uint8)
MASK[1:3, 1:4], MASK[3:5, 1:4] = 1, 2


def save(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(values, np.diag([0.5, 0.5, 2.0, 1.0])), path)
    return path


@pytest.fixture
def mask_file(tmp_path):
    return save(tmp_path / "labelsTr" / "anna.nii.gz", MASK)


def test_ids_lie_beside_the_mask(tmp_path, mask_file):
    ids = MASK.astype(np.int16) * 300
    save(tmp_path / "instancesTr" / "anna.nii.gz", ids)
    found = instances_beside(mask_file, MASK, read_grid(mask_file))
    np.testing.assert_array_equal(found, ids)


def test_each_folder_of_masks_has_its_own(tmp_path, mask_file):
    save(tmp_path / "instancesTs" / "anna.nii.gz", MASK)
    assert instances_beside(mask_file, MASK, read_grid(mask_file)) is None
    moved = save(tmp_path / "labelsTs" / "anna.nii.gz", MASK)
    assert instances_beside(moved, MASK, read_grid(moved)) is not None


def test_masks_anywhere_else_have_no_ids(tmp_path):
    path = save(tmp_path / "masks" / "anna.nii.gz", MASK)
    assert instances_beside(path, MASK, read_grid(path)) is None


def test_a_missing_file_is_named(tmp_path, mask_file):
    save(tmp_path / "instancesTr" / "bert.nii.gz", MASK)
    with pytest.raises(UserError, match=r"instancesTr/anna\.nii\.gz is missing"):
        instances_beside(mask_file, MASK, read_grid(mask_file))


def test_ids_that_contradict_the_mask_are_refused(tmp_path, mask_file):
    ids = MASK.copy()
    ids[5, 4, 0] = ids[5, 4, 1] = 7
    ids[1, 1, 0] = 0
    save(tmp_path / "instancesTr" / "anna.nii.gz", ids)
    with pytest.raises(UserError, match="disagree at 3 voxels"):
        instances_beside(mask_file, MASK, read_grid(mask_file))
    known = np.where(ids == 7, IGNORED, MASK)
    known[1, 1, 0] = IGNORED
    assert instances_beside(mask_file, known, read_grid(mask_file)) is not None


@pytest.mark.parametrize("value", [-1.0, 0.5, np.nan])
def test_what_is_no_id_is_refused(tmp_path, mask_file, value):
    ids = MASK.astype(np.float32)
    ids[1, 1, 0] = value
    save(tmp_path / "instancesTr" / "anna.nii.gz", ids)
    with pytest.raises(UserError, match="whole numbers from 0 on"):
        instances_beside(mask_file, MASK, read_grid(mask_file))


def test_ids_on_another_grid_are_refused(tmp_path, mask_file):
    save(tmp_path / "instancesTr" / "anna.nii.gz", MASK[:, :, :1])
    with pytest.raises(UserError, match="size"):
        instances_beside(mask_file, MASK, read_grid(mask_file))
