"""A trained network meets new scans: files in, masks on the very same voxel grid out."""

import os
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from scipy.special import entr
from torch import Tensor, nn

from patchcl.config import read_settings
from patchcl.data.plan import Plan, load_plan
from patchcl.data.prepare import to_network_grid, to_scan_grid
from patchcl.data.scan import Scan, read_image, write_map, write_mask
from patchcl.errors import UserError
from patchcl.networks import build_network
from patchcl.run_folder import RunFolder

Weights = Literal["teacher", "student"]
CPU = torch.device("cpu")
BATCH_SIZE = 16
"""Slices that pass through the network at once; volumes, being larger, an eighth as many."""
OVERLAP = 0.5
"""Share of a window that its neighbour covers too, for scans larger than what the network takes."""
DATA_SET_FOLDERS = ("imagesTr", "imagesUn", "imagesTs", "labelsTr", "labelsTs")


class PredictionSummary(NamedTuple):
    """What became of every scan."""

    done: tuple[str, ...]  # case names
    failed: tuple[tuple[str, str], ...]  # case name, and what to do about it


class Maps(NamedTuple):
    """What to write beside the mask."""

    probabilities: bool = False  # one file per structure
    uncertainty: bool = False


def best_device(name: Literal["auto", "cpu", "cuda", "mps"] = "auto") -> torch.device:
    """The device called `name`; the fastest one here for `auto`.

    Raises:
        UserError: There is no such device here.
    """
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(device for device, available in here.items() if available))
    if not here[name]:
        raise UserError(f"torch finds no {name} device here. Use --device auto or cpu.")
    return torch.device(name)


def load_network(
    run: RunFolder, checkpoint: str = "last", weights: Weights = "teacher", device: torch.device = CPU
) -> tuple[nn.Module, Plan]:
    """The trained network of a run, ready to predict, and the plan its images were prepared by.

    Args:
        run: The run.
        checkpoint: `last` or `best`.
        weights: `teacher`, the moving average, which falls back to the student where there is none; or `student`.
        device: Where the network shall live.

    Raises:
        UserError: The checkpoint is missing, damaged, or was made with other settings.
    """
    plan = load_plan(run.plan)
    settings = read_settings(run.settings)
    network = build_network(settings.network, len(plan.channels), len(plan.classes), plan.dimensions)
    state = read_checkpoint(run, checkpoint)["method"]
    try:
        network.load_state_dict(_part(state, weights_used(state, weights)))
    except RuntimeError as error:
        raise UserError(
            f"{run.checkpoint(checkpoint)} does not fit the network that {run.settings} and {run.plan} describe. "
            "Put these files back as training wrote them, or train anew."
        ) from error
    return network.to(device).eval(), plan


def read_checkpoint(run: RunFolder, checkpoint: str) -> dict[str, Any]:
    """Everything in a checkpoint: `method` holds the weights, `step` how long they were trained.

    Raises:
        UserError: There is no such checkpoint, or the file is damaged.
    """
    path = run.checkpoint(checkpoint)
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise UserError(
            f"{path} cannot be read: the file is damaged. Take another checkpoint or train anew."
        ) from error
    return content


def weights_used(state: Mapping[str, Tensor], wanted: Weights) -> Weights:
    """`wanted`, or the student where a teacher is wanted but the method has none."""
    return wanted if any(key.startswith(f"{wanted}.") for key in state) else "student"


def predict_scan(
    network: nn.Module, scan: Scan, plan: Plan, device: torch.device = CPU, batch_size: int = BATCH_SIZE
) -> np.ndarray:
    """The probability of every class in every voxel of a scan.

    Args:
        network: From images (B, C, *S) to logits (B, K, *S), in evaluation mode, on `device`.
        scan: Of any size and spacing.
        plan: The plan the network was trained by.
        device: Where to compute.
        batch_size: Slices that pass through the network at once; of volumes or their windows, an eighth as many.

    Returns:
        (K, *scan.grid.shape) float32 on the grid of the scan as it was read, summing to one over K; where
        `plan.restore` is nearest, 1 for the winning class and 0 for the others.
    """
    image = torch.from_numpy(to_network_grid(scan, plan))
    return to_scan_grid(network_probs(network, image, plan, device, batch_size).numpy(), scan.grid, plan)


@torch.inference_mode()
def network_probs(
    network: nn.Module, image: Tensor, plan: Plan, device: torch.device = CPU, batch_size: int = BATCH_SIZE
) -> Tensor:
    """Probabilities (N, K, *S), on the CPU, of prepared slices or volumes (N, C, *S)."""
    at_once = batch_size if plan.dimensions == 2 else max(1, batch_size // 8)
    if plan.fit == "crop":
        return _by_windows(network, image, plan.size, device, at_once)
    return torch.cat([network(some.to(device)).float().softmax(dim=1).cpu() for some in torch.split(image, at_once)])


def uncertainty_of(probs: np.ndarray) -> np.ndarray:
    """The entropy of probabilities (K, *S) over that of a blind guess: 0 is certain, 1 knows nothing."""
    return np.asarray(np.clip(entr(probs).sum(axis=0) / np.log(len(probs)), 0, 1), np.float32)


def predict_files(
    run: RunFolder,
    source: Path,
    out: Path,
    *,
    checkpoint: str = "last",
    weights: Weights = "teacher",
    probabilities: bool = False,
    uncertainty: bool = False,
    device: torch.device = CPU,
    report: Callable[[int, int], None] | None = None,
) -> PredictionSummary:
    """Segment one scan or a folder of them; those that cannot be read do not hold up the others.

    Args:
        run: The run whose network to use.
        source: A NIfTI file, or a folder of CASE_0000.nii.gz, one file per channel; a network of one channel also
            takes CASE.nii.gz.
        out: Folder for CASE.nii.gz, with the affine of the scan bit for bit.
        checkpoint: `last` or `best`.
        weights: `teacher` or `student`.
        probabilities: Write CASE_probabilities_<structure>.nii.gz too, restored linearly whatever the plan says.
        uncertainty: Write CASE_uncertainty.nii.gz too, see `uncertainty_of`.
        device: Where to compute.
        report: Called with the number of scans done and of all.

    Raises:
        UserError: There is no scan, or `out` cannot or must not be written to.
    """
    scans = find_scans(source)
    _check_out(out, source)
    network, plan = load_network(run, checkpoint, weights, device)
    return predict_cases(network, plan, scans, out, Maps(probabilities, uncertainty), device, report)


def predict_cases(
    network: nn.Module,
    plan: Plan,
    scans: Mapping[str, tuple[Path, ...]],
    out: Path,
    maps: Maps = Maps(),  # noqa: B008 - immutable
    device: torch.device = CPU,
    report: Callable[[int, int], None] | None = None,
) -> PredictionSummary:
    """Segment scans given by the name of their case, one file per channel, into `out`."""
    done, failed = [], []
    for count, (name, paths) in enumerate(scans.items(), start=1):
        try:
            _predict_case(network, plan, name, paths, out, maps, device)
            done.append(name)
        except UserError as error:
            failed.append((name, str(error)))
        if report:
            report(count, len(scans))
    return PredictionSummary(tuple(done), tuple(failed))


def find_scans(source: Path) -> dict[str, tuple[Path, ...]]:
    """The files of every case in a folder, or of the one case that a file belongs to, in the order of channels.

    Raises:
        UserError: There is no NIfTI file.
    """
    if not source.exists():
        raise UserError(f"{source} does not exist. Name a NIfTI file or a folder of NIfTI files.")
    files = sorted(source.iterdir()) if source.is_dir() else sorted(source.parent.iterdir())
    cases: dict[str, tuple[Path, ...]] = {}
    for path in files:
        if path.name.endswith((".nii", ".nii.gz")) and not path.name.startswith("."):
            cases[case_name(path)] = (*cases.get(case_name(path), ()), path)
    if source.is_dir() and cases:
        return cases
    if source.is_dir() or case_name(source) not in cases:
        raise UserError(
            f"{source} holds no scan: expected files that end in .nii.gz or .nii, such as CASE_0000.nii.gz."
        )
    return {case_name(source): cases[case_name(source)] if _channel(source) else (source,)}


def case_name(path: Path) -> str:
    """The case that a scan's file belongs to: its name without the ending and without the channel, such as _0000."""
    return re.sub(r"(_00\d\d)?\.nii(\.gz)?$", "", path.name)


def _channel(path: Path) -> str:
    found = re.search(r"_(00\d\d)\.nii(\.gz)?$", path.name)
    return found.group(1) if found else ""


def _part(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The weights of the sub-module `name`."""
    return {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}


def _by_windows(network: nn.Module, image: Tensor, size: tuple[int, ...], device: torch.device, at_once: int) -> Tensor:
    """Windows of the size the network was trained on, overlapping, whose middle counts most."""
    probs = sliding_window_inference(
        image,
        roi_size=size,
        sw_batch_size=at_once,
        predictor=lambda window: network(window).float().softmax(dim=1),
        overlap=OVERLAP,
        mode="gaussian",
        sw_device=device,
        device=CPU,
    )
    assert isinstance(probs, Tensor)  # as it is for a predictor that returns one
    return probs


def _predict_case(
    network: nn.Module, plan: Plan, name: str, paths: tuple[Path, ...], out: Path, maps: Maps, device: torch.device
) -> None:
    _check_channels(paths, plan)
    scan = read_image(paths)
    probs = network_probs(network, torch.from_numpy(to_network_grid(scan, plan)), plan, device).numpy()
    mask = to_scan_grid(probs, scan.grid, plan).argmax(axis=0)
    write_mask(out / f"{name}.nii.gz", mask.astype(np.uint8), like=paths[0])
    if maps.probabilities or maps.uncertainty:
        smooth = to_scan_grid(probs, scan.grid, plan.model_copy(update={"restore": "linear"}))
        _write_maps(smooth, plan.classes, out / name, maps, paths[0])


def _write_maps(probs: np.ndarray, classes: Sequence[str], stem: Path, maps: Maps, like: Path) -> None:
    if maps.probabilities:
        for structure, prob in zip(classes[1:], probs[1:], strict=True):
            write_map(stem.with_name(f"{stem.name}_probabilities_{structure}.nii.gz"), prob, like)
    if maps.uncertainty:
        write_map(stem.with_name(f"{stem.name}_uncertainty.nii.gz"), uncertainty_of(probs), like)


def _check_channels(paths: tuple[Path, ...], plan: Plan) -> None:
    found = [_channel(path) for path in paths]
    expected = [f"{index:04d}" for index in range(len(plan.channels))]
    if found == expected or (found == [""] and len(expected) == 1):
        return
    names = ", ".join(f"_{number}.nii.gz ({name})" for number, name in zip(expected, plan.channels, strict=True))
    raise UserError(
        f"{' and '.join(path.name for path in paths)}: the network takes {len(expected)} channel(s), in files that end "
        f"in {names}. Rename or add files so that each case has exactly these."
    )


def _check_out(out: Path, source: Path) -> None:
    """Predictions go to a folder of their own, where they can be neither taken for scans nor replace masks."""
    scans = source if source.is_dir() else source.parent
    of_data_set = out.name in DATA_SET_FOLDERS and (out.resolve().parent / "dataset.json").exists()
    if out.resolve() == scans.resolve() or of_data_set:
        raise UserError(f"{out} holds scans or masks of yours, which are never written over. Choose another folder.")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"Cannot make the folder {out}: {error.strerror}. Choose another one.") from error
    if not os.access(out, os.W_OK):
        raise UserError(f"{out} cannot be written to. Choose another folder, or ask for the right to write there.")
