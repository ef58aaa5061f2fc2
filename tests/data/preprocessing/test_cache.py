import hashlib
import io
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from patchcl.core.errors import UserError
from patchcl.data.dataset import Case, Dataset, read_dataset
from patchcl.data.duplicates import signature
from patchcl.data.formats import tiff
from patchcl.data.geometry import Grid
from patchcl.data.preprocessing import cache
from patchcl.data.preprocessing.cache import PreparedCase, _key, prepare
from patchcl.data.preprocessing.plan import Plan, PlanSettings
from patchcl.data.preprocessing.planner import make_plan
from patchcl.data.scan import IGNORED, Scan, read_image
from patchcl.data.splits import SplitSettings, cases_of, make_split, visible_to_training

Make = Callable[..., Path]


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


def test_plans_of_before_find_their_prepared_files() -> None:
    fields = {"size": (8, 8), "normalise": "percentile", "channels": ("MRI",), "classes": ("background", "A")}
    plan = Plan(dimensions=2, fit="resize", **fields)
    assert _key(plan) == "be15d7d2d42bd3dd"
    assert _key(plan.model_copy(update={"background": "ignored"})) != _key(plan)


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


def test_each_scan_is_prepared_by_one_and_nothing_is_written_beside_it(
    dataset: Dataset, tiny: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four who begin at once, as nodes do; the file of a lock does not care that they are threads."""
    before = {file: file.stat().st_mtime_ns for file in (dataset.root, *dataset.root.rglob("*"))}
    read: list[str] = []
    all_there = Barrier(4)

    def slow(paths: Sequence[Path]) -> Scan:
        read.append(paths[0].name)
        time.sleep(0.02)
        return read_image(paths)

    def node(_: int) -> tuple[PreparedCase, ...]:
        all_there.wait()
        return prepare(dataset.cases, tiny, tmp_path / "shared")

    monkeypatch.setattr(cache, "read_image", slow)
    monkeypatch.setattr(cache, "WAIT_SECONDS", 0.01)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(node, range(4)))
    assert sorted(read) == sorted(case.images[0].name for case in dataset.cases)
    assert [case.name for case in results[0]] == [case.name for case in dataset.cases]
    assert all(result == results[0] for result in results)
    assert {file: file.stat().st_mtime_ns for file in (dataset.root, *dataset.root.rglob("*"))} == before


def test_the_scan_of_one_who_died_is_prepared_by_another(dataset: Dataset, tiny: Plan, tmp_path: Path) -> None:
    folder = tmp_path / "cache" / _key(tiny) / cache.CLAIMS
    folder.mkdir(parents=True)
    (folder / "p0.lock-1").write_text('["another machine", 1]')
    os.utime(folder / "p0.lock-1", (0, 0))
    assert len(prepare(dataset.cases, tiny, tmp_path / "cache")) == len(dataset.cases)
    assert list(folder.iterdir()) == []


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
    scan = Scan(
        np.arange(512, dtype=np.float32).reshape(2, 8, 8, 4), Grid((8, 8, 4), np.diag([1.0, 1.0, 8.0, 1.0]), (1, 1, 8))
    )
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


def test_a_large_picture_or_mask_that_says_nothing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiff, "LARGE", 1000)
    image, mask = tmp_path / "a.tif", tmp_path / "mask.tif"
    known = {"channels": ("R", "G", "B"), "window": (0, 255), "normalise": "rgb", "ignore": 2, "classes": ("0", "A")}
    of_pieces = Plan(dimensions=2, size=(16, 16), fit="crop", spacing_mm=(1.0, 1.0), **known)
    case = Case("a", "a", (image,), mask, "imagesTr")
    Image.fromarray(np.full((70, 45, 3), 7, np.uint8)).save(image, compression="tiff_lzw", strip_size=16 * 45 * 3)
    with pytest.raises(UserError, match="holds 7 in every voxel"):
        prepare([case._replace(mask=None)], of_pieces, tmp_path / "cache")
    noise = np.random.default_rng(0).integers(0, 256, (70, 45, 3)).astype(np.uint8)
    Image.fromarray(noise).save(image, compression="tiff_lzw", strip_size=16 * 45 * 3)
    Image.fromarray(np.full((70, 45), 2, np.uint8)).save(mask, compression="tiff_lzw", strip_size=16 * 45)
    with pytest.raises(UserError, match="nobody annotated it"):
        prepare([case], of_pieces, tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache").rglob("*.mask-*")] == []


def flipped(content: bytes) -> bytes:
    return content[:-5] + bytes([content[-5] ^ 1]) + content[-4:]


def of_array(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[bytes], bytes]:
    def damage(content: bytes) -> bytes:
        out = io.BytesIO()
        np.save(out, change(np.load(io.BytesIO(content))), allow_pickle=True)
        return out.getvalue()

    return damage


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "a bit": flipped,
    "zeroed tail": lambda content: content[:-40] + bytes(40),
    "cut": lambda content: content[:-40],
    "empty": lambda content: b"",
    "header": lambda content: bytes(100) + content[100:],
    "longer": lambda content: content + bytes(8),
    "another shape": of_array(lambda array: array[:1]),
    "another type": of_array(lambda array: array.astype(np.float64)),
    "NaN": of_array(lambda array: np.full(array.shape, np.nan, np.float32)),
    "objects": of_array(lambda array: array.astype(object)),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=list(DAMAGE))
@pytest.mark.parametrize("kind", ["image", "mask", "signature"])
def test_what_is_damaged_is_prepared_anew_and_told(
    kind: str, damage: Callable[[bytes], bytes], dataset: Dataset, tiny: Plan, tmp_path: Path
) -> None:
    first = prepare(dataset.cases, tiny, tmp_path / "cache")
    victim: Path = getattr(first[0], kind)
    content, told = victim.read_bytes(), list[Path]()
    victim.write_bytes(damage(content))
    assert prepare(dataset.cases, tiny, tmp_path / "cache", on_damage=told.append) == first
    assert victim.read_bytes() == content
    assert told == [victim]
    told.clear()
    prepare(dataset.cases, tiny, tmp_path / "cache", on_damage=told.append)
    assert told == []


def test_a_cache_of_version_0_1_which_had_no_checksums_is_made_anew(
    dataset: Dataset, tiny: Plan, tmp_path: Path
) -> None:
    first = prepare(dataset.cases, tiny, tmp_path / "cache")
    before, told = contents(first), list[Path]()
    for manifest in (tmp_path / "cache").rglob("*.json"):
        manifest.unlink()
    first[0].image.write_bytes(flipped(first[0].image.read_bytes()))
    assert contents(prepare(dataset.cases, tiny, tmp_path / "cache", on_damage=told.append)) == before
    assert told == []


def test_every_source_is_known_by_its_hash(dataset: Dataset, tiny: Plan, tmp_path: Path) -> None:
    case = dataset.case("p0")
    (prepared,) = prepare([case], tiny, tmp_path / "cache")
    assert case.mask is not None
    assert prepared.sources == tuple(
        (f"{file.parent.name}/{file.name}", hashlib.sha256(file.read_bytes()).hexdigest())
        for file in (*case.images, case.mask)
    )


def test_a_mask_replaced_under_its_old_size_and_time_is_prepared_anew(
    dataset: Dataset, tiny: Plan, tmp_path: Path
) -> None:
    case = dataset.case("p0")
    assert case.mask is not None
    mask = case.mask.with_suffix("").with_suffix(".nii")
    image = nib.load(case.mask)
    nib.save(image, mask)
    case = case._replace(mask=mask)
    (first,) = prepare([case], tiny, tmp_path / "cache")
    stat = mask.stat()
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[::-1].copy(), image.affine), mask)
    os.utime(mask, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert mask.stat().st_size == stat.st_size
    (second,) = prepare([case], tiny, tmp_path / "cache")
    assert second.mask != first.mask
