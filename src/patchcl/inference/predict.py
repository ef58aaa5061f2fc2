"""Prediction of new scans: files in, masks on the very same voxel grid out."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, NamedTuple

import numpy as np
import torch
from scipy.special import entr
from torch import nn

from patchcl.augment.geometry import Symmetry
from patchcl.core.devices import CPU
from patchcl.core.errors import UserError
from patchcl.core.names import file_safe
from patchcl.core.parallel import ProgressCallback, Task, pipelined, releasing_memory
from patchcl.data.discovery import channel_of, find_scans, link_series, passed_over, without_links
from patchcl.data.formats import DICOM, count_channels, ending_of, map_ending, mask_ending
from patchcl.data.formats.base import RowBlocks
from patchcl.data.geometry import Grid
from patchcl.data.preprocessing.plan import Plan
from patchcl.data.preprocessing.row_blocks import network_row_blocks
from patchcl.data.preprocessing.transforms import to_network_grid, to_scan_grid
from patchcl.data.scan import Scan, read_grid, read_image, write_map, write_mask
from patchcl.inference.postprocessing import NO_POSTPROCESSING, Postprocessing, postprocess
from patchcl.inference.sliding_window import BATCH_SIZE, OVERLAP, network_probs
from patchcl.inference.test_time_augmentation import ONE_PASS

Output = Literal["same", "nifti", "dicom-seg"]
"""The format of masks: that of the scan, which is DICOM-SEG for a DICOM series, or one for all."""
WINDOWS = 4
"""So many steps of the window make a row block of a picture that is too large to be held."""
DATA_SET_FOLDERS = ("imagesTr", "imagesUn", "imagesTs", "labelsTr", "labelsTs")


class PredictionSummary(NamedTuple):
    """What became of every scan."""

    done: tuple[str, ...]  # case names
    failed: tuple[tuple[str, str], ...]  # case name, or that of a file that is no scan, and what to do about it


class Files(NamedTuple):
    """What to write of every scan."""

    probabilities: bool = False  # beside the mask, one file per structure
    uncertainty: bool = False
    output: Output = "same"


class Inference(NamedTuple):
    """What is done beyond one pass of the network; by default nothing."""

    symmetries: tuple[Symmetry, ...] = ONE_PASS  # that probabilities are averaged over
    postprocessing: Postprocessing = NO_POSTPROCESSING  # of the mask on the grid of the scan


PLAIN = Inference()


def predict_scan(
    network: nn.Module,
    scan: Scan,
    plan: Plan,
    device: torch.device = CPU,
    batch_size: int = BATCH_SIZE,
    symmetries: Sequence[Symmetry] = ONE_PASS,
) -> np.ndarray:
    """The probability of every class in every voxel of a scan.

    Args:
        network: From images (B, C, *S) to logits (B, K, *S), in evaluation mode, on `device`.
        scan: Of any size and spacing.
        plan: The plan the network was trained by.
        device: Where to compute.
        batch_size: Slices that pass through the network at once; of volumes or their windows, an eighth as many.
        symmetries: To average over.

    Returns:
        (K, *scan.grid.shape) float32 on the grid of the scan as it was read, summing to one over K; where
        `plan.output_interpolation` is nearest, 1 for the winning class and 0 for the others.
    """
    image = torch.from_numpy(to_network_grid(scan, plan))
    probs = network_probs(network, image, plan, device, batch_size, symmetries=symmetries)
    return to_scan_grid(probs.numpy(), scan.grid, plan)


def uncertainty_of(probs: np.ndarray) -> np.ndarray:
    """Uncertainty: the entropy of probabilities (K, *S) over that of a blind guess: 0 is certain, 1 knows nothing."""
    return np.asarray(np.clip(entr(probs).sum(axis=0) / np.log(len(probs)), 0, 1), np.float32)


def predict_files(
    network: nn.Module,
    plan: Plan,
    source: Path,
    out: Path,
    *,
    probabilities: bool = False,
    uncertainty: bool = False,
    output: Output = "same",
    series: str | None = None,
    device: torch.device = CPU,
    on_progress: ProgressCallback | None = None,
    inference: Inference = PLAIN,
) -> PredictionSummary:
    """Segment one scan or a folder of them; those that cannot be read do not hold up the others.

    Args:
        network: From images (B, C, *S) to logits (B, K, *S), in evaluation mode, on `device`.
        plan: The plan the network was trained by.
        source: A scan, or a folder of them, named CASE_0000.nii.gz with one file per channel; where one file holds all
            channels, also CASE.nii.gz. Any format does, and a DICOM series is a folder.
        out: Folder for the masks, CASE.nii.gz, on the very grid of the scan.
        probabilities: Write CASE_probabilities_<structure>.nii.gz too, restored linearly whatever the plan says.
        uncertainty: Write CASE_uncertainty.nii.gz too, see `uncertainty_of`.
        output: The format of the masks. Maps have that of the scan, or TIFF for pictures and NIfTI for DICOM.
        series: Of each folder with DICOM files in it, or below, the series to segment; see `link_series`.
        device: Where to compute.
        on_progress: Called with the number of scans done and of all.
        inference: Symmetries to average over, and what to do to masks.

    Raises:
        UserError: There is no scan, or `out` cannot or must not be written to.
    """
    files = Files(probabilities, uncertainty, output)
    with TemporaryDirectory(prefix="patchcl-") as links:
        scans, failed = (find_scans(source), []) if series is None else link_series(source, series, Path(links))
        _check_out(out, source)
        summary = predict_cases(network, plan, scans, out, files, device, on_progress, inference)
        told = [(name, without_links(message, Path(links))) for name, message in summary.failed]
    over = () if series is not None else passed_over(source, scans, out)
    return PredictionSummary(summary.done, (*failed, *told, *over))


def predict_cases(
    network: nn.Module,
    plan: Plan,
    scans: Mapping[str, tuple[Path, ...]],
    out: Path,
    files: Files = Files(),  # noqa: B008 - immutable
    device: torch.device = CPU,
    on_progress: ProgressCallback | None = None,
    inference: Inference = PLAIN,
) -> PredictionSummary:
    """Segment scans given by the name of their case, one file per channel, into `out`."""
    done, failed = [], []
    tasks = (_predict_case(network, plan, *scan, out, files, device, inference) for scan in scans.items())
    for count, (name, ended) in enumerate(zip(scans, releasing_memory(pipelined(tasks)), strict=True), start=1):
        try:
            ended.result()
            done.append(name)
        except UserError as error:
            failed.append((name, str(error)))
        except OSError as error:
            failed.append((name, f"{name} cannot be written to {out}: {error.strerror}. Make room, or clear the way."))
        if on_progress:
            on_progress(count, len(scans))
    return PredictionSummary(tuple(done), tuple(failed))


def _predict_case(
    network: nn.Module,
    plan: Plan,
    name: str,
    paths: tuple[Path, ...],
    out: Path,
    files: Files,
    device: torch.device,
    inference: Inference,
) -> Task[None]:
    """Reads, has the network segment, and writes one scan, with a `yield` between these: see `pipelined`."""
    require_channels(paths, plan)
    of_masks, of_maps = _endings(paths[0], files.output)
    blocks = None if files.probabilities or files.uncertainty else network_row_blocks(paths, plan)
    image, grid = _prepared(plan, paths) if blocks is None else (None, read_grid(paths[0]))
    yield
    if blocks is not None:
        mask = _mask_by_row_blocks(network, plan, blocks, device, inference.symmetries)
    else:
        probs = network_probs(network, torch.from_numpy(image), plan, device, symmetries=inference.symmetries).numpy()
    del image
    yield
    if blocks is None:
        mask = to_scan_grid(probs, grid, plan).argmax(axis=0).astype(np.uint8)
    cleaned = postprocess(mask, grid, plan, inference.postprocessing)
    write_mask(out / f"{name}{of_masks}", cleaned, paths[0], plan.classes)
    if files.probabilities or files.uncertainty:
        smooth = to_scan_grid(probs, grid, plan.model_copy(update={"output_interpolation": "linear"}))
        _write_maps(smooth, plan.classes, out / name, of_maps, files, paths[0])


def _prepared(plan: Plan, paths: tuple[Path, ...]) -> tuple[np.ndarray, Grid]:
    """What the network sees of a scan, and the scan's grid; its voxels, often large, go."""
    scan = read_image(paths)
    return to_network_grid(scan, plan), scan.grid


def _mask_by_row_blocks(
    network: nn.Module, plan: Plan, blocks: RowBlocks, device: torch.device, symmetries: Sequence[Symmetry]
) -> np.ndarray:
    """The likeliest classes (rows, columns) uint8, from the very windows that would be laid over the whole picture.

    Neighbouring row blocks share windows, and a row is taken from the block that holds all windows over it.
    """
    height, window = blocks.shape[0], plan.size[0]
    interval = max(1, int(window * (1 - OVERLAP)))
    shared = 0 if window <= 2 * interval else 1
    mask = np.empty(blocks.shape, np.uint8)
    start = stop = 0
    while stop < height:
        stop = min(start + window + WINDOWS * interval, height)
        image = torch.from_numpy(blocks.read(start, stop)[None])
        classes = network_probs(network, image, plan, device, symmetries=symmetries)[0].argmax(dim=0)
        complete = window - interval if start else 0  # rows above lie under windows of the band before, too
        mask[start + complete : stop] = classes[complete:].numpy()
        start += (WINDOWS - shared) * interval
    return mask


def _write_maps(probs: np.ndarray, classes: Sequence[str], stem: Path, ending: str, files: Files, like: Path) -> None:
    if files.probabilities:
        for structure, prob in zip(classes[1:], probs[1:], strict=True):
            write_map(stem.with_name(f"{stem.name}_probabilities_{file_safe(structure)}{ending}"), prob, like)
    if files.uncertainty:
        write_map(stem.with_name(f"{stem.name}_uncertainty{ending}"), uncertainty_of(probs), like)


def _endings(scan: Path, output: Output) -> tuple[str, str]:
    """What the names of masks and of maps for a scan end in."""
    same = mask_ending(ending_of(scan.name))
    if output == "dicom-seg" and same != DICOM:
        raise UserError(f"{scan} is no DICOM series, and DICOM-SEG has to refer to one. Take --format same or nifti.")
    if output == "same":
        return same, map_ending(ending_of(scan.name))
    return DICOM if output == "dicom-seg" else ".nii.gz", ".nii.gz"


def require_channels(paths: tuple[Path, ...], plan: Plan) -> None:
    """Refuse the files of a scan unless they hold the channels of `plan`.

    Raises:
        UserError: They hold more or fewer, or are numbered otherwise.
    """
    found = [channel_of(path) for path in paths]
    held = sum(count_channels(path) for path in paths)
    if held == len(plan.channels) and found in ([""], [f"{index:04d}" for index in range(len(paths))]):
        return
    ending = ending_of(paths[0].name)
    names = ", ".join(f"_{number:04d}{ending} ({name})" for number, name in enumerate(plan.channels))
    raise UserError(
        f"{' and '.join(path.name for path in paths)}: the network takes {len(plan.channels)} channel(s), and {held} "
        f"are here; expected files that end in {names}, or pictures in colour, which hold three each. "
        "Rename or add files so that each case has exactly these."
    )


def _check_out(out: Path, source: Path) -> None:
    """Predictions go to a folder of their own, where they can be neither taken for scans nor replace masks."""
    scans = source if source.is_dir() else source.parent
    place = Path(os.path.realpath(out))  # where resolve() would stumble over a link to itself
    of_data_set = out.name in DATA_SET_FOLDERS and (place.parent / "dataset.json").exists()
    if place == Path(os.path.realpath(scans)) or of_data_set:
        raise UserError(f"{out} holds scans or masks of yours, which are never written over. Choose another folder.")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"Cannot make the folder {out}: {error.strerror}. Choose another one.") from error
    if not os.access(out, os.W_OK):
        raise UserError(f"{out} cannot be written to. Choose another folder, or ask for the right to write there.")
