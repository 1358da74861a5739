"""Sets of pages, as numbers and as ranges.  Not for: where they come from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Pages = NDArray[np.int64]
"""Page numbers, ascending, each once."""

Ranges = NDArray[np.int64]
"""Rows of (first, last + 1), ascending, not overlapping."""


def to_pages(ranges: Ranges) -> Pages:
    """Return the page numbers of ranges."""
    lengths = ranges[:, 1] - ranges[:, 0]
    before = np.cumsum(lengths) - lengths
    return np.repeat(ranges[:, 0] - before, lengths) + np.arange(lengths.sum(), dtype=np.int64)


def to_ranges(pages: Pages) -> Ranges:
    """Return page numbers as ranges, as long as can be."""
    if not len(pages):
        return np.empty((0, 2), np.int64)
    breaks = np.flatnonzero(np.diff(pages) != 1) + 1
    firsts = np.concatenate(([0], breaks))
    lasts = np.concatenate((breaks, [len(pages)])) - 1
    return np.stack((pages[firsts], pages[lasts] + 1), axis=1)


def to_mask(ranges: Ranges, pages: int) -> NDArray[np.bool_]:
    """Return an array of ``pages`` truth values, true within the ranges."""
    steps = np.zeros(pages + 1, np.int8)
    # In two steps: where two ranges touch, the end of one is the beginning of the next.
    steps[ranges[:, 0]] += 1
    steps[ranges[:, 1]] -= 1
    return np.cumsum(steps[:-1], dtype=np.int8).astype(np.bool_)


def count(ranges: Ranges) -> int:
    """Return how many pages ranges hold."""
    return int((ranges[:, 1] - ranges[:, 0]).sum())
