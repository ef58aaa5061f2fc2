"""Medical Segmentation Decathlon: tasks of NIfTI volumes that dataset.json lists.

Source: http://medicaldecathlon.com and the dataset.json of its tasks: `modality` and `labels` map "0", "1", ... to
names, `training` lists pairs of image and label, `test` images alone. Images of several modalities have four axes.
"""

from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from patchcl.core.documents import parse_json
from patchcl.core.errors import UserError
from patchcl.data.dataset import preview
from patchcl.data.formats import without_ending
from patchcl.data.formats.base import reading
from patchcl.data.formats.nifti import affine_mm
from patchcl.data.geometry import grid_of, require_same_grid
from patchcl.data.importers.registry import NO_OPTIONS, Importer, ImportOptions
from patchcl.data.importers.scan_files import ScanFiles
from patchcl.data.importers.transfer import transfer_mask
from patchcl.data.importers.writer import SourceDataset, SourceScan, Subset
from patchcl.data.scan import read_grid


def detect(folder: Path) -> bool:
    """Whether dataset.json is that of a task whose files are there under the names in its list."""
    task = _task(folder)
    return task is not None and (folder / str(task["training"][0]["image"])).is_file()


def convert(source: Path, options: ImportOptions = NO_OPTIONS) -> SourceDataset:
    """The task in the folder `source`. Its test images, which have no masks, are kept for the final test."""
    task = _task(source)
    if task is None:
        raise UserError(
            f"{source / 'dataset.json'} is not that of a Decathlon task; expected modality, labels, and a list "
            "training of image and label. Name the folder of one task, such as Task04_Hippocampus."
        )
    channels = tuple(name for _, name in sorted(_numbered(task["modality"]).items()))
    structures = {name: value for value, name in sorted(_numbered(task["labels"]).items()) if value > 0}
    training = [(str(pair["image"]), str(pair["label"])) for pair in task["training"]]
    test = [str(image) for image in task.get("test", ())]
    missing = [file for file in [*sum(training, ()), *test] if not (source / file).is_file()]
    if missing:
        raise UserError(f"{source / 'dataset.json'} lists files that are not there: {preview(missing)}. Restore them.")
    scans = [_scan(source / image, source / label, "train", len(channels)) for image, label in training]
    scans += [_scan(source / image, None, "test", len(channels)) for image in test]
    name, lists = str(task.get("name", source.name)), (source / "dataset.json",)
    return SourceDataset(name, channels, tuple(scans), structures=structures, lists=lists)


def _task(source: Path) -> dict[str, Any] | None:
    """What dataset.json says of a task, None if it is missing or is something else."""
    try:
        task = parse_json((source / "dataset.json").read_bytes())
        _numbered(task["modality"]), _numbered(task["labels"])
        return task if task["training"] and all({"image", "label"} <= set(pair) for pair in task["training"]) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _numbered(names: dict[str, str]) -> dict[int, str]:
    """Number -> name, where JSON has numbers as text."""
    return {int(number): name.strip() for number, name in names.items()}


def _scan(image: Path, label: Path | None, side: Subset, channels: int) -> SourceScan:
    """One scan; several channels are the fourth axis of its image."""
    name = without_ending(image.name)
    if channels == 1:
        return ScanFiles(name, [image], label, side).as_scan(1)
    images = tuple(partial(_write_channel, image, channel, channels) for channel in range(channels))
    if label is None:
        return SourceScan(name, side, images, None, files=(image,))
    return SourceScan(name, side, images, partial(_transfer_mask, label, image), files=(image, label))


def _open(path: Path) -> Any:  # noqa: ANN401 - nibabel has no types
    with reading(path, "a NIfTI image"):
        return nib.load(path)


def _write_channel(source: Path, channel: int, channels: int, target: Path) -> None:
    """One channel of an image with four axes, its numbers and its header as they are."""
    image = _open(source)
    if image.ndim != 4 or image.shape[3] != channels:
        raise UserError(
            f"{source} has shape {image.shape}; expected four axes, the last with the {channels} channels that "
            "dataset.json names. Download it again."
        )
    with reading(source, "a NIfTI image"):
        values = np.asarray(image.dataobj[..., channel])
    header = image.header.copy()
    header.set_data_dtype(np.float32 if values.dtype == np.float64 else values.dtype)
    nib.save(nib.Nifti1Image(values, image.affine, header), target)


def _transfer_mask(source: Path, image: Path, target: Path) -> set[int]:
    volume = _open(image)
    require_same_grid(read_grid(source), grid_of(image, volume.shape[:3], affine_mm(volume)), source, image.name)
    return transfer_mask(source, source, target)


IMPORTER = Importer("decathlon", "a task of the Medical Segmentation Decathlon with its dataset.json", detect, convert)
