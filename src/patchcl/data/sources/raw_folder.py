"""Writes what an importer has found as a data set of ours, whole or not at all."""

import gzip
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from patchcl.data.dataset import PATIENT_PATTERN, some
from patchcl.errors import UserError
from patchcl.run_folder import write_json

Side = Literal["train", "validation", "test"]
SIDES: tuple[Side, ...] = ("train", "validation", "test")
Report = Callable[[int, int], None] | None


class FoundScan(NamedTuple):
    """One scan of a foreign data set, not yet read."""

    name: str
    side: Side
    images: tuple[Callable[[Path], None], ...]  # each writes one channel to the .nii.gz file it is given
    mask: Callable[[Path], set[int]] | None  # writes the mask and tells the values in it

    @property
    def patient(self) -> str:
        """Whose scan it is, as training will read it from the name."""
        match = re.fullmatch(PATIENT_PATTERN, self.name)
        return self.name if match is None else match[1]


class FoundDataset(NamedTuple):
    """A foreign data set: its channels, and its scans in the order that its lists have them."""

    name: str
    channels: tuple[str, ...]
    scans: tuple[FoundScan, ...]


def write_raw_folder(
    found: FoundDataset, out: Path, structures: Sequence[str] | None = None, report: Report = None
) -> Path:
    """Write dataset.json, split.json, images and masks to the new folder `out` and return it.

    Nothing is left behind if anything goes wrong. Training and validation scans with masks go to imagesTr, those
    without a mask to imagesUn, test scans to imagesTs; split.json keeps the order of patients.

    Args:
        found: What to write.
        out: A folder that does not exist yet, or is empty.
        structures: Names of the values 1, 2, ... in the masks; by default structure_1, structure_2, ...
        report: Told how many scans of all are done.

    Raises:
        UserError: `out` holds something or cannot be written, a scan cannot be read, or scans contradict each other.
    """
    _demand_sound(found)
    with _whole_folder(out) as folder:
        values = {0}
        for done, scan in enumerate(found.scans, start=1):
            values |= _write_scan(scan, folder)
            if report is not None:
                report(done, len(found.scans))
        labels = _labels(values, structures)
        write_json(folder / "dataset.json", _description(found, labels))
        write_json(folder / "split.json", _split(found))
    return out


def copy_nifti(source: Path, target: Path) -> None:
    """The very bytes of `source`, compressed where they are not."""
    if source.name.endswith(".gz"):
        shutil.copyfile(source, target)
    else:
        target.write_bytes(gzip.compress(source.read_bytes(), mtime=0))


def _write_scan(scan: FoundScan, folder: Path) -> set[int]:
    """The files of one scan; returns the values in its mask."""
    kind = "Ts" if scan.side == "test" else "Un" if scan.mask is None else "Tr"
    (folder / f"images{kind}").mkdir(exist_ok=True)
    for channel, write in enumerate(scan.images):
        write(folder / f"images{kind}" / f"{scan.name}_{channel:04d}.nii.gz")
    if scan.mask is None:
        return set()
    (folder / f"labels{kind}").mkdir(exist_ok=True)
    return scan.mask(folder / f"labels{kind}" / f"{scan.name}.nii.gz")


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


def _demand_sound(found: FoundDataset) -> None:
    """No name twice, no patient on two sides, and somebody to learn from and to validate on."""
    names = Counter(scan.name for scan in found.scans)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise UserError(f"{found.name} lists scans more than once: {some(twice)}. List each on one side, once.")
    homes: dict[str, set[Side]] = {}
    for scan in found.scans:
        homes.setdefault(scan.patient, set()).add(scan.side)
    torn = [patient for patient, sides in homes.items() if len(sides) > 1]
    if torn:
        raise UserError(
            f"{found.name} has patients on two sides: {some(torn)}. All scans of a patient must be in one list."
        )
    for side, need in (("train", "learn from"), ("validation", "validate on")):
        if not any(scan.side == side and scan.mask is not None for scan in found.scans):
            raise UserError(f"{found.name} has no scan with a mask to {need}. Check its {side} list.")


def _labels(values: set[int], structures: Sequence[str] | None) -> dict[str, int]:
    """Class name -> value in the masks."""
    if len(values) < 2 or (structures is None and max(values) != len(values) - 1):
        raise UserError(
            f"The masks hold the values {some([str(value) for value in sorted(values)])}; expected whole numbers from "
            "0, the background, without gaps. Convert them, or name the structure of every value with --structures."
        )
    names = [f"structure_{value}" for value in range(1, len(values))] if structures is None else list(structures)
    if max(values) > len(names) or len({"background", *names}) != len(names) + 1:
        raise UserError(
            f"--structures names {', '.join(names)}, but the masks hold values up to {max(values)}. "
            "Name the structure of every value from 1, each once."
        )
    return {"background": 0} | {name: value for value, name in enumerate(names, start=1)}


def _description(found: FoundDataset, labels: dict[str, int]) -> dict[str, object]:
    return {
        "name": found.name,
        "channel_names": {str(index): name for index, name in enumerate(found.channels)},
        "labels": labels,
        "numTraining": sum(scan.side != "test" and scan.mask is not None for scan in found.scans),
        "file_ending": ".nii.gz",
    }


def _split(found: FoundDataset) -> dict[str, list[str]]:
    """Every side with its patients, in the order of the lists; of those who train, whoever has a mask is labeled."""
    return {side: list(dict.fromkeys(s.patient for s in found.scans if s.side == side)) for side in SIDES}
