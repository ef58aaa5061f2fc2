"""Splits by patient: who is labeled, unlabeled, for validation and for the test. No patient is on two sides."""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from patchcl.core.documents import parse_json
from patchcl.core.errors import UserError
from patchcl.core.files import write_json
from patchcl.core.settings import FrozenSettings
from patchcl.data.dataset import Case, Dataset, preview
from patchcl.data.patients import one_patient, without
from patchcl.data.split_settings import SplitSettings

SIDES = {
    "labeled": "labeled",
    "train": "train",
    "train_patients_in_benchmark_order": "train",  # the names that the SSL4MIS benchmark uses
    "unlabeled": "unlabeled",
    "validation": "validation",
    "val_patients": "validation",
    "test": "test",
    "test_patients": "test",
}
"""Key in a split file -> the side it fills."""

OF_DATA_SET = ("split.json", "splits_final.json")
"""Names of split files that are used without being named, if they lie in the data set; the first that is there."""


class Split(FrozenSettings):
    """The patients on each side."""

    labeled: tuple[str, ...]
    unlabeled: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

    @property
    def hash(self) -> str:
        """The sha256 of who is where, in hex; the order of patients on a side does not count."""
        sides = {side: sorted(patients) for side, patients in self.model_dump().items()}
        return hashlib.sha256(json.dumps(sides, sort_keys=True).encode()).hexdigest()


def with_split_of(root: Path, settings: SplitSettings) -> tuple[SplitSettings, str]:
    """`settings` with the split file in the data set `root`, and a line that says so; unless they set `file` at all.

    Folds are left aside where nobody is to be kept for validation.

    Raises:
        UserError: The file cannot be read.
    """
    found = next((root / name for name in OF_DATA_SET if (root / name).is_file()), None)
    if found is None or "file" in settings.model_fields_set:
        return settings, ""
    if settings.validation_fraction == 0 and count_folds(found) is not None:
        return settings, f"{found} is left aside: its folds keep patients out, and split.validation_fraction is 0."
    line = f"The split is that of {found}, since it lies in the data set; --set split.file=null draws one instead."
    return settings.model_copy(update={"file": found.absolute()}), line


def count_folds(path: Path) -> int | None:
    """How many folds the split file `path` holds; None if it divides the patients once.

    Raises:
        UserError: The file cannot be read.
    """
    content = _read_json(path)
    return len(content) if isinstance(content, list) else None


def make_split(dataset: Dataset, settings: SplitSettings) -> Split:
    """Divide the patients of `dataset`, by the file in `settings` or else by its seed.

    Raises:
        UserError: A patient is unknown, on two sides or without masks where they are needed, or too few have masks.
    """
    if settings.file is None and settings.fold > 0:
        raise UserError(f"split.fold is {settings.fold}, but no file has folds. Add: --split splits_final.json")
    held_out, file = settings.validation_fraction > 0, settings.file
    sides = _drawn(dataset, settings) if file is None else _from_file(dataset, file, settings.fold, held_out)
    split = _limited(dataset, sides, settings.labeled)
    _require_sound(dataset, split, held_out)
    return split


def save_split(path: Path, split: Split) -> None:
    """Write `split` as JSON, its hash beside it."""
    write_json(path, {**split.model_dump(mode="json"), "hash": split.hash})


def load_split(path: Path) -> Split:
    """The split that `save_split` wrote.

    Raises:
        UserError: The file is missing, or was changed since: results would not be comparable.
    """
    try:
        content = parse_json(path.read_bytes())
        saved_hash = content.pop("fingerprint" if "fingerprint" in content else "hash")  # the former in version 0.1
        split = Split.model_validate(content)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, IndexError) as error:
        raise UserError(f"{path} cannot be read as a split. Restore it, or train again.") from error
    if split.hash != saved_hash:
        raise UserError(f"{path} was changed after the run began. Restore it, or train again.")
    return split


def visible_to_training(dataset: Dataset, split: Split) -> Dataset:
    """The data set as training may see it: no test scan, and masks of labeled and validation patients alone."""
    shown, blind = {*split.labeled, *split.validation}, set(split.unlabeled)
    return dataset._replace(
        cases=tuple(
            case if case.patient in shown else case._replace(mask=None)
            for case in dataset.cases
            if case.patient in shown | blind
        )
    )


def cases_of(dataset: Dataset, patients: Sequence[str], masked: bool | None) -> tuple[Case, ...]:
    """The scans of `patients` in the order of the data set: with a mask, without one, or (`masked` None) all."""
    wanted = set(patients)
    return tuple(
        case
        for case in dataset.cases
        if case.patient in wanted and (masked is None or (case.mask is not None) == masked)
    )


def _masked_patients(dataset: Dataset) -> set[str]:
    """Whoever has a mask outside the test folder."""
    return {case.patient for case in dataset.cases if case.mask is not None and case.folder != "imagesTs"}


def _drawn(dataset: Dataset, settings: SplitSettings) -> dict[str, list[str]]:
    """Sides by chance: a share of the patients with masks validates, the others train, in shuffled order."""
    test = sorted({case.patient for case in dataset.cases if case.folder == "imagesTs"})
    masked = sorted(_masked_patients(dataset) - set(test))
    random.Random(settings.seed).shuffle(masked)
    if len(masked) < 2 and settings.validation_fraction:
        raise UserError(
            f"{dataset.root} has {len(masked)} training patients with a mask in labelsTr; at least 2 are needed, "
            f"one to learn from and one to validate on. Annotate more.{one_patient(dataset.cases)}"
        )
    named = set(settings.labeled) if isinstance(settings.labeled, tuple) else set(masked[-1:])
    fraction = settings.validation_fraction
    count = max(1, round(fraction * len(masked))) if fraction else 0
    validation = [patient for patient in masked if patient not in named][:count]
    train = without(masked, validation)
    training_folders = {case.patient for case in dataset.cases if case.folder != "imagesTs"}
    unlabeled = sorted(training_folders - {*masked, *test})
    return {"train": train, "unlabeled": unlabeled, "validation": validation, "test": test}


def _from_file(dataset: Dataset, path: Path, fold: int, held_out: bool) -> dict[str, list[str]]:
    content = _read_json(path)
    if isinstance(content, list):
        return _from_folds(dataset, path, content, fold)
    if fold > 0:
        raise UserError(f"split.fold is {fold}, but {path} is no list of folds, as nnU-Net's splits_final.json is.")
    found = {key: value for key, value in content.items() if key in SIDES} if isinstance(content, dict) else {}
    sides: dict[str, list[str]] = {"train": [], "labeled": [], "unlabeled": [], "validation": [], "test": []}
    for key, patients in found.items():
        if not isinstance(patients, list) or not all(isinstance(patient, str) for patient in patients):
            raise UserError(f"{path}: {key} must be a list of patients, such as [{dataset.patients[0]!r}].")
        sides[SIDES[key]] += patients
    if not (sides["train"] or sides["labeled"]) or (held_out and not sides["validation"]):
        raise UserError(f'{path} must hold the lists "train" (or "labeled", "unlabeled"), "validation" and "test".')
    _require_known(dataset, sides, path)
    return sides


def _read_json(path: Path) -> Any:  # noqa: ANN401 - checked by the caller
    try:
        return parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"The split file {path} cannot be read: {error}. Check split.file.") from error


def _from_folds(dataset: Dataset, path: Path, folds: list[Any], fold: int) -> dict[str, list[str]]:
    """Sides by nnU-Net's splits_final.json, a list of {"train": scans, "val": scans}.

    It names none but scans with masks. So the patients without any are unlabeled as well, and those in imagesTs test.
    """
    if fold >= len(folds):
        raise UserError(f"split.fold is {fold}, but {path} has {len(folds)} folds, counted from 0.")
    chosen = folds[fold] if isinstance(folds[fold], dict) else {}
    train, validation = (_patients_of(dataset, path, chosen.get(key)) for key in ("train", "val"))
    both = without(train, without(train, validation))
    if both:
        raise UserError(
            f'{path}: patients with scans in both "train" and "val" of fold {fold}: {preview(both)}. Every scan of a '
            "patient must lie on one side; correct the file, or split.patient_pattern if these are different patients."
        )
    test = sorted({case.patient for case in dataset.cases if case.folder == "imagesTs"})
    aside = {*train, *validation, *test, *_masked_patients(dataset)}
    unlabeled = [patient for patient in dataset.patients if patient not in aside]
    return {"train": train, "unlabeled": unlabeled, "validation": validation, "test": test}


def _patients_of(dataset: Dataset, path: Path, scans: object) -> list[str]:
    """The patients of scans that a fold names, each once, in the order of the file."""
    if not isinstance(scans, list) or not scans or not all(isinstance(scan, str) for scan in scans):
        raise UserError(f'{path} must hold a list of folds like {{"train": ["scan_001"], "val": ["scan_002"]}}.')
    patients = {case.name: case.patient for case in dataset.cases if case.folder != "imagesTs"}
    missing = [scan for scan in scans if scan not in patients]
    if missing:
        raise UserError(
            f"{path} names scans that are neither in imagesTr nor imagesUn of {dataset.root}: {preview(missing)}. "
            "Restore them, or take them out of the file."
        )
    return list(dict.fromkeys(patients[scan] for scan in scans))


def _require_known(dataset: Dataset, sides: dict[str, list[str]], path: Path) -> None:
    """Every patient of a split file has scans, and whoever trains has them outside the test folder."""
    everyone = {case.patient for case in dataset.cases}
    training = {case.patient for case in dataset.cases if case.folder != "imagesTs"}
    for side, patients in sides.items():
        missing = [patient for patient in patients if patient not in (everyone if side == "test" else training)]
        if missing:
            where = "imagesTr, imagesUn or imagesTs" if side == "test" else "imagesTr or imagesUn"
            raise UserError(
                f"{path} names {side} patients that have no scans in {where} of {dataset.root}: {preview(missing)}. "
                f"Patients there are called {preview(dataset.patients)}: correct the file, or split.patient_pattern."
            )


def _limited(dataset: Dataset, sides: dict[str, list[str]], labeled: int | tuple[str, ...] | None) -> Split:
    """Let only `labeled` of the training patients keep their masks."""
    masked = _masked_patients(dataset)
    train = [*sides.get("labeled", []), *sides["train"]]
    able = [patient for patient in train if patient in masked]
    kept = _kept(dataset, able, labeled)
    lacking = [patient for patient in sides.get("labeled", []) if patient not in masked]
    if lacking:
        raise UserError(f"Labeled patients without any mask in {dataset.root / 'labelsTr'}: {preview(lacking)}.")
    hidden = without(train, kept)
    return Split(
        labeled=tuple(kept),
        unlabeled=(*hidden, *sides["unlabeled"]),
        validation=tuple(sides["validation"]),
        test=tuple(sides["test"]),
    )


def _kept(dataset: Dataset, able: list[str], labeled: int | tuple[str, ...] | None) -> list[str]:
    if labeled is None:
        return able
    if isinstance(labeled, tuple):
        unable = without(labeled, able)
        if unable or not labeled:
            raise UserError(
                f"split.labeled names patients that are not training patients with a mask: {preview(unable)}. "
                f"Choose among {preview(able)}."
            )
        return list(labeled)
    if not 1 <= labeled <= len(able):
        raise UserError(
            f"split.labeled is {labeled}, but {dataset.root} has {len(able)} training patients with masks after "
            f"validation has its share. Choose 1 to {len(able)}."
        )
    return able[:labeled]


def _require_sound(dataset: Dataset, split: Split, held_out: bool) -> None:
    """No patient twice, and validation, if anybody is `held_out` for it, can score everybody on it."""
    places = Counter(patient for side in split.model_dump().values() for patient in side)
    twice = sorted(patient for patient, count in places.items() if count > 1)
    if twice:
        raise UserError(
            f"Patients on two sides of the split, or twice on one: {preview(twice)}. "
            "Every scan of a patient must lie on one side; correct split.file, imagesTs or split.patient_pattern."
        )
    tested = {case.patient for case in dataset.cases if case.folder == "imagesTs"}
    mixed = [patient for patient in (*split.labeled, *split.unlabeled, *split.validation) if patient in tested]
    if mixed:
        raise UserError(
            f"Patients with scans in {dataset.root / 'imagesTs'}, which is for testing alone, are on another side: "
            f"{preview(mixed)}. Take those scans out of imagesTs, or name the patients as test patients."
        )
    if not split.labeled or (held_out and not split.validation):
        raise UserError(f"{dataset.root}: no patient with a mask is left to learn from, or none to validate on.")
    unseen = without(split.validation, _masked_patients(dataset))
    if unseen:
        raise UserError(f"Validation patients without any mask in {dataset.root / 'labelsTr'}: {preview(unseen)}.")
