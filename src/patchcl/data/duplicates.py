"""Duplicate images: of one image under two names, one must not teach what is scored on the other."""

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
ROWS = 512
"""Signatures that are compared with all others at once."""
SHOWN = 10
LEARNED_FROM = ("labeled", "unlabeled", "imagesTr", "imagesUn")


class Duplicates(NamedTuple):
    """Duplicates that were found, one line for every pair."""

    problems: tuple[str, ...]  # the two scans lie on two sides
    warnings: tuple[str, ...]  # they lie on one


class _Pair(NamedTuple):
    first: int
    second: int
    correlation: float


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
    problems: list[str] = []
    warnings: list[str] = []
    for pair in _pairs([case.name for _, case in placed], signatures):
        (side, case), (other_side, other) = placed[pair.first], placed[pair.second]
        same = np.array_equal(signatures[case.name], signatures[other.name])
        if case.patient == other.patient and not same:
            continue
        looks = "are the same image" if same else f"look the same (correlation {pair.correlation:.4f})"
        line = f"{case.images[0]} ({side}) and {other.images[0]} ({other_side}) {looks}."
        if _role(side) == _role(other_side):
            warnings.append(f"{line} They count twice; if that is not meant, remove one.")
        else:
            problems.append(
                f"{line} An image may lie on one side only: remove one of the two, or put "
                f"{' and '.join(dict.fromkeys([case.patient, other.patient]))} on one side with --split FILE."
            )
    return Duplicates(_shortened(problems), _shortened(warnings))


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

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def _pairs(names: Sequence[str], signatures: Mapping[str, np.ndarray]) -> list[_Pair]:
    """All pairs that correlate; signatures of different length never do."""
    places: dict[int, list[int]] = {}
    for place, name in enumerate(names):
        places.setdefault(len(signatures[name]), []).append(place)
    pairs: list[_Pair] = []
    for length, of in sorted(places.items()):
        of_names = [names[place] for place in of]
        for start in range(0, len(of), ROWS):
            rows = _rows(of_names[start : start + ROWS], length, signatures)
            for beside in range(start, len(of), ROWS):
                others = rows if beside == start else _rows(of_names[beside : beside + ROWS], length, signatures)
                correlations = rows @ others.T
                if beside == start:
                    correlations = np.triu(correlations, k=1)
                for first, second in np.argwhere(correlations >= ALIKE):
                    pair = of[start + first], of[beside + second]
                    pairs.append(_Pair(*pair, min(float(correlations[first, second]), 1.0)))
    return sorted(pairs)


def _rows(names: Sequence[str], length: int, signatures: Mapping[str, np.ndarray]) -> np.ndarray:
    """Signatures of one `length` as rows of length 1."""
    rows = np.empty((len(names), length), dtype=np.float32)
    for row, name in zip(rows, names, strict=True):
        row[:] = signatures[name]
        row /= max(float(np.linalg.norm(row)), 1e-8)
    return rows


def _role(side: str) -> str:
    """What a side is for: labeled and unlabeled scans are both learned from."""
    return "learned from" if side in LEARNED_FROM else side


def _shortened(lines: Sequence[str]) -> tuple[str, ...]:
    more = [f"{len(lines) - SHOWN} more pairs of scans show the same image."] if len(lines) > SHOWN else []
    return (*lines[:SHOWN], *more)
