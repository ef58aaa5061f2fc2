"""Data set in nnU-Net raw layout, as it lies on disk: its channels, its classes, its scans and whose they are.

Scans without a mask may lie in `imagesTr` beside the others or in `imagesUn`; held-out ones lie in `imagesTs`. All
have the `file_ending` of dataset.json, in either case; for ".dcm" an image may be the folder of a series instead. Masks
may be of any format, as long as they lie on the grid of their scan.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from patchcl.core.documents import parse_json
from patchcl.core.errors import UserError
from patchcl.core.names import steers
from patchcl.data.folders import files_in, mask_files, require_description, unused_below
from patchcl.data.formats import DICOM, ENDINGS, count_channels, ending_of, without_ending
from patchcl.data.regions import ORDER, Regions, stored_classes
from patchcl.data.split_settings import PATIENT_PATTERN

Folder = Literal["imagesTr", "imagesUn", "imagesTs"]
MASKS: dict[Folder, str | None] = {"imagesTr": "labelsTr", "imagesUn": None, "imagesTs": "labelsTs"}
IGNORE_LABEL = "ignore"
"""What nnU-Net calls the value of voxels that nobody annotated."""
WHITE = 255
"""What may stand for the one structure there is."""
MOST_CLASSES = 255
"""Background and all: classes are kept in a byte, whose highest value marks what nobody annotated."""
LONGEST_NAME = 60
"""Letters of a class, which becomes a part of file names."""


class Case(NamedTuple):
    """One scan of one patient."""

    name: str
    patient: str
    images: tuple[Path, ...]  # one file per channel; a picture in colour holds three
    mask: Path | None
    folder: Folder


class Dataset(NamedTuple):
    """A data set as it lies on disk; nothing but `dataset.json`, file names and headers of pictures was read."""

    root: Path
    name: str
    channels: tuple[str, ...]
    classes: tuple[str, ...]  # index = value in the mask; [0] is the background
    cases: tuple[Case, ...]  # sorted by name
    ignore: int | None = None  # value of voxels in the masks that nobody annotated
    unused: tuple[str, ...] = ()  # files and folders that are neither scans nor masks, a line each
    regions: Regions = MappingProxyType({})  # structures that join several classes, and are scored instead of these

    def case(self, name: str) -> Case:
        """The scan called `name`.

        Raises:
            UserError: There is none.
        """
        for case in self.cases:
            if case.name == name:
                return case
        raise UserError(f"{self.root} has no scan called {name}; it has {preview([case.name for case in self.cases])}.")

    @property
    def patients(self) -> tuple[str, ...]:
        """Every patient once, sorted."""
        return tuple(sorted({case.patient for case in self.cases}))


def read_dataset(root: Path, patient_pattern: str = PATIENT_PATTERN) -> Dataset:
    """The data set in the folder `root`; `patient_pattern` must match a whole scan name, group 1 is the patient.

    Raises:
        UserError: Lists everything that is wrong with the layout, every file by its name.
    """
    dataset, problems = survey_dataset(root, patient_pattern)
    if problems:
        raise UserError(_listing(root, problems))
    return dataset


def survey_dataset(root: Path, patient_pattern: str = PATIENT_PATTERN) -> tuple[Dataset, list[str]]:
    """What can be understood of the folder `root`, and what is wrong with its layout, one line each.

    With problems, scans may lack channels; of two scans with one name the first is taken.

    Raises:
        UserError: There is nothing to look into, because dataset.json or all scans are missing or wrong.
    """
    description = _read_description(root)
    channels = _channels(root, description)
    classes, ignore, regions = _classes(root, description)
    ending = _ending(root, description)
    problems: list[str] = []
    cases = [
        case for folder in MASKS for case in _cases_in(root, folder, ending, len(channels), patient_pattern, problems)
    ]
    problems += _repeated(cases)
    dropped, unused = unused_below(root, ending, MASKS.items())
    problems += dropped
    if not any(case.folder == "imagesTr" for case in cases):
        if problems:
            raise UserError(_listing(root, problems))
        raise UserError(f"{root / 'imagesTr'} holds no scans. Put images there, named like patient001_0000{ending}.")
    name = str(description.get("name", root.name))
    by_name = {case.name: case for case in reversed(cases)}
    ordered = tuple(by_name[key] for key in sorted(by_name))
    return Dataset(root, name, channels, classes, ordered, ignore, tuple(unused), regions), problems


def _read_description(root: Path) -> dict[str, Any]:
    path = require_description(root)
    try:
        description = parse_json(path.read_bytes())
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


def _classes(root: Path, description: dict[str, Any]) -> tuple[tuple[str, ...], int | None, Regions]:
    """The classes in the order of their values, the value of nnU-Net's label `ignore`, if there is one, and regions."""
    path, labels = root / "dataset.json", description.get("labels")
    given = labels if isinstance(labels, dict) else {}
    ignored = [name for name in given if name.casefold() == IGNORE_LABEL]
    if len(ignored) > 1:
        raise UserError(f"{path}: labels names {' and '.join(ignored)}, which are one and the same. Leave one of them.")
    values = {IGNORE_LABEL if name.casefold() == IGNORE_LABEL else name: value for name, value in given.items()}
    values, regions = stored_classes(path, values, description.get(ORDER), IGNORE_LABEL)
    whole = all(type(value) is int for value in values.values())
    if whole and set(values.values()) == {0, WHITE} and IGNORE_LABEL not in values:  # one structure in white on black
        values = {name: int(value == WHITE) for name, value in values.items()}
    order = sorted(values, key=lambda name: (name == IGNORE_LABEL, values[name])) if whole else []
    classes = tuple(name for name in order if name != IGNORE_LABEL)
    if len(classes) < 2 or [values[name] for name in order] != list(range(len(values))):
        raise UserError(
            f"{path}: labels is {labels}; expected every class with its value in the masks, "
            'from 0 without gaps: {"background": 0, "tumour": 1, ...}. '
            f'A label called "{IGNORE_LABEL}", for voxels that nobody annotated, must have the highest value.'
        )
    if len(classes) > MOST_CLASSES:
        raise UserError(f"{path}: labels has {len(classes)} classes, but at most {MOST_CLASSES} fit. Join some.")
    wrong = [line for name in dict.fromkeys([*classes, *regions]) if (line := _wrong_name(name))]
    if wrong:
        raise UserError(f"{path}: labels holds names that cannot be: {'; '.join(wrong)}. Rename them.")
    return classes, values.get(IGNORE_LABEL), regions


def _wrong_name(name: str) -> str:
    """Why a class cannot be called so, as tables, file names and logs are to hold the name; nothing if it can."""
    if not name.strip() or len(name) > LONGEST_NAME:
        return f"{name[:20]!r} has {len(name)} letters, expected 1 to {LONGEST_NAME}"
    if steers(name):
        return f"{name!r} holds characters that steer a terminal"
    if name.strip().casefold() == "mean":
        return f"{name!r} is the row that averages all classes"
    return f"{name!r} begins as a formula does in spreadsheets" if name[0] in "=+@-" else ""


def _ending(root: Path, description: dict[str, Any]) -> str:
    ending = description.get("file_ending", ".nii.gz")
    if str(ending).lower() not in ENDINGS:
        raise UserError(f"{root / 'dataset.json'}: file_ending is {ending!r}; expected one of {', '.join(ENDINGS)}.")
    return str(ending).lower()


def _cases_in(
    root: Path, folder: Folder, ending: str, channels: int, pattern: str, problems: list[str]
) -> Iterator[Case]:
    """The scans in one folder; what is wrong with them is added to `problems`."""
    images = _images_in(root / folder, ending, problems)
    masks = _masks_of(root, folder, problems)
    for name, files in sorted(images.items()):
        wrong = _wrong_channels(f"{folder}/{name}", files, ending, channels)
        patient = _patient(name, pattern)
        if patient is None:
            wrong.append(f"{folder}/{name}: the patient pattern {pattern!r} does not match this name")
        else:
            yield Case(name, patient, tuple(files[channel] for channel in sorted(files)), masks.get(name), folder)
        problems += wrong
    problems += [
        f"{masks[name].parent.name}/{masks[name].name} has no image{_meant(name, images)}"
        for name in sorted(set(masks) - set(images))
    ]


def _meant(name: str, images: Collection[str]) -> str:
    """Which scan a mask called `name` may be of, if its name has a channel or `.seg` too much; nothing if of none."""
    scan = re.sub(r"(_[0-9]{4}|\.seg)$", "", name)
    return f": a mask is called as its scan without the channel, {scan}" if scan != name and scan in images else ""


def _wrong_channels(name: str, files: dict[int, Path], ending: str, channels: int) -> list[str]:
    """What keeps the files of one scan from being all the channels that dataset.json names."""
    try:
        many = ending == DICOM and len(files) == channels  # as many series, whose files are opened when they are read
        held = len(files) if many else sum(count_channels(path) for path in files.values())
    except UserError as error:
        return [str(error)]
    if held > len(files):
        complete = held == channels and sorted(files) == list(range(len(files)))
        text = f"{name}: colours count as three channels, which makes {held}, but dataset.json names {channels}"
        return [] if complete else [text]
    wrong = [f"{name}_{channel:04d}{ending} is missing" for channel in range(channels) if channel not in files]
    extra = sorted(set(files) - set(range(channels)))
    folder = name.rpartition("/")[0]
    return wrong + [f"{folder}/{files[c].name}: dataset.json names no channel {c}" for c in extra]


def _images_in(folder: Path, ending: str, problems: list[str]) -> dict[str, dict[int, Path]]:
    """Scan name -> channel -> file."""
    images: dict[str, dict[int, Path]] = {}
    for path in files_in(folder, (ending,)):
        match = re.fullmatch(r"(.+)_([0-9]{4})", without_ending(path.name))
        if match is None:
            problems.append(f"{folder.name}/{path.name}: the name must end in the channel, like _0000{ending}")
            continue
        first = images.setdefault(match[1], {}).setdefault(int(match[2]), path)
        if first != path:
            problems.append(f"{folder.name}/{path.name} is the same channel as {first.name}")
    problems += [
        f"{folder.name}/{path.name} is not used: dataset.json says that names of scans end in {ending}"
        for path in files_in(folder, ENDINGS)
        if path.is_file() and ending_of(path.name) != ending
    ]
    return images


def _masks_of(root: Path, folder: Folder, problems: list[str]) -> dict[str, Path]:
    """Scan name -> mask, in any format; a JPEG is found as well, so that it can be refused when it is read."""
    masks: dict[str, Path] = {}
    for path in mask_files(root / (MASKS[folder] or folder)) if MASKS[folder] else ():
        first = masks.setdefault(without_ending(path.name), path)
        if first != path:
            problems.append(f"{path.parent.name}/{path.name} is a mask of the same scan as {first.name}")
    return masks


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
    return "\n".join([f"{root} is not laid out as expected. Correct these files, or remove them:", *shown, *more])


def preview(names: Sequence[str]) -> str:
    """The first few of `names`, and how many more there are."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
