"""What lies in an nnU-Net raw data set: its channels, its classes, its scans and whose they are.

Scans without a mask may lie in `imagesTr` beside the others or in `imagesUn`; held-out ones lie in `imagesTs`.
"""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from patchcl.errors import UserError

Folder = Literal["imagesTr", "imagesUn", "imagesTs"]
MASKS: dict[Folder, str | None] = {"imagesTr": "labelsTr", "imagesUn": None, "imagesTs": "labelsTs"}
ENDINGS = (".nii.gz", ".nii")
PATIENT_PATTERN = r"(?i)(.+?)(?:[_-](?:frame|phase|time|visit|session|ses|series|scan|slice|ed|es)(?:[_-]?[0-9]+)?)*"
"""Group 1 is the patient: patient002_frame01 -> patient002, hippocampus_001 -> hippocampus_001."""


class Case(NamedTuple):
    """One scan of one patient."""

    name: str
    patient: str
    images: tuple[Path, ...]  # one file per channel
    mask: Path | None
    folder: Folder


class Dataset(NamedTuple):
    """A data set as it lies on disk; nothing but `dataset.json` and file names was read."""

    root: Path
    name: str
    channels: tuple[str, ...]
    classes: tuple[str, ...]  # index = value in the mask; [0] is the background
    cases: tuple[Case, ...]  # sorted by name

    def case(self, name: str) -> Case:
        """The scan called `name`.

        Raises:
            UserError: There is none.
        """
        for case in self.cases:
            if case.name == name:
                return case
        raise UserError(f"{self.root} has no scan called {name}; it has {some([case.name for case in self.cases])}.")

    @property
    def patients(self) -> tuple[str, ...]:
        """Every patient once, sorted."""
        return tuple(sorted({case.patient for case in self.cases}))


def read_dataset(root: Path, patient_pattern: str = PATIENT_PATTERN) -> Dataset:
    """The data set in the folder `root`; `patient_pattern` must match a whole scan name, group 1 is the patient.

    Raises:
        UserError: Lists everything that is wrong with the layout, every file by its name.
    """
    description = _read_description(root)
    channels = _channels(root, description)
    classes = _classes(root, description)
    ending = _ending(root, description)
    problems: list[str] = []
    cases = [
        case for folder in MASKS for case in _cases_in(root, folder, ending, len(channels), patient_pattern, problems)
    ]
    problems += _repeated(cases)
    if problems:
        raise UserError(_listing(root, problems))
    if not any(case.folder == "imagesTr" for case in cases):
        raise UserError(f"{root / 'imagesTr'} holds no scans. Put images there, named like patient001_0000{ending}.")
    name = str(description.get("name", root.name))
    return Dataset(root, name, channels, classes, tuple(sorted(cases, key=lambda case: case.name)))


def _read_description(root: Path) -> dict[str, Any]:
    path = root / "dataset.json"
    if not path.is_file():
        raise UserError(
            f"{path} does not exist. A data set is a folder with dataset.json, imagesTr and labelsTr, like nnU-Net's."
        )
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not valid JSON: {error}. Correct it.") from error
    if not isinstance(description, dict):
        raise UserError(f"{path} must hold a JSON object with channel_names and labels.")
    return description


def _channels(root: Path, description: dict[str, Any]) -> tuple[str, ...]:
    named = description.get("channel_names", description.get("modality"))
    if not isinstance(named, dict) or sorted(named) != sorted(map(str, range(len(named)))) or not named:
        raise UserError(
            f'{root / "dataset.json"}: channel_names is {named}; expected a name for every channel: {{"0": "MRI"}}.'
        )
    return tuple(str(named[str(index)]) for index in range(len(named)))


def _classes(root: Path, description: dict[str, Any]) -> tuple[str, ...]:
    labels = description.get("labels")
    values = list(labels.values()) if isinstance(labels, dict) else []
    whole = all(type(value) is int for value in values)
    if not isinstance(labels, dict) or not whole or sorted(values) != list(range(len(values))) or len(values) < 2:
        raise UserError(
            f"{root / 'dataset.json'}: labels is {labels}; expected every class with its value in the masks, "
            'from 0 without gaps: {"background": 0, "tumour": 1, ...}.'
        )
    return tuple(sorted(labels, key=labels.__getitem__))


def _ending(root: Path, description: dict[str, Any]) -> str:
    ending = description.get("file_ending", ".nii.gz")
    if ending not in ENDINGS:
        raise UserError(f"{root / 'dataset.json'}: file_ending is {ending!r}; expected one of {', '.join(ENDINGS)}.")
    return str(ending)


def _cases_in(
    root: Path, folder: Folder, ending: str, channels: int, pattern: str, problems: list[str]
) -> Iterator[Case]:
    """The scans in one folder; what is wrong with them is added to `problems`."""
    images = _images_in(root / folder, ending, problems)
    masks = _masks_of(root, folder, ending)
    for name, files in sorted(images.items()):
        missing = [channel for channel in range(channels) if channel not in files]
        problems += [f"{folder}/{name}_{channel:04d}{ending} is missing" for channel in missing]
        extra = sorted(set(files) - set(range(channels)))
        problems += [f"{folder}/{files[channel].name}: dataset.json names no channel {channel}" for channel in extra]
        patient = _patient(name, pattern)
        if patient is None:
            problems.append(f"{folder}/{name}: the patient pattern {pattern!r} does not match this name")
        if not missing and not extra and patient is not None:
            yield Case(name, patient, tuple(files[c] for c in range(channels)), masks.get(name), folder)
    problems += [
        f"{masks[name].parent.name}/{masks[name].name} has no image" for name in sorted(set(masks) - set(images))
    ]


def _images_in(folder: Path, ending: str, problems: list[str]) -> dict[str, dict[int, Path]]:
    """Scan name -> channel -> file."""
    images: dict[str, dict[int, Path]] = {}
    for path in _files(folder, ending):
        match = re.fullmatch(r"(.+)_([0-9]{4})", path.name.removesuffix(ending))
        if match is None:
            problems.append(f"{folder.name}/{path.name}: the name must end in the channel, like _0000{ending}")
        else:
            images.setdefault(match[1], {})[int(match[2])] = path
    return images


def _masks_of(root: Path, folder: Folder, ending: str) -> dict[str, Path]:
    masks = MASKS[folder]
    return {} if masks is None else {path.name.removesuffix(ending): path for path in _files(root / masks, ending)}


def _files(folder: Path, ending: str) -> list[Path]:
    """The image files in `folder`, none if there is no such folder; hidden files are nobody's data."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.name.endswith(ending) and not path.name.startswith("."))


def _patient(name: str, pattern: str) -> str | None:
    try:
        match = re.fullmatch(pattern, name)
        return None if match is None else match[1]
    except (re.error, IndexError) as error:
        raise UserError(
            f"split.patient_pattern is {pattern!r}, which is no regular expression with a group for the patient "
            f"({error}). Expected something like: (patient[0-9]+)_.*"
        ) from error


def _repeated(cases: list[Case]) -> list[str]:
    first: dict[str, Case] = {}
    return [
        f"{case.folder}/{case.name} has the name of a scan in {first[case.name].folder}"
        for case in cases
        if first.setdefault(case.name, case) is not case
    ]


def _listing(root: Path, problems: list[str]) -> str:
    shown = [f"  {problem}" for problem in problems[:20]]
    more = [f"  and {len(problems) - 20} more"] if len(problems) > 20 else []
    return "\n".join([f"{root} is not laid out as expected. Mend these files, or remove them:", *shown, *more])


def some(names: Sequence[str]) -> str:
    """The first few of `names`, and how many more there are."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
