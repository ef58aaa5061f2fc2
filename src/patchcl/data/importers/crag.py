"""CRAG: pictures of stained tissue with every gland drawn, in train and valid.

Source: CRAG v2, https://warwick.ac.uk/fac/cross_fac/tia/data/mildnet, as published code reads it; not checked against
the data itself. `train` (173 pictures) and `valid` (40, the test set of the MILD-Net paper) hold `Images/NAME.png` in
colour and `Annotation/NAME.png`, a grey picture with 0 for the background and a number for each gland. Annotations in
MATLAB files hold that map as `inst_map`, as in other data sets of that group. Nothing says which pictures share a
patient, so each counts as one.
"""

from functools import partial
from operator import attrgetter
from pathlib import Path

import numpy as np

from patchcl.core.errors import UserError
from patchcl.data.formats import format_of
from patchcl.data.formats.base import reading
from patchcl.data.importers.registry import NO_OPTIONS, Importer, ImportOptions
from patchcl.data.importers.scan_files import COLOURS, files_by_name, pair_masks
from patchcl.data.importers.transfer import transfer_image
from patchcl.data.importers.writer import SourceDataset, SourceScan, Subset
from patchcl.data.scan import read_grid, write_ids, write_mask

FOLDERS: dict[str, Subset] = {"train": "train", "valid": "test"}
MAP = "inst_map"
LARGEST = 65535
"""Of the numbers that a picture can hold."""


def detect(folder: Path) -> bool:
    """Whether the folders for training are there."""
    return all((folder / "train" / kind).is_dir() for kind in ("Images", "Annotation"))


def convert(source: Path, options: ImportOptions = NO_OPTIONS) -> SourceDataset:
    """The data set in the folder `source`, which holds train and perhaps valid.

    Glands become a mask of one class, and stay apart in `instancesTr` and `instancesTs`. Pictures without an
    annotation are unlabeled. The pictures in valid are for the final test.
    """
    if not detect(source):
        raise UserError(f"{source} is not laid out like CRAG: expected train and valid, each with Images, Annotation.")
    scans = [scan for folder, side in FOLDERS.items() for scan in _scans(source / folder, side)]
    return SourceDataset("CRAG", COLOURS, tuple(scans), ".png", {"gland": 1})


def _scans(folder: Path, side: Subset) -> list[SourceScan]:
    images = _files_by_name(folder / "Images", ".png")
    annotations = _files_by_name(folder / "Annotation", ".png", ".mat")
    paired = pair_masks(images, annotations, folder / "Annotation")
    return [_scan(name, side, image, paired.get(name)) for name, image in images.items()]


def _files_by_name(folder: Path, *endings: str) -> dict[str, Path]:
    visible = sorted(path for path in folder.glob("[!.]*") if path.name.lower().endswith(endings))
    return files_by_name(visible, attrgetter("stem"))


def _scan(name: str, side: Subset, image: Path, annotation: Path | None) -> SourceScan:
    images = (partial(transfer_image, image, len(COLOURS)),)
    if annotation is None:
        return SourceScan(name, side, images, None, files=(image,))
    mask, instances = partial(_write_mask, annotation, image), partial(_write_instances, annotation, image)
    return SourceScan(name, side, images, mask, instances, (image, annotation))


def _write_mask(annotation: Path, image: Path, target: Path) -> set[int]:
    glands = (_instances(annotation, image) > 0).astype(np.uint8)
    write_mask(target, glands, image)
    return set(np.unique(glands).tolist())


def _write_instances(annotation: Path, image: Path, target: Path) -> None:
    write_ids(target, _instances(annotation, image), image)


def _instances(annotation: Path, image: Path) -> np.ndarray:
    """The number of the gland that each pixel belongs to, on the grid of `image`; 0 outside."""
    matlab = annotation.suffix.lower() == ".mat"
    values = _read_matlab(annotation) if matlab else format_of(annotation).read_values(annotation)
    shape, low, high = (1, *read_grid(image).shape), values.min(initial=0), values.max(initial=0)
    if values.shape != shape or low < 0 or high > LARGEST or (values != np.floor(values)).any():
        raise UserError(
            f"{annotation} holds an array {values.shape} of values from {low:g} to {high:g}; expected {shape} and the "
            "number of a gland in each pixel, 0 outside. Download it again."
        )
    instances: np.ndarray = values[0]
    return instances


def _read_matlab(path: Path) -> np.ndarray:
    """The map of instances (1, rows, columns) in a MATLAB file."""
    from scipy.io import loadmat

    with reading(path, f"a MATLAB file with {MAP}"):
        return np.asarray(loadmat(path)[MAP], np.float64)[None]


IMPORTER = Importer("crag", "CRAG v2: train and valid, each with Images and Annotation", detect, convert)
