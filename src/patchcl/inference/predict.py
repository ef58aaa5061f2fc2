"""Prediction of new scans: files in, masks on the very same voxel grid out."""

from collections.abc import Callable, Sequence
from functools import reduce
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import entr
from torch import nn

from patchcl.augment.geometry import Symmetry
from patchcl.core.devices import CPU
from patchcl.core.errors import UserError
from patchcl.core.memory import releasing_memory
from patchcl.core.names import file_safe
from patchcl.core.parallel import ProgressCallback, Task, pipelined
from patchcl.data.discovery import channel_of
from patchcl.data.formats import count_channels, ending_of, without_ending
from patchcl.data.formats.base import RowBlocks
from patchcl.data.geometry import Grid
from patchcl.data.preprocessing.plan import Plan
from patchcl.data.preprocessing.row_blocks import network_row_blocks
from patchcl.data.preprocessing.transforms import to_network_grid, to_scan_grid
from patchcl.data.regions import region_masks, region_probs
from patchcl.data.scan import Scan, read_grid, read_image, write_map, write_mask
from patchcl.inference.case_summary import CaseSummary, Confidences, sizes_of
from patchcl.inference.familiarity import Familiarity, Look, lines_of, look_at, spread_places, stored_order, unlike
from patchcl.inference.output_files import Output, endings
from patchcl.inference.postprocessing import NO_POSTPROCESSING, Postprocessing, postprocess
from patchcl.inference.scan_folder import PredictionSummary, Scans, segment_folder
from patchcl.inference.sliding_window import BATCH_SIZE, network_probs, window_steps
from patchcl.inference.test_time_augmentation import ONE_PASS

WINDOWS = 4
"""So many steps of the window make a row block of a picture that is too large to be held."""


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
    familiarity: Familiarity | None = None,
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
        familiarity: What training saw, which scans are compared with; None if that is not known.

    Returns:
        What became of every scan. A table of the segmented ones, see `write_table`, is written beside the masks.

    Raises:
        UserError: There is no scan, or `out` cannot or must not be written to.
    """
    files = Files(probabilities, uncertainty, output)

    def segment(scans: Scans) -> PredictionSummary:
        return predict_cases(network, plan, scans, out, files, device, on_progress, inference, familiarity)

    return segment_folder(source, out, series, segment)


def predict_cases(
    network: nn.Module,
    plan: Plan,
    scans: Scans,
    out: Path,
    files: Files = Files(),  # noqa: B008 - immutable
    device: torch.device = CPU,
    on_progress: ProgressCallback | None = None,
    inference: Inference = PLAIN,
    familiarity: Familiarity | None = None,
    on_done: Callable[[CaseSummary, Sequence[Path]], object] | None = None,
) -> PredictionSummary:
    """Segment `scans` into `out`; `on_done` is told of each that is done, and which files were written."""
    done: list[CaseSummary] = []
    failed: list[tuple[str, str]] = []
    tasks = (_predict_case(network, plan, *scan, out, files, device, inference) for scan in scans.items())
    for count, (name, ended) in enumerate(zip(scans, releasing_memory(pipelined(tasks)), strict=True), start=1):
        try:
            look, done_case, written = ended.result()
            flags = {} if familiarity is None else unlike(familiarity, look, plan.channels)
            done.append(done_case._replace(unlike=flags | dict(done_case.unlike)))
            if on_done is not None:
                on_done(done[-1], written)
        except UserError as error:
            failed.append((name, str(error)))
        except OSError as error:
            failed.append((name, f"{name} cannot be written to {out}: {error.strerror}. Make room, or clear the way."))
        if on_progress:
            on_progress(count, len(scans))
    return PredictionSummary(tuple(case.case for case in done), tuple(failed), tuple(done))


def _predict_case(
    network: nn.Module,
    plan: Plan,
    name: str,
    paths: tuple[Path, ...],
    out: Path,
    files: Files,
    device: torch.device,
    inference: Inference,
) -> Task[tuple[Look, CaseSummary, list[Path]]]:
    """Reads, has the network segment, and writes one scan, with a `yield` between these: see `pipelined`."""
    require_channels(name, paths, plan)
    of_masks, of_maps = endings(paths[0], files.output)
    blocks = None if files.probabilities or files.uncertainty else network_row_blocks(paths, plan)
    image, grid = _prepared(plan, paths) if blocks is None else (None, read_grid(paths[0]))
    yield
    if image is None:
        assert blocks is not None  # it is read in one way or the other
        mask, confidence = _mask_by_row_blocks(network, plan, blocks, device, inference.symmetries)
        lines = np.concatenate([blocks.read(row, row + 1) for row in spread_places(blocks.shape[0])], axis=1)
    else:
        probs = network_probs(network, torch.from_numpy(image), plan, device, symmetries=inference.symmetries).numpy()
        lines = lines_of(image)
    del image
    yield
    if blocks is None:
        mask = to_scan_grid(probs, grid, plan).argmax(axis=0).astype(np.uint8)
        confidence = reduce(Confidences.with_part, probs, Confidences())
    cleaned = postprocess(mask, grid, plan, inference.postprocessing)
    written = [out / f"{name}{of_masks}"]
    write_mask(written[0], cleaned, paths[0], plan.classes)
    if files.probabilities or files.uncertainty:
        smooth = to_scan_grid(probs, grid, plan.model_copy(update={"output_interpolation": "linear"}))
        written += _write_maps(smooth, plan, out / name, of_maps, files, paths[0])
    for region, inside in region_masks(cleaned, plan.regions).items():
        written.append(out / f"{name}_region_{file_safe(region)}{of_masks}")
        write_mask(written[-1], inside, paths[0], (plan.classes[0], region))
    sizes = sizes_of(cleaned, grid, plan.classes, plan.regions)
    flags = stored_order(grid, plan.orientation)
    return look_at(grid, lines, plan.orientation), CaseSummary(name, sizes, confidence.mean, flags), written


def _prepared(plan: Plan, paths: tuple[Path, ...]) -> tuple[np.ndarray, Grid]:
    """What the network sees of a scan, and the scan's grid; its voxels, often large, go."""
    scan = read_image(paths)
    return to_network_grid(scan, plan), scan.grid


def _mask_by_row_blocks(
    network: nn.Module, plan: Plan, blocks: RowBlocks, device: torch.device, symmetries: Sequence[Symmetry]
) -> tuple[np.ndarray, Confidences]:
    """The likeliest classes (rows, columns) uint8 of a large picture, and how sure the network is.

    They come from the very windows that would be laid over the whole picture. Neighbouring row blocks share windows,
    and a row is taken from the block that holds all windows over it.
    """
    height, window, interval = blocks.shape[0], plan.size[0], window_steps(plan)[0]
    shared = max(0, -(-window // interval) - 2)  # so many windows more must begin in a block to hold all over its rows
    mask, confidence = np.empty(blocks.shape, np.uint8), Confidences()
    start = stop = 0
    while stop < height:
        stop = min(start + window + (WINDOWS + shared) * interval, height)
        image = torch.from_numpy(blocks.read(start, stop)[None])
        probs = network_probs(network, image, plan, device, symmetries=symmetries)[0]
        complete = window - interval if start else 0  # rows above lie under windows of the band before, too
        mask[start + complete : stop] = probs.argmax(dim=0)[complete:].numpy()
        confidence = confidence.with_part(probs[:, complete:].numpy())
        start += WINDOWS * interval
    return mask, confidence


def _write_maps(probs: np.ndarray, plan: Plan, stem: Path, ending: str, files: Files, like: Path) -> list[Path]:
    maps: dict[str, np.ndarray] = {}
    if files.probabilities:
        by_class = dict(zip(plan.classes[1:], probs[1:], strict=True))
        probs_by_structure = region_probs(probs, plan.regions) or by_class
        maps = {f"probabilities_{file_safe(structure)}": prob for structure, prob in probs_by_structure.items()}
    if files.uncertainty:
        maps["uncertainty"] = uncertainty_of(probs)
    written = {stem.with_name(f"{stem.name}_{kind}{ending}"): values for kind, values in maps.items()}
    for path, values in written.items():
        write_map(path, values, like)
    return list(written)


def require_channels(case: str, paths: tuple[Path, ...], plan: Plan) -> None:
    """Refuse the files of a scan unless they hold the channels of `plan`.

    The number at the end of a file's name is no channel if the name of the case has it, too.

    Raises:
        UserError: They hold more or fewer, or are numbered otherwise.
    """
    found = ["" if without_ending(path.name) == case else channel_of(path) for path in paths]
    held = sum(count_channels(path) for path in paths)
    if held == len(plan.channels) and found in ([""], [f"{index:04d}" for index in range(len(paths))]):
        return
    ending = ending_of(paths[0].name)
    names = ", ".join(f"_{number:04d}{ending} ({name})" for number, name in enumerate(plan.channels))
    scans = " If their numbers count scans, add _0000 to each name." if all(found) else ""
    raise UserError(
        f"{' and '.join(path.name for path in paths)}: the network takes {len(plan.channels)} channel(s), and {held} "
        f"are here; expected files that end in {names}, or pictures in colour, which hold three each. "
        f"Rename or add files so that each case has exactly these.{scans}"
    )
