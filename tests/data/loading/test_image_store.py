from pathlib import Path

import numpy as np
import pytest
import torch

from patchcl.core.batch import IGNORE
from patchcl.core.errors import UserError
from patchcl.data.loading.image_store import ImageStore, classes_of
from patchcl.data.preprocessing.cache import PreparedCase
from patchcl.data.preprocessing.plan import Plan
from patchcl.data.scan import IGNORED

CPU = torch.device("cpu")
PLENTY = 10**9
SHAPES: dict[str, list[tuple[int, ...]]] = {
    "uniform": [(3, 8, 6), (2, 8, 6)],
    "larger": [(3, 8, 6), (2, 11, 9), (1, 8, 10)],
    "volumes": [(1, 6, 8, 6), (1, 9, 8, 7)],
}


def plan(dimensions: int) -> Plan:
    size = (8, 6) if dimensions == 2 else (6, 8, 6)
    return Plan(
        dimensions=dimensions, fit="crop", spacing_mm=(1,) * dimensions, size=size, normalise="min_max",
        channels=("T1", "T2"), classes=("0", "A", "B"),
    )  # fmt: skip


def cases(folder: Path, shapes: list[tuple[int, ...]], masked: bool = True) -> list[PreparedCase]:
    """Images whose mask can be told from the image: their first channel is mask + number of the item / 100."""
    made = []
    for number, shape in enumerate(shapes):
        mask = np.random.default_rng(number).integers(0, 3, shape).astype(np.uint8)
        items = (10 * number + np.arange(shape[0], dtype=np.float32)).reshape(-1, *[1] * (len(shape) - 1)) / 1000
        image = np.stack([mask + items, -mask.astype(np.float32)], axis=1).astype(np.float32)
        np.save(folder / f"{number}.image.npy", image)
        np.save(folder / f"{number}.mask.npy", mask)
        files = folder / f"{number}.image.npy", folder / f"{number}.mask.npy" if masked else None
        made.append(PreparedCase(f"case{number}", f"patient{number}", *files))
    return made


@pytest.mark.parametrize("kind", SHAPES)
def test_resident_and_streamed_banks_give_identical_batches(tmp_path: Path, kind: str) -> None:
    made, mine = cases(tmp_path, SHAPES[kind]), plan(len(SHAPES[kind][0]) - 1)
    resident, streamed = ImageStore(made, mine, CPU, PLENTY), ImageStore(made, mine, CPU, 0)
    assert (resident.resident, streamed.resident) == (True, False)
    assert len(resident) == len(streamed) == sum(shape[0] for shape in SHAPES[kind])
    for indices in ([0], [1, 0, 1], list(range(len(resident)))):
        first = resident.load(indices, torch.Generator().manual_seed(3))
        second = streamed.load(indices, torch.Generator().manual_seed(3))
        assert first[1] is not None
        assert second[1] is not None
        assert torch.equal(first[0], second[0])
        assert torch.equal(first[1], second[1])
        assert first[0].shape == (len(indices), 2, *mine.size)
        assert (first[0].dtype, first[1].dtype) == (torch.float32, torch.int64)


@pytest.mark.parametrize("budget", [0, PLENTY])
@pytest.mark.parametrize("kind", SHAPES)
def test_masks_belong_to_their_images_and_items_to_their_cases(tmp_path: Path, kind: str, budget: int) -> None:
    made = cases(tmp_path, SHAPES[kind])
    store = ImageStore(made, plan(len(SHAPES[kind][0]) - 1), CPU, budget)
    expected = [(case, place) for case, shape in enumerate(SHAPES[kind]) for place in range(shape[0])]
    image, mask = store.load(range(len(store)), torch.Generator().manual_seed(0))
    assert mask is not None
    for index, (case, place) in enumerate(expected):
        assert store.item_case(index) == f"case{case}"
        torch.testing.assert_close(
            image[index, 0] - mask[index], torch.full(mask[index].shape, (10 * case + place) / 1000)
        )
    assert torch.equal(image[:, 1], -mask.float())


@pytest.mark.parametrize("budget", [0, PLENTY])
def test_corners_come_from_the_generator_and_reach_everywhere(tmp_path: Path, budget: int) -> None:
    np.save(tmp_path / "image.npy", np.arange(99, dtype=np.float32).reshape(1, 1, 11, 9))
    case = PreparedCase("a", "a", tmp_path / "image.npy", None)
    store = ImageStore([case], plan(2).model_copy(update={"channels": ("MRI",)}), CPU, budget)
    generator = torch.Generator().manual_seed(0)
    image, mask = store.load([0] * 300, generator)
    assert mask is None
    assert set(image[:, 0, 0, 0].int().tolist()) == {9 * row + column for row in range(4) for column in range(4)}
    inside = 9.0 * torch.arange(8)[:, None] + torch.arange(6)
    assert torch.equal(image[:, 0] - image[:, 0, :1, :1], inside.expand(300, 8, 6))
    again, _ = store.load([0] * 300, torch.Generator().manual_seed(0))
    assert torch.equal(image, again)
    assert not torch.equal(image, store.load([0] * 300, generator)[0])


@pytest.mark.parametrize("budget", [0, PLENTY])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_piece_on_a_structure_has_it_in_its_middle_or_as_near_as_the_edge_lets_it(
    tmp_path: Path, budget: int, dimensions: int
) -> None:
    """One voxel in the middle of the first item, one in the last corner of the second; a third lies anywhere."""
    shape, size = (20,) * dimensions, plan(dimensions).size
    made = []
    for number, voxel in enumerate(((10,) * dimensions, (19,) * dimensions)):
        image, mask = np.zeros((1, 2, *shape), np.float32), np.zeros((1, *shape), np.uint8)
        mask[0, *voxel] = image[0, 0, *voxel] = 1
        np.save(tmp_path / f"{number}.npy", image)
        np.save(tmp_path / f"{number}_mask.npy", mask)
        made.append(PreparedCase(f"{number}", f"{number}", tmp_path / f"{number}.npy", tmp_path / f"{number}_mask.npy"))
    store = ImageStore(made, plan(dimensions), CPU, budget)
    image, mask = store.load([0, 1, 1], torch.Generator().manual_seed(0), on_structure=[0, 1])
    assert mask is not None
    assert torch.equal(image[:, 0], mask.float())
    middle, corner = tuple(length // 2 for length in size), tuple(length - 1 for length in size)
    assert (mask[0].sum(), mask[0][middle]) == (1, 1)
    assert (mask[1].sum(), mask[1][corner]) == (1, 1)
    assert mask[2].sum() == 0
    assert store.foreground.items == (0, 1)


def test_classes_keep_their_value_and_the_rest_is_ignored() -> None:
    found = classes_of(torch.tensor([[0, 1], [254, 255]], dtype=torch.uint8))
    assert found.dtype == torch.int64
    assert found.tolist() == [[0, 1], [254, IGNORE]]


def test_the_budget_counts_images_and_masks(tmp_path: Path) -> None:
    made = cases(tmp_path, [(3, 8, 6)])
    needed = 3 * 8 * 6 * (2 * 4 + 1)
    assert ImageStore(made, plan(2), CPU, needed).resident
    assert not ImageStore(made, plan(2), CPU, needed - 1).resident
    assert ImageStore(cases(tmp_path, [(3, 8, 6)], masked=False), plan(2), CPU, 3 * 8 * 6 * 8).resident


def test_masks_are_given_only_if_every_case_has_one(tmp_path: Path) -> None:
    first, second = cases(tmp_path, SHAPES["uniform"])
    store = ImageStore([first, second._replace(mask=None)], plan(2), CPU, PLENTY)
    assert store.load([0, 4], torch.Generator())[1] is None


@pytest.mark.parametrize("budget", [0, PLENTY])
def test_a_batch_is_a_copy(tmp_path: Path, budget: int) -> None:
    store = ImageStore(cases(tmp_path, SHAPES["uniform"]), plan(2), CPU, budget)
    before = store.load([0], torch.Generator())[0].clone()
    store.load([0], torch.Generator())[0].zero_()
    assert torch.equal(store.load([0], torch.Generator())[0], before)


def partly(folder: Path, kind: str) -> tuple[list[PreparedCase], list[tuple[int, ...]]]:
    """Cases of which the first item is not annotated, the second in parts, and the others throughout."""
    made = cases(folder, SHAPES[kind])
    for case in made:
        assert case.mask is not None
        mask = np.load(case.mask)
        mask[0] = IGNORED
        mask[1:2, ::2] = IGNORED
        np.save(case.mask, mask)
    return made, SHAPES[kind]


@pytest.mark.parametrize("budget", [0, PLENTY])
@pytest.mark.parametrize("kind", ["uniform", "larger"])
def test_labeled_items_say_something_and_unlabeled_ones_leave_something_open(
    tmp_path: Path, kind: str, budget: int
) -> None:
    made, shapes = partly(tmp_path, kind)
    mine = plan(2).model_copy(update={"ignore": 3})
    labeled, unlabeled = ImageStore(made, mine, CPU, budget), ImageStore(made, mine, CPU, budget, unlabeled=True)
    kept = {
        labeled: [(case, place) for case, shape in enumerate(shapes) for place in range(1, shape[0])],
        unlabeled: [(case, place) for case, shape in enumerate(shapes) for place in range(min(2, shape[0]))],
    }
    for store, expected in kept.items():
        image, mask = store.load(range(len(store)), torch.Generator().manual_seed(0))
        found = ((image[:, 0] + image[:, 1]) * 1000).mean(dim=(1, 2)).round().int().tolist()
        assert found == [10 * case + place for case, place in expected]
        assert (mask is None) == (store is unlabeled)
    image, mask = labeled.load(range(len(labeled)), torch.Generator().manual_seed(0))
    assert mask is not None
    assert set(mask.unique().tolist()) == {IGNORE, 0, 1, 2}
    assert torch.equal(-image[:, 1][mask != IGNORE], mask[mask != IGNORE].float())
    assert (mask == IGNORE).any(dim=(1, 2)).tolist() == [place == 1 for _, place in kept[labeled]]


def test_unlabeled_items_come_from_scans_without_masks_as_well(tmp_path: Path) -> None:
    first, second = partly(tmp_path, "uniform")[0]
    store = ImageStore([first, second._replace(mask=None)], plan(2), CPU, PLENTY, unlabeled=True)
    assert [store.item_case(item) for item in range(len(store))] == ["case0", "case0", "case1", "case1"]


def test_a_bank_without_anything_to_learn_from_is_refused(tmp_path: Path) -> None:
    mine = plan(2).model_copy(update={"ignore": 3})
    made = cases(tmp_path, SHAPES["uniform"])
    with pytest.raises(UserError, match="nothing unlabeled to learn from"):
        ImageStore(made, mine, CPU, PLENTY, unlabeled=True)
    for case in made:
        assert case.mask is not None
        np.save(case.mask, np.full_like(np.load(case.mask), IGNORED))
    with pytest.raises(UserError, match="No labeled scan has an annotated pixel left"):
        ImageStore(made, mine, CPU, PLENTY)


def test_an_empty_bank_has_no_items() -> None:
    assert len(ImageStore([], plan(2), CPU, PLENTY)) == 0
