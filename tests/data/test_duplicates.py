"""What counts as one image under two names, what does not, and what is said about it."""

from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from patchcl.core.errors import UserError
from patchcl.data import duplicates as module
from patchcl.data.dataset import Case, read_dataset
from patchcl.data.duplicates import ALIKE, find_duplicates, require_no_leak, signature
from patchcl.data.scan import read_image
from patchcl.data.splits import SplitSettings, cases_of, make_split
from patchcl.demo.phantom import write_cardiac

RANDOM = np.random.default_rng(0)
SHAPE = (40, 36, 9)


def anatomy(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray:
    """One channel of something smooth, as bodies are, in [0, 1000]."""
    smooth = gaussian_filter(np.random.default_rng(seed).normal(size=shape), [length / 10 for length in shape])
    return (1000 * (smooth - smooth.min()) / np.ptp(smooth))[None].astype(np.float32)


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    first, second = signature(one).astype(np.float64), signature(other).astype(np.float64)
    return float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))


def case(name: str) -> Case:
    return Case(name, name.split("_")[0], (Path(f"{name}_0000.nii.gz"),), None, "imagesTr")


def signatures(**voxels: np.ndarray) -> dict[str, np.ndarray]:
    return {name: signature(each) for name, each in voxels.items()}


def test_a_signature_holds_the_block_means() -> None:
    voxels = RANDOM.normal(size=(2, 32, 48, 16)).astype(np.float32)
    blocks = voxels.reshape(2, 16, 2, 16, 3, 16, 1).mean(axis=(2, 4, 6)).reshape(2, -1)
    expected = blocks - blocks.mean(axis=1, keepdims=True)
    expected /= np.sqrt((expected**2).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(signature(voxels), expected.ravel(), atol=1e-6)
    assert signature(voxels).dtype == np.float32


def test_a_slice_looks_the_same_however_many_axes_its_file_has() -> None:
    voxels = RANDOM.normal(size=(1, 33, 20)).astype(np.float32)
    assert signature(voxels).shape == (256,)
    np.testing.assert_array_equal(signature(voxels), signature(voxels[..., None]))
    np.testing.assert_array_equal(signature(voxels), signature(voxels[:, :, None]))


def test_an_image_of_one_value_looks_like_nothing() -> None:
    grey = np.full((1, 20, 20, 20), 0.1, dtype=np.float32)
    assert not signature(grey).any()
    found = find_duplicates({"labeled": [case("a")], "test": [case("b")]}, signatures(a=grey, b=grey))
    assert found == ((), ())
    half = np.concatenate([grey, anatomy((20, 20, 20))])
    assert correlation(half, half) == pytest.approx(1)


@pytest.mark.parametrize(
    "change",
    [
        lambda voxels: voxels * 0.01 - 7,
        lambda voxels: np.round(voxels / 1000 * 255),
        lambda voxels: np.clip(voxels, *np.percentile(voxels, [0.1, 99.9])),
        lambda voxels: voxels + RANDOM.normal(0, 10, voxels.shape),
        lambda voxels: gaussian_filter(voxels, (0, 0.5, 0.5, 0)),
    ],
    ids=["units", "8 bit", "window", "noise", "blur"],
)
def test_a_copy_in_disguise_is_recognised(change: Callable[[np.ndarray], np.ndarray]) -> None:
    voxels = anatomy()
    assert correlation(voxels, change(voxels)) > ALIKE
    assert correlation(anatomy(seed=1), change(voxels)) < 0.9


def test_across_sides_it_is_a_problem_and_within_one_a_warning() -> None:
    first, other = anatomy(), anatomy(seed=1)
    held = signatures(a=first, b=2 * first, c=other, d=anatomy(seed=2), e=other + RANDOM.normal(0, 15, other.shape))
    sides = {
        "labeled": [case("a")],
        "unlabeled": [case("c"), case("d")],
        "validation": [case("b")],
        "test": [case("e")],
    }
    exact, near = find_duplicates(sides, held).problems
    assert exact.startswith("a_0000.nii.gz (labeled) and b_0000.nii.gz (validation) are the same image. ")
    assert "put a and b on one side with --split" in exact
    assert near.startswith("c_0000.nii.gz (unlabeled) and e_0000.nii.gz (test) look the same (correlation 0.99")
    within = find_duplicates({"labeled": [case("a"), case("c")], "unlabeled": [case("b")]}, held)
    assert within.problems == ()
    assert [line.split(" They")[0] for line in within.warnings] == [
        "a_0000.nii.gz (labeled) and b_0000.nii.gz (unlabeled) are the same image."
    ]


def test_what_chooses_may_not_be_scored() -> None:
    found = find_duplicates({"validation": [case("a")], "test": [case("b")]}, signatures(a=anatomy(), b=anatomy()))
    assert len(found.problems) == 1


def test_two_moments_of_one_patient_differ_unless_they_are_truly_the_same() -> None:
    first = anatomy()
    moment = first + RANDOM.normal(0, 1, first.shape)
    assert correlation(first, moment) > ALIKE
    sides = {"labeled": [case("a_1"), case("a_2"), case("a_3")]}
    (line,) = find_duplicates(sides, signatures(a_1=first, a_2=moment, a_3=first.copy())).warnings
    assert line.startswith("a_1_0000.nii.gz (labeled) and a_3_0000.nii.gz (labeled) are the same image.")


def test_scans_without_a_signature_and_of_other_kinds_are_left_aside() -> None:
    held = signatures(a=anatomy(), slice=anatomy((40, 36)), two=np.concatenate([anatomy(), anatomy()]))
    sides = {"labeled": [case("a"), case("slice")], "test": [case("two"), case("unread")]}
    assert find_duplicates(sides, held) == ((), ())
    assert find_duplicates({}, {}) == ((), ())


def test_every_pair_is_found_however_scans_are_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"p{number}" for number in range(7)]
    held = {name: signature(anatomy((16, 16), seed=number % 3)) for number, name in enumerate(names)}
    sides = {"labeled": [case(name) for name in names]}
    expected = {("p0", "p3"), ("p0", "p6"), ("p1", "p4"), ("p2", "p5"), ("p3", "p6")}
    for rows in (512, 2, 1):
        monkeypatch.setattr(module, "ROWS", rows)
        lines = find_duplicates(sides, held).warnings
        assert {(line[:2], line.split(" and ")[1][:2]) for line in lines} == expected


def test_the_pairs_are_those_of_all_correlations() -> None:
    noises = np.random.default_rng(0).normal(0, 11, (24, 1, *SHAPE)) * np.linspace(0.8, 1.2, 24).reshape(-1, 1, 1, 1, 1)
    held = {f"p{number:02d}": signature(anatomy(seed=number % 2) + noise) for number, noise in enumerate(noises)}
    pairs = list(combinations(held.values(), 2))
    alike = [(one, other) for one, other in pairs if np.square(one - other).sum() <= 2 - 2 * ALIKE]
    assert 24 < len(alike) < 108  # of 132 pairs that show one anatomy
    (more,) = find_duplicates({"labeled": [case(name) for name in held]}, held).warnings[module.SHOWN :]
    assert more == f"{len(alike) - module.SHOWN} more pairs of scans show the same image."


def test_many_pairs_are_counted_not_listed() -> None:
    picture = signature(anatomy((16, 16)))
    learned, tested = [case(f"p{number}") for number in range(6)], [case(f"q{number}") for number in range(4)]
    held = dict.fromkeys([each.name for each in (*learned, *tested)], picture)
    problems = find_duplicates({"unlabeled": learned, "test": tested}, held).problems
    assert len(problems) == module.SHOWN + 1
    assert problems[-1] == f"{6 * 4 - module.SHOWN} more pairs of scans show the same image."


def test_a_leak_is_refused(tmp_path: Path) -> None:
    files = {name: tmp_path / f"{name}.npy" for name in "abc"}
    for name, seed in zip("abc", (0, 1, 0), strict=True):
        np.save(files[name], signature(anatomy(seed=seed)))
    require_no_leak({"labeled": [case("a"), case("c")], "validation": [case("b")]}, files)
    with pytest.raises(UserError, match=r"a_0000\.nii\.gz \(labeled\) and c_0000\.nii\.gz \(validation\)"):
        require_no_leak({"labeled": [case("a"), case("b")], "validation": [case("c")]}, files)


def test_generated_hearts_are_all_different(tmp_path: Path) -> None:
    dataset = read_dataset(write_cardiac(tmp_path, labeled=6, unlabeled=6, test=0, side=32))
    held = np.stack([signature(read_image(each.images).voxels) for each in dataset.cases])
    assert np.triu(held @ held.T, k=1).max() < 0.95


@pytest.mark.realdata
def test_acdc_has_one_patient_under_two_names_and_no_other_pair(acdc: Path) -> None:
    """Patients 074 and 076 share their images, not their masks; of others 0.74 at most, of two frames 0.9991."""
    dataset = read_dataset(acdc)
    held = {each.name: signature(read_image(each.images).voxels) for each in dataset.cases}
    split = make_split(dataset, SplitSettings(file=acdc / "ssl4mis_split.json", labeled=7))
    found = find_duplicates({side: cases_of(dataset, who, None) for side, who in split.model_dump().items()}, held)
    assert found.problems == ()
    assert [("patient074" in line, "patient076" in line) for line in found.warnings] == [(True, True)] * 2
    rows = np.stack(list(held.values()))
    patients = np.array([each.patient.replace("076", "074") for each in dataset.cases])
    within = np.triu(patients[:, None] == patients, k=1)
    apart = np.triu(patients[:, None] != patients, k=1)
    correlations = rows @ rows.T
    assert correlations[apart].max() < 0.74
    assert np.sort(correlations[within])[-3] < 0.9991
