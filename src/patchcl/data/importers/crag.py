"""The glands of CRAG: pictures of stained tissue with every gland drawn, in train and valid.

Source: CRAG v2, https://warwick.ac.uk/fac/cross_fac/tia/data/mildnet, as published code reads it; not checked against
the data itself. `train` (173 pictures) and `valid` (40, the test set of the MILD-Net paper) hold `Images/NAME.png` in
colour and `Annotation/NAME.png`, a grey picture with 0 for the background and a number for each gland. Annotations in
MATLAB files hold that map as `inst_map`, as in other data sets of that group. Nothing says which pictures share a
patient, so each counts as one.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from patchcl.core.errors import UserError
from patchcl.data.dataset import preview
from patchcl.data.formats import format_of
from patchcl.data.importers.transfer import COLOURS, place_image
from patchcl.data.importers.writer import FoundDataset, FoundScan, Subset
from patchcl.data.scan import read_grid, write_mask

FOLDERS: dict[str, Subset] = {"train": "train", "valid": "test"}
MAP = "inst_map"
LARGEST = 65535
"""Of the numbers that a picture can hold."""


def read(source: Path) -> FoundDataset:
    """The data set in the folder `source`, which holds train and perhaps valid.

    Glands become a mask of one class, and stay apart in `instancesTr` and `instancesTs`. Pictures without an
    annotation are unlabeled. The pictures in valid are for the final test.

    Raises:
        UserError: A folder is missing, or an annotation has no picture or a picture two of them.
    """
    if not is_crag(source):
        raise UserError(f"{source} is not laid out like CRAG: expected train and valid, each with Images, Annotation.")
    scans = [scan for folder, side in FOLDERS.items() for scan in _scans(source / folder, side)]
    return FoundDataset("CRAG", COLOURS, tuple(scans), ".png", {"gland": 1})


def is_crag(source: Path) -> bool:
    """Whether the folders for training are there."""
    return all((source / "train" / folder).is_dir() for folder in ("Images", "Annotation"))


def _scans(folder: Path, side: Subset) -> list[FoundScan]:
    images = {path.stem: path for path in _visible(folder / "Images", (".png",))}
    annotations: dict[str, Path] = {}
    for path in _visible(folder / "Annotation", (".png", ".mat")):
        if annotations.setdefault(path.stem, path) is not path:
            raise UserError(f"{folder / 'Annotation'} holds {path.stem} as .mat and as .png. Keep one of them.")
    alone = sorted(set(annotations) - set(images))
    if alone:
        raise UserError(f"{folder / 'Annotation'} holds {preview(alone)} without a picture in Images. Restore them.")
    return [_scan(images, annotations, name, side) for name in images]


def _visible(folder: Path, endings: tuple[str, ...]) -> list[Path]:
    return sorted(path for path in folder.glob("[!.]*") if path.name.lower().endswith(endings))


def _scan(images: Mapping[str, Path], annotations: Mapping[str, Path], name: str, side: Subset) -> FoundScan:
    image, annotation = images[name], annotations.get(name)
    place = partial(place_image, image, 3)
    if annotation is None:
        return FoundScan(name, side, (place,), None)
    return FoundScan(
        name, side, (place,), partial(_write_mask, annotation, image), partial(_write_instances, annotation, image)
    )


def _write_mask(annotation: Path, image: Path, target: Path) -> set[int]:
    glands = (_instances(annotation, image) > 0).astype(np.uint8)
    write_mask(target, glands, image)
    return set(np.unique(glands).tolist())


def _write_instances(annotation: Path, image: Path, target: Path) -> None:
    instances = _instances(annotation, image)
    small = instances.max(initial=0) < 256
    format_of(target).write_like(target, instances.astype(np.uint8 if small else np.uint16), image)


def _instances(annotation: Path, image: Path) -> np.ndarray:
    """The number of the gland that each pixel belongs to, on the grid of `image`; 0 outside."""
    matlab = annotation.suffix.lower() == ".mat"
    values = _from_matlab(annotation) if matlab else format_of(annotation).read_values(annotation)
    shape, low, high = (1, *read_grid(image).shape), values.min(initial=0), values.max(initial=0)
    if values.shape != shape or low < 0 or high > LARGEST or (values != np.floor(values)).any():
        raise UserError(
            f"{annotation} holds an array {values.shape} of values from {low:g} to {high:g}; expected {shape} and the "
            "number of a gland in each pixel, 0 outside. Download it again."
        )
    instances: np.ndarray = values[0]
    return instances


def _from_matlab(path: Path) -> np.ndarray:
    """The map of instances (1, rows, columns) in a MATLAB file."""
    from scipy.io import loadmat

    try:
        return np.asarray(loadmat(path)[MAP], np.float64)[None]
    except Exception as error:  # a damaged file makes SciPy raise whatever it likes
        raise UserError(
            f"{path} cannot be read ({error}); expected a MATLAB file with {MAP}. Download it again."
        ) from error
