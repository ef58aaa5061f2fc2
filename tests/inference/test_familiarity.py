"""How unlike training a scan is: held-out scans of the same kind are not, changed ones are."""

import csv
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import patchcl
from patchcl.core.console import errors
from patchcl.data.geometry import Grid
from patchcl.inference.familiarity import (
    Familiarity,
    lines_of,
    look_at,
    read_familiarity,
    save_familiarity,
    spread_places,
    stored_order,
    unlike,
)

GRID = Grid((40, 30, 5), np.diag([-1.0, 2.0, 5.0, 1.0]), (1.0, 2.0, 5.0))


def texture(seed: int, bright: float = 0.3) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.clip(random.normal(bright, 0.15, (5, 1, 16, 16)), 0, 1).astype(np.float32)


@pytest.fixture
def known() -> Familiarity:
    """Ten patients of one kind, with fields of view from 36 to 45 voxels along the first axis."""
    grids = [GRID._replace(shape=(36 + seed, 30, 5)) for seed in range(10)]
    looks = tuple(look_at(grid, lines_of(texture(seed))) for seed, grid in enumerate(grids))
    return Familiarity(patients=10, scans=looks)


def test_a_look_holds_what_numpy_says():
    image = texture(0)
    look = look_at(GRID, lines_of(image))  # of 5 x 16 lines all are looked at
    assert (look.spacing_mm, look.extent_mm, look.orientation) == ((1, 2, 5), (40, 60, 25), "LAS")
    assert look.intensities[0] == pytest.approx(np.percentile(image, [5, 25, 50, 75, 95]))
    width = look.intensities[0][-1] - look.intensities[0][0]
    assert look.noise[0] == pytest.approx(np.abs(np.diff(image, axis=-1)).mean() / width, rel=1e-5)


def test_lines_are_spread_over_all_slices_and_all_rows():
    places = np.array(spread_places(256 * 256))
    assert len(places) == 256
    for digits in (places // 256, places % 256):
        assert np.histogram(digits, bins=8, range=(0, 256))[0].min() >= 24
    assert lines_of(np.zeros((3, 2, 100, 7, 9), np.float32)).shape == (2, 256, 9)


def test_one_more_of_the_kind_is_not_flagged(known):
    assert [unlike(known, look_at(GRID, lines_of(texture(seed))), ["MRI"]) for seed in range(20, 40)] == [{}] * 20


def test_every_kind_of_change_has_its_flag_with_what_was_known(known):
    def flags(grid: Grid = GRID, image: np.ndarray | None = None) -> dict[str, str]:
        return unlike(known, look_at(grid, lines_of(texture(0) if image is None else image)), ["MRI"])

    wide = GRID._replace(spacing_mm=(2.0, 2.0, 5.0))
    assert flags(wide)["spacing"] == "spacing 2 × 2 × 5 mm (training: 1 × 2 × 5 mm)"
    cut = flags(GRID._replace(shape=(15, 30, 5)))
    assert cut == {"field of view": "field of view 15 × 60 × 25 mm (training: 36-45 × 60 × 25 mm)"}
    turned = GRID._replace(affine=np.diag([1.0, 2.0, 5.0, 1.0]))
    assert flags(turned) == {"orientation": "its axes are RAS (training: LAS)"}
    inverted = flags(image=1 - texture(0))["intensities"]
    assert inverted == "percentile 5 of MRI is 0.47 as the network sees it (training: 0.05-0.07)"
    smooth = np.sort(texture(0), axis=-1)
    assert list(flags(image=smooth)) == ["noise"]
    flat = GRID._replace(shape=(40, 30), spacing_mm=(1.0, 2.0))
    assert flags(flat) == {"axes": "it has 2 axes, which no scan of training has"}


def test_axes_are_compared_in_the_order_that_the_network_sees(known):
    """Another order is worth a flag, as all that training did not see; spacings are what they are all the same."""
    turned = np.array([[0, -1.0, 0, 39], [0, 0, 2, 0], [5, 0, 0, 0], [0, 0, 0, 1]])  # SLA
    stored = GRID._replace(shape=(5, 40, 30), spacing_mm=(5.0, 1.0, 2.0), affine=turned)
    flags = unlike(known, look_at(stored, lines_of(texture(0)), "LAS"), ["MRI"])
    assert flags == {"orientation": "its axes are SLA (training: LAS)"}
    assert "spacing" in unlike(known, look_at(stored, lines_of(texture(0))), ["MRI"])


@pytest.mark.parametrize(
    ("degrees", "placed", "word"), [(20, True, ""), (40, True, "oblique by more than 37°"), (0, False, "does not say")]
)
def test_a_volume_that_stays_as_it_is_stored_has_a_flag_for_an_oriented_network(degrees, placed, word):
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    turn = np.array([[cosine, -sine, 0, 0], [sine, cosine, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    grid = GRID._replace(affine=turn, placed=placed)
    assert stored_order(grid, None) == {}
    flags = stored_order(grid, "RAS")
    assert list(flags) == (["orientation"] if word else [])
    assert word in flags.get("orientation", "")


def test_more_channels_do_not_flag_more():
    image = {
        seed: np.concatenate([texture(100 * seed + channel) for channel in range(6)], axis=1) for seed in range(60)
    }
    names = [f"c{channel}" for channel in range(6)]
    known = Familiarity(patients=20, scans=tuple(look_at(GRID, lines_of(image[seed])) for seed in range(20)))
    flagged = [unlike(known, look_at(GRID, lines_of(image[seed])), names) for seed in range(20, 60)]
    assert sum(map(bool, flagged)) <= 2
    image[0][:, 4] = 1 - image[0][:, 4]
    assert "of c4 is" in unlike(known, look_at(GRID, lines_of(image[0])), names)["intensities"]


def test_few_patients_flag_less_and_one_tells_of_its_axes_alone(known):
    cut = look_at(GRID._replace(shape=(20, 30, 5)))
    assert "field of view" in unlike(known, cut, ["MRI"])
    assert unlike(Familiarity(patients=2, scans=known.scans[:2]), cut, ["MRI"]).keys() == set()
    turned = look_at(GRID._replace(affine=np.eye(4), shape=(20, 30, 5)))
    assert list(unlike(Familiarity(patients=1, scans=known.scans[:1]), turned, ["MRI"])) == ["orientation"]


def test_what_training_saw_comes_back_as_it_was_saved(known, tmp_path):
    path = tmp_path / "familiarity.json"
    assert read_familiarity(path) is None
    save_familiarity(path, known)
    assert read_familiarity(path) == known
    path.write_text(path.read_text()[:-40])
    assert read_familiarity(path) is None


def rows(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="") as file:
        return {row["case"]: row for row in csv.DictReader(file)}


def test_held_out_scans_pass_and_changed_ones_are_warned_of(cardiac, trained, tmp_path):
    scans = shutil.copytree(cardiac / "imagesTs", tmp_path / "scans")
    one = nib.load(min(scans.iterdir()))
    voxels, affine = np.asarray(one.dataobj).astype(np.float32), one.affine
    noise = np.random.default_rng(0).normal(0, np.ptp(voxels) / 3, voxels.shape)
    side = len(voxels) // 3
    changed = {
        "inverted": (voxels.max() - voxels, affine),
        "noisy": (voxels + noise, affine),
        "cut": (voxels[side:-side, side:-side], affine),
        "coarse": (voxels, affine @ np.diag([3, 3, 1, 1])),
    }
    own = {path.name.removesuffix("_0000.nii.gz") for path in scans.iterdir()}
    for name, (values, grid) in changed.items():
        nib.save(nib.Nifti1Image(values.astype(np.float32), grid), scans / f"{name}_0000.nii.gz")
    summary = patchcl.predict(trained, scans, tmp_path / "out", fast=True, device="cpu")
    flags = {case.case: list(case.unlike) for case in summary.cases}
    assert {name: flags[name] for name in own} == {name: [] for name in own}
    assert all(flags[name] for name in changed), flags
    assert "intensities" in flags["inverted"]
    assert "noise" in flags["noisy"]
    assert "field of view" in flags["cut"]
    assert "spacing" in flags["coarse"]
    table = rows(tmp_path / "out" / "predictions.csv")
    assert {name: row["unlike training"] for name, row in table.items()} == {
        name: ", ".join(kinds) for name, kinds in flags.items()
    }


def test_a_run_that_kept_nothing_says_so_once_and_predicts(cardiac, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    (run / "familiarity.json").unlink()
    with errors.capture() as said:
        summary = patchcl.predict(run, cardiac / "imagesTs", tmp_path / "out", fast=True, device="cpu")
    assert said.get().count("are not compared with them") == 1
    assert len(summary.done) == 3
    assert all(not case.unlike for case in summary.cases)
