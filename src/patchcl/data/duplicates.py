"""Duplicate images: of one image under two names, one must not teach what is scored on the other."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from patchcl.core.errors import UserError
from patchcl.data.dataset import Case

BLOCKS = 16
"""A signature holds the mean grey value of so many blocks along every axis."""
ALIKE = 0.999
"""Least correlation of the signatures of two patients that is no chance.

Different patients reach 0.73 (200 heart scans of ACDC) and 0.87 (200 hippocampi); copies in 8 bits, with another grey
scale, a little noise or blur stay above 0.9998. Two moments of one beating heart reach 0.9990, so scans of one patient
are the same only where their signatures do not differ at all.
"""
ROWS = 1024
"""Signatures that are compared with as many others at once."""
COARSE = 64
"""Axes on which signatures are compared first."""
SHOWN = 10
LEARNED_FROM = ("labeled", "unlabeled", "imagesTr", "imagesUn")


class Duplicates(NamedTuple):
    """Duplicates that were found, one line for every pair."""

    problems: tuple[str, ...]  # the two scans lie on two sides
    warnings: tuple[str, ...]  # they lie on one


class _Scans(NamedTuple):
    """Scans (N,) with signatures of one length."""

    places: np.ndarray  # among all scans
    names: list[str]
    coarse: np.ndarray  # (N, D) float32, see `_coarse`
    look: np.ndarray  # a number that scans of the very same signature have in common
    patient: np.ndarray  # a number for each patient
    role: np.ndarray  # a number for each role


class _Told:
    """How many pairs there are, and the first of them."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[tuple[int, int]] = []

    def add(self, pairs: np.ndarray) -> None:
        """Pairs (M, 2) in their order."""
        self.count += len(pairs)
        self.first = sorted([*self.first, *((first, second) for first, second in pairs[:SHOWN].tolist())])[:SHOWN]


def signature(voxels: np.ndarray) -> np.ndarray:
    """Signature of an image (C, *shape), what it looks like from afar: (C * BLOCKS ** axes,) float32.

    Block means of every channel with mean 0 and length 1, so that units do not matter; all 0 for a channel of one
    value. An axis of a single voxel does not count.
    """
    volume = np.reshape(voxels, (*voxels.shape, *[1] * (4 - voxels.ndim)))  # a slice is a volume of one layer
    size = [BLOCKS if length > 1 else 1 for length in volume.shape[1:]]
    tensor = torch.from_numpy(np.ascontiguousarray(volume, dtype=np.float32))
    blocks = F.adaptive_avg_pool3d(tensor, (size[0], size[1], size[2]))
    rows = blocks.numpy().reshape(len(voxels), -1).astype(np.float64)
    rows -= rows.mean(axis=1, keepdims=True)
    flat = [channel.min() == channel.max() for channel in voxels]
    lengths = np.where(flat, np.inf, np.maximum(np.linalg.norm(rows, axis=1), 1e-12))
    return (rows / lengths[:, None]).astype(np.float32).ravel()


def find_duplicates(sides: Mapping[str, Sequence[Case]], signatures: Mapping[str, np.ndarray]) -> Duplicates:
    """Pairs of scans that show the same image, on two sides of a split or on one; labeled and unlabeled count as one.

    Args:
        sides: The scans on each side.
        signatures: Case name -> signature; a scan without one is left aside.
    """
    placed = [(side, case) for side, cases in sides.items() for case in cases if case.name in signatures]
    problems, warnings = _Told(), _Told()
    for scans in _by_length(placed, signatures):
        for pairs in _pairs(scans, signatures):
            same, one_patient, one_role = (numbers[pairs[:, 0]] == numbers[pairs[:, 1]] for numbers in scans[3:])
            counts, places = same | ~one_patient, scans.places[pairs]
            problems.add(places[counts & ~one_role])
            warnings.add(places[counts & one_role])
    return Duplicates(_lines(problems, placed, signatures), _lines(warnings, placed, signatures))


def require_no_leak(sides: Mapping[str, Sequence[Case]], signatures: Mapping[str, Path]) -> None:
    """Refuse a split with one image on two sides, judged by the files that hold the signature of every scan.

    Raises:
        UserError: Names every such pair of scans.
    """
    problems = find_duplicates(sides, SignatureFiles(signatures)).problems
    if problems:
        raise UserError("\n".join(problems))


class SignatureFiles(Mapping[str, np.ndarray]):
    """Signatures that stay in their .npy files, so that those of thousands of scans are never in memory at once."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = files

    def __getitem__(self, name: str) -> np.ndarray:
        return np.asarray(np.load(self._files[name]))

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def _by_length(placed: Sequence[tuple[str, Case]], signatures: Mapping[str, np.ndarray]) -> list[_Scans]:
    """Scans of one length of signature together, since others are never alike; those that are flat are left out."""
    coarse: dict[int, list[np.ndarray]] = {}
    numbers: dict[int, list[list[int]]] = {}
    known: dict[object, int] = {}
    for place, (side, case) in enumerate(placed):
        found = signatures[case.name]
        if found.any():
            look = hashlib.sha256(found.tobytes()).digest()
            keys: list[object] = [look, ("patient", case.patient), ("role", _role(side))]
            numbers.setdefault(len(found), []).append([place, *(known.setdefault(key, len(known)) for key in keys)])
            coarse.setdefault(len(found), []).append(_coarse(found))
    return [
        _Scans(places, [placed[place][1].name for place in places.tolist()], np.stack(coarse[length]), *others)
        for length, rows in sorted(numbers.items())
        for places, *others in [np.array(rows).T]
    ]


def _coarse(found: np.ndarray) -> np.ndarray:
    """A signature of length 1 on `COARSE` orthonormal axes, on which no two lie farther apart than they do in truth."""
    row = found / np.linalg.norm(found)
    axes = COARSE if len(row) % COARSE == 0 else len(row)
    return np.asarray(row.reshape(axes, -1).sum(axis=1) / np.sqrt(len(row) / axes), np.float32)


def _pairs(scans: _Scans, signatures: Mapping[str, np.ndarray]) -> Iterator[np.ndarray]:
    """All pairs (M, 2) that correlate, some at a time.

    Few come near one another on the coarse axes, so that few signatures have to be read again.
    """
    half, one = (scans.coarse**2).sum(axis=1, keepdims=True) / 2, np.ones((len(scans.coarse), 1), np.float32)
    lefts, rights = np.hstack([scans.coarse, -half, -one]), np.hstack([scans.coarse, one, half])
    for start in range(0, len(lefts), ROWS):
        for beside in range(start, len(lefts), ROWS):  # the product is minus half of the squared distance
            near = lefts[start : start + ROWS] @ rights[beside : beside + ROWS].T >= ALIKE - 1 - 1e-5
            if near.any():
                pairs = np.argwhere(np.triu(near, k=1) if beside == start else near) + np.array([start, beside])
                yield pairs[_alike(pairs, scans, signatures)]


def _alike(pairs: np.ndarray, scans: _Scans, signatures: Mapping[str, np.ndarray]) -> np.ndarray:
    """Which of `pairs` correlate, by their whole signatures."""
    alike: np.ndarray = scans.look[pairs[:, 0]] == scans.look[pairs[:, 1]]
    if alike.all():
        return alike
    firsts, of_first = np.unique(pairs[~alike, 0], return_inverse=True)
    seconds, of_second = np.unique(pairs[~alike, 1], return_inverse=True)
    rows, others = (_rows([scans.names[place] for place in places], signatures) for places in (firsts, seconds))
    alike[~alike] = (rows @ others.T)[of_first, of_second] >= ALIKE
    return alike


def _lines(told: _Told, placed: Sequence[tuple[str, Case]], signatures: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    lines = [_line(placed[first], placed[second], signatures) for first, second in told.first]
    more = [f"{told.count - SHOWN} more pairs of scans show the same image."] if told.count > SHOWN else []
    return (*lines, *more)


def _line(one: tuple[str, Case], two: tuple[str, Case], signatures: Mapping[str, np.ndarray]) -> str:
    (side, case), (other_side, other) = one, two
    first, second = _rows([case.name, other.name], signatures)
    same = np.array_equal(signatures[case.name], signatures[other.name])
    looks = "are the same image" if same else f"look the same (correlation {min(float(first @ second), 1.0):.4f})"
    line = f"{case.images[0]} ({side}) and {other.images[0]} ({other_side}) {looks}."
    if _role(side) == _role(other_side):
        return f"{line} They count twice; if that is not meant, remove one."
    return (
        f"{line} An image may lie on one side only: remove one of the two, or put "
        f"{' and '.join(dict.fromkeys([case.patient, other.patient]))} on one side with --split FILE."
    )


def _rows(names: Sequence[str], signatures: Mapping[str, np.ndarray]) -> np.ndarray:
    """Signatures of one length as rows of length 1."""
    rows = np.stack([signatures[name] for name in names])
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def _role(side: str) -> str:
    """What a side is for: labeled and unlabeled scans are both learned from."""
    return "learned from" if side in LEARNED_FROM else side
