"""Patients behind the names of scans: warnings where the names do not tell them, each with a pattern that may."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from patchcl.data.dataset import Case, preview
from patchcl.data.split_settings import PATIENT_PATTERN

ONE_SCENE = 0.9
"""Correlation of what two scans show from afar, which different patients hardly reach; see `duplicates.ALIKE`."""
MANY = 0.2
"""Share of the neighbours by number that look alike, from which on scans are taken for frames."""
FEWEST = 3
"""Names that make a series of numbers."""
MOST = 20
"""Patients that share a beginning; of more, it is the name of a place or a year."""
STEM = r"(.+?[0-9]+)(?:[_-].*)?"
"""A pattern for names such as knee01_a: what ends in the first number is the patient."""


class _Numbered(NamedTuple):
    """A scan whose name is a word and a number."""

    word: str
    number: int
    case: Case


def patient_warnings(
    cases: Sequence[Case], pattern: str = PATIENT_PATTERN, signatures: Mapping[str, np.ndarray] | None = None
) -> list[str]:
    """What is doubtful about who is who in `cases`; nothing where the user has set the pattern.

    Args:
        cases: The scans.
        pattern: That of the settings.
        signatures: Case name -> what it looks like, see `duplicates.signature`; scans are compared where it is given.
    """
    if pattern != PATIENT_PATTERN:
        return []
    frames = list(_frames(cases, signatures or {}))
    return frames or [*_shared_stems(cases), *_bare_numbers(cases)]


def one_patient(cases: Sequence[Case]) -> str:
    """A sentence for data sets whose scans were all read as one patient; nothing for others."""
    patients = {case.patient for case in cases}
    if len(patients) > 1 or len(cases) < FEWEST:
        return ""
    return (
        f" All {len(cases)} scans ({preview([case.name for case in cases])}) were read as those of one patient, "
        f"{next(iter(patients))}. If each is a patient of its own: --set split.patient_pattern='(.+)'"
    )


def without(patients: Iterable[str], others: Iterable[str]) -> list[str]:
    """`patients` but `others`, in their order."""
    aside = set(others)
    return [patient for patient in patients if patient not in aside]


def _shared_stems(cases: Sequence[Case]) -> Iterator[str]:
    """Names that begin alike up to their first number: knee01_a and knee01_b."""
    stems: dict[str, set[str]] = {}
    for case in cases:
        match = re.fullmatch(STEM, case.name)
        if match is not None:
            stems.setdefault(match[1], set()).add(case.patient)
    shared = {stem: sorted(patients) for stem, patients in stems.items() if 1 < len(patients) <= MOST}
    if len(stems) > 1 and shared:
        stem, patients = max(shared.items(), key=lambda item: len(item[1]))
        yield (
            f"{preview(patients)} count as {len(patients)} patients, though all begin with {stem}"
            f"{f' ({len(shared)} beginnings are shared so)' if len(shared) > 1 else ''}. {_advice(cases, STEM)}"
        )


def _bare_numbers(cases: Sequence[Case]) -> Iterator[str]:
    """Names that are nothing but consecutive numbers."""
    numbered = [each for each in _numbered(cases) if not each.word]
    numbers = sorted({each.number for each in numbered})
    if len(numbers) >= max(FEWEST, len(cases) // 2) and numbers[-1] - numbers[0] < 2 * len(numbers):
        names = [each.case.name for each in numbered]
        yield (
            f"Scans are called {preview(names)}, and each counts as a patient of its own, which numbers do not tell. "
            f"{_advice(cases, _tens(numbered))}"
        )


def _frames(cases: Sequence[Case], signatures: Mapping[str, np.ndarray]) -> Iterator[str]:
    """Scans that look alike where their numbers follow one another, as the frames of a video do."""
    neighbours = [
        (first.case, second.case)
        for first, second in pairwise(_numbered(cases))
        if (first.word, first.number + 1) == (second.word, second.number) and first.case.patient != second.case.patient
    ]
    alike = [pair for pair in neighbours if _correlation(pair, signatures) >= ONE_SCENE]
    if len(alike) >= FEWEST - 1 and len(alike) >= MANY * len(neighbours):
        first, second = alike[0]
        yield (
            f"{len(alike)} of {len(neighbours)} scans look nearly like the one before by number, such as {first.name} "
            f"and {second.name}, as the frames of a video do, and count as patients of their own. "
            f"{_advice(cases, _tens(_numbered(cases)))}"
        )


def _numbered(cases: Sequence[Case]) -> list[_Numbered]:
    """The scans whose name ends in a number, in the order of words and numbers."""
    found = [(re.fullmatch(r"(.*?)([0-9]+)", case.name), case) for case in cases]
    numbered = [_Numbered(match[1], int(match[2]), case) for match, case in found if match is not None]
    return sorted(numbered, key=lambda each: each[:2])


def _correlation(pair: tuple[Case, Case], signatures: Mapping[str, np.ndarray]) -> float:
    """Of two scans of one size, averaged over channels; 0 where a signature is not known."""
    first, second = (signatures[case.name] if case.name in signatures else np.zeros(0) for case in pair)
    if len(first) != len(second):
        return 0.0
    lengths = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(first @ second) / lengths if lengths else 0.0


def _tens(numbered: Sequence[_Numbered]) -> str:
    """A pattern that takes neighbours by number as one patient: ten, or a hundred where there are many."""
    digits = 2 if len(numbered) >= 300 else 1
    words = dict.fromkeys(re.escape(each.word) for each in numbered)
    word = next(iter(words)) if len(words) == 1 else ".*?"
    return f"({word}[0-9]+?)[0-9]{{0,{digits}}}"


def _advice(cases: Sequence[Case], pattern: str) -> str:
    fits = all(re.fullmatch(pattern, case.name) for case in cases)
    proposed = f"for example --set split.patient_pattern='{pattern}', or " if fits else ""
    return (
        "If some are of one person, who must not be on two sides of a split, say so: "
        f"{proposed}a file with --split. If not, split.patient_pattern='(.+)' says that."
    )
