"""Writer of the data set that an importer has read: an nnU-Net raw folder, whole or not at all."""

import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from patchcl.core.errors import UserError
from patchcl.core.files import write_json
from patchcl.core.parallel import ProgressCallback
from patchcl.data.dataset import IGNORE_LABEL, preview
from patchcl.data.formats import DICOM, mask_ending
from patchcl.data.scan import read_mask, write_mask
from patchcl.data.split_settings import PATIENT_PATTERN

Subset = Literal["train", "validation", "test"]
MANY = 8
"""More values in masks than this are rather greys, or numbers of objects, than classes."""
OBJECTS = "If they number objects: --objects, for the layouts plain and table, makes one structure of them."
SUBSETS: tuple[Subset, ...] = ("train", "validation", "test")


class SourceScan(NamedTuple):
    """One scan of a foreign data set, not yet read."""

    name: str
    side: Subset
    images: tuple[Callable[[Path], None], ...]  # each writes one channel, or all colours, to the file it is given
    mask: Callable[[Path], set[int]] | None  # writes the mask and tells the values in it
    instances: Callable[[Path], None] | None = None  # writes which object every voxel belongs to, where that is known
    files: tuple[Path, ...] = ()  # what it is made from; the folder of a DICOM series stands for its files
    mask_files: tuple[Path, ...] = ()  # those of them that hold its mask, where they may have colour maps


class SourceDataset(NamedTuple):
    """A foreign data set: its channels, and its scans in the order that its lists have them."""

    name: str
    channels: tuple[str, ...]
    scans: tuple[SourceScan, ...]
    ending: str = ".nii.gz"  # of the images
    structures: Mapping[str, int] | None = None  # name -> value in its masks, where the data set tells
    maskless: bool = False  # whether it may be that no scan has a mask; then it names `structures`
    lists: tuple[Path, ...] = ()  # other files of it that were read
    notes: tuple[str, ...] = ()  # what its user should know of how it was read


class ImportResult(NamedTuple):
    """What was written."""

    folder: Path
    split: Path | None  # the file with its sides, if the data set has any to validate on
    scans: int
    masks: int
    labels: dict[str, int]  # class -> value in the masks
    source_values: dict[str, int]  # class -> value that it had, if any class has another value now; else empty
    notes: tuple[str, ...] = ()  # what its user should know of how it was read
    unused: tuple[str, ...] = ()  # folders and files in the source that the data set was not made from


def patient_of(name: str) -> str:
    """The patient of the scan `name`, as training will read it from the name."""
    match = re.fullmatch(PATIENT_PATTERN, name)
    return name if match is None else match[1]


def write_raw_folder(
    dataset: SourceDataset,
    out: Path,
    structures: Sequence[str] | None = None,
    on_progress: ProgressCallback | None = None,
) -> ImportResult:
    """Write dataset.json, images and masks to the new folder `out`, and the sides, if there are any, to split.json.

    Nothing is left behind if anything goes wrong. Training and validation scans with masks go to imagesTr, those
    without a mask to imagesUn, test scans to imagesTs; split.json keeps the order of patients. Masks get values from
    0 without gaps.

    Args:
        dataset: What to write.
        out: A folder that does not exist yet, or is empty.
        structures: Names of the values 1, 2, ... in the masks, or of others, as NAME=VALUE; a data set that does not
            name them itself gets structure_1, structure_2, ...
        on_progress: Told how many scans of all are done.

    Raises:
        UserError: `out` holds something or cannot be written, a scan cannot be read, or scans contradict each other.
    """
    _require_sound(dataset)
    named = dataset.structures if structures is None else _named(structures)
    with _whole_folder(out) as folder:
        held = [{0}]
        for done, scan in enumerate(dataset.scans, start=1):
            held.append(_write_scan(scan, folder, dataset.ending))
            if on_progress is not None:
                on_progress(done, len(dataset.scans))
        if named is None and _number_objects(held):
            raise UserError(
                f"The masks of {dataset.name} hold running numbers up to {max(map(max, held))}, as those of objects, "
                f"such as cells. {OBJECTS} If they are classes, name them: --structures A,B,C."
            )
        source_values = (
            {"background": 0, **(named or {})} if _is_maskless(dataset) else _source_values(_joined(held), named)
        )
        labels = {name: index for index, name in enumerate(source_values)}
        if source_values != labels:
            _renumber(folder, list(source_values.values()))
        write_json(folder / "dataset.json", _description(dataset, labels))
        sides = {
            side: list(dict.fromkeys(patient_of(s.name) for s in dataset.scans if s.side == side)) for side in SUBSETS
        }
        if sides["validation"]:
            write_json(folder / "split.json", sides)
    masks = sum(scan.mask is not None for scan in dataset.scans)
    split = out / "split.json" if sides["validation"] else None
    changed = source_values if source_values != labels else {}
    return ImportResult(out, split, len(dataset.scans), masks, labels, changed, dataset.notes)


def _write_scan(scan: SourceScan, folder: Path, ending: str) -> set[int]:
    """Write the files of one scan; returns the values in its mask."""
    subset = "Ts" if scan.side == "test" else "Un" if scan.mask is None else "Tr"
    for channel, write in enumerate(scan.images):
        image = _new_file(folder, f"images{subset}", f"{scan.name}_{channel:04d}{ending}")
        write(image.with_suffix("") if ending == DICOM else image)
    name = f"{scan.name}{mask_ending(ending)}"
    if scan.instances is not None:
        scan.instances(_new_file(folder, f"instances{subset}", name))
    return set() if scan.mask is None else scan.mask(_new_file(folder, f"labels{subset}", name))


def _new_file(folder: Path, kind: str, name: str) -> Path:
    (folder / kind).mkdir(exist_ok=True)
    return folder / kind / name


def _joined(held: Sequence[set[int]]) -> set[int]:
    """The values in all masks; where some are black and white in 0 and 1 and the others in 0 and 255, the latter."""
    values = set().union(*held)
    black_and_white = all(own <= {0, 1} or own <= {0, 255} for own in held)
    return {0, 255} if black_and_white and 255 in values else values


def _number_objects(held: Sequence[set[int]]) -> bool:
    """Whether the values look as if they numbered objects: in each mask from 1 on without gaps, and to another end."""
    masks = [values - {0} for values in held if values - {0}]
    ends = {max(values) for values in masks}
    return len(ends) > 1 and max(ends) > MANY and all(len(values) == max(values) for values in masks)


def _renumber(folder: Path, source_values: Sequence[int]) -> None:
    """Give the masks in `folder` the values 0, 1, ... for those that they have, in their order here."""
    new_values = np.arange(256, dtype=np.uint8)
    new_values[list(source_values)] = range(len(source_values))
    for path in sorted(folder.glob("labels*/*")):
        write_mask(path, new_values[read_mask(path, 256)], path)


@contextmanager
def _whole_folder(out: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `out` when all went well and is removed when not."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not empty, and nothing is ever written over. Choose a new folder with -o.")
    unfinished = out.absolute().with_name(f".unfinished-{os.getpid()}-{out.name}")
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        if out.exists():
            out.rmdir()
        os.replace(unfinished, out)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error}. Make room, or choose another folder with -o.") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _require_sound(dataset: SourceDataset) -> None:
    """No name twice, no patient on two sides, and somebody to learn from and to validate on."""
    names = Counter(scan.name for scan in dataset.scans)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise UserError(f"{dataset.name} lists scans more than once: {preview(twice)}. List each on one side, once.")
    sides = Counter(patient for patient, _ in dict.fromkeys((patient_of(s.name), s.side) for s in dataset.scans))
    torn = [patient for patient, count in sides.items() if count > 1]
    if torn:
        advice = "All scans of a patient must be in one list."
        raise UserError(f"{dataset.name} has patients on two sides: {preview(torn)}. {advice}")
    masked = {scan.side for scan in dataset.scans if scan.mask is not None}
    if "train" not in masked and not _is_maskless(dataset):
        raise UserError(f"{dataset.name} has no scan with a mask to learn from. Check its masks and their names.")
    if "validation" in {scan.side for scan in dataset.scans} - masked:
        raise UserError(f"{dataset.name} has no scan with a mask to validate on. Check its validation list.")


def _is_maskless(dataset: SourceDataset) -> bool:
    return dataset.maskless and all(scan.mask is None for scan in dataset.scans)


def _named(structures: Sequence[str]) -> dict[str, int]:
    """Structure -> value in the masks, from names, or from NAME=VALUE."""
    pairs = [re.fullmatch(r"(.+)=([0-9]+)", structure) for structure in structures]
    if any(pairs) and not all(pairs):
        raise UserError(f"--structures {','.join(structures)}: give all structures a value, or none: A=85,B=170.")
    values = {pair[1]: int(pair[2]) for pair in pairs if pair}
    values = values or {name: value for value, name in enumerate(structures, start=1)}
    own = len({"background", *values}) == len({0, *values.values()}) == len(structures) + 1
    if not own or max(values.values(), default=0) > 255:
        raise UserError(
            f"--structures {','.join(structures)}: every structure needs a name of its own, which is not background, "
            "and a value of its own from 1 to 255."
        )
    return values


def _source_values(values: set[int], named: Mapping[str, int] | None) -> dict[str, int]:
    """Class name -> value in the masks as they came, in the order in which the classes are numbered.

    Where masks hold 0 and 255 alone, 255 is the one structure there is. What is called ignore comes last.
    """
    if values == {0, 255} and (named is None or list(named.values()) == [1]):
        named = dict.fromkeys(named or ["structure_1"], 255)
    if named is None and values == set(range(max(len(values), 2))):
        named = {f"structure_{value}": value for value in range(1, len(values))}
    held = f"the values {preview([str(value) for value in sorted(values)])}"
    advice = "Name the structure of every value: --structures A=85,B=170."
    if len(values) > MANY:
        advice += (
            f" If these are the grey edges of one structure: --threshold {(max(values) + 1) // 2}, for the layouts "
            f"plain, table, stacks and pymic. {OBJECTS}"
        )
    if named is None or len(values) < 2:
        raise UserError(f"The masks hold {held}; expected whole numbers from 0, the background, without gaps. {advice}")
    if values - {0, *named.values()}:
        structures = ", ".join(f"{name}={value}" for name, value in named.items())
        raise UserError(f"The structures are {structures}, but the masks hold {held}. {advice}")
    return {"background": 0} | dict(sorted(named.items(), key=lambda item: item[0] == IGNORE_LABEL))


def _description(dataset: SourceDataset, labels: dict[str, int]) -> dict[str, object]:
    """The content of dataset.json."""
    return {
        "name": dataset.name,
        "channel_names": {str(index): name for index, name in enumerate(dataset.channels)},
        "labels": labels,
        "numTraining": sum(scan.side != "test" and scan.mask is not None for scan in dataset.scans),
        "file_ending": dataset.ending,
    }
