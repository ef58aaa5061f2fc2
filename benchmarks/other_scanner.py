"""A copy of a data set in which half of the unlabeled patients, and all of validation, come from another scanner.

    python benchmarks/other_scanner.py DATA COPY --split DATA/ssl4mis_split.json --labeled 7     # a minute for ACDC
    patchcl compare COPY -o runs/other_scanner -c experiments/acdc_methods_cpu.yaml --methods supervised,patchcl \
        --seeds 0,1,2 --on validation

DATA is in nnU-Net layout, its files of one channel each. The other scanner is the same for all: other contrast (a power
of grey values), a smooth bias field, blur and noise. Of the unlabeled patients that it scanned it turned the contrast
over in half, as another sequence would; never for validation. Labeled and test patients stay as they are. Masks of
unlabeled patients are not in COPY at all. Its split.json names the sides, who was changed and who turned over; patchcl
finds it there. The same seed gives the same copy.
"""

import argparse
import random
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter

from patchcl.core.files import write_json
from patchcl.data.dataset import Case, Dataset, read_dataset
from patchcl.data.formats import format_of
from patchcl.data.importers.transfer import link_or_copy
from patchcl.data.scan import read_grid
from patchcl.data.splits import Split, SplitSettings, make_split, with_split_of

GAMMA = 0.6
"""Power of grey values between 0 and 1: dark tissue becomes brighter."""
BIAS = 0.35
"""Standard deviation of the logarithm of the bias field, a polynomial of the second degree."""
BLUR = 0.8
"""Standard deviation, in the finest of the voxel spacings."""
NOISE = 0.04
"""Standard deviation, in the range of grey values."""
OBJECTS = {"imagesTr": "instancesTr", "imagesUn": None, "imagesTs": "instancesTs"}


class Changed(NamedTuple):
    """Patients whose scans are those of the other scanner."""

    unlabeled: tuple[str, ...]
    turned_over: tuple[str, ...]  # of these, as well
    validation: tuple[str, ...]

    @property
    def all(self) -> frozenset[str]:
        """Whoever was changed at all."""
        return frozenset(self.unlabeled + self.validation)


def main() -> None:
    """Make the copy, and say who was changed."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("data", type=Path)
    arguments.add_argument("copy", type=Path, help="a folder that is not there yet")
    arguments.add_argument("--split", type=Path, help="a split file, as of patchcl train; else that of the data set")
    arguments.add_argument("--labeled", type=int, help="the first so many training patients keep their masks")
    arguments.add_argument("--seed", type=int, default=0)
    chosen = arguments.parse_args()
    settings = (
        SplitSettings(labeled=chosen.labeled)
        if chosen.split is None
        else SplitSettings(labeled=chosen.labeled, file=chosen.split)
    )
    dataset = read_dataset(chosen.data)
    split = make_split(dataset, with_split_of(chosen.data, settings)[0])
    if chosen.copy.exists():
        sys.exit(f"{chosen.copy} is there already. Name a folder that is not.")
    changed = draw(split, chosen.seed)
    write_copy(dataset, split, changed, chosen.copy, chosen.seed)
    sys.stdout.write(
        f"{chosen.copy}: {len(split.labeled)} labeled patients as they are; of {len(split.unlabeled)} unlabeled ones "
        f"{len(changed.unlabeled)} from another scanner, {len(changed.turned_over)} of them with contrast turned over; "
        f"{len(changed.validation)} validation patients from that scanner.\n"
    )


def draw(split: Split, seed: int) -> Changed:
    """Half of the unlabeled patients, half of these turned over, and all of validation."""
    shuffled = random.Random(seed).sample(split.unlabeled, len(split.unlabeled))
    unlabeled = shuffled[: len(shuffled) // 2]
    return Changed(tuple(unlabeled), tuple(unlabeled[: len(unlabeled) // 2]), split.validation)


def write_copy(dataset: Dataset, split: Split, changed: Changed, copy: Path, seed: int) -> None:
    """Change the scans of who was `changed`, link or copy the others, and leave out masks of unlabeled patients."""
    copy.mkdir(parents=True)
    link_or_copy(dataset.root / "dataset.json", copy / "dataset.json")
    known = {patient for side in (split.labeled, split.unlabeled, split.validation, split.test) for patient in side}
    for case in dataset.cases:
        if case.patient in known:
            write_images(case, changed, copy, seed)
            if case.patient not in split.unlabeled:
                keep_masks(case, dataset.root, copy)
    drawn = {"changed": sorted(changed.all), "turned_over": sorted(changed.turned_over), "seed": seed}
    write_json(copy / "split.json", split.model_dump(mode="json") | drawn)  # last: what has it is whole


def write_images(case: Case, changed: Changed, copy: Path, seed: int) -> None:
    """The files of one scan, changed or as they are."""
    for image in case.images:
        target = copy / case.folder / image.name
        target.parent.mkdir(exist_ok=True)
        if case.patient not in changed.all:
            link_or_copy(image, target)
            continue
        values = format_of(image).read_values(image)
        if len(values) > 1:
            sys.exit(f"{image} holds {len(values)} channels; expected one. Save every channel as a file of its own.")
        drawn = [np.random.default_rng([seed, zlib.crc32(name.encode())]) for name in (case.patient, image.name)]
        shown = scanned_elsewhere(values[0], read_grid(image).spacing_mm, *drawn, case.patient in changed.turned_over)
        format_of(image).write_like(target, shown, image)


def keep_masks(case: Case, root: Path, copy: Path) -> None:
    """The masks of one scan, of classes and of objects, where there are any."""
    folder = OBJECTS[case.folder]
    objects = [] if folder is None else (root / folder).glob(f"{case.name}.*")
    for mask in [case.mask, *objects]:
        if mask is not None:
            target = copy / mask.parent.name / mask.name
            target.parent.mkdir(exist_ok=True)
            link_or_copy(mask, target)


def scanned_elsewhere(
    values: np.ndarray,
    spacing_mm: Sequence[float],
    of_patient: np.random.Generator,
    of_scan: np.random.Generator,
    turned_over: bool,
) -> np.ndarray:
    """The grey `values` (*shape) as the other scanner shows them, of the same type and in the same range.

    The bias field is one for all scans of a patient, noise is each scan's own.
    """
    low, high = (float(value) for value in np.percentile(values, (0, 99.5)))
    unit = np.clip((values.astype(np.float64) - low) / max(high - low, 1e-6), 0, 1)
    unit = (1 - unit if turned_over else unit) ** GAMMA
    unit *= bias_field(unit.shape, of_patient)
    unit = gaussian_filter(unit, [BLUR * min(spacing_mm) / along for along in spacing_mm])
    unit += of_scan.normal(0, NOISE, unit.shape)
    shown = np.clip(unit, 0, 1.5) * (high - low) + low
    if values.dtype.kind in "iu":
        limits = np.iinfo(values.dtype)
        return np.clip(np.rint(shown), limits.min, limits.max).astype(values.dtype)
    return shown.astype(np.float32)


def bias_field(shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    """A smooth factor around 1 for every voxel."""
    axes = np.meshgrid(*(np.linspace(-1, 1, length) if length > 1 else np.zeros(1) for length in shape), indexing="ij")
    terms = [*axes, *(one * two for place, one in enumerate(axes) for two in axes[place:])]
    field = sum(weight * term for weight, term in zip(random.normal(size=len(terms)), terms, strict=True))
    field = field - field.mean()
    return np.asarray(np.exp(BIAS * field / max(field.std(), 1e-6)))


if __name__ == "__main__":
    main()
