import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import entropy
from torch import nn

from patchcl.augment import AugmentSettings
from patchcl.core.errors import UserError
from patchcl.data.discovery import find_scans
from patchcl.data.formats import tiff
from patchcl.data.geometry import Grid
from patchcl.data.preprocessing.plan import Plan
from patchcl.data.scan import Scan, read_image
from patchcl.inference import predict
from patchcl.inference.case_summary import TABLE
from patchcl.inference.postprocessing import Postprocessing
from patchcl.inference.predict import (
    PLAIN,
    Files,
    Inference,
    predict_cases,
    predict_files,
    predict_scan,
    uncertainty_of,
)
from patchcl.inference.scan_folder import PredictionSummary
from patchcl.inference.test_time_augmentation import symmetries_of
from patchcl.inference.trained_run import open_run
from patchcl.networks import NetworkSettings, build_network
from patchcl.runs.folder import RunFolder

TINY = NetworkSettings(features=(4, 8))
AFFINE = np.array([[-0.8, 0.1, 0, 30], [0.05, 1.1, 0, -12], [0, 0, 5, 7], [0, 0, 0, 1.0]])


def segment(run: RunFolder, scans: Path, out: Path, **options) -> PredictionSummary:
    trained = open_run(run)
    return predict_files(trained.network, trained.plan, scans, out, **options)


def plan_of(**changes) -> Plan:
    slices = {"dimensions": 2, "fit": "resize", "size": (16, 16), "normalise": "min_max"}
    names = {"channels": ("MRI",), "classes": ("background", "left", "right")}
    return Plan.model_validate(slices | names | changes)


def network_for(plan: Plan) -> nn.Module:
    return build_network(TINY, len(plan.channels), len(plan.classes), plan.size).eval()


def write_scan(path: Path, seed: int = 0, shape=(20, 18, 3)) -> np.ndarray:
    voxels = np.random.default_rng(seed).normal(100, 20, shape).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(voxels, AFFINE)
    image.set_sform(AFFINE, 1)
    image.set_qform(AFFINE, 2)
    nib.save(image, path)
    return voxels


class Threshold(nn.Module):
    """Bright voxels are class 1, and very nearly certainly so."""

    def forward(self, image):
        return torch.cat([torch.zeros_like(image), 40 * (image - 0.5)], dim=1)


class LeftHalf(nn.Module):
    """Whatever lies in the first half along the first axis is class 1, the rest class 2."""

    def forward(self, image):
        half = torch.arange(image.shape[2]).view(1, 1, -1, 1) < image.shape[2] // 2
        return 40 * torch.cat([torch.zeros_like(image), half * image, ~half * image], dim=1)


@pytest.mark.parametrize("order", ["RAS", "LPS", "SPR", "ASR"])
def test_a_scan_in_another_order_is_segmented_as_it_lies_in_the_patient(tmp_path: Path, order: str) -> None:
    """Left and right, which only their place tells, and the very grid of the scan."""
    plan = plan_of(orientation="RAS")
    scan = tmp_path / "scans" / "a_0000.nii.gz"
    write_scan(scan)
    image, to = nib.load(scan), nib.orientations.axcodes2ornt(order)
    stored = image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(image.affine), to))
    nib.save(stored, scan)
    assert predict_files(LeftHalf(), plan, scan, tmp_path / "out").done == ("a",)
    mask = nib.load(tmp_path / "out" / "a.nii.gz")
    np.testing.assert_array_equal(mask.affine, nib.load(scan).affine)
    assert mask.header["qform_code"] == nib.load(scan).header["qform_code"]
    canonical = np.asarray(nib.as_closest_canonical(mask).dataobj)
    assert canonical.shape == (20, 18, 3)
    assert set(np.unique(canonical[:9])) <= {0, 1}
    assert set(np.unique(canonical[11:])) <= {0, 2}
    assert (canonical > 0).mean() > 0.9


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"slice_axis": 0},
        {"fit": "crop", "size": (16, 16), "spacing_mm": (0.9, 0.7)},
        {"dimensions": 3, "size": (16, 16, 16)},
        {"dimensions": 3, "fit": "crop", "size": (16, 16, 16), "spacing_mm": (0.8, 1.0, 1.5)},
    ],
    ids=["slices", "slices along x", "windows of slices", "volumes", "windows of volumes"],
)
def test_probabilities_lie_on_the_grid_of_the_scan(changes):
    plan = plan_of(**changes)
    scan = Scan(np.random.default_rng(0).random((1, 30, 22, 18), np.float32), Grid((30, 22, 18), np.eye(4), (1, 1, 1)))
    torch.manual_seed(0)
    probs = predict_scan(network_for(plan), scan, plan, batch_size=8)
    assert probs.shape == (3, 30, 22, 18)
    assert probs.dtype == np.float32
    np.testing.assert_allclose(probs.sum(axis=0), 1, atol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"size": (32, 24)},
        {"fit": "crop", "size": (16, 16), "spacing_mm": (1.0, 1.0)},
        {"dimensions": 3, "size": (32, 24, 3)},
        {"dimensions": 3, "fit": "crop", "size": (16, 16, 2), "spacing_mm": (1.0, 1.0, 4.0)},
        {"dimensions": 3, "fit": "crop", "size": (16, 16, 8), "spacing_mm": (1.0, 1.0, 4.0)},
    ],
    ids=["slices", "windows of slices", "volumes", "windows of volumes", "windows beyond the volume"],
)
def test_what_the_network_sees_comes_back_in_place(changes):
    """A network that marks bright voxels marks exactly the bright box, wherever the plan cuts or scales."""
    plan = plan_of(classes=("background", "box"), **changes)
    voxels = np.zeros((1, 32, 24, 3), np.float32)
    voxels[0, 4:19, 9:14, 1] = 1
    probs = predict_scan(Threshold(), Scan(voxels, Grid((32, 24, 3), np.eye(4), (1, 1, 4))), plan)
    # Each slice passes alone but is normalised by the whole scan.
    np.testing.assert_array_equal(probs.argmax(axis=0), voxels[0])


def test_windows_of_one_size_agree_with_the_whole():
    """A single window that covers the scan is the plain forward pass."""
    plan = plan_of(fit="crop", size=(32, 24), spacing_mm=(1.0, 1.0))
    scan = Scan(np.random.default_rng(0).random((1, 32, 24, 2), np.float32), Grid((32, 24, 2), np.eye(4), (1, 1, 4)))
    network = network_for(plan)
    whole = plan_of(size=(32, 24))
    np.testing.assert_allclose(predict_scan(network, scan, plan), predict_scan(network, scan, whole), atol=1e-5)


def test_the_batch_size_changes_nothing():
    plan = plan_of()
    scan = Scan(np.random.default_rng(0).random((1, 16, 16, 5), np.float32), Grid((16, 16, 5), np.eye(4), (1, 1, 1)))
    network = network_for(plan)
    one, five = (predict_scan(network, scan, plan, batch_size=size) for size in (1, 5))
    np.testing.assert_allclose(one, five, atol=1e-6)


def test_uncertainty_agrees_with_scipy_and_its_bounds():
    probs = np.random.default_rng(0).dirichlet(np.ones(4), (3, 2)).transpose(2, 0, 1)
    np.testing.assert_allclose(uncertainty_of(probs), entropy(probs, base=4, axis=0), rtol=1e-6)
    assert uncertainty_of(np.full((3, 1), 1 / 3)) == pytest.approx(1)
    assert uncertainty_of(np.array([[1.0], [0.0]])) == 0


def test_a_folder_is_predicted_with_the_geometry_of_its_scans(untrained_run, tmp_path):
    run = untrained_run(tmp_path / "run", plan_of())
    write_scan(tmp_path / "scans" / "anna_0000.nii.gz", 1)
    write_scan(tmp_path / "scans" / "bert.nii.gz", 2, (17, 21, 2))
    seen = []
    summary = segment(
        run,
        tmp_path / "scans",
        tmp_path / "out",
        probabilities=True,
        uncertainty=True,
        on_progress=lambda *at: seen.append(at),
    )
    assert summary[:2] == (("anna", "bert"), ())
    assert seen == [(1, 2), (2, 2)]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {TABLE} | {
        f"{name}{what}.nii.gz"
        for name in ("anna", "bert")
        for what in ("", "_probabilities_left", "_probabilities_right", "_uncertainty")
    }
    scan, mask = nib.load(tmp_path / "scans" / "anna_0000.nii.gz"), nib.load(tmp_path / "out" / "anna.nii.gz")
    assert scan.affine.tobytes() == mask.affine.tobytes()
    assert (mask.header["sform_code"], mask.header["qform_code"]) == (1, 2)
    assert mask.get_data_dtype() == np.uint8


def test_maps_of_structures_with_hostile_names_stay_in_their_folder(untrained_run, tmp_path):
    names = ("background", "NCR/NET", "../up", '"><script>')
    run = untrained_run(tmp_path / "run", plan_of().model_copy(update={"classes": names}))
    write_scan(tmp_path / "anna.nii.gz")
    assert segment(run, tmp_path / "anna.nii.gz", tmp_path / "out", probabilities=True)[:2] == (("anna",), ())
    assert {path.name for path in (tmp_path / "out").rglob("*")} == {
        TABLE,
        "anna.nii.gz",
        "anna_probabilities_NCR%2FNET.nii.gz",
        "anna_probabilities_..%2Fup.nii.gz",
        "anna_probabilities_%22%3E%3Cscript%3E.nii.gz",
    }


def test_the_files_hold_what_the_network_says(untrained_run, tmp_path):
    run = untrained_run(tmp_path / "run", plan_of())
    voxels = write_scan(tmp_path / "anna.nii.gz")
    segment(run, tmp_path / "anna.nii.gz", tmp_path / "out", probabilities=True, uncertainty=True)
    trained = open_run(run)
    probs = predict_scan(trained.network, Scan(voxels[None], Grid(voxels.shape, AFFINE, (1, 1, 5))), trained.plan)

    def content(name):
        return np.asarray(nib.load(tmp_path / "out" / f"anna{name}.nii.gz").dataobj)

    np.testing.assert_array_equal(content(""), probs.argmax(axis=0))
    np.testing.assert_allclose(content("_probabilities_right"), probs[2], atol=1e-6)
    np.testing.assert_allclose(content("_uncertainty"), uncertainty_of(probs), atol=1e-6)


def test_maps_stay_smooth_where_masks_return_by_nearest_neighbour(untrained_run, tmp_path):
    run = untrained_run(tmp_path / "run", plan_of(output_interpolation="nearest"))
    write_scan(tmp_path / "anna.nii.gz")
    segment(run, tmp_path / "anna.nii.gz", tmp_path / "out", uncertainty=True)
    uncertainty = np.asarray(nib.load(tmp_path / "out" / "anna_uncertainty.nii.gz").dataobj)
    assert uncertainty.min() > 0


def test_channels_of_a_case_come_together(untrained_run, tmp_path):
    run = untrained_run(tmp_path / "run", plan_of(channels=("T1", "T2")))
    for name in ("anna_0000", "anna_0001", "bert_0000", "carl"):
        write_scan(tmp_path / "scans" / f"{name}.nii.gz")
    summary = segment(run, tmp_path / "scans", tmp_path / "out")
    assert summary.done == ("anna",)
    (bert, bert_says), (carl, carl_says) = summary.failed
    assert (bert, carl) == ("bert", "carl")
    assert "bert_0000.nii.gz: the network takes 2 channel(s)" in bert_says
    assert "_0001.nii.gz (T2)" in bert_says
    assert "carl.nii.gz" in carl_says
    alone = segment(run, tmp_path / "scans" / "anna_0001.nii.gz", tmp_path / "alone")
    assert alone.done == ("anna",)


def test_numbered_scans_are_segmented_each_under_its_number(untrained_run, tmp_path):
    run = untrained_run(tmp_path / "run", plan_of())
    for name in ("pancreas_0001", "pancreas_0002", "bert_0001", "carl_0000", "carl_0001"):
        write_scan(tmp_path / "scans" / f"{name}.nii.gz")
    summary = segment(run, tmp_path / "scans", tmp_path / "out")
    assert summary.done == ("pancreas_0001", "pancreas_0002")
    assert (tmp_path / "out" / "pancreas_0002.nii.gz").exists()
    assert [name for name, _ in summary.failed] == ["bert", "carl"]  # the second channel of somebody, and two of one
    assert all("If their numbers count scans, add _0000 to each name." in message for _, message in summary.failed)


def test_a_bad_scan_does_not_hold_up_the_good_ones(untrained_run, tmp_path):
    run = untrained_run(tmp_path / "run", plan_of())
    write_scan(tmp_path / "scans" / "a_good_0000.nii.gz")
    (tmp_path / "scans" / "bad_0000.nii.gz").write_bytes(b"no image")
    write_scan(tmp_path / "scans" / "good_0000.nii.gz")
    summary = segment(run, tmp_path / "scans", tmp_path / "out")
    assert summary.done == ("a_good", "good")
    ((name, message),) = summary.failed
    assert name == "bad"
    assert "bad_0000.nii.gz" in message


@pytest.mark.parametrize(
    ("scan", "mask", "smooth"),
    [
        ("anna.png", "anna.png", "anna_uncertainty.tif"),
        ("anna_0000.jpg", "anna.png", "anna_uncertainty.tif"),
        ("anna_0000.tiff", "anna.tiff", "anna_uncertainty.tiff"),
    ],
)
def test_pictures_in_colour_give_pictures(untrained_run, tmp_path, scan, mask, smooth):
    run = untrained_run(tmp_path / "run", plan_of(channels=("R", "G", "B")))
    pixels = np.random.default_rng(0).integers(0, 256, (20, 26, 3)).astype(np.uint8)
    (tmp_path / "scans").mkdir()
    Image.fromarray(pixels).save(tmp_path / "scans" / scan)
    summary = segment(run, tmp_path / "scans", tmp_path / "out", uncertainty=True)
    assert summary[:2] == (("anna",), ())
    assert {path.name for path in (tmp_path / "out").iterdir()} == {mask, smooth, TABLE}
    trained = open_run(run)
    probs = predict_scan(trained.network, read_image([tmp_path / "scans" / scan]), trained.plan)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / mask)), probs.argmax(axis=0))
    np.testing.assert_allclose(np.asarray(Image.open(tmp_path / "out" / smooth)), uncertainty_of(probs), atol=1e-6)


def test_the_format_of_masks_can_be_chosen(untrained_run, tmp_path):
    run = untrained_run(tmp_path / "run", plan_of())
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 26)).astype(np.uint8)).save(tmp_path / "anna.png")
    segment(run, tmp_path / "anna.png", tmp_path / "out", output="nifti", uncertainty=True)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"anna.nii.gz", "anna_uncertainty.nii.gz", TABLE}
    assert nib.load(tmp_path / "out" / "anna.nii.gz").shape == (20, 26)
    ((_, message),) = segment(run, tmp_path / "anna.png", tmp_path / "out", output="dicom-seg").failed
    assert "anna.png is no DICOM series" in message


def test_a_grey_picture_does_not_fill_three_channels(untrained_run, tmp_path):
    run = untrained_run(tmp_path / "run", plan_of(channels=("R", "G", "B")))
    Image.fromarray(np.zeros((20, 26), np.uint8)).save(tmp_path / "anna.png")
    ((_, message),) = segment(run, tmp_path / "anna.png", tmp_path / "out").failed
    assert "anna.png: the network takes 3 channel(s), and 1 are here" in message


@pytest.mark.parametrize("out", ["imagesTs", "imagesTs/../imagesTs", "labelsTs"])
def test_scans_and_masks_are_never_written_over(untrained_run, tmp_path, out):
    run = untrained_run(tmp_path / "run", plan_of())
    (tmp_path / "data" / "labelsTs").mkdir(parents=True)
    (tmp_path / "data" / "dataset.json").write_text("{}")
    scan = tmp_path / "data" / "imagesTs" / "anna.nii.gz"
    write_scan(scan)
    before = scan.read_bytes()
    with pytest.raises(UserError, match="never written over"):
        segment(run, scan.parent, tmp_path / "data" / out)
    assert scan.read_bytes() == before


def test_an_out_folder_that_cannot_be_made_is_explained(untrained_run, tmp_path):
    run = untrained_run(tmp_path / "run", plan_of())
    write_scan(tmp_path / "anna.nii.gz")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="Cannot make the folder"):
        segment(run, tmp_path / "anna.nii.gz", tmp_path / "file" / "out")


def large_picture(folder: Path, side: int) -> tuple[Plan, nn.Module, Path]:
    """A picture of coarse blocks that is read in strips, and a network whose windows differ where they overlap."""
    known = {"channels": ("R", "G", "B"), "normalise": "rgb", "window": (0, 255), "spacing_mm": (1, 1)}
    plan = plan_of(fit="crop", size=(side, side), **known)
    torch.manual_seed(0)
    network = nn.Conv2d(3, 3, 5, padding=2, bias=False).eval()
    drawn = np.random.default_rng(0).integers(0, 256, (23, 11, 3)).astype(np.uint8).repeat(5, axis=0).repeat(3, axis=1)
    path = folder / "in" / "a_0000.tif"
    path.parent.mkdir()
    Image.fromarray(drawn).save(path, compression="tiff_lzw", strip_size=16 * drawn[0].nbytes)
    return plan, network, path


@pytest.mark.parametrize(("side", "stride"), [(8, None), (9, None), (8, (3, 5)), (8, (8, 8))])
def test_a_large_picture_is_segmented_in_bands_as_if_whole(tmp_path, monkeypatch, side, stride):
    plan, network, path = large_picture(tmp_path, side)
    plan = plan.model_copy(update={"window_stride": stride})

    def segment(out, **maps):
        return predict_cases(network, plan, {"a": (path,)}, tmp_path / out, Files(**maps)).failed

    (tmp_path / "whole").mkdir()
    (tmp_path / "blocks").mkdir()
    assert segment("whole") == ()
    monkeypatch.setattr(tiff, "LARGE", 1000)
    monkeypatch.setattr(predict, "WINDOWS", 4)
    assert segment("blocks") == ()
    whole, blocks = (np.asarray(Image.open(tmp_path / name / "a.tif")) for name in ("whole", "blocks"))
    assert np.bincount(whole.ravel()).min() > 100
    assert whole.shape == blocks.shape == (115, 33)
    assert (whole != blocks).mean() < 1e-3  # but for the last bit of a float
    ((_, message),) = segment("blocks", uncertainty=True)
    assert "too large to be read at once" in message


def test_bands_are_averaged_and_cleaned_as_the_whole_is(tmp_path, monkeypatch):
    plan, network, path = large_picture(tmp_path, 8)
    averaged = Inference(symmetries_of(AugmentSettings(), plan))
    cleaned = averaged._replace(postprocessing=Postprocessing(smallest_object_mm=8))

    def segment(name, inference):
        (tmp_path / name).mkdir()
        assert predict_cases(network, plan, {"a": (path,)}, tmp_path / name, inference=inference).failed == ()
        return np.asarray(Image.open(tmp_path / name / "a.tif"))

    once, whole, neat = (segment(*each) for each in (("once", PLAIN), ("whole", averaged), ("neat", cleaned)))
    assert (whole != once).mean() > 0.01
    assert (whole != neat).mean() > 0.001
    monkeypatch.setattr(tiff, "LARGE", 1000)
    monkeypatch.setattr(predict, "WINDOWS", 4)
    assert (segment("bands", averaged) != whole).mean() < 1e-3  # but for the last bit of a float
    assert (segment("neat bands", cleaned) != neat).mean() < 1e-2


def test_many_scans_at_once_are_segmented_as_each_alone_bit_for_bit(trained, cardiac, tmp_path):
    run = open_run(RunFolder.open(trained))
    scans = find_scans(cardiac / "imagesTs")
    told = []
    files = Files(probabilities=True, uncertainty=True)
    arguments = (run.device, lambda done, count: told.append((done, count)), run.inference)
    assert predict_cases(run.network, run.plan, scans, tmp_path / "all", files, *arguments).done == tuple(scans)
    assert told == [(done, len(scans)) for done in range(1, len(scans) + 1)]
    for name, paths in scans.items():
        predict_cases(run.network, run.plan, {name: paths}, tmp_path / "alone", files, *arguments)
    written = sorted(path.name for path in (tmp_path / "all").iterdir())
    assert len(written) == len(scans) * (2 + len(run.plan.classes) - 1)
    assert all(same_bytes(tmp_path / "all" / name, tmp_path / "alone" / name) for name in written)


def same_bytes(one, other):
    return gzip.decompress(one.read_bytes()) == gzip.decompress(other.read_bytes())
