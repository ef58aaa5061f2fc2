"""Which slice is shown, and which part of it."""

import nibabel
import numpy as np
import pytest
from PIL import Image

from patchcl.core.errors import UserError
from patchcl.data.dataset import Case
from patchcl.data.preprocessing.plan import Plan
from patchcl.figures.representative_slice import LEAST, representative_slice

CLASSES = ("background", "left")
PLAN = Plan(
    dimensions=2, slice_axis=1, fit="resize", size=(32, 32), normalise="min_max", channels=("MRI",), classes=CLASSES
)


def write(path, voxels, spacing=(2.0, 5.0, 3.0)):
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([*spacing, 1.0])), path)
    return path


@pytest.fixture
def case(tmp_path):
    """A volume of 100 x 6 x 90 whose fourth slice along y shows most of a structure."""
    image, mask = np.zeros((100, 6, 90), np.float32), np.zeros((100, 6, 90), np.uint8)
    mask[40:50, 2, 50:54] = 1
    mask[40:50, 3, 50:56] = 1
    image[:] = np.arange(6)[None, :, None]
    image[45, 3, 53] = 100
    images = (write(tmp_path / "image.nii.gz", image),)
    return Case("case", "patient", images, write(tmp_path / "mask.nii.gz", mask), "imagesTs")


def test_slices_are_those_of_the_orientation_that_the_network_sees(case):
    """The second axis of the file, towards the front, is the last of RSA."""
    plan = PLAN.model_copy(update={"slice_axis": 2, "orientation": "RSA"})
    assert representative_slice(case, [], plan).slice_index == 3


def test_the_slice_with_most_of_the_structures_is_cut_to_them(case, tmp_path):
    predicted = np.zeros((100, 6, 90), np.uint8)
    predicted[0, 0] = 1  # in another slice
    view = representative_slice(case, [write(tmp_path / "predicted.nii.gz", predicted)], PLAN)
    assert view.slice_index == 3
    reference, prediction = view.masks
    assert reference.sum() == 60
    assert not prediction.any()
    assert view.image.max() == 100
    assert view.aspect == 3 / 2
    assert view.image.shape == reference.shape == prediction.shape
    assert all(2 * LEAST <= length <= 2 * LEAST + 2 for length in view.image.shape)  # the structure is smaller


@pytest.mark.parametrize(("spacing", "axis"), [((1, 1, 1), 2), ((1, 3, 1), 1), ((4, 3, 1), 0)])
def test_volumes_are_shown_across_their_coarsest_axis(case, tmp_path, spacing, axis):
    mask = np.zeros((8, 9, 10), np.uint8)
    mask[2, 3, 4] = 1
    images = (write(tmp_path / "volume.nii.gz", mask.astype(np.float32), spacing),)
    volume = case._replace(images=images, mask=write(tmp_path / "mask.nii.gz", mask, spacing))
    plan = PLAN.model_copy(update={"dimensions": 3})
    view = representative_slice(volume, [], plan)
    assert view.slice_index == (2, 3, 4)[axis]
    assert view.image.shape == tuple(length for other, length in enumerate(mask.shape) if other != axis)
    assert view.image[tuple(at for other, at in enumerate((2, 3, 4)) if other != axis)] == 1


def test_what_nobody_annotated_is_no_structure(case, tmp_path):
    mask = np.asarray(nibabel.load(case.mask).dataobj).copy()
    mask[:, 5], mask[:10, 3] = 2, 2
    partly = case._replace(mask=write(tmp_path / "partly.nii.gz", mask))
    plan = PLAN.model_copy(update={"ignore": 2})
    view, before = (representative_slice(each, [], of) for each, of in ((partly, plan), (case, PLAN)))
    assert view.slice_index == before.slice_index == 3
    np.testing.assert_array_equal(view.masks, before.masks)


def test_what_a_prediction_adds_is_not_cut_off(case, tmp_path):
    predicted = np.zeros((100, 6, 90), np.uint8)
    predicted[95:, 3, :5] = 1
    view = representative_slice(case, [write(tmp_path / "predicted.nii.gz", predicted)], PLAN)
    assert view.masks[1].sum() == 25
    assert view.masks[0].sum() == 60


def test_a_single_slice_is_shown_as_it_is(tmp_path):
    mask = np.zeros((20, 30), np.uint8)
    mask[5, 6] = 1
    images = (write(tmp_path / "image.nii.gz", np.zeros((20, 30), np.float32), (2.0, 3.0, 1.0)),)
    flat = Case("case", "patient", images, write(tmp_path / "mask.nii.gz", mask, (2.0, 3.0, 1.0)), "imagesTs")
    view = representative_slice(flat, [], PLAN)
    assert (view.slice_index, view.aspect, len(view.masks)) == (0, 1.5, 1)


def test_an_empty_slice_is_shown_whole(case, tmp_path):
    empty = case._replace(mask=write(tmp_path / "empty.nii.gz", np.zeros((100, 6, 90), np.uint8)))
    assert representative_slice(empty, [], PLAN).image.shape == (100, 90)


def test_a_scan_without_a_mask_is_refused(case):
    with pytest.raises(UserError, match="case has no mask"):
        representative_slice(case._replace(mask=None), [], PLAN)


def test_pictures_are_shown_upright(tmp_path):
    """X runs along the columns of a picture and Y down its rows."""
    pixels = np.zeros((40, 60), np.uint8)
    pixels[10, 45] = 1
    for name in ("image", "mask"):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    picture = Case("case", "patient", (tmp_path / "image.png",), tmp_path / "mask.png", "imagesTs")
    view = representative_slice(picture, [], PLAN)
    left, top = 45 - int(LEAST), 0
    assert view.image.shape == (60 - left, 10 + int(LEAST) + 1 - top)
    assert np.argwhere(view.image == 1).tolist() == [[45 - left, 10 - top]]


def test_pictures_in_colour_are_shown_in_colour(tmp_path):
    pixels = np.zeros((20, 20, 3), np.uint8)
    pixels[10, 5] = (200, 100, 50)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    Image.fromarray((pixels[..., 0] > 0).astype(np.uint8)).save(tmp_path / "mask.png")
    picture = Case("case", "patient", (tmp_path / "image.png",), tmp_path / "mask.png", "imagesTs")
    plan = PLAN.model_copy(update={"channels": ("R", "G", "B"), "normalise": "rgb"})
    view = representative_slice(picture, [], plan)
    assert view.image.shape == (20, 20, 3)
    assert view.image[5, 10].tolist() == [200, 100, 50]
