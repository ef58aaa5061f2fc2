"""Polygons on a grid of pixels: which pixels have their centres inside."""

from collections.abc import Sequence

import numpy as np

ON_LINE = 1e-3
"""Pixels whose centres lie this close to a line, in pixels, are on it; coordinates in files are rounded."""


def filled(polygons: Sequence[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """The pixels, bool of `shape` (columns, rows), whose centres lie inside closed polygons or on their lines.

    Inside means inside of an odd number of them (even-odd rule), so one within another is a hole.

    Args:
        polygons: Corners (N, 2) of each, (column, row) in pixels; centres are whole numbers.
        shape: Columns and rows.
    """
    corners = np.concatenate(polygons)
    (left, top), (right, bottom) = (
        np.clip(np.rint(edge), 0, shape).astype(int).tolist() for edge in (corners.min(axis=0), corners.max(axis=0) + 1)
    )
    found = np.zeros(shape, dtype=bool)
    if left < right and top < bottom:
        part = [own - (left, top) for own in polygons]
        found[left:right, top:bottom] = _filled(part, (right - left, bottom - top))
    return found


def _filled(polygons: Sequence[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """As `filled`, of a part of the picture that holds all of its pixels that can be inside."""
    starts = np.concatenate(polygons)
    ends = np.concatenate([np.roll(corners, -1, axis=0) for corners in polygons])
    flat = np.abs(ends - starts)[:, 0] > np.abs(ends - starts)[:, 1]
    steep_lines = _on_lines(starts[~flat], ends[~flat], shape)
    flat_lines = _on_lines(starts[flat, ::-1], ends[flat, ::-1], shape[::-1]).T
    return np.asarray(_odd(starts, ends, shape) | steep_lines | flat_lines)


def _odd(starts: np.ndarray, ends: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Pixels to whose left an odd number of edges cross their row; an edge has its lower end and not its upper one."""
    columns, rows = shape
    lower, upper = _ordered(starts, ends)
    edge, row = _whole_numbers(np.ceil(lower[:, 1]), np.ceil(upper[:, 1]), rows)
    column = np.clip(np.ceil(_at_row(lower[edge], upper[edge], row)), 0, columns).astype(np.int64)
    crossings = np.bincount(row * (columns + 1) + column, minlength=rows * (columns + 1)).reshape(rows, columns + 1)
    return np.asarray(crossings.cumsum(axis=1)[:, :-1].T % 2 == 1)


def _on_lines(starts: np.ndarray, ends: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Pixels on edges that go on from row to row by a column at the most."""
    lower, upper = _ordered(starts, ends)
    edge, row = _whole_numbers(np.ceil(lower[:, 1] - ON_LINE), np.floor(upper[:, 1] + ON_LINE) + 1, shape[1])
    exact = _at_row(lower[edge], upper[edge], row)
    near = np.clip(np.rint(exact), 0, shape[0] - 1)
    on = np.abs(exact - near) <= ON_LINE
    found = np.zeros(shape, dtype=bool)
    found[near[on].astype(np.int64), row[on]] = True
    return found


def _ordered(starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ends of every edge, that in the lower row first."""
    falling = (starts[:, 1] > ends[:, 1])[:, None]
    return np.where(falling, ends, starts), np.where(falling, starts, ends)


def _whole_numbers(first: np.ndarray, stop: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Every whole number within 0..limit from `first` to before `stop` of each edge, with the place of the edge."""
    first, stop = (np.clip(bound, 0, limit).astype(np.int64) for bound in (first, stop))
    counts = np.maximum(stop - first, 0)
    edge = np.repeat(np.arange(len(counts)), counts)
    within = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)
    return edge, first[edge] + within


def _at_row(lower: np.ndarray, upper: np.ndarray, row: np.ndarray) -> np.ndarray:
    """The column in which each edge meets `row`; its nearer end where that lies beyond it."""
    height = upper[:, 1] - lower[:, 1]
    along = np.clip((row - lower[:, 1]) / np.where(height > 0, height, 1), 0, 1)
    return np.asarray(lower[:, 0] + along * (upper[:, 0] - lower[:, 0]))
