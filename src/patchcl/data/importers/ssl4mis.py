"""SSL4MIS benchmark: slices and volumes in HDF5, and lists of who is on which side.

Source: https://github.com/HiLab-git/SSL4MIS, `dataloaders/dataset.py` and `data/ACDC`.
"""

import re
from functools import partial
from pathlib import Path

import numpy as np

from patchcl.core.errors import UserError
from patchcl.data.dataset import preview
from patchcl.data.formats.base import library, reading
from patchcl.data.importers.registry import NO_OPTIONS, Importer, ImportOptions
from patchcl.data.importers.transfer import write_array, write_classes
from patchcl.data.importers.writer import SourceDataset, SourceScan, Subset

KIND = "HDF5 with the arrays image and label"
Files = tuple[Path, ...]  # one volume, or all slices of one in their order


def detect(folder: Path) -> bool:
    """Whether there are data and a list of what to train on."""
    return (folder / "data").is_dir() and any(folder.glob("train*.list"))


def convert(source: Path, options: ImportOptions = NO_OPTIONS) -> SourceDataset:
    """The data set in the folder `source`: train_slices.list or train.list, val.list, test.list and data.

    Patients keep the order of the lists, so that the first N are the labeled ones of the published tables. Training
    scans are put together from the slices in data/slices that training there uses; without train_slices.list they
    are, like all others, the volumes in data. The benchmark has lost the spacing: all voxels are 1 mm wide.
    """
    library("h5py", source, "a data set of SSL4MIS", "hdf5")
    training = _slices(source) if (source / "train_slices.list").is_file() else _volumes(source, "train")
    files: dict[Subset, dict[str, Files]] = {"train": training, "validation": _volumes(source, "val")}
    if (source / "test.list").is_file():
        files["test"] = _volumes(source, "test")
    missing = [str(path) for side in files.values() for paths in side.values() for path in paths if not path.is_file()]
    if missing:
        raise UserError(f"{source} lists files that are not there: {preview(missing)}. Download the data set again.")
    scans = [
        SourceScan(name, side, (partial(_write_image, paths),), partial(_write_mask, paths), files=paths)
        for side, named in files.items()
        for name, paths in named.items()
    ]
    sliced = (source / "train_slices.list").is_file()
    lists = tuple(source / f"{name}.list" for name in ("train_slices" if sliced else "train", "val", "test"))
    return SourceDataset(source.resolve().name, ("image",), tuple(scans), lists=lists)


def _names(source: Path, list_name: str) -> list[str]:
    """The entries of a list, without endings and empty lines."""
    path = source / f"{list_name}.list"
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} cannot be read. A folder of SSL4MIS has data, train_slices.list, val.list and test.list."
        ) from error
    names = [line.strip().removesuffix(".h5") for line in lines if line.strip()]
    strange = [name for name in names if re.search(r"[/\\]", name)]
    if strange or not names:
        raise UserError(f"{path} holds {preview(strange) or 'nothing'}; expected one name of a scan in each line.")
    return names


def _volumes(source: Path, list_name: str) -> dict[str, Files]:
    names = _names(source, list_name)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"{source / list_name}.list names scans more than once: {preview(twice)}. Name each once.")
    return {name: (source / "data" / f"{name}.h5",) for name in names}


def _slices(source: Path) -> dict[str, Files]:
    """Scan -> its slices in the order of their numbers; scans in the order of the list."""
    path, folder = source / "train_slices.list", source / "data" / "slices"
    numbers: dict[str, list[int]] = {}
    for entry in _names(source, "train_slices"):
        match = re.fullmatch(r"(.+)_slice_([0-9]+)", entry)
        if match is None:
            raise UserError(f"{path} holds {entry}; expected names like patient001_frame01_slice_3.")
        numbers.setdefault(match[1], []).append(int(match[2]))
    broken = [
        name for name, own in numbers.items() if sorted(own) not in ([*range(len(own))], [*range(1, len(own) + 1)])
    ]
    if broken:
        raise UserError(
            f"{path} lacks slices of {preview(broken)}, or names some twice; expected all from the first, 0 or 1, to "
            "the last. Download the list again."
        )
    return {name: tuple(folder / f"{name}_slice_{n}.h5" for n in sorted(own)) for name, own in numbers.items()}


def _array(files: Files, key: str) -> np.ndarray:
    """One array of a scan, (x, y, z) as NIfTI has it; the benchmark has (z, y, x)."""
    layers = []
    for path in files:
        with reading(path, KIND), library("h5py", path, KIND, "hdf5").File(path, "r") as file:
            array = np.asarray(file[key])
            axes = 2 if len(files) > 1 or array.ndim == 2 else 3
            if array.ndim != axes or file["image"].shape != file["label"].shape or not array.size:
                shapes = f"image {file['image'].shape} and label {file['label'].shape}"
                raise ValueError(f"it holds {shapes}, not two arrays of one size with {axes} axes")
            layers.append(array[None] if array.ndim == 2 else array)
    if len({layer.shape[1:] for layer in layers}) > 1:
        raise UserError(f"{files[0]} and the slices after it differ in size. Download them again.")
    return np.concatenate(layers).transpose(2, 1, 0)


def _write_image(files: Files, target: Path) -> None:
    write_array(target, _array(files, "image").astype(np.float32), None, files[0])


def _write_mask(files: Files, target: Path) -> set[int]:
    return write_classes(target, _array(files, "label"), None, files[0])


IMPORTER = Importer("ssl4mis", "a folder of SSL4MIS: data, train_slices.list, val.list, test.list", detect, convert)
