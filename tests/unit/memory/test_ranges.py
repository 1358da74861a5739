"""Sets of pages as numbers, as ranges and as masks are the same set."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from snaptree.memory.ranges import count, to_mask, to_pages, to_ranges

PAGES = st.sets(st.integers(0, 199)).map(lambda numbers: np.array(sorted(numbers), np.int64))


@given(PAGES)
def test_numbers_ranges_and_masks_are_the_same_set(pages: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
    ranges = to_ranges(pages)
    assert to_pages(ranges).tolist() == pages.tolist()
    assert np.flatnonzero(to_mask(ranges, 200)).tolist() == pages.tolist()
    assert count(ranges) == len(pages)
    assert (ranges[1:, 0] > ranges[:-1, 1]).all()  # as long as can be


def test_ranges_may_touch() -> None:
    touching = np.array([[0, 2], [2, 3], [5, 6]], np.int64)
    assert to_pages(touching).tolist() == [0, 1, 2, 5]
    assert to_mask(touching, 7).tolist() == [True, True, True, False, False, True, False]
