import multiprocessing
import os
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import zoom

from patchcl.core.errors import UserError
from patchcl.data.dataset import Case, Dataset, read_dataset
from patchcl.data.duplicates import signature
from patchcl.data.formats import tiff
from patchcl.data.geometry import Grid
from patchcl.data.preprocessing.cache import PreparedCase, prepare
from patchcl.data.preprocessing.plan import Plan, PlanSettings, make_plan
from patchcl.data.preprocessing.transforms import mask_to_network_grid, prepared_bytes, to_network_grid, to_scan_grid
from patchcl.data.scan import IGNORED, Scan, read_image
from patchcl.data.splits import SplitSettings, cases_of, make_split, visible_to_training

Make = Callable[..., Path]
RANDOM = np.random.default_rng(0)


def plan(dimensions: int, size: tuple[int, ...], **changes: Any) -> Plan:
    settings: dict[str, Any] = {
        "fit": "resize",
        "normalise": "min_max",
        "classes": ("0", "A", "B"),
        "channels": ("MRI",),
    }
    return Plan(dimensions=dimensions, size=size, **settings | changes)


def grid(shape: tuple[int, ...], spacing_mm: tuple[float, ...]) -> Grid:
    return Grid(shape, np.diag([*spacing_mm, *[1.0] * (4 - len(spacing_mm))]), spacing_mm)


def blocks(shape: tuple[int, ...]) -> np.ndarray:
    """A mask of an off-centre ball of class 1 around a ball of class 2, wide on every axis."""
    places = np.meshgrid(*(np.linspace(-1, 1.2, length) for length in shape), indexing="ij")
    radius = np.sqrt(sum(place**2 for place in places))
    return ((radius < 0.8).astype(int) + (radius < 0.5)).astype(np.uint8)


def one_hot(mask: np.ndarray) -> np.ndarray:
    """(N, *S) -> (N, 3, *S)."""
    return np.stack([mask == value for value in range(3)], axis=1).astype(np.float32)


def dice(first: np.ndarray, second: np.ndarray, value: int) -> float:
    return float(2 * ((first == value) & (second == value)).sum() / ((first == value).sum() + (second == value).sum()))


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
def test_slices_are_taken_along_their_axis(slice_axis: int) -> None:
    voxels = RANDOM.random((2, 4, 5, 6)).astype(np.float32)
    voxels[:, 0, 0, 0], voxels[:, 1, 1, 1] = 0, 1  # so that min-max changes nothing
    rest = tuple(np.delete((4, 5, 6), slice_axis).tolist())
    slices = to_network_grid(
        Scan(voxels, grid((4, 5, 6), (1, 1, 1))), plan(2, rest, slice_axis=slice_axis, channels=("T1", "T2"))
    )
    assert slices.shape == ((4, 5, 6)[slice_axis], 2, *rest)
    for index, one in enumerate(slices):
        np.testing.assert_allclose(one, np.take(voxels, index, axis=1 + slice_axis), atol=1e-7)


def _turned(voxels: np.ndarray) -> np.ndarray:
    """The same halving with the axes of the picture swapped."""
    turned = Scan(voxels.swapaxes(1, 2), grid((1, 4), (1, 1)))
    return to_network_grid(turned, plan(2, (1, 2), normalise="ct", window=(0, 8))).swapaxes(2, 3)


def test_halving_averages_pairs_and_doubling_interpolates() -> None:
    voxels = np.array([[[0.0], [4.0], [8.0], [2.0]]], dtype=np.float32)  # one channel, 4 × 1
    half = to_network_grid(Scan(voxels, grid((4, 1), (1, 1))), plan(2, (2, 1), normalise="ct", window=(0, 8)))
    assert half.shape == (1, 1, 2, 1)
    # A tent over four pixels, cut off at the border: weights 3, 3, 1 of 7 on the first pixels.
    np.testing.assert_allclose(half[0, 0, :, 0] * 8, [(0 * 3 + 4 * 3 + 8) / 7, (4 + 8 * 3 + 2 * 3) / 7], rtol=1e-5)
    np.testing.assert_array_equal(half, _turned(voxels))
    double = to_network_grid(Scan(voxels, grid((4, 1), (1, 1))), plan(2, (8, 1), normalise="ct", window=(0, 8)))
    np.testing.assert_allclose(double[0, 0, :, 0] * 8, [0, 1, 3, 5, 7, 6.5, 3.5, 2], rtol=1e-5)


def test_nearest_images_hold_only_values_of_the_scan() -> None:
    voxels = np.array([[[0.0], [4.0], [8.0], [2.0], [6.0]]], dtype=np.float32)
    settings = {"normalise": "ct", "window": (0, 8), "input_interpolation": "nearest"}
    half = to_network_grid(Scan(voxels, grid((5, 1), (1, 1))), plan(2, (2, 1), **settings))
    assert (half.dtype, (half[0, 0, :, 0] * 8).tolist()) == (np.float32, [4.0, 2.0])  # centres 1.25 and 3.75
    double = to_network_grid(Scan(voxels, grid((5, 1), (1, 1))), plan(2, (10, 1), **settings))
    assert (double[0, 0, :, 0] * 8).tolist() == [0, 0, 4, 4, 8, 8, 2, 2, 6, 6]
    volume = RANDOM.random((1, 4, 5, 6)).astype(np.float32)
    seen = to_network_grid(Scan(volume, grid((4, 5, 6), (1, 1, 1))), plan(3, (7, 9, 11), **settings))
    assert set(seen.ravel()) <= set((volume / 8).ravel())


def test_volumes_are_resized_like_scipy_does() -> None:
    smooth = blocks((9, 12, 15)).astype(np.float32) / 2
    ours = to_network_grid(Scan(smooth[None], grid((9, 12, 15), (1, 1, 1))), plan(3, (18, 24, 30)))[0, 0]
    theirs = zoom(smooth, 2, order=1, mode="nearest", grid_mode=True)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_volumes_that_shrink_are_smoothed_along_every_axis(axis: int) -> None:
    """Stripes of one voxel would come out black or white if every fourth voxel were taken; their mean is grey."""
    stripes = np.moveaxis(np.broadcast_to(np.arange(16) % 2, (6, 6, 16)), 2, axis).astype(np.float32)
    size = tuple(4 if other == axis else 6 for other in range(3))
    seen = to_network_grid(Scan(stripes[None], grid(stripes.shape, (1, 1, 1))), plan(3, size))[0, 0]
    np.testing.assert_allclose(seen, 0.5, atol=0.05)


@pytest.mark.parametrize(
    ("normalise", "expected"),
    [
        ("min_max", [0, 0.1, 0.5, 1]),
        ("ct", [0, 0.2, 1, 1]),
        ("z_score", (np.array([0, 10, 50, 100]) - 40) / np.sqrt(1550)),
        ("percentile", [0, (10 - 0.15) / 99.1, (50 - 0.15) / 99.1, 1]),
    ],
)
def test_intensities(normalise: str, expected: list[float]) -> None:
    voxels = np.array([0, 10, 50, 100], dtype=np.float32).reshape(1, 2, 2)
    done = to_network_grid(Scan(voxels, grid((2, 2), (1, 1))), plan(2, (2, 2), normalise=normalise, window=(0, 50)))
    np.testing.assert_allclose(done.ravel(), expected, atol=1e-5)


@pytest.mark.parametrize("normalise", ["min_max", "percentile", "z_score"])
def test_a_constant_image_stays_finite(normalise: str) -> None:
    voxels = np.full((1, 4, 4), 7, dtype=np.float32)
    assert (to_network_grid(Scan(voxels, grid((4, 4), (1, 1))), plan(2, (4, 4), normalise=normalise)) == 0).all()


def test_channels_are_normalised_by_themselves() -> None:
    voxels = RANDOM.random((1, 4, 4)).astype(np.float32)
    scan = Scan(np.concatenate([voxels, 100 * voxels]), grid((4, 4), (1, 1)))
    both = to_network_grid(scan, plan(2, (4, 4), channels=("T1", "T2")))
    np.testing.assert_allclose(both[:, 0], both[:, 1], atol=1e-6)


def test_each_channel_can_be_normalised_in_its_own_way() -> None:
    voxels = np.array([[[-200.0, -100.0, 0.0, 100.0]], [[-200.0, -100.0, 0.0, 200.0]]], dtype=np.float32)
    mixed = plan(2, (1, 4), normalise=("ct", "min_max"), window=(-100.0, 300.0), channels=("CT", "PET"))
    done = to_network_grid(Scan(voxels, grid((1, 4), (1, 1))), mixed)
    np.testing.assert_allclose(done[0, :, 0], [[0, 0, 0.25, 0.5], [0, 0.25, 0.5, 1]], atol=1e-6)


def test_colours_are_divided_by_full_colour_and_never_stretched() -> None:
    pale = Scan(np.array([[[51.0, 102.0]], [[0.0, 255.0]], [[204.0, 204.0]]], dtype=np.float32), grid((1, 2), (1, 1)))
    mine = plan(2, (1, 2), normalise="rgb", window=(0.0, 255.0), channels=("R", "G", "B"))
    np.testing.assert_allclose(to_network_grid(pale, mine)[0, :, 0], [[0.2, 0.4], [0, 1], [0.8, 0.8]], atol=1e-6)
    with pytest.raises(UserError, match="has the value 5100, but full colour is 255"):
        to_network_grid(pale._replace(voxels=pale.voxels * 50), mine)


def test_a_scan_with_other_channels_is_refused() -> None:
    with pytest.raises(UserError, match="A scan of 1 channels cannot be prepared for T1, T2"):
        to_network_grid(Scan(np.ones((1, 4, 4)), grid((4, 4), (1, 1))), plan(2, (4, 4), channels=("T1", "T2")))


@pytest.mark.parametrize(
    ("mine", "shape", "expected"),
    [
        (plan(2, (8, 6), slice_axis=0), (5, 40, 30), 5 * 8 * 6 * 5),
        (plan(2, (8, 6), channels=("T1", "T2")), (40, 30), 8 * 6 * 9),
        (plan(3, (8, 6, 4), fit="crop", spacing_mm=(2.0, 2.0, 2.0)), (40, 10, 2), 20 * 6 * 4 * 5),
    ],
)
def test_how_large_prepared_scans_are_is_known_before(mine: Plan, shape: tuple[int, ...], expected: int) -> None:
    """Four bytes for every voxel of an image, one for that of the mask."""
    assert prepared_bytes(grid(shape, (1.0,) * len(shape)), mine) == expected


def test_cropping_resamples_to_the_spacing_and_pads_evenly() -> None:
    ones = Scan(np.ones((1, 10, 20, 2), dtype=np.float32), grid((10, 20, 2), (2, 1, 5)))
    mine = plan(2, (25, 16), fit="crop", spacing_mm=(1.0, 1.0), normalise="ct", window=(0, 1))
    done = to_network_grid(ones, mine)
    assert done.shape == (2, 1, 25, 20)
    np.testing.assert_array_equal(done[0, 0, :, 0], [0] * 2 + [1] * 20 + [0] * 3)
    mask = mask_to_network_grid(np.full((10, 20, 2), 2, dtype=np.uint8), ones.grid, mine)
    np.testing.assert_array_equal(mask, 2 * done[:, 0])
    assert mask.dtype == np.uint8


GEOMETRIES = [
    (plan(2, (24, 26), slice_axis=2), (24, 26, 7)),
    (plan(2, (24, 26), slice_axis=0), (7, 24, 26)),
    (plan(2, (26, 7), slice_axis=0), (24, 26, 7)),
    (plan(2, (24, 26), slice_axis=1), (24, 7, 26)),
    (plan(2, (24, 26)), (24, 26)),
    (plan(3, (24, 26, 16)), (24, 26, 16)),
    (plan(2, (32, 36), fit="crop", spacing_mm=(1.0, 1.0)), (24, 26, 7)),
    (plan(3, (16, 30, 40), fit="crop", spacing_mm=(1.0, 1.0, 1.0)), (24, 26, 16)),
]


@pytest.mark.parametrize("output_interpolation", ["linear", "nearest"])
@pytest.mark.parametrize(("mine", "shape"), GEOMETRIES)
def test_a_mask_comes_back_equal_where_nothing_is_resized(
    mine: Plan, shape: tuple[int, ...], output_interpolation: str
) -> None:
    mine = mine.model_copy(update={"output_interpolation": output_interpolation})
    mask, place = RANDOM.integers(0, 3, shape).astype(np.uint8), grid(shape, (1.0,) * len(shape))
    back = to_scan_grid(one_hot(mask_to_network_grid(mask, place, mine)), place, mine)
    assert back.shape == (3, *shape)
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back.argmax(axis=0), mask)


RESIZED = [
    (plan(2, (64, 96), slice_axis=2), (51, 60, 7)),
    (plan(2, (64, 96), slice_axis=0), (7, 51, 60)),
    (plan(2, (64, 96), slice_axis=1), (51, 7, 60)),
    (plan(2, (64, 48)), (51, 60)),
    (plan(3, (48, 64, 48)), (51, 40, 45)),
    (plan(2, (48, 96), fit="crop", spacing_mm=(1.1, 1.3)), (51, 60, 7)),
    (plan(3, (32, 64, 48), fit="crop", spacing_mm=(1.2, 1.3, 1.1)), (51, 40, 45)),
]


@pytest.mark.parametrize("output_interpolation", ["linear", "nearest"])
@pytest.mark.parametrize(("mine", "shape"), RESIZED)
def test_a_mask_comes_back_alike_where_it_is_resized(
    mine: Plan, shape: tuple[int, ...], output_interpolation: str
) -> None:
    mine = mine.model_copy(update={"output_interpolation": output_interpolation})
    mask, place = blocks(shape), grid(shape, (1.5, 1.4, 1.3)[: len(shape)])
    back = to_scan_grid(one_hot(mask_to_network_grid(mask, place, mine)), place, mine)
    for value in (1, 2):
        assert dice(back.argmax(axis=0), mask, value) > 0.95
    np.testing.assert_allclose(back.sum(axis=0), 1, atol=1e-5)
    assert (set(np.unique(back)) == {0, 1}) == (output_interpolation == "nearest")


def test_image_and_mask_stay_on_top_of_each_other() -> None:
    mask = blocks((51, 60, 7))
    for mine in (plan(2, (64, 96)), plan(2, (96, 128), fit="crop", spacing_mm=(1.1, 1.3))):
        place = grid(mask.shape, (1.5, 1.4, 8.0))
        image = to_network_grid(Scan((mask > 0)[None].astype(np.float32), place), mine)[:, 0] > 0.5
        assert dice(image, mask_to_network_grid(mask, place, mine) > 0, True) > 0.98


def test_a_slice_does_not_fit_a_plan_for_volumes() -> None:
    with pytest.raises(UserError, match="is a slice, but the plan is for volumes"):
        to_network_grid(Scan(np.ones((1, 4, 4), dtype=np.float32), grid((4, 4), (1, 1))), plan(3, (4, 4, 4)))


@pytest.fixture
def dataset(make_dataset: Make) -> Dataset:
    train = {f"p{number}": True for number in range(5)}
    return read_dataset(make_dataset(train | {"q": False}, ("u",), {"t": True}, channels=("T1", "T2")))


@pytest.fixture
def tiny(dataset: Dataset) -> Plan:
    return make_plan(dataset, PlanSettings(size=(8, 8)))


def times(root: Path) -> dict[str, int]:
    return {str(file): file.stat().st_mtime_ns for file in root.rglob("*.npy")}


def contents(prepared: tuple[PreparedCase, ...]) -> list[bytes]:
    return [file.read_bytes() for case in prepared for file in (case.image, case.mask) if file is not None]


def test_prepared_files_hold_what_the_functions_give(dataset: Dataset, tiny: Plan, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    prepared = prepare(dataset.cases, tiny, tmp_path / "cache", lambda *done: told.append(done))
    assert [(case.name, case.patient) for case in prepared] == [(case.name, case.patient) for case in dataset.cases]
    assert told == [(count, len(dataset.cases)) for count in range(1, len(dataset.cases) + 1)]
    for case, done in zip(dataset.cases, prepared, strict=True):
        image = np.load(done.image)
        assert (image.shape, image.dtype, image.min() >= 0, image.max() <= 1) == ((4, 2, 8, 8), np.float32, True, True)
        assert (done.mask is None) == (case.mask is None)
        if done.mask is not None:
            mask = np.load(done.mask)
            assert (mask.shape, mask.dtype, mask.max()) == ((4, 8, 8), np.uint8, 2)
        np.testing.assert_array_equal(np.load(done.signature), signature(read_image(case.images).voxels))


def test_what_nobody_annotated_is_prepared_as_such_and_cached_apart(
    dataset: Dataset, tiny: Plan, tmp_path: Path
) -> None:
    known = prepare(dataset.cases, tiny, tmp_path / "cache")
    last = {"classes": tiny.classes[:-1], "ignore": len(tiny.classes) - 1}
    for case, done in zip(known, prepare(dataset.cases, tiny.model_copy(update=last), tmp_path / "cache"), strict=True):
        assert done.image.parent != case.image.parent
        if case.mask is not None and done.mask is not None:
            mask = np.load(case.mask)
            np.testing.assert_array_equal(np.load(done.mask), np.where(mask == last["ignore"], IGNORED, mask))
    assert dataset.cases[0].mask is not None
    blank = nib.load(dataset.cases[0].mask)
    nib.save(nib.Nifti1Image(np.full(blank.shape, 2, np.uint8), blank.affine), dataset.cases[0].mask)
    with pytest.raises(UserError, match=r"p0\.nii\.gz says of every voxel"):
        prepare(dataset.cases, tiny.model_copy(update=last), tmp_path / "cache")


def test_a_cache_from_before_there_were_signatures_gets_them(dataset: Dataset, tiny: Plan, tmp_path: Path) -> None:
    prepared = prepare(dataset.cases, tiny, tmp_path / "cache")
    before, held = contents(prepared), [np.load(case.signature) for case in prepared]
    for case in prepared:
        case.signature.unlink()
    assert prepare(dataset.cases, tiny, tmp_path / "cache") == prepared
    assert contents(prepared) == before
    for case, expected in zip(prepared, held, strict=True):
        np.testing.assert_array_equal(np.load(case.signature), expected)


def test_nothing_is_done_twice(dataset: Dataset, tiny: Plan, tmp_path: Path) -> None:
    first = prepare(dataset.cases, tiny, tmp_path / "cache")
    before = times(tmp_path)
    assert prepare(dataset.cases, tiny, tmp_path / "cache") == first
    os.utime(dataset.cases[0].images[0])  # touched, but with the same bytes
    assert prepare(dataset.cases, tiny, tmp_path / "cache") == first
    assert times(tmp_path) == before


def change(file: Path, like: Path) -> None:
    file.write_bytes(like.read_bytes())


def test_only_what_changed_is_done_again(dataset: Dataset, tiny: Plan, tmp_path: Path) -> None:
    first = prepare(dataset.cases, tiny, tmp_path / "cache")
    before = times(tmp_path)
    masked = [case for case in dataset.cases if case.mask is not None]
    assert masked[0].mask is not None
    assert masked[1].mask is not None
    change(masked[0].mask, like=masked[1].mask)
    second = prepare(dataset.cases, tiny, tmp_path / "cache")
    assert [case.name for old, case in zip(first, second, strict=True) if old != case] == [masked[0].name]
    assert [case.image for case in first] == [case.image for case in second]
    assert len(times(tmp_path)) == len(before) + 1
    change(dataset.case("q").images[1], like=dataset.case("u").images[1])
    third = prepare(dataset.cases, tiny, tmp_path / "cache")
    assert [case.name for old, case in zip(second, third, strict=True) if old != case] == ["q"]
    assert before.items() <= times(tmp_path).items()
    prepare(dataset.cases, tiny.model_copy(update={"size": (8, 9)}), tmp_path / "cache")
    assert len(times(tmp_path)) == 2 * len(before) + 3
    batch_and_patches = {"labeled_per_batch": 3, "unlabeled_per_batch": 2, "patch_fraction": 0.2}
    nothing_of_images = {"output_interpolation": "nearest", "reasons": {}} | batch_and_patches
    prepare(dataset.cases, tiny.model_copy(update=nothing_of_images), tmp_path / "cache")
    assert len(times(tmp_path)) == 2 * len(before) + 3


def test_hidden_masks_are_never_opened(dataset: Dataset, tiny: Plan, tmp_path: Path) -> None:
    split = make_split(dataset, SplitSettings(labeled=2))
    visible = visible_to_training(dataset, split)
    training = cases_of(visible, (*split.labeled, *split.unlabeled, *split.validation), None)
    honest = contents(prepare(training, tiny, tmp_path / "honest"))
    hidden = [case.mask for case in cases_of(dataset, (*split.unlabeled, *split.test), masked=True)]
    assert len(hidden) == 3
    for mask in hidden:
        assert mask is not None
        mask.write_bytes(b"poison")
    assert contents(prepare(training, tiny, tmp_path / "poisoned")) == honest


def test_a_shared_cache_gives_no_mask_away(dataset: Dataset, tiny: Plan, tmp_path: Path) -> None:
    everything = prepare(dataset.cases, tiny, tmp_path / "cache")
    assert any(case.mask is not None for case in everything)
    blind = prepare([case._replace(mask=None) for case in dataset.cases], tiny, tmp_path / "cache")
    assert all(case.mask is None for case in blind)
    assert [case.image for case in blind] == [case.image for case in everything]


def test_two_processes_may_prepare_at_once(dataset: Dataset, tiny: Plan, tmp_path: Path) -> None:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        tasks = [pool.submit(prepare, dataset.cases, tiny, tmp_path / "shared") for _ in range(4)]
        results = [task.result() for task in tasks]
    assert all(result == results[0] for result in results)
    assert contents(results[0]) == contents(prepare(dataset.cases, tiny, tmp_path / "alone"))
    assert not list(tmp_path.rglob(".unfinished*"))


def test_what_cannot_be_prepared_is_named(dataset: Dataset, tiny: Plan, tmp_path: Path) -> None:
    def attempt(case: Case) -> None:
        prepare([*dataset.cases, case], tiny, tmp_path / "cache")

    case = dataset.case("p0")
    with pytest.raises(UserError, match=r"gone\.nii\.gz cannot be opened"):
        attempt(case._replace(name="x", mask=tmp_path / "gone.nii.gz"))
    other = tmp_path / "other.nii.gz"
    other.write_bytes(b"poison")
    with pytest.raises(UserError, match=r"other\.nii\.gz cannot be read"):
        attempt(case._replace(name="x", images=(other, other)))
    (tmp_path / "occupied").write_text("a file, not a folder")
    with pytest.raises(UserError, match=r"cannot be kept in .*occupied"):
        prepare(dataset.cases, tiny, tmp_path / "occupied")


@pytest.mark.parametrize("kind", ["series", "scan_0000.mhd"])
def test_a_scan_in_several_files_is_prepared_again_when_one_changes(
    kind: str, tiny: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of slices, and a header with its voxels beside it. How they are read is for others to test."""
    scan = Scan(np.arange(512, dtype=np.float32).reshape(2, 8, 8, 4), grid((8, 8, 4), (1, 1, 8)))
    monkeypatch.setattr("patchcl.data.preprocessing.cache.read_image", lambda paths: scan)
    (tmp_path / "series").mkdir()
    names = ("series/1.dcm", "series/2.dcm", "scan_0000.mhd", "scan_0000.raw", "scan_00001.raw")
    for name in names:
        (tmp_path / name).write_bytes(b"as it was")
    changed = {"series": "series/2.dcm", "scan_0000.mhd": "scan_0000.raw"}[kind]
    other = {"series": "scan_0000.mhd", "scan_0000.mhd": "scan_00001.raw"}[kind]

    def prepared() -> Path:
        case = Case("a", "a", (tmp_path / kind,), None, "imagesTr")
        return prepare([case], tiny, tmp_path / "cache")[0].image

    first = prepared()
    (tmp_path / other).write_bytes(b"another scan's")
    assert prepared() == first
    (tmp_path / changed).write_bytes(b"as it is")
    assert prepared() != first


def test_a_broken_manifest_costs_time_only(dataset: Dataset, tiny: Plan, tmp_path: Path) -> None:
    first = prepare(dataset.cases, tiny, tmp_path / "cache")
    for manifest in (tmp_path / "cache").rglob("*.json"):
        manifest.write_text("{")
    assert prepare(dataset.cases, tiny, tmp_path / "cache") == first


def test_a_large_picture_is_held_twice_at_most():
    """What is read and, beside it, what is made of it; one channel at a time needs a little more."""
    plan = Plan(
        dimensions=2, fit="crop", size=(64, 64), spacing_mm=(1, 1), normalise="rgb", window=(0, 255),
        channels=("R", "G", "B"), classes=("background", "gland"),
    )  # fmt: skip
    voxels = np.random.default_rng(0).integers(0, 256, (3, 400, 500)).astype(np.float32)
    scan = Scan(voxels, Grid((400, 500), np.eye(4), (1.0, 1.0)))
    tracemalloc.start()
    image = to_network_grid(scan, plan)
    _, peak = tracemalloc.get_traced_memory()
    probs = np.stack([image[:, 0], 1 - image[:, 0]], axis=1)
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    restored = to_scan_grid(probs, scan.grid, plan)
    _, restoring = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert image.nbytes < peak < 2.1 * voxels.nbytes
    assert restoring - before < 0.1 * restored.nbytes
    np.testing.assert_array_equal(restored, probs[0])


@pytest.mark.parametrize("normalise", ["rgb", "ct"])
def test_a_large_picture_is_prepared_in_bands_byte_for_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, normalise: str
) -> None:
    colours = RANDOM.integers(0, 256, (70, 45, 3)).astype(np.uint8)
    classes = RANDOM.integers(0, 3, (70, 45)).astype(np.uint8)
    image, mask = tmp_path / "a.tif", tmp_path / "mask.tif"
    Image.fromarray(colours).save(image, compression="tiff_lzw", strip_size=16 * 45 * 3)
    Image.fromarray(classes).save(mask, compression="tiff_lzw", strip_size=16 * 45)
    case = Case("a", "a", (image,), mask, "imagesTr")
    known = {"channels": ("R", "G", "B"), "window": (0, 255), "normalise": normalise, "ignore": 2}
    of_pieces = plan(2, (16, 16), fit="crop", spacing_mm=(1.0, 1.0), **known, classes=("0", "A"))
    (whole,) = prepare([case], of_pieces, tmp_path / "whole")
    monkeypatch.setattr(tiff, "LARGE", 1000)  # and read at once would be half of it
    (banded,) = prepare([case], of_pieces, tmp_path / "banded")
    assert whole.mask is not None
    assert banded.mask is not None
    assert banded.image.read_bytes() == whole.image.read_bytes()
    assert banded.mask.read_bytes() == whole.mask.read_bytes()
    np.testing.assert_allclose(np.load(banded.signature), np.load(whole.signature), atol=1e-6)
    with pytest.raises(UserError, match="too large to be read at once"):  # half a resolution needs all of it
        prepare([case], of_pieces.model_copy(update={"spacing_mm": (2.0, 2.0)}), tmp_path / "coarse")
    beyond = of_pieces.model_copy(update={"normalise": "rgb", "window": (0, 100)})
    with pytest.raises(UserError, match=r"a\.tif: A colour has the value"):
        prepare([case], beyond, tmp_path / "beyond")


def test_a_large_picture_or_mask_that_says_nothing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiff, "LARGE", 1000)
    image, mask = tmp_path / "a.tif", tmp_path / "mask.tif"
    known = {"channels": ("R", "G", "B"), "window": (0, 255), "normalise": "rgb", "ignore": 2, "classes": ("0", "A")}
    of_pieces = plan(2, (16, 16), fit="crop", spacing_mm=(1.0, 1.0), **known)
    case = Case("a", "a", (image,), mask, "imagesTr")
    Image.fromarray(np.full((70, 45, 3), 7, np.uint8)).save(image, compression="tiff_lzw", strip_size=16 * 45 * 3)
    with pytest.raises(UserError, match="holds 7 in every voxel"):
        prepare([case._replace(mask=None)], of_pieces, tmp_path / "cache")
    noise = RANDOM.integers(0, 256, (70, 45, 3)).astype(np.uint8)
    Image.fromarray(noise).save(image, compression="tiff_lzw", strip_size=16 * 45 * 3)
    Image.fromarray(np.full((70, 45), 2, np.uint8)).save(mask, compression="tiff_lzw", strip_size=16 * 45)
    with pytest.raises(UserError, match="nobody annotated it"):
        prepare([case], of_pieces, tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache").rglob("*.mask-*")] == []
